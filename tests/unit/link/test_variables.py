# SPDX-License-Identifier: Apache-2.0
"""From which functions on the variables of a payload are set, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.handmade.conftest import Bench, make_tree
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import NewVariable, PayloadRecord, record_path

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

HEAD = "int flag; unsigned char rows[6];\n"
READER = 'static int mine(int a) { return flag + a; }\nXSPLICE_REPLACE("user", mine);\n'
WRITER = 'static void set(void) { %s }\nXSPLICE_REPLACE("bump", set);\n'
INNER = "static __attribute__((noinline)) void inner(int a) { flag = a; }\n"
HOOK = "static void on(void) { flag = 1; }\nXSPLICE_LOAD_HOOK(on);\n"

FLAG = [NewVariable(name="flag", writers=("bump",), readers=("user",))]
CASES = {
    "set by a function": (HEAD + READER + WRITER % "flag = 3;", FLAG),
    "set by what that calls": (HEAD + INNER + READER + WRITER % "inner(3); inner(4);", FLAG),
    "set by a hook": (HEAD + HOOK + READER + WRITER % "flag = 3;", []),
    "set by nobody": (HEAD + READER, [NewVariable(name="flag", writers=(), readers=("user",))]),
    "set by what nobody calls": (
        HEAD + READER + "__attribute__((used)) void later(int a) { flag = a; }\n",
        [NewVariable(name="flag", writers=(), readers=("user",), idle=("later",))],
    ),
    "set by what nobody calls and by a function": (
        HEAD + READER + WRITER % "flag = 3;" + "void later(int a) { flag = a; }\n",
        FLAG,
    ),
    "set by a hook alone": (HEAD + HOOK + READER, []),
    "read by nobody": (HEAD + WRITER % "flag = 3;", []),
    "counted": (
        HEAD + READER + WRITER % "flag++;",
        [NewVariable(name="flag", writers=("bump",), readers=("bump", "user"))],
    ),
    "with an index": (
        HEAD
        + READER.replace("flag", "rows[a]")
        + WRITER % "for (int i = 0; i < 6; i++) rows[i] = 2;",
        [NewVariable(name="rows", writers=("bump",), readers=("user",))],
    ),
    "data hold its address": (HEAD + "int *there = &flag;\n" + READER + WRITER % "flag = 3;", []),
}


@pytest.fixture(scope="module")
def user_tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree with functions to replace."""
    return make_tree(tmp_path_factory.mktemp("variables") / "xen")


@pytest.fixture
def bench(user_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads."""
    return Bench(user_tree, tmp_path, capsys)


@pytest.mark.parametrize("case", CASES)
def test_who_sets_and_reads_a_variable_is_recorded(bench: Bench, case: str) -> None:
    text, expected = CASES[case]
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    assert [row for row in record.variables if row.name != "there"] == expected
