# SPDX-License-Identifier: Apache-2.0
"""Which functions count as changed: exactly those whose meaning changed."""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c, diff, diff_c, summary
from xsplice_plugins.artefacts import Cause
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

BASE = r"""
static int count = 3;
static noinline int helper(int a) { return get(a) + count++; }
int first(int a) { if (get(a) < 0) BUG(); return helper(a) * 3; }
int second(int a) { note("second %d", a); return helper(a + 1); }
int third(int a) { return get(a) ^ 0x55; }
"""


def test_an_object_equals_itself_whatever_its_bytes(tmp_path: Path) -> None:
    data = compile_c(tmp_path, BASE)
    assert summary(diff(data, data + b"\0")) == ([], [], [], [])


@pytest.mark.parametrize(
    ("old", "new", "name", "cause"),
    [
        ("* 3", "* 5", "first", Cause.SOURCE),
        ("0x55", "0x56", "third", Cause.CONSTANT),
        ("a + 1", "a - 1", "second", Cause.SOURCE),
        ("< 0", "> 0", "first", Cause.SOURCE),
        ("second %d", "second: %d", "second", Cause.STRING),
        ("count++", "count--", "file.c#helper", Cause.SOURCE),
        ("return get(a) ^", "return put(a, a) ^", "third", Cause.SOURCE),
    ],
)
def test_one_edit_changes_one_function(
    tmp_path: Path, old: str, new: str, name: str, cause: Cause
) -> None:
    delta = diff_c(tmp_path, BASE, BASE.replace(old, new))
    assert summary(delta) == ([name], [], [], [])
    assert delta.changed[0].cause == cause
    assert delta.changed[0].reason
    assert delta.changed[0].difference is not None
    assert delta.changed[0].difference.before != delta.changed[0].difference.after


def test_moved_lines_are_told_apart_from_changes(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, BASE, "\n" * 7 + BASE)
    assert summary(delta) == ([], [], ["first"], [])
    assert delta.line_only[0].reason == "line 4 became 11"


def test_another_bug_frame_is_a_change_of_the_function_alone(tmp_path: Path) -> None:
    after = BASE.replace("return get(a) ^", "if (a == 9) BUG(); return get(a) ^")
    assert summary(diff_c(tmp_path, BASE, after)) == (["third"], [], [], [])


def test_a_changed_replacement_changes_its_function(tmp_path: Path) -> None:
    text = 'int f(int a) { ALTERNATIVE("nop;nop;nop", "lfence", 5); return get(a); }\n' + BASE
    for old, new in (("lfence", "mfence"), ("5)", "6)")):
        delta = diff_c(tmp_path, text, text.replace(old, new))
        assert summary(delta) == (["f"], [], [], [])
        assert delta.changed[0].cause is Cause.SPECIAL


def test_a_changed_fixup_changes_its_function(tmp_path: Path) -> None:
    text = 'int f(int a) { FAULTS("mov (%%rdi), %%eax", 4); return get(a); }\n' + BASE
    delta = diff_c(tmp_path, text, text.replace("4)", "5)"))
    assert summary(delta) == (["f"], [], [], [])
    assert delta.changed[0].cause is Cause.SPECIAL


def test_a_removed_alternative_is_a_change(tmp_path: Path) -> None:
    text = 'int f(int a) { ALTERNATIVE("nop;nop;nop", "lfence", 5); return get(a); }\n'
    after = text.replace('ALTERNATIVE("nop;nop;nop", "lfence", 5)', 'asm volatile("nop;nop;nop")')
    assert summary(diff_c(tmp_path, text, after)) == (["f"], [], [], [])


def test_an_edit_that_only_the_cold_part_shows_changes_the_parent(tmp_path: Path) -> None:
    text = r"""
    extern void die(int) __attribute__((cold));
    int f(int a) { if (get(a) < 0) { die(1); put(a, 3); die(7); } return get(a + 1); }
    """
    delta = diff_c(tmp_path, text, text.replace("die(7)", "die(8)"))
    assert summary(delta) == (["f"], [], [], [])
    assert delta.changed[0].pieces == ("f.cold",)
    sections = {e.section for e in delta.extents if e.owner == "f"}
    assert len(sections) >= 2  # the hot and the cold one


def test_a_grown_neighbour_in_the_same_section_is_no_change(tmp_path: Path) -> None:
    text = r"""
    #define HERE __attribute__((section(".text.shared")))
    HERE int f(int a) { return get(a) + 1; }
    HERE int g(int a) { return get(a) + 2; }
    """
    after = text.replace("get(a) + 1", "get(a) * 77 + get(a ^ 1)")
    assert summary(diff_c(tmp_path, text, after)) == (["f"], [], [], [])


def test_code_without_function_sections_is_compared_function_by_function(tmp_path: Path) -> None:
    after = BASE.replace("* 3", "* get(5)")
    delta = diff_c(tmp_path, BASE, after, "-fno-function-sections", "-fno-data-sections")
    assert [c.name for c in delta.changed] == ["first"]
    assert delta.refused == ()


def test_renumbered_clones_are_the_same_function(tmp_path: Path) -> None:
    text = r"""
    static noinline int part(int a, int b) { return get(a) + get(b) * 3; }
    int f(int a) { return part(a, 4); }
    int g(int a) { return part(a, 4) + 1; }
    """
    other = r"""
    static noinline int other(int a, int b) { return put(a, b) + get(b) * 7; }
    int h(int a) { return other(a, 9); }
    """
    flags = ("-fipa-cp-clone",)
    before = compile_c(tmp_path, text, *flags)
    delta = diff(before, compile_c(tmp_path, other + text, *flags))
    assert delta.changed == ()
    assert delta.refused == ()


def test_jump_tables_belong_to_their_function(tmp_path: Path) -> None:
    cases = "".join(f"case {i}: return get({i * i}) + {i};" for i in range(9))
    text = f"int f(int a) {{ switch (a) {{ {cases} }} return 0; }}\n" + BASE
    flags = ("-fjump-tables", "-fcf-protection=none")
    delta = diff_c(tmp_path, text, text.replace("get(9) + 3", "get(9) + 4"), *flags)
    assert [c.name for c in delta.changed] == ["f"]
    assert delta.refused == ()
    moved = diff_c(tmp_path, text, text.replace("* 3", "* 5"), *flags)
    assert [c.name for c in moved.changed] == ["first"]


def test_a_callee_that_was_inlined_is_named(tmp_path: Path) -> None:
    before = "static noinline int h(int a) { return get(a) + 1; } int f(int a) { return h(a); }"
    delta = diff_c(tmp_path, before, before.replace("noinline ", ""))
    assert [c.name for c in delta.changed] == ["f"]
    assert delta.changed[0].cause is Cause.INLINING
    assert "`h`" in delta.changed[0].reason
    assert [r.name for r in delta.removed] == ["file.c#h"]


def test_code_of_a_subsection_belongs_to_its_function(tmp_path: Path) -> None:
    text = r"""
    int f(int a)
    {
        asm volatile ("test %0, %0; jz 1f\n.subsection 1\n1: mov $5, %%eax; jmp 2f\n"
                      ".subsection 0\n2:" :: "r" (a) : "eax");
        return get(a);
    }
    """
    delta = diff_c(tmp_path, text, text.replace("$5", "$6"))
    assert summary(delta) == (["f"], [], [], [])
    data = compile_c(tmp_path, text)
    section = read_elf(data, "file.o").section_by_name[".text.f"]
    assert [e.size_bytes for e in delta.extents] == [section.size_bytes]
    assert delta.changed[0].size_after_bytes < section.size_bytes


def test_static_that_comes_or_goes_changes_no_caller(tmp_path: Path) -> None:
    after = BASE.replace("static noinline int helper", "noinline int helper")
    assert summary(diff_c(tmp_path, BASE, after)) == ([], [], [], [])
    assert summary(diff_c(tmp_path, after, BASE)) == ([], [], [], [])


def test_a_function_that_moved_to_another_file_changes_no_caller(tmp_path: Path) -> None:
    text = "int moved(int a) { return get(a) + 1; }\nint user(int a) { return moved(a) + 2; }"
    away = "extern int moved(int);\nint user(int a) { return moved(a) + 2; }"
    flags = ("-fno-inline", "-fno-ipa-ra")
    delta = diff_c(tmp_path, text, away, *flags)
    assert delta.changed == ()
    assert [r.name for r in delta.removed] == ["moved"]
    assert summary(diff_c(tmp_path, away, text, *flags)) == ([], ["moved"], [], [])
