# SPDX-License-Identifier: Apache-2.0
"""The route through make: what it pairs, and what no payload can follow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import capture
from xsplice_plugins.artefacts import SAME_LINK, Likeness, ObjectPair, Route
from xsplice_plugins.capture.relinking import pair_links
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.pipeline.diffing import diff_pair
from xsplice_plugins.pipeline.payload import no_change_text
from xsplice_plugins.pipeline.run import Run
from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.plugins.spec import Config

pytestmark = pytest.mark.toolchain


@pytest.fixture
def tree(own_tree: TinyTree) -> TinyTree:
    add_makefile(own_tree)
    own_tree.build()
    return own_tree


def made(tree: TinyTree, tmp_path: Path, *edits: tuple[str, str, str]) -> dict[str, ObjectPair]:
    """Return the pairs of a patch that goes through make."""
    fix, located = tree.patch(*edits), locate_tree(tree.root)
    plan = capture.plan(located, fix, route=Route.MAKE)
    pairs = capture.make_route(located, plan, fix, tmp_path / "work", tmp_path / "objects", jobs=2)
    return {pair.object_path: pair for pair in pairs}


def test_an_init_object_is_the_one_that_is_linked(tree: TinyTree, tmp_path: Path) -> None:
    """The object that it is made from has the same command, and other names of sections."""
    pairs = made(tree, tmp_path, ("xen/common/setup.c", "setup text", "other text"))
    assert {path: pair.is_init for path, pair in pairs.items()} == {"common/setup.init.o": True}


def test_an_ordinary_object_is_no_init_object(tree: TinyTree, tmp_path: Path) -> None:
    pairs = made(tree, tmp_path, ("xen/common/user.c", "twice(a)", "a"))
    assert {path: pair.is_init for path, pair in pairs.items()} == {"common/user.o": False}


def test_an_object_that_is_left_out_is_refused(tree: TinyTree, tmp_path: Path) -> None:
    record = tree.root / "xen/common/.built_in.o.cmd"
    edit = ("xen/common/.built_in.o.cmd", " common/user.o", "")
    assert edit[1] in record.read_text()
    again = ("xen/Makefile", "common/built_in.o: ", "common/built_in.o: common/.built_in.o.cmd ")
    [pair] = made(tree, tmp_path, edit, again).values()
    assert (pair.object_path, [row.code for row in pair.refused]) == ("common/user.o", ["REMOVED"])


def test_an_object_whose_source_is_gone_too_is_not(tree: TinyTree, tmp_path: Path) -> None:
    """Its functions may have moved: the differ looks for them in the others."""
    edit = ("xen/common/.built_in.o.cmd", " common/user.o", "")
    again = ("xen/Makefile", "common/built_in.o: ", "common/built_in.o: common/.built_in.o.cmd ")
    without = (
        "xen/Makefile",
        "livepatch version setup.init user entry",
        "livepatch version setup.init entry",
    )
    source = (tree.root / "xen/common/user.c").read_text().splitlines(keepends=True)
    gone = "--- a/xen/common/user.c\n+++ /dev/null\n" + f"@@ -1,{len(source)} +0,0 @@\n"
    text = tree.patch(edit, again, without).patches[0].text + gone
    fix = tree.patch_text(text + "".join(f"-{line}" for line in source))
    located = locate_tree(tree.root)
    plan = capture.plan(located, fix, route=Route.MAKE)
    assert not capture.make_route(located, plan, fix, tmp_path / "work", tmp_path / "objects")


@pytest.mark.parametrize(
    ("edit", "codes"),
    [
        (("xen/common/.entry.o.cmd", "gcc -MMD", "gcc -g -MMD"), []),
        (("xen/common/.entry.o.cmd", "gcc -MMD", "gcc -Dret=nop -MMD"), ["ASSEMBLER"]),
    ],
)
def test_an_assembler_object_counts_by_its_content(
    tree: TinyTree, tmp_path: Path, edit: tuple[str, str, str], codes: list[str]
) -> None:
    """Made again elsewhere it has other debug information, and a payload needs none of it."""
    again = ("xen/Makefile", "common/entry.o: ", "common/entry.o: common/.entry.o.cmd ")
    pairs = made(tree, tmp_path, edit, again)
    assert [row.code for pair in pairs.values() for row in pair.refused] == codes
    assert list(pairs) == ["common/entry.o" if codes else "xen-syms"]


@pytest.mark.parametrize(("flag", "count"), [("-g", 0), ("-Dboot=other", 1)])
def test_boot_code_that_is_linked_on_its_own_counts_by_its_content(
    tree: TinyTree, tmp_path: Path, flag: str, count: int
) -> None:
    edit = ("xen/common/.boot.o.cmd", "gcc -MMD", f"gcc {flag} -MMD")
    wanted = ("xen/Makefile", "xen-syms: prelink.o", "xen-syms: prelink.o common/boot.o")
    again = (
        "xen/Makefile",
        "common/entry.o: ",
        "common/boot.o: common/.boot.o.cmd\ncommon/entry.o: ",
    )
    pairs = made(tree, tmp_path, edit, wanted, again)
    assert [path for path, pair in pairs.items() if pair.boot] == ["common/boot.o"] * count


def test_boot_code_of_another_class_is_compared_byte_by_byte(
    tree: TinyTree, tmp_path: Path
) -> None:
    """Records of an `O=` build name it by a path that is not the source's own."""
    folder = tree.root / "xen/arch/x86"
    (folder / "early.c").symlink_to("../../common/unused.c")
    tree.compile("arch/x86/early.c", "arch/x86/early.o")
    data = bytearray((folder / "early.o").read_bytes())
    data[4] = 1
    (folder / "early.o").write_bytes(data)
    pairs = made(tree, tmp_path, ("xen/common/user.c", "twice(a)", "a"))
    assert list(pairs) == ["common/user.o"]


RECIPE = "xen/Makefile", "-e livepatch -o xen-syms"
RECORDED = "xen/common/.built_in.o.cmd", "ld -r -o"
FIX = "xen/common/user.c", "twice(a)", "a"


@pytest.mark.parametrize("flag", ["-Ttext=0x500000", "--no-warn-mismatch"])
def test_a_link_that_gives_another_image_is_refused(
    tree: TinyTree, tmp_path: Path, flag: str
) -> None:
    """No object shows it; a flag that leaves the image as it is, is no change."""
    [pair] = made(tree, tmp_path, (*RECIPE, f"{flag} {RECIPE[1]}")).values()
    assert pair.object_path == "xen-syms"
    if flag.startswith("-T"):
        [row] = pair.refused
        assert (row.code, "the same, and the image is not (.text, " in row.reason) == (
            "LINK",
            True,
        )
        return
    assert (pair.refused, pair.note) == ((), SAME_LINK)
    run = Run(config=Config(), plugins=build_plugin_manager(environ={}))
    delta, _ = diff_pair(run, pair, b"", b"")
    assert no_change_text([delta]).startswith(f"no functional change: {SAME_LINK};")
    assert "linked was not compared" in no_change_text([replace(delta, notes=())])


@pytest.mark.parametrize(
    ("edits", "codes"),
    [
        (((*RECORDED, "ld -z noexecstack -r -o"), FIX), ["LINK"]),
        (((*RECORDED, "ld   -r -o"), FIX), []),
        ((FIX,), []),
    ],
)
def test_other_flags_of_a_recorded_link_are_refused_beside_a_fix(
    tree: TinyTree, tmp_path: Path, edits: tuple[tuple[str, str, str], ...], codes: list[str]
) -> None:
    again = ("xen/Makefile", "common/built_in.o: ", "common/built_in.o: common/.built_in.o.cmd ")
    pairs = made(tree, tmp_path, *edits, again)
    assert [row.code for pair in pairs.values() for row in pair.refused] == codes
    assert [path for path in pairs if path != "xen-syms"] == ["common/user.o"]
    if codes:
        [row] = pairs["xen-syms"].refused
        assert row.name == "common/built_in.o"
        assert row.reason.endswith("it is linked with `-z noexecstack`, not ``")


def test_the_image_of_a_matched_base_is_not_the_link_of_its_own_objects(
    tree: TinyTree, tmp_path: Path
) -> None:
    index = read_index(locate_tree(tree.root))
    [known] = pair_links(index, index, are_equal=True)
    assert known.note == SAME_LINK
    (tmp_path / "shipped").write_bytes((tree.root / "xen/common/user.o").read_bytes())
    for likeness, count in ((Likeness.MATCHED, 0), (Likeness.OWN, 1)):
        base = SimpleNamespace(likeness=likeness)
        shipped = replace(index.tree, xen_syms=tmp_path / "shipped", base=base)  # type: ignore[arg-type]
        pairs = pair_links(dataclasses.replace(index, tree=shipped), index, are_equal=True)
        assert [pair.note for pair in pairs] == ["refused"] * count
