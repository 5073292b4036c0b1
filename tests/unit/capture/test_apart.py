# SPDX-License-Identifier: Apache-2.0
"""Functions that share a section are compiled once more, a section for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.capture.test_capture import captured
from xsplice_plugins.capture import shares_sections
from xsplice_plugins.diff.differ import diff_objects
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

#: `outer` ends in a jump to its neighbour, which the assembler resolves itself.
USER = """
extern int state;
int state;
static __attribute__((noinline)) int inner(int a) { state += a; return state * 3; }
int outer(int a) { return inner(a + 1); }
int user(int a) { return inner(a * 7); }
"""
SOURCE = "xen/common/user.c"


def tree(folder: Path, *, is_split: bool) -> TinyTree:
    """Return a built tree whose `outer` jumps to a neighbour."""
    tiny = TinyTree(folder, is_split=is_split)
    (tiny.root / SOURCE).write_text(USER)
    tiny.build()
    return tiny


@pytest.mark.parametrize("is_split", [False, True])
def test_a_jump_to_a_neighbour_gets_a_relocation(tmp_path: Path, is_split: bool) -> None:
    tiny = tree(tmp_path / "tree", is_split=is_split)
    pair = captured(tiny, tiny.patch((SOURCE, "a + 1", "a + 2")), tmp_path)["common/user.o"]
    assert pair.is_apart is not is_split
    folder = tmp_path / "objects/common"
    baseline, new = ((folder / name).read_bytes() for name in (pair.baseline, pair.new))
    assert not shares_sections(new, "user.o")
    delta = diff_objects(
        baseline,
        new,
        object_path="user.o",
        source_path="user.c",
        config=Config(release="4.17.5"),
    )
    assert [row.name for row in delta.changed] == ["outer"]
    elf = read_elf(new, "user.o")
    places = {
        symbol.name: [elf.symbols[r.symbol] for r in elf.relocs(elf.sections[symbol.shndx])]
        for symbol in elf.symbols
        if symbol.name in {"outer", "user"}
    }
    assert all(len(targets) == 1 for targets in places.values())


def test_what_shares_a_section_by_its_sources_wish_is_left_alone(tmp_path: Path) -> None:
    tiny = TinyTree(tmp_path / "tree")
    place = '__attribute__((section(".init.text"))) int '
    text = f"{place} one(void) {{ return 1; }}\n{place} two(void) {{ return 2; }}\nint user = 3;\n"
    (tiny.root / SOURCE).write_text(text)
    tiny.build()
    pair = captured(tiny, tiny.patch((SOURCE, "return 2", "return 4")), tmp_path)["common/user.o"]
    assert (pair.is_changed, pair.is_apart) == (True, False)


def test_an_object_that_does_not_change_is_compiled_no_third_time(tmp_path: Path) -> None:
    tiny = tree(tmp_path / "tree", is_split=False)
    pair = captured(tiny, tiny.patch((SOURCE, "a + 1", "1 + a")), tmp_path)["common/user.o"]
    assert (pair.is_changed, pair.is_apart) == (False, False)
