# SPDX-License-Identifier: Apache-2.0
"""The patched tree in a private copy, and both sides of what the patch made different.

The copy is made with line numbers held still, so that an object whose lines only moved comes out
as the tree's own. What differs then is compiled once more as the patch has it, for what a payload
brings carries the new numbers.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import capture
from xsplice_plugins.artefacts import CompileJob
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.rebuild.trees import Build, changes, read_build

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree


def make_patched(before: Build, patch_set: PatchSet, copy: Path, jobs: int) -> Build:
    """Make the whole patched tree in a private copy, line numbers held still.

    Args:
        before: The tree; it is only read.
        patch_set: What to apply.
        copy: The copy's root; nothing may be there.
        jobs: How many compiles at a time.

    Raises:
        CaptureError: It does not build; the message has make's last lines.
        MachineError: The copy cannot be written, or make or a compiler is missing.
        PatchError: The patch does not apply.
    """
    still = replace(patch_set, is_line_neutral=True)
    return read_build(capture.make_copy(before.index, still, copy, jobs=jobs))


class Before(Struct, frozen=True, kw_only=True):
    """An object as the patches of payloads beneath make it."""

    own: bytes  #: with the lines that these patches give it
    stills: tuple[bytes, ...]  #: with those that the tree and each payload have


def before_fix(
    tree: Build, patch_set: PatchSet, copy: Path, depths: Sequence[int], jobs: int
) -> dict[str, Before]:
    """Make the tree with the patches of payloads beneath, and give the objects that differ.

    Args:
        tree: The tree; it is only read.
        patch_set: Those patches.
        copy: The copy's root; nothing may be there.
        depths: How many of them each payload, with those under it, is made of.
        jobs: How many compiles at a time.

    Raises:
        CaptureError: It does not build.
        MachineError: The copy cannot be written, or make or a compiler is missing.
        PatchError: The patches do not apply.
    """
    made = make_patched(tree, patch_set, copy, jobs)
    names = changes(tree, made).differing
    own, *others = _variants(tree, made, [patch_set, *_twins(patch_set, depths)], names, jobs)
    stills = [made.objects, *others]
    return {
        name: Before(own=own[name], stills=tuple(row[name] for row in stills)) for name in names
    }


def stacked_sides(
    tree: XenTree,
    patch_set: PatchSet,
    depths: Sequence[int],
    names: Collection[str],
    copy: Path,
    jobs: int,
) -> list[NewObject]:
    """Make a tree twice, before a fix on others and with it; give both sides of what differs.

    Args:
        tree: The tree; it is only read.
        patch_set: All patches.
        depths: As in `before_fix`; one of them is more than none.
        names: More objects that are wanted.
        copy: The copies' root; what is there is removed, before and afterwards.
        jobs: How many compiles at a time.

    Raises:
        CaptureError: It does not build.
        MachineError: The copy cannot be written, or make or a compiler is missing.
        PatchError: The patches do not apply.
    """
    before = read_build(read_index(tree))
    lower = replace(patch_set, patches=patch_set.patches[: max(depths)])
    try:
        shutil.rmtree(copy, ignore_errors=True)
        below = before_fix(before, lower, copy, depths, jobs)
        shutil.rmtree(copy)
        after = make_patched(before, patch_set, copy, jobs)
        wanted = {*names, *below, *changes(before, after).differing} & after.objects.keys()
        return both_sides(
            before, after, patch_set, sorted(wanted), jobs, depths=depths, lower=below
        )
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def both_sides(
    before: Build,
    after: Build,
    patch_set: PatchSet,
    names: Sequence[str],
    jobs: int,
    *,
    depths: Sequence[int] = (),
    lower: Mapping[str, Before] | None = None,
) -> list[NewObject]:
    """Return what a payload is held against, for some objects of a patched copy.

    Args:
        before: The tree.
        after: The patched copy from `make_patched`; it holds other lines afterwards.
        patch_set: What was applied.
        names: Objects of the copy.
        jobs: How many compiles at a time.
        depths: As in `before_fix`.
        lower: What payloads beneath make different; ``None`` if nothing lies beneath.

    Raises:
        CaptureError: An object does not compile.
        MachineError: The disk is full, or the compiler is gone.
    """
    own, *others = _variants(before, after, [patch_set, *_twins(patch_set, depths)], names, jobs)
    rows = []
    for name in names:
        still, tree, below = after.objects[name], before.objects.get(name), (lower or {}).get(name)
        rows.append(
            NewObject(
                path=name,
                new=own[name],
                baseline=below.own if below else tree,
                neutral=None if own[name] == still else still,
                plain=None if lower is None else tree,
                stills=tuple(row[name] for row in others),
                baseline_stills=below.stills if below else (),
            )
        )
    return rows


def _twins(patch_set: PatchSet, depths: Sequence[int]) -> list[PatchSet]:
    """Return patches that leave the lines alone which each payload beneath was compiled with."""
    return [
        replace(patch_set, is_line_neutral=True, neutral_from=depth)
        for depth in sorted(set(depths) - {0})
        if depth < len(patch_set.patches)
    ]


def _variants(
    before: Build, made: Build, variants: Sequence[PatchSet], names: Sequence[str], jobs: int
) -> list[dict[str, bytes]]:
    """Compile objects of a copy with the same patches and other lines."""
    current, found = {name: made.objects[name] for name in names}, []
    for patch_set in variants:
        if capture.put_patched(before.index.tree, patch_set, made.index.tree.root):
            current = _compiled(before, made, names, jobs)
        found.append(current)
    return found


def _compiled(before: Build, made: Build, names: Sequence[str], jobs: int) -> dict[str, bytes]:
    """Compile objects of a copy as it is now."""
    copy = made.index.tree.root
    known = {name: capture.recorded_job(made.index, name) for name in names}
    commands = {name: job for name, job in known.items() if job is not None and job.command}
    if len(commands) < len(names):  # old releases keep no record of some
        capture.make_again(before.index, copy, jobs=jobs)
        return {name: (made.index.tree.build_root / name).read_bytes() for name in names}

    def compiled(row: tuple[str, CompileJob]) -> tuple[str, bytes]:
        name, job = row
        out = copy / ".plain" / name
        capture.compile_object(job, copy, out)
        return name, out.read_bytes()

    with ThreadPoolExecutor(jobs) as pool:
        return dict(pool.map(compiled, commands.items()))
