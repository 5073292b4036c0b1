# SPDX-License-Identifier: Apache-2.0
"""A pointer that only a hook after the apply sets: functions that use it ask for NULL before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.handmade.conftest import Bench, make_tree
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Duty, PayloadRecord, Severity, record_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

HEAD = "static int there; int flag, *state;\n"
POST = "static void post(struct payload *p) { state = &there; }\nXSPLICE_POSTAPPLY_HOOK(post);\n"
LOAD = "static void on(void) { state = &there; }\nXSPLICE_LOAD_HOOK(on);\n"
REPLACE = 'static int mine(int a) { %s }\nXSPLICE_REPLACE("user", mine);\n'
FILLED = HEAD.replace("*state", "*state = &there")
SETTER = 'static void set(void) { state = &flag; }\nXSPLICE_REPLACE("bump", set);\n'

UNTESTED = {
    "read": HEAD + POST + REPLACE % "return state[1];",
    "written": HEAD + POST + REPLACE % "state[2] = a; return a;",
    "indexed": HEAD + POST + REPLACE % "return state[a];",
    "test of another one": HEAD + POST + REPLACE % "return flag ? state[a] : a;",
}
TESTED = {
    "asked before": HEAD + POST + REPLACE % "return state ? state[1] : 0;",
    "asked and left": HEAD + POST + REPLACE % "if (!state) return 1; state[a] = 2; return a;",
    "not followed": HEAD + POST + REPLACE % "return !!state + a;",
    "set by a load hook": HEAD + LOAD + REPLACE % "return state[1];",
    "set by both": HEAD + LOAD + POST + REPLACE % "return state[1];",
    "set at first": FILLED + POST + REPLACE % "return state[1];",
    "set by a function": HEAD + POST + SETTER + REPLACE % "return state[1];",
    "a hook's own use": HEAD + POST.replace("state = &there", "state = &there; state[0] = 1"),
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
    return make_tree(tmp_path_factory.mktemp("early") / "xen")


@pytest.fixture
def bench(user_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads."""
    return Bench(user_tree, tmp_path, capsys)


@pytest.mark.parametrize("case", UNTESTED)
def test_untested_pointer_is_not_checked(bench: Bench, case: str) -> None:
    (text,) = doubts(bench, UNTESTED[case])
    assert text.startswith("`user` uses state as an address without a test for NULL")


@pytest.mark.parametrize("case", TESTED)
def test_pointer_that_is_there_or_asked_for_is_no_doubt(bench: Bench, case: str) -> None:
    assert doubts(bench, TESTED[case]) == []
