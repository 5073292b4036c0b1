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
    "the second word of what a function returns": """
    struct found { long error; const struct ops *ops; };
    static noinline struct found find(int i)
    { return (struct found){ i - 1, i > 1 ? &table : 0 }; }
    void f(struct holder *h, int i)
    { struct found row = find(i); if (!row.error) h->ops = row.ops; }
    """,
    "the second word of what others may get": """
    struct found { long error; const struct ops *ops; };
    struct found f(int i) { return (struct found){ i, &table }; }""",
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
    "a number beside what another register is left with": """
    static const int numbers[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
    struct pair { long one, two; };
    static noinline struct pair both(int i)
    { return (struct pair){ numbers[i & 7], numbers[i & 3] }; }
    long f(int i) { struct pair row = both(i); return put(row.one, row.two); }""",
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


INSTEAD = """
#define INSTEAD(old, new) asm volatile ("1: " old "\\n2:\\n" \\
    ".pushsection .altinstr_replacement, \\"ax\\"\\n3: " new "\\n4:\\n.popsection\\n" \\
    ".pushsection .altinstructions, \\"a\\"\\n.long 1b - .\\n.long 3b - .\\n.word 13\\n" \\
    ".byte 2b - 1b\\n.byte 4b - 3b\\n.byte 0, 0\\n.popsection" \\
    :: "r" (&table), "r" (&h->ops) : "memory")
#define AFTER_FAULT(new) asm volatile ("1: mov (%1), %%rax\\n2:\\n" \\
    ".section .fixup, \\"ax\\"\\n3: " new "\\njmp 2b\\n.previous\\n" \\
    ".section .ex_table, \\"a\\"\\n.long 1b - ., 3b - .\\n.previous" \\
    :: "r" (&table), "r" (&h->ops) : "rax", "memory")
"""
#: Where the code that runs after a fault lies within a cold part, as of an `asm goto`.
LANDING = """
static __attribute__((cold)) noinline void unlikely(const struct ops *ops) { put(ops->limit, 1); }
int f(struct holder *h)
{
    const struct ops *ops = &table;
    asm volatile ("" : "+m" (ops));
    asm goto ("1: mov (%0), %%rax\\n.section .ex_table, \\"a\\"\\n"
        ".long 1b - ., %l[fault] - .\\n.previous" :: "r" (h) : "rax", "memory" : fault);
    return ops->limit;
fault:
    unlikely(ops);
    return -1;
}
int g(int x) { return put(x, 2); }
"""
DETOURS = {
    "an alternative": ('INSTEAD(".skip 3, 0x90", "mov %0, (%1)");', True),
    "an alternative before which it is read": ('INSTEAD("nop", "mov (%0), %%eax");', False),
    "an alternative that does nothing": ('INSTEAD("xor %0, %0", ""); h->ops = 0;', False),
    "code after a fault": ('AFTER_FAULT("mov %0, (%1)");', True),
    "code after a fault that reads through it": ('AFTER_FAULT("mov (%0), %%rax");', False),
}


@pytest.mark.parametrize(("use", "is_kept"), DETOURS.values(), ids=DETOURS)
def test_what_may_run_in_the_place_of_code_is_followed(
    tmp_path: Path, use: str, *, is_kept: bool
) -> None:
    text = f"{TABLE}{INSTEAD}int f(struct holder *h) {{ {use} return 0; }}"
    delta = diff_c(tmp_path, text, text.replace("{ one, 1 }", "{ one, 2 }"))
    assert [(row.code, row.name) for row in delta.refused] == (
        [("DATA_VALUE", "file.c#table")] if is_kept else []
    )
    assert not is_kept or "is stored through a pointer in `f`" in delta.refused[0].reason


def test_code_after_a_fault_knows_the_stack_of_what_faulted(tmp_path: Path) -> None:
    text = f"{TABLE}{LANDING}"
    delta = diff_c(tmp_path, text, text.replace("{ one, 1 }", "{ one, 2 }"))
    assert delta.refused == ()
    assert "f" in summary(delta)[0]


def test_only_code_out_of_line_goes_by_another_functions_name(tmp_path: Path) -> None:
    """What follows a landing place in the same section belongs to whom its symbol says."""
    text = f"{TABLE}{LANDING}int k(struct holder *h) {{ h->ops = &table; return 0; }}"
    [row] = diff_c(tmp_path, text, text.replace("{ one, 1 }", "{ one, 2 }")).refused
    assert "is stored through a pointer in `k`" in row.reason


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
