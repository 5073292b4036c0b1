# SPDX-License-Identifier: Apache-2.0
"""Tree plus lower patches is the baseline of a fix on a fix; the tree itself is checked still."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from xsplice_plugins import capture, pipeline
from xsplice_plugins.artefacts import Reach
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import read_patch_set

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree
    from xsplice_plugins.artefacts import ObjectPair, PatchSet

pytestmark = pytest.mark.toolchain

LIB, USER = "xen/include/xen/lib.h", "xen/common/user.c"


def series(built: TinyTree, folder: Path, *edits: tuple[str, str, str]) -> PatchSet:
    """Return one patch per edit, each on top of the ones before."""
    texts = {path: (built.root / path).read_text() for path, _, _ in edits}
    files = []
    for number, (path, old, new) in enumerate(edits):
        before, texts[path] = texts[path], texts[path].replace(old, new)
        assert before != texts[path]
        lines = [f"-{line}" for line in before.splitlines()]
        lines += [f"+{line}" for line in texts[path].splitlines()]
        counts = len(before.splitlines()), len(texts[path].splitlines())
        head = f"--- a/{path}\n+++ b/{path}\n@@ -1,{counts[0]} +1,{counts[1]} @@\n"
        files.append(folder / f"{number}.patch")
        files[-1].write_text(head + "\n".join(lines) + "\n")
    return read_patch_set(files, source_root=built.root, is_stacked=True)


def captured(
    built: TinyTree, fix: PatchSet, lower: int, work: Path, *, tree_object: Path | None = None
) -> dict[str, ObjectPair]:
    """Capture a fix whose first patches lie beneath."""
    tree = locate_tree(built.root)
    copies = {name: work / name for name in ("pristine", "lower", "copy")}
    beneath = replace(fix, patches=fix.patches[:lower])
    for (name, copy), patch_set in zip(copies.items(), (None, beneath, fix), strict=True):
        capture.copy_tree(tree, copy, patch_set, is_merged=False)
        assert not copy.with_name(f"{name}.merged").exists()
    pairs = {}
    for job in capture.plan(tree, fix).jobs:
        sides = pipeline.Sides(
            job=job,
            pristine=copies["lower"],
            patched=copies["copy"],
            tree_object=tree_object or tree.root / job.tree_object,
            plain=copies["pristine"],
        )
        prefix = work / "objects" / f"{job.object_path}.xsplice"
        prefix.parent.mkdir(parents=True, exist_ok=True)
        if job.reach is Reach.DIRECT:
            made = [work / name for name in ("old.o", "new.o")]
            capture.compile_object(job, sides.pristine, made[0])
            capture.compile_object(job, sides.patched, made[1])
            pairs[job.object_path] = pipeline.capture_pair(sides, made[0], made[1], prefix)
        else:
            pairs[job.object_path] = pipeline.capture_reached(sides, prefix)
        assert not list(prefix.parent.glob("*.plain.o"))
    return pairs


def test_only_what_the_upper_patch_changes_differs(built: TinyTree, tmp_path: Path) -> None:
    fix = series(built, tmp_path, (USER, "twice(a)", "twice(a) + 1"), (USER, "+ 1", "+ 1 + 2"))
    pair = captured(built, fix, 1, tmp_path)["common/user.o"]
    assert pair.is_changed
    tree_object = (built.root / "xen/common/user.o").read_bytes()
    assert (tmp_path / "objects/common" / pair.baseline).read_bytes() != tree_object
    # All of it lies beneath: nothing is left to change.
    again = tmp_path / "again"
    again.mkdir()
    assert not captured(built, fix, 2, again)["common/user.o"].is_changed


def test_a_header_that_the_upper_patch_puts_back_is_seen(built: TinyTree, tmp_path: Path) -> None:
    """The tree's text equals the fix's: only what lies beneath tells them apart."""
    fix = series(built, tmp_path, (LIB, "a * 2", "a * 3"), (LIB, "a * 3", "a * 2"))
    pairs = captured(built, fix, 1, tmp_path)
    assert pairs["common/user.o"].is_changed
    assert not pairs["common/version.o"].is_changed


def test_the_tree_is_still_held_against_its_own_sources(built: TinyTree, tmp_path: Path) -> None:
    fix = series(built, tmp_path, (USER, "twice(a)", "twice(a) + 1"), (USER, "+ 1", "+ 1 + 2"))
    other = tmp_path / "other.o"
    shutil.copy(built.root / "xen/common/boot.o", other)
    with pytest.raises(CaptureError, match="compiled again without the patch"):
        captured(built, fix, 1, tmp_path, tree_object=other)
