# SPDX-License-Identifier: Apache-2.0
"""What users of other live-patch builders complain of, as fixtures that must come out right.

What no object file can express (slow builds, signing, many bases) is not here.
"""

import shutil
from pathlib import Path

import pytest

from tests.kit.differ_inputs import (
    COMPILERS,
    assemble,
    assert_closed,
    compile_c,
    compile_with,
    diff,
    diff_c,
    summary,
)
from xsplice_plugins.artefacts import Cause

pytestmark = pytest.mark.toolchain

TWO = """
static noinline int helper(int a) { return get(a) + 3; }
int f(int a) { return helper(a) * 5; }
int g(int a) { return helper(a + 1) ^ 9; }
"""


def test_a_read_mostly_initialiser_is_refused_by_the_variable(tmp_path: Path) -> None:
    text = (
        '__attribute__((section(".data.read_mostly"))) int limit = 4;\n'
        "int f(int a) { limit = get(a); return limit; }"
    )
    delta = diff_c(tmp_path, text, text.replace("= 4", "= 5"))
    assert summary(delta) == ([], [], [], [("DATA_VALUE", "limit")])
    assert "`limit`" in delta.refused[0].reason


def test_an_added_frame_brings_its_strings(tmp_path: Path) -> None:
    after = TWO.replace("return helper(a) * 5", 'if (get(a)) { BUG(); note("why"); } return 5')
    new = compile_c(tmp_path, after)
    delta = diff(compile_c(tmp_path, TWO), new)
    assert summary(delta)[0] == ["f"]
    assert delta.refused == ()
    assert_closed(delta, new)


def test_statics_keep_their_state_when_inlining_shifts(tmp_path: Path) -> None:
    text = """
    static noinline int one(int a) { static int seen; return seen += get(a); }
    static noinline int two(int a) { static int seen; return seen ^= get(a); }
    int f(int a) { return one(a) + 1; }
    int g(int a) { return two(a) + 2; }
    """
    delta = diff_c(tmp_path, text, text.replace("static noinline int one", "static int one"))
    assert summary(delta)[0] == ["f"]
    assert delta.changed[0].cause is Cause.INLINING
    assert delta.refused == ()
    assert [n.kind for n in delta.new if n.kind in ("bss", "data")] == []
    assert len(delta.references) == 1


def test_lines_that_move_in_a_header_change_nothing(tmp_path: Path) -> None:
    text = '#line {} "inc.h"\nint f(int a) {{ if (a) BUG(); return get(a); }}\n'
    delta = diff_c(tmp_path, text.format(10), text.format(60))
    assert summary(delta) == ([], [], ["f"], [])


def test_equal_code_in_another_section_is_no_change(tmp_path: Path) -> None:
    text = '.section {}, "ax"\n.globl f\n.type f, @function\nf: mov $5, %eax\nret\n.size f, .-f\n'
    delta = diff(*(assemble(tmp_path, text.format(s)) for s in (".text.f", ".text.unlikely.f")))
    assert summary(delta) == ([], [], [], [])


def test_a_cold_part_that_comes_and_goes_belongs_to_its_function(tmp_path: Path) -> None:
    text = """
    extern void die(int) MAYBE;
    int f(int a) { if (get(a) < 0) { die(1); put(a, 3); die(7); } return get(a + 1); }
    int g(int a) { return get(a) * 5; }
    """
    cold = text.replace("MAYBE", "__attribute__((cold))")
    for before, after in ((text, cold), (cold, text)):
        delta = diff_c(tmp_path, before.replace("MAYBE", ""), after.replace("MAYBE", ""))
        assert summary(delta) == (["f"], [], [], [])
        assert delta.removed == ()


def test_a_callee_specialised_for_its_callers_is_named(tmp_path: Path) -> None:
    text = """
    static noinline int part(int a, int b) { return get(a) + get(b) * 3; }
    int f(int a) { return part(a, 4); }
    int g(int a) { return part(a, LAST); }
    """
    delta = diff_c(tmp_path, text.replace("LAST", "a"), text.replace("LAST", "4"), "-fipa-cp-clone")
    assert {"f", "g"} <= {c.name for c in delta.changed}
    assert delta.refused == ()
    assert all("part" in c.reason for c in delta.changed if c.name == "f")


def test_twins_of_several_files_in_one_object_are_told_apart(tmp_path: Path) -> None:
    text = """
    .file "one.c"
    .section .text.one, "ax"
    .type twin, @function
    twin: mov ${}, %eax
    ret
    .size twin, .-twin
    .globl one
    .type one, @function
    one: call twin
    ret
    .size one, .-one
    """
    other = text.replace("one", "two").replace("twin", "same")
    before = assemble(tmp_path, text.format(1) + other.format(2))
    after = assemble(tmp_path, text.format(1) + other.format(3))
    assert [c.name for c in diff(before, after).changed] == ["two.c#same"]


def test_two_functions_of_one_name_are_refused_with_the_candidates(tmp_path: Path) -> None:
    def twins(first: int, second: int) -> bytes:
        rows = "".join(
            f'.section .text.{s}, "ax"\n.type {n}, @function\n{n}: mov ${v}, %eax\nret; nop\n'
            f".size {n}, .-{n}\n"
            for s, n, v in (("a", "twin", first), ("b", "twjn", second))
        )
        # No assembler takes one name twice; the second is renamed in the string table.
        return assemble(tmp_path, rows).replace(b"twjn", b"twin")

    assert diff(twins(1, 2), twins(1, 2) + b"\0").is_empty
    delta = diff(twins(1, 2), twins(1, 3))
    assert [r.code for r in delta.refused] == ["AMBIGUOUS"]
    assert "`twin`" in delta.refused[0].reason


@pytest.mark.parametrize("suffix", [".llvm.{}", ".lto_priv.{}"])
def test_hashes_of_link_time_optimisation_are_no_names(tmp_path: Path, suffix: str) -> None:
    text = """
    .section .text.h, "ax"
    BIND helperSUFFIX
    .type helperSUFFIX, @function
    helperSUFFIX: mov $7, %eax
    ret
    .size helperSUFFIX, .-helperSUFFIX
    .section .text.f, "ax"
    .globl f
    .type f, @function
    f: call helperSUFFIX
    mov $VALUE, %eax
    ret
    .size f, .-f
    """.replace("BIND", ".globl" if "llvm" in suffix else ".local")
    before = assemble(tmp_path, text.replace("SUFFIX", suffix.format(111)).replace("VALUE", "1"))
    renamed = text.replace("SUFFIX", suffix.format(222))
    assert summary(diff(before, assemble(tmp_path, renamed.replace("VALUE", "1")))) == (
        [], [], [], [],
    )  # fmt: skip
    delta = diff(before, assemble(tmp_path, renamed.replace("VALUE", "2")))
    assert summary(delta) == (["f"], [], [], [])
    assert [r.target.split("#")[-1] for r in delta.references] == ["helper" + suffix.format(111)]


def test_endbr_and_padding_shift_no_symbol(tmp_path: Path) -> None:
    flags = ("-fcf-protection=branch", "-mno-manual-endbr", "-fpatchable-function-entry=16,16")
    before = compile_c(tmp_path, TWO, *flags)
    new = compile_c(tmp_path, TWO.replace("* 5", "* 7"), *flags)
    delta = diff(before, new, profile="linux")
    assert summary(delta) == (["f"], [], [], [])
    assert_closed(delta, new)


def test_boot_code_waits_for_boot_whatever_else_its_object_holds(tmp_path: Path) -> None:
    text = "__init used int boot(int a) { return get(a); } int f(int a) { return get(a) + 1; }"
    delta = diff_c(tmp_path, text, text.replace("return get(a);", "return get(a + 1);"))
    assert summary(delta) == ([], [], [], [])
    assert [(row.code, row.name, row.is_own) for row in delta.boot] == [("INIT_CODE", "boot", True)]


def test_notes_of_the_toolchain_are_no_change(tmp_path: Path) -> None:
    before = compile_c(tmp_path, TWO)
    noise = "".join(
        f'asm (".pushsection {name}\\n.long 1, 2, 3\\n.popsection");\n'
        for name in (
            '.note.gnu.property, \\"a\\", @note',
            '.sframe, \\"a\\"',
            '.llvm_addrsig, \\"e\\"',
            '.discard.reachable, \\"a\\"',
            ".comment",
        )
    )
    assert diff(before, compile_c(tmp_path, noise + TWO)).is_empty


def test_unwind_tables_are_no_change(tmp_path: Path) -> None:
    before = compile_c(tmp_path, TWO)
    assert diff(before, compile_c(tmp_path, TWO, "-fasynchronous-unwind-tables")).is_empty


def test_bug_frames_need_no_debug_information(tmp_path: Path) -> None:
    text = TWO.replace("return helper(a) * 5", "if (a) BUG(); return 1")
    with_debug, without = (compile_c(tmp_path, text, *flag) for flag in (("-g",), ()))
    assert diff(with_debug, without).is_empty


# ------------------------------------------------- refusals beside the pains


def test_a_versioned_symbol_is_refused(tmp_path: Path) -> None:
    text = (
        '.section .text.f, "ax"\n.globl f\n.type f, @function\n'
        "f: mov ${}, %eax\nret\n.size f, .-f\n"
    )
    versioned = text + ".symver f, f@VERS_1, remove\n"
    plain = diff(*(assemble(tmp_path, text.format(n)) for n in (1, 2)))
    assert summary(plain) == (["f"], [], [], [])
    delta = diff(*(assemble(tmp_path, versioned.format(n)) for n in (1, 2)))
    assert [r.code for r in delta.refused] == ["SYMBOL_VERSION"]


INDIRECT = """
static void *pick(void) { return 0; }
int h(int) __attribute__((ifunc("pick"))); int k(int a) { return h(a); }
"""


@pytest.mark.parametrize("added", ["__thread int h; int k(int a) { return h += a; }", INDIRECT])
def test_thread_local_and_indirect_symbols_are_refused(tmp_path: Path, added: str) -> None:
    delta = diff_c(tmp_path, TWO, TWO + added, "-ftls-model=local-exec")
    assert [r.code for r in delta.refused] == ["SYMBOL_VERSION"]
    assert "`h`" in delta.refused[0].reason
    assert diff_c(tmp_path, TWO, TWO + "int each; int h(int a) { return each += a; }").refused == ()


def test_an_asm_name_is_the_name_of_the_image(tmp_path: Path) -> None:
    text = 'int f(int a) asm("other_name"); int f(int a) { return get(a) + 1; }'
    delta = diff_c(tmp_path, text, text.replace("+ 1", "+ 2"))
    assert summary(delta) == (["other_name"], [], [], [])


def test_a_new_member_of_a_group_is_refused(tmp_path: Path) -> None:
    group = """
    .section {}, "{}G", @progbits, fresh, comdat
    .globl fresh
    .type fresh, @{}
    fresh: .long 0x90909090
    .size fresh, .-fresh
    """
    base = '.section .text.f, "ax"\n.globl f\n.type f, @function\nf: mov $1, %eax\nret\n'
    base += ".size f, .-f\n"
    for kind in ((".text.fresh", "ax", "function"), (".data.fresh", "aw", "object")):
        delta = diff(assemble(tmp_path, base), assemble(tmp_path, base + group.format(*kind)))
        assert ("GROUPED", "fresh") in summary(delta)[3]


def test_changed_data_of_a_group_is_refused(tmp_path: Path) -> None:
    text = """
    .section .data.d, "awG", @progbits, d, comdat
    .globl d
    .type d, @object
    d: .long {}
    .size d, 4
    """
    delta = diff(*(assemble(tmp_path, text.format(n)) for n in (1, 2)))
    assert [r.name for r in delta.refused] == ["d"]


def test_anchored_data_of_arm64_that_was_rearranged_is_refused(tmp_path: Path) -> None:
    arm64 = COMPILERS[-1]
    if shutil.which(arm64.command) is None:
        pytest.skip(f"{arm64.command} is not installed; apt-get install {arm64.package}")
    text = """
    static int one = 1;
    HERE
    static int two = 2;
    void set(int a) { one = get(a); two = get(a + 1); HIM }
    int f(int a) { return get(a) + two; }
    """
    plain = text.replace("HERE", "").replace("HIM", "")
    more = text.replace("HERE", "static int mid = 9;").replace("HIM", "mid += get(a); get(mid);")
    for flag, codes in (("-fno-data-sections", ["UNNAMED_DATA"]), ("-fdata-sections", [])):
        before, after = (compile_with(arm64, tmp_path, t, flag) for t in (plain, more))
        assert [r.code for r in diff(before, after).refused] == codes
    edited = compile_with(arm64, tmp_path, plain.replace("+ two", "- two"), "-fno-data-sections")
    delta = diff(compile_with(arm64, tmp_path, plain, "-fno-data-sections"), edited)
    assert summary(delta) == (["f"], [], [], [])
