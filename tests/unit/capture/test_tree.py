# SPDX-License-Identifier: Apache-2.0
"""Finding a tree's parts, and refusing what cannot be used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import capture
from xsplice_plugins.capture.making import _pairs
from xsplice_plugins.errors import CaptureError, ConfigError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.records import parse_record

if TYPE_CHECKING:
    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain


def test_the_top_folder_and_the_hypervisors_folder_are_the_same_tree(built: TinyTree) -> None:
    tree = capture.locate_tree(built.root)
    assert capture.locate_tree(built.root / "xen") == tree
    assert (tree.release, tree.arch, tree.build_dir) == ("4.17.5", "x86", "xen")
    assert tree.xen_syms == built.root / "xen/xen-syms"
    assert len(tree.build_id) == 40
    assert not tree.is_out_of_source


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        capture.locate_tree(tmp_path / "none")
    with pytest.raises(ConfigError, match="not a Xen tree"):
        capture.locate_tree(tmp_path)


def test_a_tree_that_is_not_built_is_refused(own_tree: TinyTree) -> None:
    (own_tree.root / "xen/xen-syms").unlink()
    with pytest.raises(CaptureError, match=r"not built \(no xen-syms\); build it first: make"):
        capture.locate_tree(own_tree.root)
    (own_tree.root / "xen/.config").unlink()
    with pytest.raises(CaptureError, match=r"not built \(no .config\)"):
        capture.locate_tree(own_tree.root)


def test_a_tree_without_live_patching_is_refused(own_tree: TinyTree) -> None:
    (own_tree.root / "xen/.config").write_text("CONFIG_X86=y\n# CONFIG_LIVEPATCH is not set\n")
    with pytest.raises(CaptureError, match="without CONFIG_LIVEPATCH"):
        capture.locate_tree(own_tree.root)


def test_an_image_of_another_build_is_refused(own_tree: TinyTree) -> None:
    shipped = own_tree.root / "xen/xen"
    data = shipped.read_bytes()
    shipped.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CaptureError, match="is not that of xen beside it"):
        capture.locate_tree(own_tree.root)
    shipped.write_bytes(data)
    capture.locate_tree(own_tree.root)
    os.utime(own_tree.root / "xen/prelink.o", (2**32, 2**32))
    with pytest.raises(CaptureError, match="older than the objects"):
        capture.locate_tree(own_tree.root)


def test_an_image_that_is_no_image_is_refused(own_tree: TinyTree) -> None:
    (own_tree.root / "xen/xen-syms").write_bytes(b"\x7fELF")
    with pytest.raises(CaptureError, match="not a readable ELF image"):
        capture.locate_tree(own_tree.root)


def test_a_read_only_tree_is_enough(own_tree: TinyTree, tmp_path: Path) -> None:
    fix = own_tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    folders = [own_tree.root, *(p for p in own_tree.root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        tree = capture.locate_tree(own_tree.root)
        capture.copy_tree(tree, tmp_path / "work/copy", fix)
        (job,) = capture.plan(tree, fix).jobs
        capture.compile_object(job, tmp_path / "work/copy", tmp_path / "work/a.o")
        assert (tmp_path / "work/a.o").is_file()
        shutil.rmtree(tmp_path / "work/copy")
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_absolute_links_and_unrecorded_archives_still_tell_what_is_linked(
    place: str, own_tree: TinyTree
) -> None:
    """Xen 4.14: prelink.o is recorded with absolute paths, built_in.o not at all.

    Such a tree once seemed to link nothing, so every patch was "no functional change".
    """
    xen = own_tree.root / "xen"
    (xen / "common" / ".built_in.o.cmd").unlink()
    (xen / "common" / "compat").mkdir()  # `obj-y += compat/domain.o`
    shutil.copy(xen / "common" / "user.o", xen / "common" / "compat" / "domain.o")
    start = xen if place == "here" else Path("/elsewhere/xen")
    (xen / ".prelink.o.cmd").write_text(
        f"cmd_prelink.o := ld -r -o prelink.o {start}/common/built_in.o\n"
    )
    linked = read_index(capture.locate_tree(own_tree.root)).linked
    assert {"common/version.o", "common/setup.init.o", "common/entry.o"} <= linked
    assert "common/compat/domain.o" in linked
    assert "xen-syms" not in linked


def test_a_tree_that_does_not_tell_what_is_linked_is_refused(
    own_tree: TinyTree, tmp_path: Path
) -> None:
    for path in (own_tree.root / "xen").rglob("*.o"):
        if path.name in {"prelink.o", "built_in.o"}:
            path.unlink()
            path.with_name(f".{path.name}.cmd").unlink()
    index = read_index(capture.locate_tree(own_tree.root))
    with pytest.raises(CaptureError, match="nothing tells which objects the image is linked from"):
        _pairs(index, index, tmp_path, None)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("domain.o", "common/compat"), ("compat/domain.o", "common"), ("common/compat/domain.o", "")],
)
def test_a_records_name_tells_where_make_ran(name: str, folder: str) -> None:
    record = parse_record(f"cmd_{name} := gcc -c domain.c\n", "common/compat", "domain.o")
    assert record is not None
    assert (record.target, record.folder) == ("common/compat/domain.o", folder)
