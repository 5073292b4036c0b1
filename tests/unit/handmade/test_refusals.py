# SPDX-License-Identifier: Apache-2.0
"""Bad declarations are refused by name, with what to do, and nothing is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.unit.handmade.conftest import Bench
from xsplice_plugins import cli

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

INT = "static int mine(int a) { return a; }\n"
VOID = "static void mine(void) { }\n"
HOOK = "static int hook(struct payload *p) { return 0; }\n"

REFUSED = {
    "unknown-symbol": (f'{INT}XSPLICE_REPLACE("usr", mine);', "no symbol `usr`; near: user"),
    "unknown-local": (
        f'{INT}XSPLICE_REPLACE("other.c#helper", mine);',
        "no symbol `other.c#helper`; near: common/livepatch.c#helper, common/user.c#helper",
    ),
    "ambiguous-local": (
        f'{INT}XSPLICE_REPLACE("helper", mine);',
        "`helper` may be any of common/livepatch.c#helper, common/user.c#helper; write the one",
    ),
    "other-result": (
        'static long mine(int a) { return a; }\nXSPLICE_REPLACE("user", mine);',
        "`user` is `int (int)`, its replacement `mine` is `long int (int)`; give it the same type",
    ),
    "other-parameters": (
        'static int mine(int a, int b) { return a; }\nXSPLICE_REPLACE("user", mine);',
        "its replacement `mine` is `int (int, int)`",
    ),
    "other-type-of-a-static": (
        f'{INT}XSPLICE_REPLACE("livepatch.c#helper", mine);',
        "`common/livepatch.c#helper` is `long int (long int)`",
    ),
    "too-short": (
        f'{VOID}XSPLICE_REPLACE("tiny", mine);',
        "`tiny` is 1 bytes long and the jump to its replacement needs 5",
    ),
    "too-short-from-an-offset": (
        f'{VOID}XSPLICE_REPLACE_AT("pushing", 7, mine);',
        "`pushing+0x7` is 1 bytes long",
    ),
    "data": (f'{VOID}XSPLICE_REPLACE("counter", mine);', "`counter` is no function with a size"),
    "assembler": (f'{VOID}XSPLICE_REPLACE("entry", mine);', "`entry` is no function with a size"),
    "replacement-elsewhere": (
        'extern int user(int a);\nXSPLICE_REPLACE("livepatch", user);',
        "the replacement is no function of hotfix.o",
    ),
    "twice": (
        f'{INT}XSPLICE_REPLACE("user", mine);XSPLICE_REPLACE_AT("user", 0, mine);',
        "`user` is replaced twice",
    ),
    "offset-outside": (
        f'{VOID}XSPLICE_REPLACE_AT("pushing", 8, mine);',
        "`pushing` is 8 bytes long, so offset 0x8 lies outside it",
    ),
    "offset-splits": (
        f'{VOID}XSPLICE_REPLACE_AT("pushing", 3, mine);',
        "offset 0x3 of `pushing` splits `mov $1,%eax` at 0x2 to 0x7",
    ),
    "jump-is-entered": (
        f'{VOID}XSPLICE_REPLACE_AT("middle", 4, mine);',
        "a branch of `middle` leads to 0x5, into the bytes that would become a jump",
    ),
    "no-function-at-address": (
        f"{VOID}XSPLICE_REPLACE_ADDRESS(0x1000, mine);",
        "0x1000 lies in no function",
    ),
    "nop-splits-at-its-end": (
        'XSPLICE_NOP("pushing", 0, 4);',
        "the range 0x0 to 0x4 of `pushing` splits `mov $1,%eax` at 0x2 to 0x7",
    ),
    "nop-splits-at-its-start": ('XSPLICE_NOP("pushing", 4, 3);', "splits `mov $1,%eax`"),
    "nop-of-the-return": (
        'XSPLICE_NOP("pushing", 0, 8);',
        "without `ret` at 0x7 `pushing` runs into the next function",
    ),
    "nop-of-a-tail-call": (
        'XSPLICE_NOP("tail", 0, 10);',
        "at 0x5 `tail` runs into what follows it",
    ),
    "nop-into-the-last-jump": (
        'XSPLICE_NOP("tail", 0, 9);',
        "splits `jmp",
    ),
    "nop-of-a-return-inside": ('XSPLICE_NOP("middle", 4, 1);', "runs into what follows it"),
    "nop-of-half-a-pair": ('XSPLICE_NOP("pushing", 0, 1);', "another stack pointer"),
    "nop-of-an-adjustment": ('XSPLICE_NOP("adjusting", 0, 4);', "another stack pointer"),
    "nop-is-entered": (
        'XSPLICE_NOP("looping", 0, 4);',
        "a branch of `looping` leads to 0x2, into the bytes that would become NOPs",
    ),
    "nop-outside": ('XSPLICE_NOP("pushing", 2, 7);', "7 bytes from 0x2 on are no part of it"),
    "nop-of-nothing": ('XSPLICE_NOP("pushing", 2, 0);', "0 bytes from 0x2 on are no part of it"),
    "body-of-nothing": ('XSPLICE_NOP_BODY("tiny");', "no part of it can become NOPs"),
    "two-of-a-single-hook": (
        f"{HOOK}XSPLICE_APPLY_HOOK(hook);XSPLICE_APPLY_HOOK(hook);",
        "(.livepatch.hooks.apply): 2 hooks where the hypervisor takes one",
    ),
    "hook-outside-the-payload": (
        "extern void bump(void);\nXSPLICE_LOAD_HOOK(bump);",
        "the hook is no function of the payload",
    ),
    "hook-of-another-type": (
        "static void hook(struct payload *p) { }\nXSPLICE_PREAPPLY_HOOK(hook);",
        "does not compile",
    ),
    "expectation-without-a-record": (
        f'{INT}XSPLICE_REPLACE("user", mine);XSPLICE_EXPECT("bump", 1, 2);',
        "bytes are expected at `bump`, which this file neither replaces nor turns into NOPs",
    ),
    "expectation-twice": (
        f'{VOID}XSPLICE_REPLACE("bump", mine);XSPLICE_EXPECT("bump", 1);XSPLICE_EXPECT("bump", 2);',
        "`bump` has an expectation already",
    ),
    "expectation-too-long": (
        (
            f'{VOID}XSPLICE_REPLACE("pushing", mine);'
            'XSPLICE_EXPECT("pushing", 1, 2, 3, 4, 5, 6, 7, 8, 9);'
        ),
        "the hypervisor compares 8 at most",
    ),
    "image-expectation-too-long": (
        f'{VOID}XSPLICE_REPLACE("pushing", mine);XSPLICE_EXPECT_IMAGE("pushing", 9);',
        "9 bytes of `pushing` cannot be expected; 1 to 8 can",
    ),
    "defined-alias": (
        'int other(int a) { return a; }\nXSPLICE_SYMBOL(other, "user.c#helper");',
        "XSPLICE_SYMBOL names nothing that is only declared",
    ),
    "copy-of-a-function": (
        f'{INT}XSPLICE_REPLACE("cut.isra.0", mine);',
        "`common/user.c#cut.isra.0` is the compiler's own copy or part of a function",
    ),
    "copy-that-is-called": (
        (
            'extern int cut(int a);\nXSPLICE_SYMBOL(cut, "cut.isra.0");\n'
            'static int mine(int a) { return cut(a); }\nXSPLICE_REPLACE("user", mine);'
        ),
        (
            "hotfix.c:3: `common/user.c#cut.isra.0` is the compiler's own copy or part of a "
            "function, whose arguments are not those of the source; write the function into"
        ),
    ),
    "copy-that-is-called-by-its-name": (
        (
            'extern int clever(int a) asm("clever.constprop.0");\n'
            'static int mine(int a) { return clever(a); }\nXSPLICE_REPLACE("user", mine);'
        ),
        "hotfix.c: `clever.constprop.0` is the compiler's own copy or part of a function",
    ),
    "function-of-which-only-a-copy-is-left": (
        (
            'extern int cut(int a);\nXSPLICE_SYMBOL(cut, "user.c#cut");\n'
            'static int mine(int a) { return cut(a); }\nXSPLICE_REPLACE("user", mine);'
        ),
        (
            "no symbol `user.c#cut`; the compiler left only common/user.c#cut.isra.0, whose "
            "arguments are not those of the source"
        ),
    ),
    "name-near-a-copy": (
        f'{INT}XSPLICE_REPLACE("cut.izra.0", mine);',
        "no symbol `cut.izra.0`; give the payload that brings it as DEPENDS",
    ),
    "undeclared": ("extern int unheard_of;", "nothing is declared"),
    "undefined-symbol": (
        (
            "extern int unheard_of(int);\nstatic int mine(int a) { return unheard_of(a); }\n"
            'XSPLICE_REPLACE("user", mine);'
        ),
        "no symbol `unheard_of`",
    ),
    "over-2-MiB": (
        "char big[(2 << 20) - 100] = { 1 };\n" + INT + 'XSPLICE_REPLACE("user", mine);',
        "fix: the payload has 209",
    ),
    "over-2-MiB-of-zeros": (
        "char big[(2 << 20) + 1];\n" + INT + 'XSPLICE_REPLACE("user", mine);',
        "fix(.bss): 2097153 bytes, the hypervisor takes 2097152",
    ),
    "not-compiling": ("int mine(void) { return }", "does not compile"),
    "boot-only": (
        'static const char *mine(void) { return 0; }\nXSPLICE_REPLACE("setup", mine);',
        "it needs `setup`, whose memory is freed after boot",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_declaration_is_refused_by_name(bench: Bench, case: str) -> None:
    text, message = REFUSED[case]
    built = bench.build(text)
    assert built.status == (4 if case == "boot-only" else 2)
    assert message in built.err
    assert built.err.startswith("xsplice build: ")
    assert ";" in built.err or "does not compile" in built.err


@pytest.mark.parametrize("what", ['XSPLICE_REPLACE("user", mine);', 'XSPLICE_NOP_BODY("tail");'])
def test_what_runs_while_code_is_replaced_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    where = "xsplice_plugins.pipeline.payload.XEN_PATCHING_PATH"
    monkeypatch.setattr(where, frozenset({"user", "tail"}))
    built = bench.build(f"{INT if 'user' in what else ''}{what}")
    assert built.status == 4
    assert "runs while code is replaced [PATCHING_PATH]; this fix needs a reboot" in built.err


ACCEPTED = {
    "nop-of-a-pair": 'XSPLICE_NOP("pushing", 0, 2);',
    "nop-of-one-instruction": 'XSPLICE_NOP("pushing", 2, 5);',
    "nop-up-to-the-jump": 'XSPLICE_NOP("tail", 0, 5);',
    "nop-from-where-a-branch-leads": 'XSPLICE_NOP("looping", 2, 2);',
    "nop-between-the-adjustments": 'XSPLICE_NOP("adjusting", 4, 5);',
    "body-with-a-trap-behind-it": 'XSPLICE_NOP_BODY("tail");',
    "nop-of-a-conditional-branch": 'XSPLICE_NOP("middle", 2, 2);',
    "jump-where-a-branch-leads": f'{VOID}XSPLICE_REPLACE_AT("middle", 5, mine);',
    "qualified-parameter": (
        'static int mine(const int a) { return a; }\nXSPLICE_REPLACE("user", mine);'
    ),
    "typedef": (
        "typedef int number;\nstatic number mine(number a) { return a; }\n"
        'XSPLICE_REPLACE("user", mine);'
    ),
    "just-under-2-MiB": (
        "char big[(2 << 20) - 4000] = { 1 };\n" + INT + 'XSPLICE_REPLACE("user", mine);'
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_the_refused_ones_neighbour_is_accepted(bench: Bench, case: str) -> None:
    built = bench.build(ACCEPTED[case])
    assert built.status == 0, built.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HOOK}XSPLICE_PREAPPLY_HOOK(hook);", "Xen 4.13.0 has no such hook; it has load, unload"),
        (
            f'{VOID}XSPLICE_REPLACE("bump", mine);XSPLICE_EXPECT("bump", 1);',
            "Xen 4.13.0 has no expectations; remove that of `bump`",
        ),
        (
            f'{VOID}XSPLICE_REPLACE("bump", mine);XSPLICE_METADATA("a=b");',
            "(.modinfo): Xen 4.13.0 on x86_64 takes no such section",
        ),
    ],
    ids=["hook", "expectation", "metadata"],
)
def test_what_the_release_lacks_is_refused(bench: Bench, text: str, message: str) -> None:
    with bench.calling_itself("4.13.0"):
        built = bench.build(text)
    assert built.status == 2
    assert message in built.err


def test_a_release_that_the_tree_contradicts_is_refused(bench: Bench) -> None:
    built = bench.build('XSPLICE_NOP_BODY("pushing");', "--release", "4.17.4")
    assert built.status == 2
    assert "RELEASE says Xen 4.17.4" in built.err


def test_4_7_has_no_nops(bench: Bench) -> None:
    with bench.calling_itself("4.7.0"):
        built = bench.build('XSPLICE_NOP_BODY("pushing");')
    assert "Xen 4.7.0 cannot turn `pushing` into NOPs" in built.err


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.c", "no C file"), ("text.txt", "no C file")],
)
def test_what_is_no_c_file_is_refused(
    tiny: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "text.txt").write_text("words")
    words = ["build", str(tmp_path / name), "--xen", str(tiny.root), "--name", "fix"]
    assert cli.main([*words, "--out", str(tmp_path / "out" / "fix.livepatch")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_are_refused(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "hotfix.c"
    other.write_text("int a;\n")
    built = bench.build(f'{INT}XSPLICE_REPLACE("user", mine);', str(other))
    assert "messages could not tell them apart" in built.err


def test_a_tree_without_recorded_commands_is_refused(
    tiny: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny.root, tmp_path / "tree", symlinks=True)
    for record in (tmp_path / "tree/xen/common").glob(".*.cmd"):
        record.unlink()
    source = tmp_path / "hotfix.c"
    source.write_text("int a;\n")
    words = ["build", str(source), "--xen", str(tmp_path / "tree"), "--name", "fix"]
    assert cli.main([*words, "--out", str(tmp_path / "out" / "fix.livepatch")]) == 2
    assert "recorded no compile command" in capsys.readouterr().err
