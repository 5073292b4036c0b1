# SPDX-License-Identifier: Apache-2.0
"""What cannot be live patched is refused by name, with a hint; its neighbour is accepted."""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import assemble, compile_c, diff, diff_c, summary
from xsplice_plugins.artefacts import Duty
from xsplice_plugins.diff.refusals import REFUSALS
from xsplice_plugins.errors import DiffError, ElfFormatError

pytestmark = pytest.mark.toolchain

BASE = r"""
int level = 3;
static int grades[4] = { 1, 2, 3, 4 };
const int fixed = 8;
static PERCPU int each;
static __initdata int boot_only = 4;
static __init used int start(int a) { note("boot"); return get(a) + boot_only; }
void set(int a) { level = grades[a] = each = a; }
int f(int a) { return get(a) + level + grades[a] + each; }
int read_fixed(int a) { return get(a) + *(volatile const int *)&fixed; }
"""


@pytest.mark.parametrize(
    ("old", "new", "code", "name"),
    [
        ("level = 3", "level = 4", "DATA_VALUE", "level"),
        ("3, 4 }", "3, 5 }", "DATA_VALUE", "file.c#grades"),
        ("grades[4]", "grades[6]", "DATA_SIZE", "file.c#grades"),
        ("fixed = 8", "fixed = 9", "DATA_VALUE", "fixed"),
        ("const int fixed", "int fixed", "DATA_SECTION", "fixed"),
        ("PERCPU int each", "PERCPU long each", "PERCPU", "file.c#each"),
        ("int f(", "PERCPU int fresh; int f(", "PERCPU", "fresh"),
    ],
)
def test_what_memory_holds_already_is_refused(
    tmp_path: Path, old: str, new: str, code: str, name: str
) -> None:
    delta = diff_c(tmp_path, BASE, BASE.replace(old, new, 1))
    assert (code, name) in summary(delta)[3]
    assert all(r.hint and r.reason for r in delta.refused)
    assert all(r.code in REFUSALS for r in delta.refused)


@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        ("int level", "int MANY level", ["DATA_ALIGNMENT"]),
        ("int grades", "int MANY grades", ["DATA_ALIGNMENT"]),
        ("const int fixed", "const int MANY fixed", ["DATA_ALIGNMENT"]),
        ("PERCPU int each", "PERCPU int MANY each", ["PERCPU"]),
        ("boot_only", "MANY boot_only", []),
        # less than before is given by the place, and a new neighbour has an alignment of its own
        ("long FEW apart", "long apart", []),
        ("IN long near", "IN long MANY fresh; IN long near", []),
    ],
)
def test_data_that_must_be_aligned_more_than_before_is_refused(
    tmp_path: Path, old: str, new: str, codes: list[str]
) -> None:
    head = """
    #define MANY __attribute__((aligned(128)))
    #define FEW __attribute__((aligned(64)))
    #define IN __attribute__((section(".data.read_mostly")))
    static long FEW apart = 4; IN long near = 2;
    long g(int a) { return get(a) + (apart += a) + (near += a); }
    """
    fixed = (head + BASE).replace("+ level", "- level")
    assert old in fixed
    delta = diff_c(tmp_path, head + BASE, fixed.replace(old, new, 1))
    assert [c.name for c in delta.changed] == ["f"]
    assert [r.code for r in delta.refused] == codes


def test_a_constant_that_must_be_aligned_more_is_copied(tmp_path: Path) -> None:
    text = """
    static const int ALIGNED tab[4] = {1, 2, 3, 4};
    int f(int a) { return get(a) + tab[a & 3]; }
    """
    many = "__attribute__((aligned(128)))"
    before, after = text.replace("ALIGNED", ""), text.replace("ALIGNED", many)
    assert summary(diff_c(tmp_path, before, after)) == (["f"], ["file.c#tab"], [], [])
    assert summary(diff_c(tmp_path, after, before)) == ([], [], [], [])


def test_a_changed_initial_value_comes_with_a_hook_to_start_from(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, BASE, BASE.replace("level = 3", "level = 4"))
    assert "LIVEPATCH_LOAD_HOOK(xsplice_set_level)" in delta.refused[0].skeleton


def test_code_beside_such_data_is_accepted(tmp_path: Path) -> None:
    delta = diff_c(tmp_path, BASE, BASE.replace("+ level", "- level"))
    assert summary(delta) == (["f"], [], [], [])


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [("ret; nop; nop; nop", True), ("ret; nop; nop; nop; nop", False)],
)
def test_a_function_must_hold_the_jump(tmp_path: Path, body: str, is_refused: bool) -> None:
    text = '.section .text.f, "ax"\n.globl f\n.type f, @function\nf: {}\n.size f, .-f\n'
    before = assemble(tmp_path, text.format(body))
    after = assemble(tmp_path, text.format(body.replace("ret", "leave")))
    delta = diff(before, after)
    assert [c.name for c in delta.changed] == ["f"]
    assert [r.code for r in delta.refused] == (["TOO_SHORT"] if is_refused else [])


@pytest.mark.parametrize(
    ("body", "is_refused"), [("ret; nop; nop", True), ("leave; nop; nop; nop; nop", False)]
)
def test_the_jump_stands_behind_endbr64(tmp_path: Path, body: str, is_refused: bool) -> None:
    text = '.section .text.f, "ax"\n.globl f\n.type f, @function\nf: endbr64; {}\n.size f, .-f\n'
    before = assemble(tmp_path, text.format(body))
    delta = diff(before, assemble(tmp_path, text.format(body + "; ud2")))
    assert [r.code for r in delta.refused] == (["TOO_SHORT"] if is_refused else [])


@pytest.mark.parametrize(
    ("before", "after", "is_open"),
    [("", "endbr64;", True), ("endbr64;", "endbr64;", False), ("endbr64;", "", False)],
)
def test_an_entry_that_no_pointer_may_lead_to_stays_one(
    tmp_path: Path, before: str, after: str, is_open: bool
) -> None:
    text = '.section .text.f, "ax"\n.globl f\n.type f, @function\nf: {} {}\n.size f, .-f\n'
    room = "nop; nop; nop; nop; nop; "
    old = assemble(tmp_path, text.format(before, f"{room} leave"))
    delta = diff(old, assemble(tmp_path, text.format(after, f"{room} ret")))
    assert ([c.name for c in delta.changed], delta.refused) == (["f"], ())
    rows = [row.text for row in delta.findings if row.obligation is Duty.COMPLETE]
    assert [row.startswith("`f` begins with ENDBR64 now") for row in rows] == [True] * is_open


def test_a_second_entry_inside_a_function_is_refused(tmp_path: Path) -> None:
    text = (
        'int f(int a) { int b = get(a); asm volatile (".globl inner; inner: nop"); return b + 1; }'
    )
    delta = diff_c(tmp_path, text, text.replace("b + 1", "b + 2"))
    assert summary(delta)[3] == [("ASM_LABEL", "f")]
    assert "inner" in delta.refused[0].reason


def test_functions_that_run_while_patching_are_refused(tmp_path: Path) -> None:
    text = "void check_for_livepatch_work(void) { get(1); get(2); }"
    delta = diff_c(tmp_path, text, text.replace("get(2)", "get(3)"))
    assert summary(delta)[3] == [("PATCHING_PATH", "check_for_livepatch_work")]


def test_assembler_is_refused_as_a_whole(tmp_path: Path) -> None:
    before, after = (
        compile_c(tmp_path, BASE),
        compile_c(tmp_path, BASE.replace("+ level", "- level")),
    )
    delta = diff(before, after, source_path="entry.S")
    assert summary(delta) == ([], [], [], [("ASSEMBLER", "f")])


def test_a_changed_comdat_function_is_refused(tmp_path: Path) -> None:
    text = """
    .section .text.f, "axG", @progbits, f, comdat
    .globl f
    .type f, @function
    f: mov $%d, %%eax
    ret
    .size f, .-f
    """
    delta = diff(assemble(tmp_path, text % 1), assemble(tmp_path, text % 2))
    assert ("GROUPED", "f") in summary(delta)[3]


@pytest.mark.parametrize("content", [".long 1", "datum: .long 1", ".long f - ."])
def test_sections_of_unknown_kind_are_refused_when_they_change(
    tmp_path: Path, content: str
) -> None:
    text = '.text\nf: ret\n.section .strange, "a"\n{}\n'
    before = assemble(tmp_path, text.format(content))
    assert summary(diff(before, before + b"\0")) == ([], [], [], [])
    for change in (content + "\n.long 7", ".long 5"):
        delta = diff(before, assemble(tmp_path, text.format(change)))
        assert "UNEXPLAINED" in [r.code for r in delta.refused]


def test_a_registry_entry_would_never_be_seen(tmp_path: Path) -> None:
    entry = (
        'static const int *const entry used __attribute__((section(".data.schedulers"))) = &fixed;'
    )
    delta = diff_c(tmp_path, BASE, BASE + entry)
    assert summary(delta)[3] == [("REGISTRY", "file.c#entry")]


LISTED = """
struct entry {{ int (*start)(int); int id; }};
{more}
static int start(int a) {{ return get(a) + 1; }}
static const struct entry first used __attribute__((section(".data.rel.ro.vpci"))) = {{
    start, {number}
}};
static const struct entry second{mark} = {{ start, 7 }};
int f(int a) {{ return get(a) + {fix} + *(volatile const int *)&second.id; }}
"""
WITH = {"more": "", "number": "3", "mark": "", "fix": "1"}


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ({}, {"number": "4"}, "first"),
        ({}, {"more": "static const int fresh used MINE = 4;"}, "fresh"),
        ({"more": "static const int old used MINE = 4;"}, {}, "old"),
        ({}, {"more": "extern const int a; static const int b used MINE = 4;"}, "b"),
        # an entry that only another entry leads to
        ({}, {"more": "static const int in = 4; static const int *const out used MINE = &in;"},
         "out"),
        # a section of another name
        ({"mark": " used"}, {"mark": ' used __attribute__((section(".data.rel.ro.vpci")))'}, ""),
        # what code refers to is no list's entry, and neither is what stays as it is
        ({}, {"more": "static const int fresh MINE = 4;", "fix": "*(volatile int *)&fresh"}, ""),
        ({}, {"fix": "2"}, ""),
    ],
)  # fmt: skip
def test_an_entry_of_a_list_made_at_link_time_is_known_by_nobody_referring_to_it(
    tmp_path: Path, before: dict[str, str], after: dict[str, str], name: str
) -> None:
    mine = '#define MINE __attribute__((section(".data.rel.ro.mine")))\n'
    texts = [mine + LISTED.format(**{**WITH, **row}) for row in (before, {"fix": "3", **after})]
    found = summary(diff_c(tmp_path, *texts))
    assert found[0] == ["f"]
    rows = dict(found[3])
    assert rows.get("REGISTRY", "") == (f"file.c#{name}" if name else ""), found


@pytest.mark.parametrize("place", [".data.vpci.", ".data.rel.ro.mine."])
def test_an_entry_in_another_section_has_another_place_in_its_list(
    tmp_path: Path, place: str
) -> None:
    """The linker script sorts such lists by the names of sections."""
    text = 'static const int *const entry used __attribute__((section("{}"))) = &fixed;'
    texts = [BASE + text.format(place + number) for number in "19"]
    rows = diff_c(tmp_path, *texts).refused
    assert [(row.code, row.name) for row in rows] == [("REGISTRY", "file.c#entry")]
    assert f"{place}1" in rows[0].reason
    assert summary(diff_c(tmp_path, texts[0], texts[0]))[3] == []


def test_a_table_that_does_not_fit_the_profile_stops_the_run(tmp_path: Path) -> None:
    text = '.text\nf: ret\n.section .altinstructions, "a"\n.skip {}\n'
    before, after = (assemble(tmp_path, text.format(n)) for n in (14, 15))
    with pytest.raises(DiffError, match=r"\.altinstructions.*15 bytes.*give the release"):
        diff(before, after)


def test_damaged_objects_are_refused_by_name(tmp_path: Path) -> None:
    data = compile_c(tmp_path, BASE)
    with pytest.raises(ElfFormatError, match=r"file\.o \(after the patch\)"):
        diff(data, data[:100])


def test_an_alias_at_the_start_is_no_second_entry(tmp_path: Path) -> None:
    text = 'int f(int a) { return get(a) + 1; }\nint other(int) __attribute__((alias("f")));'
    assert summary(diff_c(tmp_path, text, text.replace("+ 1", "+ 2"))) == (["f"], [], [], [])
    fresh = diff_c(tmp_path, text.partition("\n")[0], text)
    assert (fresh.is_empty, len(fresh.notes)) == (True, 1)
    assert "`other` is another name of `f`" in fresh.notes[0]


@pytest.mark.parametrize("name", ["a_first", "z_last"])
def test_a_function_is_known_by_the_name_that_both_sides_have(name: str, tmp_path: Path) -> None:
    """A new alias of a changed function does not hide the change, whichever name sorts first."""
    text = "int f(int a) { return get(a) + 1; }\nint g(int a) { return get(a); }"
    alias = f'\nint {name}(int) __attribute__((alias("f")));'
    for before, after in ((text, text + alias), (text + alias, text)):
        delta = diff_c(tmp_path, before, after.replace("+ 1", "+ 2"))
        assert summary(delta)[:3] == (["f"], [], [])


@pytest.mark.parametrize("new", ["alias", "split"])
def test_a_name_that_stands_for_another_function_is_refused(new: str, tmp_path: Path) -> None:
    """Objects that the fix does not reach call it by that name, at the old place."""
    one = "int f(int a) { return get(a) + 1; }\n"
    apart = one + "int g(int a) { return get(a) + 2; }"
    alike = one + 'int g(int) __attribute__((alias("f")));'
    before, after = (apart, alike) if new == "alias" else (alike, apart)
    assert ("ALIAS", "g") in summary(diff_c(tmp_path, before, after))[3]
    assert summary(diff_c(tmp_path, alike, alike.replace("+ 1", "+ 3"))) == (["f"], [], [], [])


def test_data_that_gets_its_first_write_lies_in_read_only_memory(tmp_path: Path) -> None:
    text = "static int limit = 5; int f(int a) { return get(a) + *(volatile int *)&limit; }"
    writes = text + " void set(int a) { limit = a; }"
    delta = diff_c(tmp_path, text.replace("static int", "static const int"), writes)
    assert ("DATA_SECTION", "file.c#limit") in summary(delta)[3]
    back = diff_c(tmp_path, writes, writes.replace("limit = a", "get(a)").replace("+ *", "- *"))
    assert summary(back) == (["f", "set"], [], [], [])


def test_a_new_kind_of_table_is_a_row(tmp_path: Path) -> None:
    text = """
    .section .text.f, "ax"
    .globl f
    .type f, @function
    f: nop; nop
    1: call *target(%%rip)
    ret
    .size f, .-f
    .section %s, "a"
    .long 1b - .
    """
    for name, release, is_known in (
        (".alt_call_sites", "4.21.0", True),
        (".alt_call_sites", "4.20.3", False),
        (".strange_sites", "4.21.0", False),
    ):
        before = assemble(tmp_path, text % name)
        after = assemble(tmp_path, text.replace(".long 1b - .", "") % name)
        delta = diff(before, after, release=release)
        assert [c.name for c in delta.changed] == (["f"] if is_known else [])
        assert [r.code for r in delta.refused] == ([] if is_known else ["UNEXPLAINED"])


def test_boot_code_that_would_stay_is_refused(tmp_path: Path) -> None:
    text = "__init used int f(int a) { return get(a); } int g(int a) { return get(a) + 1; }"
    delta = diff_c(tmp_path, text, text.replace("__init ", "").replace("+ 1", "+ 2"))
    assert summary(delta)[3] == [("INIT_CODE", "f")]


def test_an_assembler_object_says_itself_what_it_is(tmp_path: Path) -> None:
    text = '.file "entry.S"\n.text\n.globl f\nf: mov ${}, %eax\nret; nop; nop; nop\n'
    before, after = (assemble(tmp_path, text.format(n)) for n in (1, 2))
    assert summary(diff(before, after, source_path=""))[3] == [("ASSEMBLER", "f")]
