# SPDX-License-Identifier: Apache-2.0
"""What a compiler knew of a function and its callers, and a hand-written file does not keep to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.unit.handmade.conftest import Bench, make_tree
from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Duty, Likeness, PayloadRecord, Severity, record_path
from xsplice_plugins.capture.reads import Reads
from xsplice_plugins.handmade.knowledge import Knowledge
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

KNOWING = """
extern int out(int);
#define APART static __attribute__((noinline))
APART int leaf(int a) { return a * 12345 + 6789; }
APART int hop(int a) { return leaf(a) + 3; }
int keeps(int a, int b, int c) { return hop(a) + b * c; }
APART int alone(int a) { return out(a) + counter; }
int plain(int a, int b) { return alone(a) + b; }
APART int ranged(unsigned a) { return a < 16 ? out(a) + 1 : out(a * 3) + counter; }
int asks(unsigned a, unsigned b) { return ranged(a & 7) + ranged(b & 3); }
APART int any(unsigned a) { return a < 16 ? out(a) + 1 : out(a * 5) + counter; }
int asks_any(unsigned a, unsigned b) { return any(a) + any(b); }
"""
OUT = "int out(int a) { return a; }\n"
REPLACE = 'static int mine(int a) { return a * 7; }\nXSPLICE_REPLACE("%s", mine);\n'
CALL = (
    "extern int theirs(unsigned a);\n"
    'XSPLICE_SYMBOL(theirs, "%s");\n'
    "static int mine(int a) { return theirs(a) + 1; }\n"
    'XSPLICE_REPLACE("user", mine);\n'
)


@pytest.fixture(scope="session")
def knowing_tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree whose functions know each other; tests only read it."""
    tree = make_tree(tmp_path_factory.mktemp("knowing") / "xen")
    common = tree.root / "xen/common"
    for name, text in (("user.c", KNOWING), ("livepatch.c", OUT)):
        (common / name).write_text((common / name).read_text() + text)
    tree.build()
    return tree


@pytest.fixture
def knowing(knowing_tree: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads for that tree."""
    return Bench(knowing_tree, tmp_path, capsys)


def _doubts(bench: Bench, text: str) -> list[str]:
    built = bench.build(text)
    assert built.status == 0, built.err
    record = artefacts.load(record_path(built.path), PayloadRecord)
    rows = [row for row in record.findings if row.severity is Severity.UNCHECKED]
    assert {row.obligation for row in rows} <= {Duty.LAYOUT}
    return [row.text for row in rows]


@pytest.mark.parametrize("name", ["hop", "leaf"])
def test_a_caller_that_keeps_values_in_registers_is_not_checked(knowing: Bench, name: str) -> None:
    """The caller of a caller, too: what the original calls decides what it leaves alone."""
    said = _doubts(knowing, REPLACE % name)
    assert any(
        text.startswith(f"`keeps` (common/user.o) knows which registers `{name}` leaves alone")
        for text in said
    )


@pytest.mark.parametrize("name", ["alone", "user", "lonely"])
def test_callers_that_know_nothing(knowing: Bench, name: str) -> None:
    assert _doubts(knowing, REPLACE % name) == []


def test_a_static_that_knows_its_arguments_is_not_checked(knowing: Bench) -> None:
    (said,) = _doubts(knowing, CALL % "ranged")
    assert said.startswith("`ranged` (common/user.o) was compiled with what its callers give it")


def test_a_static_that_takes_any_argument(knowing: Bench) -> None:
    assert _doubts(knowing, CALL % "any") == []


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({"differs": ("keeps (common/user.o)",)}, "keeps"),
        ({"absent": ("gone (common/user.o)",)}, "gone"),
        ({"strangers": ("vendors",)}, "vendors"),
        ({"differs": ("other (common/version.o)",)}, ""),
        ({"differs": ("keeps (common/user.o)",), "likeness": Likeness.OWN}, ""),
    ],
    ids=["differs", "absent", "stranger", "another object", "the image's own tree"],
)
def test_what_the_shipped_image_has_otherwise_may_keep_values_too(
    knowing_tree: TinyTree, rows: dict[str, object], named: str
) -> None:
    base = SimpleNamespace(
        **{"likeness": Likeness.MATCHED, "differs": (), "absent": (), "strangers": ()} | rows
    )
    asked = SimpleNamespace(
        tree=replace(locate_tree(knowing_tree.root), base=base),  # type: ignore[arg-type]
        object_of=lambda name: "common/user.o" if name == "alone" else "",
    )
    said = list(Knowledge(asked, Reads()).doubts(["alone", "new"], []))  # type: ignore[arg-type]
    assert [f"the shipped image has `{named}` otherwise" in text for text in said] == (
        [True] if named else []
    )
