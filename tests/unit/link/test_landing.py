# SPDX-License-Identifier: Apache-2.0
"""What is called through pointers begins with a landing pad where the hypervisor asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.handmade.conftest import USER, Bench

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

FLAGS = "-fpic -fcf-protection=branch -mmanual-endbr -fno-asynchronous-unwind-tables"
TRACKING = "static __attribute__((used)) char opt_xen_ibt = 1;\n"
MARK = "#undef cf_check\n#define cf_check __attribute__((__cf_check__))\n"
REPLACE = 'static int mine(int a) { %s return a; }\nXSPLICE_REPLACE("user", mine);\n'
BODY = 'static void %s { __asm__ volatile ("" ::: "memory"); }\n'
KEPT = "static void (*volatile kept)(void);\n"

USES = {
    "hook": (BODY, "XSPLICE_LOAD_HOOK(on);\n", "the load hook"),
    "stored": (BODY, KEPT + REPLACE % "kept = on;", "called through a pointer (.text)"),
    "table": (
        BODY,
        "static void (*const volatile table[])(void) = { 0, on };\n" + REPLACE % "table[a]();",
        "called through a pointer (",
    ),
    "both": (BODY, KEPT + REPLACE % "on(); kept = on;", "called through a pointer (.text)"),
}
DIRECT = {
    "called": REPLACE % "on();",
    "jumped to": 'static void mine(void) { on(); }\nXSPLICE_REPLACE("bump", mine);\n',
    "replacement": REPLACE % "",
}


def bench_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_tracking: bool) -> Bench:
    """Return a way to build payloads for a tree that tracks indirect calls, or does not."""
    root = tmp_path / "xen"
    tree = TinyTree(root, flags=FLAGS)
    (root / "xen/common/user.c").write_text(USER + (TRACKING if is_tracking else ""))
    tree.build()
    (tmp_path / "out").mkdir()
    return Bench(tree, tmp_path / "out", capsys)


@pytest.fixture
def tracked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads for a hypervisor that tracks indirect calls."""
    return bench_for(tmp_path, capsys, is_tracking=True)


def text_of(case: str, mark: str) -> str:
    """Return a file in which a function is used as the case says, with a mark or without."""
    body, use, _ = USES[case]
    return MARK + "__attribute__((noinline)) " + body % f"{mark} on(void)" + use


@pytest.mark.parametrize("case", USES)
def test_unmarked_function_is_refused_by_name(tracked: Bench, case: str) -> None:
    built = tracked.build(text_of(case, ""))
    assert built.status == 4, built.err
    assert "`hotfix.c#on` is " + USES[case][2] in built.err
    assert "mark it cf_check" in built.err


@pytest.mark.parametrize("case", USES)
def test_marked_function_is_accepted(tracked: Bench, case: str) -> None:
    built = tracked.build(text_of(case, "cf_check"))
    assert built.status == 0, built.err


@pytest.mark.parametrize("case", DIRECT)
def test_what_is_entered_directly_needs_no_mark(tracked: Bench, case: str) -> None:
    text = "__attribute__((noinline, used)) " + BODY % "on(void)" + DIRECT[case]
    assert tracked.build(text).status == 0


@pytest.mark.parametrize("case", USES)
def test_hypervisor_that_does_not_track_asks_for_no_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    assert bench_for(tmp_path, capsys, is_tracking=False).build(text_of(case, "")).status == 0
