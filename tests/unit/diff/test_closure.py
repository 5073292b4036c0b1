# SPDX-License-Identifier: Apache-2.0
"""What comes along, what is referred to, and nothing else."""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import assert_closed, compile_c, diff, diff_c, summary
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

BASE = r"""
static int counter = 1;
static int far[64];
static const char *const names[] = { "zero", "one" };
static noinline int helper(int a) { far[a + 1] = a; return get(a) + counter++ + far[a]; }
int user(int a) { note("user %s", names[a & 1]); return helper(a); }
int other(int a) { note("other"); if (a > 5) BUG(); return helper(a + far[a - 1]); }
"""


def test_existing_content_is_referred_to_by_the_names_of_the_image(tmp_path: Path) -> None:
    after = compile_c(tmp_path, BASE.replace("get(a) + counter", "get(a) - counter"))
    delta = diff(compile_c(tmp_path, BASE), after)
    assert summary(delta) == (["file.c#helper"], [], [], [])
    assert {r.target for r in delta.references} == {"file.c#counter", "file.c#far"}
    assert_closed(delta, after)


def test_a_new_function_comes_with_its_path(tmp_path: Path) -> None:
    new = 'static noinline int check(int a) { static int seen; note("new"); return seen += a; }\n'
    after = compile_c(tmp_path, new + BASE.replace("return helper(a);", "return check(a);"))
    delta = diff(compile_c(tmp_path, BASE), after)
    assert [c.name for c in delta.changed] == ["user"]
    kinds = {item.symbol.split(".")[0]: item.kind for item in delta.new}
    assert kinds == {"check": "function", "seen": "bss"}
    reasons = {item.symbol.split(".")[0]: item.reason for item in delta.new}
    assert reasons["check"] == "included because `user` calls new `check`"
    assert reasons["seen"] == "included because `user` calls new `check`, `check` uses new `seen`"
    assert_closed(delta, after)


def test_a_new_global_is_brought_for_other_objects(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, BASE, BASE + "int limit = 7; int fresh(int a) { return get(a); }")
    assert summary(delta) == ([], ["fresh", "limit"], [], [])


def test_only_the_used_strings_come_along(tmp_path: Path) -> None:
    text = BASE + '\nint loud(int a) { note("aaaa"); note("bbbb"); return get(a); }'
    after = compile_c(tmp_path, text.replace("return helper(a);", "return helper(a) + 1;"))
    delta = diff(compile_c(tmp_path, text), after)
    file = read_elf(after, "file.o")
    texts = [
        file.sections[e.section].data[e.offset : e.offset + e.size_bytes]
        for e in delta.extents
        if file.sections[e.section].is_strings
    ]
    assert texts == [b"user %s\0"]
    assert_closed(delta, after)


def test_only_the_entries_of_included_functions_come_along(tmp_path: Path) -> None:
    text = BASE + 'int third(int a) { if (a) BUG(); ALTERNATIVE("nop;nop", "ud2", 3); return 1; }'
    after = compile_c(tmp_path, text.replace("a > 5", "a > 6"))
    delta = diff(compile_c(tmp_path, text), after)
    file = read_elf(after, "file.o")
    tables = [
        (file.sections[e.section].name, e.size_bytes)
        for e in delta.extents
        if file.sections[e.section].name.startswith((".bug", ".alt"))
    ]
    assert tables == [(".bug_frames.2", 8)]
    assert_closed(delta, after)


def test_an_alternative_takes_its_own_replacement_only(tmp_path: Path) -> None:
    text = r"""
    int f(int a) { ALTERNATIVE("nop;nop", "ud2", 3); return get(a); }
    int g(int a) { ALTERNATIVE("nop;nop;nop", "lfence", 4); return get(a) + 1; }
    """
    after = compile_c(tmp_path, text.replace("+ 1", "+ 2"))
    delta = diff(compile_c(tmp_path, text), after)
    file = read_elf(after, "file.o")
    taken = [
        file.sections[e.section].data[e.offset : e.offset + e.size_bytes]
        for e in delta.extents
        if file.sections[e.section].name == ".altinstr_replacement"
    ]
    assert taken == [b"\x0f\xae\xe8"]
    assert_closed(delta, after)


def test_changed_read_only_tables_are_copied_for_the_functions_that_read_them(
    tmp_path: Path,
) -> None:
    text = (
        BASE
        + r"""
    static const int table[] = { 3, 1, 4, 1, 5 };
    int reads(int a) { return table[get(a)]; }
    """
    )
    after = compile_c(tmp_path, text.replace("3, 1, 4", "3, 1, 9"))
    delta = diff(compile_c(tmp_path, text), after)
    assert summary(delta) == (["reads"], ["file.c#table"], [], [])
    assert "`table`" in delta.changed[0].reason
    assert_closed(delta, after)


def test_a_table_of_strings_counts_by_the_text(tmp_path: Path) -> None:
    moved = diff_c(tmp_path, BASE, 'const char *first(void) { return "zeroth"; }\n' + BASE)
    assert summary(moved) == ([], ["first"], ["other"], [])
    changed = diff_c(tmp_path, BASE, BASE.replace('"one"', '"two"'))
    assert summary(changed) == (["user"], ["file.c#names"], [], [])


def test_hooks_are_kept_with_what_they_need(tmp_path: Path) -> None:
    hook = r"""
    static void set(void) { counter = 5; note("set"); }
    static void (*const load)(void) used __attribute__((section(".livepatch.hooks.load"))) = set;
    """
    after = compile_c(tmp_path, BASE + hook)
    delta = diff(compile_c(tmp_path, BASE), after)
    assert summary(delta) == ([], ["file.c#set", "file.c#load"], [], [])
    assert {r.target for r in delta.references} == {"file.c#counter"}
    assert_closed(delta, after)


def test_a_new_object_brings_everything_it_has(tmp_path: Path) -> None:
    delta = diff(b"", compile_c(tmp_path, BASE))
    assert {item.name for item in delta.new} >= {"user", "other", "file.c#helper"}
    assert delta.refused == ()
