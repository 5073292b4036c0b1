# SPDX-License-Identifier: Apache-2.0
"""A constant table is copied only where every use reads through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.differ_inputs import compile_c, compile_with, diff, diff_c, every_compiler, summary

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.differ_inputs import Compiler

pytestmark = pytest.mark.toolchain

TABLE = """
struct ops { int (*run)(int); int limit; };
struct holder { const struct ops *ops; };
extern void keep(const struct ops *);
static noinline int one(int x) { return get(x); }
static const struct ops table = { one, 1 };
"""
KEEPERS = {
    "stored": "void f(struct holder *h) { h->ops = &table; }",
    "passed": "int f(int x) { keep(&table); return x; }",
    "returned": "const struct ops *f(void) { return &table; }",
    "compared": "int f(const struct ops *p) { return p == &table; }",
    "in data": "struct holder held = { &table }; int f(int x) { return x; }",
    "stored by a callee": """
    static noinline void store(struct holder *h, const struct ops *p) { h->ops = p; get(1); }
    void f(struct holder *h) { store(h, &table); get(2); }""",
    "behind a table": """
    static const struct ops *const list[] = { &table, 0 };
    const struct ops *f(int i) { return list[i]; }""",
}
READERS = {
    "a field": "int f(int i) { return ((const volatile struct ops *)&table)->limit + i; }",
    "an index": """
    static const int numbers[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
    int f(int i) { return numbers[i & 7]; }""",
    "a loop": """
    static const int numbers[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
    int f(int a) { for (int i = 0; i < 8; i++) a = put(a, numbers[i]); return a; }""",
    "a callee": """
    static const int numbers[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
    static noinline int sum(const int *p, int a) { return p[a & 7] + p[1]; }
    int f(int a) { return sum(numbers, a) + 1; }""",
}


@every_compiler()
@pytest.mark.parametrize("use", KEEPERS.values(), ids=KEEPERS)
def test_a_table_whose_address_is_kept_is_refused(
    tmp_path: Path, compiler: Compiler, use: str
) -> None:
    text = f"{TABLE}{use}"
    before = compile_with(compiler, tmp_path, text)
    after = compile_with(compiler, tmp_path, text.replace("{ one, 1 }", "{ one, 2 }"))
    found = [(r.code, r.name) for r in diff(before, after).refused]
    assert ("DATA_VALUE", "file.c#table") in found


@every_compiler()
@pytest.mark.parametrize("use", READERS.values(), ids=READERS)
def test_a_table_that_is_only_read_gets_a_new_copy(
    tmp_path: Path, compiler: Compiler, use: str
) -> None:
    text = f"{TABLE}{use}"
    changed = text.replace("{ one, 1 }", "{ one, 2 }").replace("3, 1, 4", "3, 7, 4")
    before = compile_with(compiler, tmp_path, text)
    delta = diff(before, compile_with(compiler, tmp_path, changed))
    assert delta.refused == ()
    assert delta.changed


def test_the_refusal_names_who_keeps_the_address(tmp_path: Path) -> None:
    text = f"{TABLE}{KEEPERS['passed']}"
    delta = diff_c(tmp_path, text, text.replace("{ one, 1 }", "{ one, 2 }"))
    assert "its address is passed to `keep`" in delta.refused[0].reason


def test_a_compiler_made_table_is_copied(tmp_path: Path) -> None:
    text = """int f(int x) { switch (x) { case 0: return 5; case 1: return 17; case 2: return 3;
    case 3: return 99; case 4: return 7; } return -1; }"""
    delta = diff_c(tmp_path, text, text.replace("99", "98"))
    assert summary(delta)[0] == ["f"]
    assert delta.refused == ()


NUMBERS = "static const int numbers[] = { 3, 1, 4, 1, 5, 9, 2, 6 };\n"


def test_what_a_payload_beneath_changed_is_copied_where_it_is_read_and_nowhere_else(
    tmp_path: Path,
) -> None:
    """Its other readers are in that payload, and stay."""
    text = f"{NUMBERS}int f(int i) {{ return numbers[i & 7]; }}\n"
    text += "int g(int i) { return put(i, 1) + 1; }\nint h(int i) { return numbers[i & 3] + 1; }\n"
    before = compile_c(tmp_path, text)
    f, g = (
        compile_c(tmp_path, text.replace(*edit)) for edit in (("& 7", "& 6"), ("i, 1)", "i, 2)"))
    )
    assert [row.target for row in diff(before, f).references] == ["file.c#numbers"]
    delta = diff(before, f, again=["file.c#numbers"])
    assert summary(delta) == (["f"], ["file.c#numbers"], [], [])
    assert (delta.references, [row.is_again for row in delta.new]) == ((), [True])
    assert summary(diff(before, g, again=["file.c#numbers"])) == (["g"], [], [], [])
    assert not diff(before, before, again=["file.c#numbers"]).is_active


def test_what_a_payload_beneath_changed_is_refused_where_the_address_is_kept(
    tmp_path: Path,
) -> None:
    text = f"{TABLE}{READERS['a field']}\n"
    before, after = (
        compile_c(tmp_path, f"{text}{use}")
        for use in ("", "int g(int x) { keep(&table); return x; }")
    )
    [row] = diff(before, after, again=["file.c#table"]).refused
    assert (row.code, row.name) == ("DATA_VALUE", "file.c#table")
    assert "a payload beneath changed the content of `table`" in row.reason
    assert not diff(before, after).refused
