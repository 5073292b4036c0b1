# SPDX-License-Identifier: Apache-2.0
"""A file that changed after the build is named, even if no object compiled again shows it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import capture, pipeline
from xsplice_plugins.artefacts import Duty, Severity
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild import inputs
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

FIX = "xen/common/version.c", "return FILE_NAME;", 'return "fixed";'
MORE = "xen/common/version.c", "#include <xen/lib.h>", "#include <xen/lib.h>\n#define MORE 1"
HEADER = "xen/include/xen/lib.h"
SOURCE = "xen/common/version.c"
OTHER = "xen/common/user.c"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/inputs"


def doubts(
    tree: TinyTree, *edits: tuple[str, str, str], root: Path | None = None, is_made: bool = False
) -> list[str]:
    """Return what is said of a tree's inputs for a fix; that of version.c by default."""
    patch_set = tree.patch(*(edits or (FIX,)))
    built = locate_tree(root or tree.root)
    plan = capture.plan(built, patch_set)
    rows = pipeline.check_inputs(built, patch_set, plan.jobs, is_made_again=is_made)
    assert all((r.severity, r.obligation) == (Severity.UNCHECKED, Duty.BASE) for r in rows)
    return [row.text for row in rows]


def newer(file: Path, seconds: int = 60) -> None:
    """Stamp a file later than all that was built."""
    later = file.stat().st_mtime_ns + seconds * 10**9
    os.utime(file, ns=(later, later))


def edit(file: Path, text: str = "#define UNUSED 2\n") -> None:
    """Change a file and put its time stamp back."""
    times = file.stat()
    file.write_text(text + file.read_text())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_tree_in_order_raises_no_doubt_and_is_remembered(own_tree: TinyTree, cache: Path) -> None:
    assert doubts(own_tree) == []
    [kept] = cache.iterdir()
    before = kept.stat().st_mtime_ns
    assert doubts(own_tree) == []
    assert kept.stat().st_mtime_ns == before


def test_a_header_that_is_newer_than_an_object_is_not_checked(own_tree: TinyTree) -> None:
    newer(own_tree.root / HEADER)
    for _ in range(2):
        [text] = doubts(own_tree)
        assert f"{HEADER}: newer than xen/common/setup.init.o, " in text
        assert "run make" in text
        assert "ON=rebuild" in text


def test_a_full_rebuild_shows_what_comes_of_a_newer_file(own_tree: TinyTree) -> None:
    newer(own_tree.root / HEADER)
    assert doubts(own_tree, is_made=True) == []


def test_a_source_of_one_object_is_left_to_its_drift_check(own_tree: TinyTree) -> None:
    """As after an edit that was taken back; and what the fix does not reach is not asked for."""
    newer(own_tree.root / SOURCE)
    newer(own_tree.root / OTHER)
    assert doubts(own_tree) == []
    [text] = [row.text for row in pipeline.check_inputs(locate_tree(own_tree.root))]
    assert f"{OTHER}, {SOURCE}: newer than xen/common/user.o, " in text


def test_a_header_that_the_fix_may_read_anew_counts(own_tree: TinyTree) -> None:
    """Records know what was read before; a directive may lead to others."""
    extra = own_tree.root / "xen/include/xen/extra.h"
    extra.write_text("int extra(void);\n")
    user = own_tree.root / OTHER
    user.write_text(f"#include <xen/extra.h>\n{user.read_text()}")
    own_tree.build()
    newer(extra)
    assert doubts(own_tree) == []
    [text] = doubts(own_tree, MORE)
    assert "xen/include/xen/extra.h: newer than xen/common/user.o" in text


def test_a_file_of_known_content_may_have_any_time(own_tree: TinyTree) -> None:
    doubts(own_tree)
    newer(own_tree.root / HEADER)
    assert doubts(own_tree) == []


def test_another_content_than_the_known_one_is_refused_whatever_its_time(
    own_tree: TinyTree,
) -> None:
    doubts(own_tree)
    header = own_tree.root / HEADER
    text = header.read_text()
    edit(header)
    for _ in range(2):
        with pytest.raises(CaptureError, match=f"{HEADER}: changed since the tree was built"):
            doubts(own_tree)
    newer(header)
    with pytest.raises(CaptureError, match="changed since"):
        doubts(own_tree, is_made=True)
    header.write_text(text)
    assert doubts(own_tree) == []


def test_a_known_file_that_is_gone_is_refused_until_it_is_back(own_tree: TinyTree) -> None:
    doubts(own_tree)
    header = own_tree.root / HEADER
    text = header.read_text()
    header.unlink()
    for _ in range(2):
        with pytest.raises(CaptureError, match=f"{HEADER}: gone since the tree was built"):
            doubts(own_tree)
    header.write_text(text)
    assert doubts(own_tree) == []


def test_a_tree_that_was_made_again_is_believed(own_tree: TinyTree) -> None:
    """Also where the image came out the same, as after a new comment."""
    doubts(own_tree)
    build_id = locate_tree(own_tree.root).build_id
    edit(own_tree.root / HEADER)
    own_tree.build()
    assert locate_tree(own_tree.root).build_id == build_id
    assert doubts(own_tree) == []


def test_a_time_stamp_that_was_put_back_shows_where_the_tree_was_built(
    own_tree: TinyTree,
) -> None:
    edit(own_tree.root / HEADER)
    for is_made in (False, True):  # make would not make the objects again
        [text] = doubts(own_tree, is_made=is_made)
        assert f"{HEADER}: written or moved after xen/common/setup.init.o" in text


def test_settings_count_where_the_image_does_not_hold_them(own_tree: TinyTree) -> None:
    """No record names them as what an object was compiled from."""
    header = own_tree.root / "xen/include/generated/autoconf.h"
    header.parent.mkdir()
    header.write_text("#define CONFIG_X86 1\n#define CONFIG_LIVEPATCH 1\n")
    own_tree.build()
    assert doubts(own_tree) == []
    edit(header, "/* */\n")
    with pytest.raises(CaptureError, match=r"autoconf\.h: changed since"):
        doubts(own_tree)


def copied(tree: TinyTree, place: Path) -> None:
    """Copy a tree that was built an hour ago, with its time stamps."""
    for file in tree.root.rglob("*"):
        if file.is_file():
            newer(file, -3600)
    shutil.copytree(tree.root, place, symlinks=True)


def test_the_order_in_which_files_were_copied_is_no_doubt(
    own_tree: TinyTree, tmp_path: Path
) -> None:
    copied(own_tree, tmp_path / "copy")
    edit(tmp_path / "copy" / HEADER, "")
    assert doubts(own_tree, root=tmp_path / "copy") == []


def test_a_time_stamp_that_was_put_back_long_after_the_copy_shows(
    own_tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(own_tree, tmp_path / "copy")
    objects = (tmp_path / "copy").rglob("*")
    times = [file.lstat().st_ctime_ns for file in objects if file.is_file()]
    took = max(times) - min(times)
    monkeypatch.setattr(inputs, "_COPYING_NS", took)
    time.sleep(3 * took / 10**9 + 0.05)
    edit(tmp_path / "copy" / HEADER)
    [text] = doubts(own_tree, root=tmp_path / "copy")
    assert f"{HEADER}: written or moved after xen/common/setup.init.o" in text


def test_a_damaged_record_is_none(own_tree: TinyTree, cache: Path) -> None:
    doubts(own_tree)
    [kept] = cache.iterdir()
    for text in ("", "{}", "[]", '{"schema": 1, "seen": 1, "whole": true, "files": {"a": [1]}}'):
        kept.write_text(text)
        assert doubts(own_tree) == []
        assert len(kept.read_text()) > len(text)
