# SPDX-License-Identifier: Apache-2.0
"""Which named constants have another value on either side, and which only another spelling."""

from __future__ import annotations

import pytest

from xsplice_plugins.csource.constants import (
    changed_constants,
    constants_in,
    macros_in,
    number_of,
    replaced_words,
)
from xsplice_plugins.csource.literals import changed_literals


def changes(old: str, new: str) -> list[tuple[str, str, str]]:
    rows = changed_constants(macros_in(old), macros_in(new))
    return [(row.name, row.old, row.new) for row in rows]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("#define A 1", "#define A 2", [("A", "1", "2")]),
        ("#define A 0x10", "# define A (1u << 5)", [("A", "16", "32")]),
        (
            "#define A 1\n#define B (A | 4)",
            "#define A 2\n#define B (A | 4)",
            [("A", "1", "2"), ("B", "5", "6")],
        ),
        (
            "#define BIT(n, t) (1##t << (n))\n#define A BIT(1, U)",
            "#define BIT(n, t) (1##t << (n))\n#define A BIT(2, U)",
            [("A", "2", "4")],
        ),
        ("#define A 1", "#define A B", [("A", "1", "B")]),
        ("#define A 1", "", [("A", "1", "")]),
        ("#define A 1", "#define B 2", [("A", "1", "")]),
        ("#define A 1\n#undef A\n#define A 2", "#define A 1", [("A", "1, 2", "1")]),
        ("#define A \\\n 1", "#define A \\\n 2", [("A", "1", "2")]),
    ],
)
def test_what_is_another_value(old: str, new: str, found: list[tuple[str, str, str]]) -> None:
    assert changes(old, new) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define A 4", "#define A (1 << 2) /* bit two */"),
        ("#define A 4", "#define A ((unsigned int)0x4UL)"),
        ("#define A 010", "#define A 8"),
        ("#define A 1", "#define A 1\n#define B 2"),
        ("#define A (B + 1)", "#define A (B + 1)\n#define B 2"),
        ("#ifndef X_H\n#define X_H\n#endif", "#ifndef Y_H\n#define Y_H\n#endif"),
        ("#define F(a) ((a) & 1)", "#define F(b) ((b) & 1)"),
        ("#define F(a) 1", ""),
        ("#define A 2\n#define B 4", "#define A 2\n#define B (A * 2)"),
    ],
)
def test_what_is_another_spelling(old: str, new: str) -> None:
    assert changes(old, new) == []


RENAMED = "#define A 1\n#define B 2\nint f(int v)\n{\n    v |= A;\n    return v & B;\n}\n"


@pytest.mark.parametrize(
    ("new", "found"),
    [
        (RENAMED.replace("A", "C"), []),
        (RENAMED.replace("A", "C").replace("B", "D"), []),
        (RENAMED.replace("A 1", "C 3").replace("A", "C"), [("A", "1", "3")]),
        (
            RENAMED.replace("A 1", "C 2").replace("B 2", "D 1").replace("A", "C").replace("B", "D"),
            [("A", "1", "2"), ("B", "2", "1")],
        ),
        (RENAMED.replace("#define A 1\n", "").replace("v |= A;", ""), [("A", "1", "")]),
    ],
)
def test_what_has_another_name_is_the_same_where_it_stands(
    new: str, found: list[tuple[str, str, str]]
) -> None:
    """Two flags that exchange their values and take new names are no renaming."""
    rows = changed_constants(macros_in(RENAMED), macros_in(new), replaced_words(RENAMED, new))
    assert [(row.name, row.old, row.new) for row in rows] == found


def test_a_macro_with_arguments_that_changes_is_named() -> None:
    sides = (macros_in("#define F(a) ((a) & 1)"), macros_in("#define F(a) (((a) >> 4) & 1)"))
    (row,) = changed_constants(*sides)
    assert (row.name, row.takes_arguments) == ("F", True)


def test_constants_that_are_no_macros() -> None:
    old = "static const unsigned int a = 1; void f(void) { enum { x, y = 4, z }; }"
    new = old.replace("a = 1", "a = 2").replace("y = 4", "y = 5")
    rows = changed_constants(constants_in(old), constants_in(new))
    assert [(row.name, row.old, row.new) for row in rows] == [
        ("a", "1", "2"),
        ("y", "4", "5"),
        ("z", "5", "6"),
    ]
    assert changed_constants(constants_in(old), constants_in(old + " int b;")) == ()


@pytest.mark.parametrize("text", ["", "a", "1 +", "1 ? 2 : 3", "1 << 1000000000", "1 / 0", '"1"'])
def test_what_is_no_number(text: str) -> None:
    assert number_of(text) is None


def test_a_number_is_what_c_takes_it_for() -> None:
    assert [number_of(text) for text in ("~0x0fUL", "-(1)", "(s_time_t)7 / 2")] == [-16, -1, 3]


SET = "void set(struct v *v) { v->flags |= 4; }\n"
ASK = "int ask(struct v *v) { return !!(v->flags & 4); }\n"


def test_a_number_that_makes_and_reads_state() -> None:
    found = changed_literals(SET + ASK, (SET + ASK).replace("4", "8"))
    assert found.stale == ("state that was made with 4 is read with 8 (`set`, `ask`)",)


def test_a_number_that_only_reads_is_a_remark() -> None:
    found = changed_literals(SET + ASK, SET + ASK.replace("4", "8"))
    assert found.stale == ()
    assert found.remarks == (
        "`ask` asks for 8 where it asked for 4: what was made before is as the old code made it",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if ( n > 64 ) return;", "if ( n > 32 ) return;"),
        ("delay(10);", "delay(20);"),
        ("v->limit = 10;", "v->limit = 20;"),
        ("v->flags |= 0x4;", "v->flags |= 4;"),
        ("b[3] = 0;", "b[4] = 0;"),
    ],
)
def test_a_number_of_which_nothing_is_said(old: str, new: str) -> None:
    found = changed_literals(f"void f(struct v *v) {{ {old} }}", f"void f(struct v *v) {{ {new} }}")
    assert (found.stale, found.remarks) == ((), ())


@pytest.mark.parametrize(
    ("old", "new", "is_kept"),
    [
        ("v->t = xzalloc_array(int, N);", "v->t = xzalloc_array(int, N * 2);", True),
        ("v->t = xzalloc_array(int, N * 2);", "v->t = xzalloc_array(int, N);", True),
        ("table = _xmalloc(64, 8);", "table = _xmalloc(65, 8);", True),
        ("char *t = xmalloc_bytes(8);", "char *t = xmalloc_bytes(9);", False),
        ("v->t = NULL;", "v->t = xzalloc_array(int, N);", False),
        ("v->t = xmalloc(int);", "v->t = xzalloc(int);", False),
        ("v->n = 1; v->t = xmalloc(int);", "v->n = 2; v->t = xmalloc(int);", False),
    ],
)
def test_memory_of_another_size(old: str, new: str, *, is_kept: bool) -> None:
    found = changed_literals(f"void f(struct v *v) {{ {old} }}", f"void f(struct v *v) {{ {new} }}")
    assert bool(found.stale) is is_kept
