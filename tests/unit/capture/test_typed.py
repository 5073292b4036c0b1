# SPDX-License-Identifier: Apache-2.0
"""A structure whose text differs: what of it reaches code, and does memory fit?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.capture.test_capture import captured
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import Delta, ObjectPair
from xsplice_plugins.pipeline.run import Run
from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

HEADER = "xen/include/xen/lib.h"
SOURCE = "xen/common/user.c"
TYPES = """
struct item { char kind; long size; int (*ask)(int); };
extern struct item *item;
enum mode { OFF, ON };
"""
USER = """
#include <xen/lib.h>
struct item *item;
static void *table[16];
int user(int a) { return item->kind + a; }
int keeps(int a)
{
    static unsigned short next;
    enum { IDLE, BUSY };

    table[a & 15] = item;
    return a == BUSY ? ++next : next + !table[a & 7];
}
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree in which one object uses a structure and three only see it."""
    tiny = TinyTree(tmp_path_factory.mktemp("types") / "tree")
    text = (tiny.root / HEADER).read_text()
    (tiny.root / HEADER).write_text(text.replace("#endif\n", TYPES + "#endif\n"))
    (tiny.root / SOURCE).write_text(USER)
    tiny.build()
    return tiny


def delta_of(pair: ObjectPair, folder: Path) -> Delta:
    """Diff a captured pair as every face does."""
    run = Run(config=Config(release="4.17.5"), plugins=build_plugin_manager(environ={}))
    place = folder / "objects" / pair.object_path
    sides = [
        place.with_name(name).read_bytes() if name else b"" for name in (pair.baseline, pair.new)
    ]
    return pipeline.diff_pair(run, pair, *sides)[0]


def codes(pairs: dict[str, ObjectPair], folder: Path) -> dict[str, list[str]]:
    """Return the codes of what is refused, per object."""
    return {
        path: [refusal.code for refusal in delta_of(pair, folder).refused]
        for path, pair in sorted(pairs.items())
    }


def test_a_layout_that_no_code_follows_is_no_change(tree: TinyTree, tmp_path: Path) -> None:
    edit = (HEADER, "int (*ask)(int); };", "int (*ask)(int); long more; };")
    pairs = captured(tree, tree.patch(edit), tmp_path)
    assert len(pairs) > 1
    assert not any(pair.is_changed for pair in pairs.values())
    assert not any(codes(pairs, tmp_path).values())
    moot = [refusal.name for refusal in delta_of(pairs["common/user.o"], tmp_path).moot]
    assert moot == ["struct item: field more"]


def test_a_layout_that_some_code_follows_is_refused(tree: TinyTree, tmp_path: Path) -> None:
    """A field that the code reads moves; objects that only see it say nothing of their own."""
    pairs = captured(tree, tree.patch((HEADER, "char kind;", "long more; char kind;")), tmp_path)
    assert codes(pairs, tmp_path)["common/user.o"] == ["LAYOUT"]
    deltas = [delta_of(pair, tmp_path) for pair in pairs.values()]
    assert f"and {len(pairs) - 1} more: struct item" in pipeline.refusal_text(deltas)


@pytest.mark.parametrize(
    ("new", "use", "asked"),
    [
        ("char kind, hue;", "item->hue + a", 1),
        ("char kind; short hue;", "item->hue + a", 1),
        ("char kind;", "item->kind - a", 0),
    ],
)
def test_a_field_in_a_hole_is_accepted_with_a_question(
    new: str, use: str, asked: int, tree: TinyTree, tmp_path: Path
) -> None:
    edits = [(SOURCE, "item->kind + a", use)]
    edits += [(HEADER, "char kind;", new)] if new != "char kind;" else []
    pairs = captured(tree, tree.patch(*edits), tmp_path)
    delta = delta_of(pairs["common/user.o"], tmp_path)
    assert [row.name for row in delta.changed] == ["user"]
    assert (delta.refused, len(delta.unchecked)) == ((), asked)
    assert all("lies in a hole of `struct item`" in text for text in delta.unchecked)


def test_what_a_pointer_points_at_leaves_no_question(tree: TinyTree, tmp_path: Path) -> None:
    edits = (
        (HEADER, "int (*ask)(int); };", "long (*ask)(int); };"),
        (SOURCE, "item->kind + a", "item->ask(a)"),
    )
    pairs = captured(tree, tree.patch(*edits), tmp_path)
    delta = delta_of(pairs["common/user.o"], tmp_path)
    assert ([row.name for row in delta.changed], delta.refused, delta.unchecked) == (
        ["user"],
        (),
        (),
    )


def test_a_field_that_moves_beside_one_in_a_hole_is_refused(tree: TinyTree, tmp_path: Path) -> None:
    edits = (
        (HEADER, "char kind; long size;", "long size; char kind, hue;"),
        (SOURCE, "item->kind + a", "item->hue + a"),
    )
    pairs = captured(tree, tree.patch(*edits), tmp_path)
    assert codes(pairs, tmp_path)["common/user.o"] == ["LAYOUT"]


#: Edits of the source or the header, each beside a change of code; what is refused.
VALUES = {
    "static": ((SOURCE, "static unsigned short next;", "static short next;"), "variable next"),
    "static, spelled": ((SOURCE, "static unsigned short n", "static short unsigned n"), ""),
    "static, hidden": ((SOURCE, "static void", "#define unsigned signed\nstatic void"),
                       "variable next"),
    "dimension": ((SOURCE, "table[16];", "table[0x10];"), ""),
    "pointee": ((SOURCE, "void *table[16];", "struct item *table[16];"), "variable table"),
    "constants": ((SOURCE, "IDLE, BUSY };", "BUSY, IDLE };"), "constant BUSY"),
    "constant, renamed": ((SOURCE, "{ IDLE,", "{ NONE,"), ""),
    "constant, said": ((SOURCE, "{ IDLE,", "{ IDLE = 0,"), ""),
    "in a header": ((HEADER, "OFF, ON };", "ON, OFF };"), "enum mode"),
    "in a header, renamed": ((HEADER, "OFF, ON };", "NO, ON };"), ""),
    "in a header, wide": ((HEADER, "OFF, ON };", "OFF, ON, ALL = 0x100000000 };"), "enum mode"),
    "in a header, more": ((HEADER, "OFF, ON };", "OFF, ON, ALL = 1 << 2 };"), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_what_memory_holds_keeps_its_meaning(case: str, tree: TinyTree, tmp_path: Path) -> None:
    edit, name = VALUES[case]
    pairs = captured(
        tree, tree.patch(edit, (SOURCE, "++next : next +", "++next : next -")), tmp_path
    )
    delta = delta_of(pairs["common/user.o"], tmp_path)
    refused = [(refusal.code, refusal.name.partition(":")[0]) for refusal in delta.refused]
    assert refused[:1] == ([("LAYOUT", name)] if name else [])
    if not name:
        assert not delta.unchecked
        assert [row.name for row in delta.changed] == ["keeps"]
