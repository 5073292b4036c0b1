# SPDX-License-Identifier: Apache-2.0
"""Tables of Linux: each entry belongs to the function it points into."""

import shutil
from pathlib import Path

import pytest

from tests.kit.differ_inputs import (
    COMPILERS,
    assert_closed,
    compile_c,
    compile_with,
    diff,
    summary,
)
from xsplice_plugins.artefacts import Cause, Delta
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import DiffError

pytestmark = pytest.mark.toolchain

#: One user of each table; the tables as include/linux/{bug,jump_label,static_call_types}.h and
#: arch/x86/include/asm/{alternative,extable}.h of Linux 6.6 describe them.
PROLOGUE = r"""
#define BUG_AT(line) asm volatile ("1: ud2\n.pushsection __bug_table, \"aw\"\n" \
    "2: .long 1b - .\n.long %c0 - .\n.word " #line ", 1\n.popsection" :: "i" (__FILE__))
#define ALT(o, n, f) asm volatile ("1: " o "\n2:\n" \
    ".pushsection .altinstr_replacement, \"ax\"\n3: " n "\n4:\n.popsection\n" \
    ".pushsection .altinstructions, \"a\"\n.long 1b - .\n.long 3b - .\n" \
    ".long " #f "\n.byte 2b - 1b\n.byte 4b - 3b\n.popsection")
#define FAULT(kind) asm volatile ("1: mov (%%rdi), %%eax\n2:\n.pushsection __ex_table, \"a\"\n" \
    ".long 1b - .\n.long 2b - .\n.long " #kind "\n.popsection" ::: "eax")
#define LOCKED(op) asm volatile (".pushsection .smp_locks, \"a\"\n.long 1f - .\n.popsection\n" \
    "1: lock " op " (%%rdi)" ::: "memory")
#define JUMP_LABEL(key, add) asm volatile ("1: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n2:\n" \
    ".pushsection __jump_table, \"aw\"\n.long 1b - .\n.long 2b - .\n.quad " #key " + " #add \
    " - .\n.popsection")
#define STATIC_CALL(fn, key) asm volatile ("1: call " #fn "\n" \
    ".pushsection .static_call_sites, \"aw\"\n.long 1b - .\n.long " #key " - .\n.popsection" \
    ::: "memory")
#define ORC() asm volatile ("1: nop\n.pushsection .orc_unwind_ip, \"a\"\n.long 1b - .\n" \
    ".popsection\n.pushsection .orc_unwind, \"a\"\n.word 8, 0, 5\n.popsection")
extern int key_one, key_two;
"""

BASE = (
    PROLOGUE
    + r"""
int f(int a)
{
    BUG_AT(10); ALT("nop; nop; nop", "lfence", 5); FAULT(3); LOCKED("incl");
    JUMP_LABEL(key_one, 0); STATIC_CALL(tramp_one, key_one); ORC();
    return get(a);
}
int g(int a)
{
    BUG_AT(20); ALT("nop; nop", "ud2", 6); FAULT(4); LOCKED("decl");
    JUMP_LABEL(key_two, 0); STATIC_CALL(tramp_two, key_two); ORC();
    return get(a) + 1;
}
"""
)

TABLES = {
    "__bug_table": 12,
    ".altinstructions": 14,
    "__ex_table": 12,
    ".smp_locks": 4,
    "__jump_table": 16,
    ".static_call_sites": 8,
}


def linux(before: bytes, after: bytes) -> Delta:
    return diff(before, after, profile="linux")


def test_a_changed_function_takes_its_own_entries_only(tmp_path: Path) -> None:
    after = compile_c(tmp_path, BASE.replace("get(a) + 1", "get(a) + 2"))
    delta = linux(compile_c(tmp_path, BASE), after)
    assert summary(delta) == (["g"], [], [], [])
    file = read_elf(after, "file.o")
    taken = {}
    for extent in delta.extents:
        name = file.sections[extent.section].name
        if name in (*TABLES, ".altinstr_replacement") or name.startswith(".orc"):
            taken[name] = (extent.offset, extent.size_bytes)
    expected = {name: (size, size) for name, size in TABLES.items()}
    assert taken == {**expected, ".altinstr_replacement": (3, 2)}
    assert_closed(delta, after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('ALT("nop; nop", "ud2", 6)', 'ALT("nop; nop", "ud2", 7)'),
        ('ALT("nop; nop", "ud2", 6)', 'ALT("nop; nop", "pause", 6)'),
        ("FAULT(4)", "FAULT(5)"),
        ('LOCKED("decl")', 'asm volatile ("lock decl (%%rdi)" ::: "memory")'),
        ("JUMP_LABEL(key_two, 0)", "JUMP_LABEL(key_one, 0)"),
        ("JUMP_LABEL(key_two, 0)", "JUMP_LABEL(key_two, 1)"),
        ("STATIC_CALL(tramp_two, key_two)", "STATIC_CALL(tramp_two, key_one)"),
    ],
)
def test_a_changed_entry_changes_its_function_alone(tmp_path: Path, old: str, new: str) -> None:
    assert BASE.count(old) == 1
    delta = linux(compile_c(tmp_path, BASE), compile_c(tmp_path, BASE.replace(old, new)))
    assert summary(delta) == (["g"], [], [], [])
    assert delta.changed[0].cause is Cause.SPECIAL


def test_a_line_of_a_bug_entry_is_told_apart(tmp_path: Path) -> None:
    delta = linux(compile_c(tmp_path, BASE), compile_c(tmp_path, BASE.replace("(20)", "(27)")))
    assert summary(delta) == ([], [], ["g"], [])
    assert delta.line_only[0].reason == "line 20 became 27"


def test_flags_of_a_bug_entry_are_no_line(tmp_path: Path) -> None:
    after = BASE.replace('#line ", 1', '#line ", 3')
    delta = linux(compile_c(tmp_path, BASE), compile_c(tmp_path, after))
    assert summary(delta) == (["f", "g"], [], [], [])


def test_tables_for_unwinding_are_no_change(tmp_path: Path) -> None:
    before, after = (
        compile_c(tmp_path, BASE.replace(".word 8, 0, 5", w))
        for w in (".word 8, 0, 5", ".word 16, 0, 5")
    )
    assert before != after
    assert linux(before, after).is_empty


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ("__brand_new_table", "UNEXPLAINED"),
        ("__ksymtab_fresh", "REGISTRY"),
        (".data..percpu", "PERCPU"),
    ],
)
def test_a_datum_of_a_section_that_cannot_be_taken_is_refused_by_name(
    tmp_path: Path, section: str, code: str
) -> None:
    place = f'__attribute__((section("{section}"))) used'
    delta = linux(compile_c(tmp_path, BASE), compile_c(tmp_path, f"{BASE}{place} int fresh = 5;"))
    assert summary(delta) == ([], [], [], [(code, "fresh")])
    assert section in delta.refused[0].reason or code == "PERCPU"


def test_content_of_an_unknown_section_is_refused_by_its_name(tmp_path: Path) -> None:
    site = (
        'asm volatile ("1: nop\\n.pushsection .new_sites, \\"a\\"\\n.long 1b - .\\n.popsection");'
    )
    after = BASE.replace("return get(a) + 1", site + " return get(a) + 1")
    delta = linux(compile_c(tmp_path, BASE), compile_c(tmp_path, after))
    assert [r.code for r in delta.refused] == ["UNEXPLAINED"]
    assert ".new_sites" in delta.refused[0].reason


def test_data_of_a_named_writable_section_is_judged_as_data(tmp_path: Path) -> None:
    place = '__attribute__((section(".data..read_mostly")))'
    text = BASE + f"{place} int limit = 5; int h(int a) {{ return get(a) + limit; }}"
    changed = linux(compile_c(tmp_path, text), compile_c(tmp_path, text.replace("= 5", "= 6")))
    assert summary(changed) == ([], [], [], [("DATA_VALUE", "limit")])
    code = linux(compile_c(tmp_path, text), compile_c(tmp_path, text.replace("+ limit", "- limit")))
    assert summary(code) == (["h"], [], [], [])
    assert [r.target for r in code.references] == ["limit"]
    fresh = linux(compile_c(tmp_path, BASE), compile_c(tmp_path, text))
    assert summary(fresh) == ([], ["h", "limit"], [], [])


@pytest.mark.parametrize(
    "flag", ["-fpatchable-function-entry=16,16", "-fpatchable-function-entry=5"]
)
def test_padding_in_front_of_functions_belongs_to_them(tmp_path: Path, flag: str) -> None:
    text = "int f(int a) { return get(a) + 1; } int g(int a) { return get(a) * 5; }"
    before = compile_c(tmp_path, text, flag)
    edited = compile_c(tmp_path, text.replace("* 5", "* 7"), flag)
    delta = linux(before, edited)
    assert summary(delta) == (["g"], [], [], [])
    assert_closed(delta, edited)
    more = compile_c(tmp_path, text + "int h(int a) { return get(a) * 9; }", flag)
    assert summary(linux(before, more)) == ([], ["h"], [], [])


ARM64 = r"""
#define BUG_AT(line) asm volatile ("1: brk 0x800\n.pushsection __bug_table, \"aw\"\n" \
    ".word 1b - ., 0\n.hword " #line ", 1\n.popsection" ::)
#define FAULT(kind) asm volatile ("1: ldr w9, [x0]\n2:\n.pushsection __ex_table, \"a\"\n" \
    ".word 1b - ., 2b - .\n.hword " #kind ", 0\n.popsection" ::: "w9")
#define JUMP_LABEL(key) asm volatile ("1: nop\n2:\n.pushsection __jump_table, \"aw\"\n" \
    ".word 1b - ., 2b - .\n.quad " #key " - .\n.popsection" ::)
int f(int a) { BUG_AT(10); FAULT(3); JUMP_LABEL(key_one); return get(a); }
int g(int a) { BUG_AT(20); FAULT(4); JUMP_LABEL(key_two); return get(a) + 1; }
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("AT(20)", "AT(27)", ([], [], ["g"], [])),
        ("FAULT(4)", "FAULT(5)", (["g"], [], [], [])),
        ("(key_two)", "(key_one)", (["g"], [], [], [])),
        ("+ 1", "+ 2", (["g"], [], [], [])),
    ],
)
def test_arm64_has_rows_of_its_own(
    tmp_path: Path, old: str, new: str, expected: tuple[object, ...]
) -> None:
    arm64 = COMPILERS[-1]
    if shutil.which(arm64.command) is None:
        pytest.skip(f"{arm64.command} is not installed; apt-get install {arm64.package}")
    assert ARM64.count(old) == 1
    after = compile_with(arm64, tmp_path, ARM64.replace(old, new))
    delta = linux(compile_with(arm64, tmp_path, ARM64), after)
    assert summary(delta) == expected
    assert_closed(delta, after)


#: The same tables as other releases and settings have them.
OTHERS = {
    "bugs without a file and a line": ('.long %c0 - .\\n.word " #line ", 1', ".word 1, 0"),
    "bugs with a format": (".long %c0 - .\\n.word", ".long %c0 - .\\n.long %c0 - .\\n.word"),
    "fixups without a kind": ('2b - .\\n.long " #kind "', "2b - ."),
    "alternatives of 12 bytes": ('.long " #f "', '.word " #f "'),
    "alternatives with padding": (
        '.long " #f "\\n.byte 2b - 1b\\n.byte 4b - 3b',
        '.word " #f "\\n.byte 2b - 1b\\n.byte 4b - 3b\\n.byte 0',
    ),
}


@pytest.mark.parametrize(("old", "new"), OTHERS.values(), ids=OTHERS)
def test_records_have_the_size_that_their_table_shows(tmp_path: Path, old: str, new: str) -> None:
    assert BASE.count(old) == 1
    text = BASE.replace(old, new)
    edited = compile_c(tmp_path, text.replace("get(a) + 1", "get(a) + 2"))
    delta = linux(compile_c(tmp_path, text), edited)
    assert summary(delta) == (["g"], [], [], [])
    assert_closed(delta, edited)
    other = linux(
        compile_c(tmp_path, text),
        compile_c(tmp_path, text.replace('"nop; nop", "ud2"', '"nop; nop", "pause"')),
    )
    assert summary(other) == (["g"], [], [], [])


def test_records_of_no_size_are_refused(tmp_path: Path) -> None:
    odd = 'asm (".pushsection __jump_table, \\"aw\\"\\n.byte 1\\n.popsection");\n'
    data = compile_c(tmp_path, BASE + odd)
    with pytest.raises(DiffError, match="__jump_table: 33 bytes of records of an unknown size"):
        linux(data, data + b"\0")
