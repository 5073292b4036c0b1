# SPDX-License-Identifier: Apache-2.0
"""Where first values stand in C text, and what the parts of one say."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.initialisers import first_value, parts_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("static int __read_mostly limit = 4;", "4"),
        ("int other, limit = 4;", "4"),
        ("struct part limit[2] = { { 1 }, 2 };", "{ { 1 }, 2 }"),
        ('static const char *limit = "a;b}";', '"a;b}"'),
        (
            "/* limit = 1; */\nint limit\n    = {\n    .a = 1, /* ; */\n};",
            "{\n    .a = 1, /* ; */\n}",
        ),
        ("void f(void) { int limit = 3; }\nint limit = 5;", "5"),
        ("#define X limit = 9;\nint limit = 5;", "5"),
        ("int limit = 5;\nvoid f(void) { limit = 3; }", "5"),
    ],
)
def test_a_files_variable_has_one_first_value(text: str, value: str) -> None:
    found = first_value(text, "limit")
    assert found is not None
    assert (found.text, text[found.at : found.at + len(value)]) == (value, value)
    assert text[found.end] == ";"
    assert "limit" in text[found.start : found.at]


@pytest.mark.parametrize(
    "text",
    [
        "void f(void) { int limit = 3; }",
        "int limit;",
        "extern int limit;\nint y = limit == 3;",
        "int y = other.limit = 3;",
        "#ifdef A\nint limit = 1;\n#else\nint limit = 2;\n#endif",
        "int limit = (3;",
        "int limits = 3;",
        "int limit, other = 3;",
    ],
)
def test_what_is_none_or_two(text: str) -> None:
    assert first_value(text, "limit") is None


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("7  + /* more */ 1", {"": "7 + 1"}),
        ("{ 1, 2 }", {"": "{ 1, 2 }"}),
        ('{ .a = "x,  y", .b = { 1, 2 }, }', {".a": '"x,  y"', ".b": "{ 1, 2 }"}),
        ("{ [ONE] = { .a = f(1, 2), .b.c = 3 }, [2] = 4 }",
         {"[ONE].a": "f(1, 2)", "[ONE].b.c": "3", "[2]": "4"}),
        ("{ .a = 1, 2 }", {"": "{ .a = 1, 2 }"}),
        ("{ [0 ... 3] = 1 }", {"": "{ [0 ... 3] = 1 }"}),
        ("{\n#ifdef A\n .a = 1,\n#endif\n}", {"": "{\n#ifdef A\n .a = 1,\n#endif\n}"}),
        ("{ .a = x == 1 }", {".a": "x == 1"}),
    ],
)  # fmt: skip
def test_parts_are_what_the_text_names(value: str, parts: dict[str, str]) -> None:
    assert parts_of(value) == parts


def test_spaces_and_comments_are_no_other_value() -> None:
    assert parts_of("{ .a = 1, .b = 2 }") == parts_of("{\n    .b\t= 2, /* two */\n    .a = 1,\n}")
    assert parts_of('{ .a = "a b" }') != parts_of('{ .a = "a  b" }')
