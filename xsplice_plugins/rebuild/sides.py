# SPDX-License-Identifier: Apache-2.0
"""The patched tree in a private copy, and both sides of what the patch made different.

The copy is made with line numbers held still, so that an object whose lines only moved comes out
as the tree's own. What differs then is compiled once more as the patch has it, for what a payload
brings carries the new numbers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from xsplice_plugins import capture
from xsplice_plugins.artefacts import CompileJob
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.rebuild.trees import Build, read_build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import PatchSet


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


def both_sides(
    before: Build, after: Build, patch_set: PatchSet, names: Sequence[str], jobs: int
) -> list[NewObject]:
    """Return what a payload is held against, for some objects of a patched copy.

    Args:
        before: The tree.
        after: The patched copy from `make_patched`; it holds the patch's own lines afterwards.
        patch_set: What was applied.
        names: Objects of the copy.
        jobs: How many compiles at a time.

    Raises:
        CaptureError: An object does not compile.
        MachineError: The disk is full, or the compiler is gone.
    """
    still = {name: after.objects[name] for name in names}
    plain = still if patch_set.is_line_neutral else _plain(before, after, patch_set, names, jobs)
    return [
        NewObject(
            path=name,
            new=plain[name],
            baseline=before.objects.get(name),
            neutral=None if plain[name] == still[name] else still[name],
        )
        for name in names
    ]


def _plain(
    before: Build, after: Build, patch_set: PatchSet, names: Sequence[str], jobs: int
) -> dict[str, bytes]:
    """Compile objects with the lines that the patch gives them."""
    tree, copy = before.index.tree, after.index.tree.root
    if not capture.put_patched(tree, patch_set, copy):
        return {name: after.objects[name] for name in names}
    known = {name: capture.recorded_job(after.index, name) for name in names}
    commands = {name: job for name, job in known.items() if job is not None and job.command}
    if len(commands) < len(names):  # old releases keep no record of some
        capture.make_again(before.index, copy, jobs=jobs)
        return {name: (after.index.tree.build_root / name).read_bytes() for name in names}

    def compiled(row: tuple[str, CompileJob]) -> tuple[str, bytes]:
        name, job = row
        out = copy / ".plain" / name
        capture.compile_object(job, copy, out)
        return name, out.read_bytes()

    with ThreadPoolExecutor(jobs) as pool:
        return dict(pool.map(compiled, commands.items()))
