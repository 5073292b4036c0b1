# SPDX-License-Identifier: Apache-2.0
"""Private copies of the sources, and the folders of the fixes that hold them.

The copies of a project that SCons builds are laid out when a step of a run first needs one: by
then all generated files are there, and nothing of an earlier run is left. If nothing is compiled,
nothing is copied.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins import artefacts, capture
from xsplice_plugins.errors import CaptureError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob, PatchSet
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.plugins.spec import Config


class Farm(Struct, frozen=True, kw_only=True):
    """A private copy of the sources: symbolic links, the patched files real."""

    source_root: Path  #: the folder that compile commands run in
    tree: XenTree | None = None  #: a Xen tree knows what of it compiles need
    patch_root: str = ""  #: where patches apply, relative to ``source_root``; a tree knows it
    #: By the path of a touched file: where SCons has the same file for a variant.
    twins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    copy: Path  #: where the copy of ``source_root`` goes
    patch_set: PatchSet | None  #: ``None`` for the pristine side
    is_merged: bool = True  #: whether headers with both versions are wanted


class Side(Struct, frozen=True, kw_only=True):
    """Where and from what one object is compiled: one side of the patch."""

    job: CompileJob
    copy: Path  #: absolute root of the private copy
    variables: tuple[tuple[str, str], ...] = ()  #: environment; empty: that of the process
    touched: dict[str, str] = field(default_factory=dict)  #: files of the patch, by true path
    known: frozenset[str] = frozenset()  #: those that SCons knows the object to be made of


#: What is not laid out yet in this run, by the copy's place.
_PROMISED: dict[Path, Farm] = {}
_LOCK = RLock()
#: The folders of this run's fixes.
_FOLDERS: set[Path] = set()


def claim(folder: Path, name: str) -> None:
    """Take a folder for one fix.

    Raises:
        ConfigError: Another fix of this run has it.
    """
    if folder.resolve() in _FOLDERS:
        raise ConfigError(
            f"{name}: another fix of this project is built in {folder}; give each its own name"
        )
    _FOLDERS.add(folder.resolve())


def is_claimed(folder: Path) -> bool:
    """Tell whether a fix of this run is built in a folder."""
    return folder.resolve() in _FOLDERS


def records_beneath(config: Config) -> tuple[bytes, ...]:
    """Return the records of the payloads beneath a fix; they may be made in the same run."""
    places = [artefacts.record_path(path) for path in (*config.depends, *config.supersedes)]
    return tuple(place.read_bytes() if place.is_file() else b"" for place in places)


def lay_out(farm: Farm) -> None:
    """Lay out a private copy of the sources."""
    if farm.tree is not None:
        capture.copy_tree(farm.tree, farm.copy, farm.patch_set, is_merged=farm.is_merged)
        return
    homes = {"." if not farm.patch_root else farm.patch_root}
    homes |= {twin.split("/", 1)[0] for places in farm.twins.values() for twin in places}
    capture.prepare_copy(
        farm.source_root,
        farm.copy,
        farm.patch_set,
        real=None if "." in homes else _folders(farm.source_root, homes),
        patch_root=farm.patch_root,
        twins=farm.twins,
        leaving_out=_FOLDERS,
        is_merged=farm.is_merged,
    )


def _folders(top: Path, homes: Iterable[str]) -> list[str]:
    """Return folders and all below them, relative to the top; the rest need not be real."""
    return [os.path.relpath(folder, top) for home in homes for folder, _, _ in os.walk(top / home)]


def promise(farm: Farm) -> Path:
    """Say what a copy will hold, for `require`; return its place."""
    _PROMISED[farm.copy] = farm
    return farm.copy


def require(*copies: Path) -> None:
    """Lay out copies that were promised, once in a run; others are nodes, and there already.

    Raises:
        XspliceError: As `lay_out`.
    """
    with _LOCK:
        for copy in copies:
            if copy in _PROMISED:
                lay_out(_PROMISED[copy])
                del _PROMISED[copy]


def reads_of_patch(side: Side, rule: str) -> frozenset[str]:
    """Return the files of the patch that a compile read, patched or not.

    Raises:
        CaptureError: It read the project's own version of one that is patched.
    """
    if not rule or not side.touched:
        return side.known
    origin = capture.origin_of(side.copy)
    top, copy = os.path.realpath(origin.folder), os.path.realpath(side.copy)
    found = set()
    for word in capture.files_of_rule(rule):
        path = os.path.realpath(side.copy / side.job.cwd / word)
        own = path.replace(copy + "/", top + "/", 1) if path.startswith(copy + "/") else path
        if own in side.touched:
            found.add(side.touched[own])
        if own == path and os.path.relpath(path, top) in origin.patched:
            raise CaptureError(
                f"{side.job.source_path}: it reads {word}, which leads out of the private copy to "
                "the file before the patch; name the folder relative to the SConstruct"
            )
    return frozenset(found)
