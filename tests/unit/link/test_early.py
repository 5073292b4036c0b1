# SPDX-License-Identifier: Apache-2.0
"""Pointers that are NULL at first: functions that use one ask for it before, or set it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.handmade.conftest import FLAGS, TWIN, USER, Bench
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Duty, PayloadRecord, Severity, record_path

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

GETTING = """
__attribute__((noinline)) int follow(int *p) { return p[1] + counter; }
int pass_on(int a, int *p) { return a ? follow(p) + 1 : a; }
int careful(int *p) { return p ? follow(p) + 1 : 0; }
int *kept;
int keep(int *p) { kept = p; return counter; }
"""
HEAD = "static int there; int flag, *state, *rows[4];\n"
POST = "static void post(struct payload *p) { state = &there; }\nXSPLICE_POSTAPPLY_HOOK(post);\n"
LOAD = "static void on(void) { state = &there; }\nXSPLICE_LOAD_HOOK(on);\n"
REPLACE = 'static int mine(int a) { %s }\nXSPLICE_REPLACE("user", mine);\n'
FILLED = HEAD.replace("*state", "*state = &there")
SETTER = 'static void set(void) { state = &flag; }\nXSPLICE_REPLACE("bump", set);\n'
ROWS = 'static void set(void) { rows[flag] = &flag; }\nXSPLICE_REPLACE("bump", set);\n'
CLEARER = 'static void set(void) { state = 0; }\nXSPLICE_REPLACE("bump", set);\n'
INNER = "static __attribute__((noinline)) int inner(int a) { return state[a]; }\n"
INIT = "static __attribute__((noinline)) void init(void) { state = &there; }\n"
CALLED = HEAD.replace("*state", "(*call)(int)")

GIVEN = HEAD + "int follow(int *p), pass_on(int a, int *p), careful(int *p), keep(int *p);\n"

LATE = {
    "read": HEAD + POST + REPLACE % "return state[1];",
    "written": HEAD + POST + REPLACE % "state[2] = a; return a;",
    "indexed": HEAD + POST + REPLACE % "return state[a];",
    "test of another one": HEAD + POST + REPLACE % "return flag ? state[a] : a;",
    "test on another way": HEAD + POST + REPLACE % "if (a && !state) return 0; return state[a];",
}
OTHERS = {
    "set by a function": HEAD + SETTER + REPLACE % "return state[1];",
    "set by both": HEAD + POST + SETTER + REPLACE % "return state[1];",
    "in a row": HEAD + ROWS + REPLACE % "return *rows[a & 3];",
    "set on one way": HEAD + SETTER + REPLACE % "if (a) state = &there; return state[a];",
    "in a function of the image": GIVEN + SETTER + REPLACE % "return follow(state) + 1;",
    "in one that it calls": GIVEN + SETTER + REPLACE % "return pass_on(a, state + 1) + 1;",
    "in a function that is called": HEAD + SETTER + INNER + REPLACE % "return inner(a) + 1;",
}
NOBODYS = {
    "set by nobody": HEAD + REPLACE % "return state[1];",
    "called": CALLED + REPLACE % "return call(a) + 1;",
    "cleared": HEAD + CLEARER + REPLACE % "return state[1];",
}
TESTED = {
    "asked before": HEAD + POST + REPLACE % "return state ? state[1] : 0;",
    "asked and left": HEAD + POST + REPLACE % "if (!state) return 1; state[a] = 2; return a;",
    "not followed": HEAD + POST + REPLACE % "return !!state + a;",
    "set by a load hook": HEAD + LOAD + REPLACE % "return state[1];",
    "set by what a load hook calls": HEAD
    + INIT
    + "static void on(void) { init(); }\nXSPLICE_LOAD_HOOK(on);\n"
    + REPLACE % "return state[1];",
    "set by two hooks": HEAD + LOAD + POST + REPLACE % "return state[1];",
    "set at first": FILLED + POST + REPLACE % "return state[1];",
    "a hook's own use": HEAD + POST.replace("state = &there", "state = &there; state[0] = 1"),
    "set by itself": HEAD + SETTER + REPLACE % "state = &there; flag = a; return state[a];",
    "set by what it calls": HEAD + SETTER + INIT + REPLACE % "init(); return state[a];",
    "asked in a row": HEAD + ROWS + REPLACE % "return rows[a & 3] ? *rows[a & 3] : 0;",
    "asked by who calls": HEAD + SETTER + INNER + REPLACE % "return state ? inner(a) + 1 : 0;",
    "the image's function asks": GIVEN + SETTER + REPLACE % "return careful(state) + 1;",
    "the image's function keeps it": GIVEN + SETTER + REPLACE % "return keep(state) + 1;",
    "asked before it is given": GIVEN + SETTER + REPLACE % "return state ? follow(state) : 1;",
    "an index": HEAD.replace("*state", "table[9]")
    + "unsigned long at;\n"
    + 'static void set(void) { at++; }\nXSPLICE_REPLACE("bump", set);\n'
    + REPLACE % "flag = table[at]; table[at + a] = 2; return there;",
    "an index of bytes": HEAD.replace("int flag,", "unsigned long at; char text[9]; int flag,")
    + 'static void set(void) { at++; }\nXSPLICE_REPLACE("bump", set);\n'
    + REPLACE % "flag = text[at]; text[at + 1] = 2; return there;",
    "a number": HEAD.replace("*state", "state") + REPLACE % "return state + a;",
}


def doubts(bench: Bench, text: str) -> list[str]:
    """Return what the linker cannot hold of the obligation `loader`."""
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    rows = [row for row in record.findings if row.obligation == Duty.LOADER]
    assert {row.severity for row in rows} <= {Severity.UNCHECKED}
    return [row.text for row in rows]


@pytest.fixture(scope="module")
def user_tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree with functions to replace."""
    root = tmp_path_factory.mktemp("early") / "xen"
    tree = TinyTree(root, flags=FLAGS)
    (root / "xen/common/user.c").write_text(USER + GETTING)
    (root / "xen/common/livepatch.c").write_text(TWIN)
    tree.build()
    return tree


@pytest.fixture
def bench(user_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads."""
    return Bench(user_tree, tmp_path, capsys)


@pytest.mark.parametrize("case", LATE)
def test_pointer_of_a_late_hook_is_not_checked(bench: Bench, case: str) -> None:
    (text,) = doubts(bench, LATE[case])
    assert text.startswith("`user` uses `state` as an address without a test for NULL")


@pytest.mark.parametrize("case", OTHERS)
def test_pointer_that_another_function_sets_is_not_checked(bench: Bench, case: str) -> None:
    (text,) = doubts(bench, OTHERS[case])
    assert "is NULL until `bump`" in text
    assert text.endswith("uses it as an address without a test")


@pytest.mark.parametrize("case", NOBODYS)
def test_pointer_that_nobody_sets_is_not_checked(bench: Bench, case: str) -> None:
    (text,) = doubts(bench, NOBODYS[case])
    assert "is NULL, for nothing sets it" in text


@pytest.mark.parametrize("case", TESTED)
def test_pointer_that_is_there_or_asked_for_is_no_doubt(bench: Bench, case: str) -> None:
    assert doubts(bench, TESTED[case]) == []
