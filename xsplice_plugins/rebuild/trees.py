# SPDX-License-Identifier: Apache-2.0
"""Two built trees: what each is linked from, and which objects the patch made different."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins import capture
from xsplice_plugins.artefacts import IMAGE_SIZE_MAX, read_file
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.kbuild.indexing import Index

#: Holds the configuration as data for tools to read back; no code uses it.
NOT_CODE = frozenset({"common/config_data.o"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Build:
    """A built tree as it lies on the disk."""

    index: Index = field(repr=False)
    image: bytes = field(repr=False)  #: the whole ``xen-syms``
    objects: dict[str, bytes] = field(repr=False)  #: by path relative to the build folder
    made: dict[str, int] = field(repr=False)  #: when each was made, nanoseconds
    scripts: dict[str, bytes] = field(repr=False)  #: the linker scripts
    optional: frozenset[str] = frozenset()  #: objects that the linker may leave out


class Changes(Struct, frozen=True, kw_only=True):
    """What a patch made of a tree."""

    again: int  #: objects that make made again
    differing: tuple[str, ...]  #: objects whose loaded content differs, or that are new
    gone: tuple[str, ...]  #: objects that are not linked any more
    scripts: tuple[str, ...]  #: linker scripts that differ
    exempt: tuple[str, ...]  #: objects that differ and hold no code


def read_build(index: Index) -> Build:
    """Read the image and every object that it is linked from, each once.

    Args:
        index: The build folder's records.

    Raises:
        CaptureError: Nothing tells what the image is linked from, or a file cannot be read.
    """
    root = index.tree.build_root
    names = [name for name in index.members if name in index.listing.files]
    if not names:
        raise CaptureError(
            f"{root}: nothing tells which objects the image is linked from (no record of prelink.o "
            "or of any built_in.o); build the tree again with its own Makefile"
        )
    return Build(
        index=index,
        image=_read(root / "xen-syms"),
        objects={name: _read(root / name) for name in names},
        made={name: (root / name).stat().st_mtime_ns for name in names},
        scripts={
            name: _read(root / name)
            for name in sorted(index.listing.files)
            if name.endswith("/xen.lds")
        },
        optional=frozenset(name for name in names if index.members[name]),
    )


def _read(path: Path) -> bytes:
    return read_file(
        path, limit_bytes=IMAGE_SIZE_MAX, error=CaptureError, advice="build the tree again"
    )


def changes(before: Build, after: Build) -> Changes:
    """Say which objects of a tree a patch changed.

    Raises:
        ElfFormatError: A file that the image is linked from is no object.
    """
    differing = [
        name
        for name, data in after.objects.items()
        if name not in before.objects or _differs(name, before.objects[name], data)
    ]
    return Changes(
        again=sum(when != before.made.get(name) for name, when in after.made.items()),
        differing=tuple(name for name in differing if name not in NOT_CODE),
        gone=tuple(sorted(before.objects.keys() - after.objects.keys())),
        scripts=tuple(
            name
            for name in sorted(before.scripts.keys() | after.scripts.keys())
            if before.scripts.get(name) != after.scripts.get(name)
        ),
        exempt=tuple(name for name in differing if name in NOT_CODE),
    )


def _differs(name: str, old: bytes, new: bytes) -> bool:
    return old != new and capture.differing(name, old, new) != ()


def waiting_for(
    before: Build, after: Build, changed: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Find names that only the patched image has and that unchanged objects ask for.

    A linker leaves a weak reference to nothing empty; where the patch brings the thing, objects
    that nobody compiled again would use it.

    Args:
        before: The tree.
        after: The patched tree.
        changed: The objects that differ.

    Returns:
        The unchanged objects by name.
    """
    known = {symbol.name for symbol in read_elf(before.image, "xen-syms").symbols}
    fresh = {
        symbol.name
        for path in changed
        for symbol in read_elf(after.objects[path], path).symbols[1:]
        if symbol.shndx and not symbol.is_local and symbol.name not in known
    }
    found: dict[str, tuple[str, ...]] = {}
    for path, data in after.objects.items():
        if path in changed or not any(name.encode() + b"\0" in data for name in fresh):
            continue
        for symbol in read_elf(data, path).symbols:
            if not symbol.shndx and symbol.name in fresh:
                found[symbol.name] = (*found.get(symbol.name, ()), path)
    return dict(sorted(found.items()))
