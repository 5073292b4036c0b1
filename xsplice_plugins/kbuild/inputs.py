# SPDX-License-Identifier: Apache-2.0
"""What the objects of an image were compiled from, and whether that can have changed since."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins.kbuild.configured import AUTOCONF, HOLDS
from xsplice_plugins.kbuild.indexing import canonical_in, init_name, read_index
from xsplice_plugins.kbuild.records import parse_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.kbuild.tree import XenTree

_AT_ONCE_NS = 50_000_000  # between the last write of an object and its move to its place
_COPYING_NS = 60_000_000_000  # within such a time the order of what is copied says nothing

#: A file's size in bytes, times of last write and of last change (ns), and digest.
Row = tuple[int, int, int, str]
Stamps = tuple[int, int, int]


class Inputs(Struct, frozen=True, kw_only=True):
    """The recorded inputs of all objects of an image; paths are relative to the tree's root.

    Doubts lead from a file to all objects that read it, first those that it is too new for.
    """

    files: dict[str, Row] = field(default_factory=dict)  #: what the objects were compiled from
    #: has another content now, or is gone
    edited: dict[str, tuple[str, ...]] = field(default_factory=dict)
    newer: dict[str, tuple[str, ...]] = field(default_factory=dict)  #: written after an object
    moved: dict[str, tuple[str, ...]] = field(default_factory=dict)  #: the same, stamped earlier


def stamps_of(root: str, path: str) -> Stamps | None:
    """Return a file's size and times; ``None`` if it is not there."""
    try:
        stat = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118  a thousand files
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def examine_inputs(tree: XenTree, known: Mapping[str, Row], known_ns: int) -> Inputs:
    """Hold the recorded inputs against the times of the objects, and against what is known.

    A file whose content is the known one is believed whatever its time says. Any other is believed
    if it is no newer than the objects that read it, by its time stamp and by the time of its last
    change, which nobody can put back. A copy of a tree has other times of change: there a file
    counts as newer if it changed long after the last object came.

    Args:
        tree: The built tree.
        known: What an earlier run believed.
        known_ns: When that was; it says nothing of objects that were made since.

    Raises:
        CaptureError: A record cannot be read.
    """
    root, readers = str(tree.root), readers_of(tree)
    objects = {path for rows in readers.values() for path in rows}
    times = {path: stamps for path in objects if (stamps := stamps_of(root, path)) is not None}
    image = stamps_of(root, str(tree.xen_syms))
    built = [row for row in (image, *times.values()) if row is not None]
    inputs = {path: stamps_of(root, path) for path in readers}
    copied_ns = None
    if any(changed - written > _AT_ONCE_NS for _, written, changed in built):
        last = max(row[2] for row in built)
        first = min(row[2] for row in (*built, *inputs.values()) if row is not None)
        copied_ns = last + max(_COPYING_NS, 2 * (last - first))
    found = Inputs()
    for path, rows in sorted(readers.items()):
        stamps = inputs[path]
        made = {row: times[row] for row in rows if row in times}
        digest, old = _digest(root, path), known.get(path)
        if not made or (old is None and not digest):
            continue  # nobody knows what was there
        if stamps and old is not None and old[3] == digest:
            found.files[path] = (*stamps, digest)
            continue
        if old is not None and any(row[1] <= known_ns for row in made.values()):
            found.edited[path] = tuple(sorted(made))
            found.files[path] = old
            continue
        if stamps is None:
            continue  # all that read it was made since
        newer = {row for row, stamp in made.items() if stamps[1] > stamp[1]}
        moved = {row for row, stamp in made.items() if stamps[2] > (copied_ns or stamp[2])}
        if newer:
            found.newer[path] = (*sorted(newer), *sorted(made.keys() - newer))
        elif moved:
            found.moved[path] = (*sorted(moved), *sorted(made.keys() - moved))
        else:
            found.files[path] = (*stamps, digest)
    return found


def readers_of(tree: XenTree) -> dict[str, list[str]]:
    """Return which objects of the image each file was read for, relative to the tree's root.

    Raises:
        CaptureError: A record cannot be read.
    """
    index = read_index(tree)
    members = index.members
    build = "" if tree.build_dir == "." else f"{tree.build_dir}/"
    readers: dict[str, list[str]] = {}
    places: dict[tuple[str, str], str] = {}
    # No record names the settings. Where the image holds them, they are known already.
    settings = [] if dict(tree.config).get(HOLDS) == "y" else [build + AUTOCONF]
    for (folder, name), text in index.texts.items():
        target = f"{folder}/{name}" if folder else name
        # An init object is made of the one that was compiled.
        shown = init_name(target) if init_name(target) in members else target
        if "\ndeps_" not in text or shown not in members:
            continue
        record = parse_record(text, folder, name)
        if record is None:
            continue
        for header in settings:
            readers.setdefault(header, []).append(build + shown)
        for word in record.inputs:
            path = places.get((record.folder, word))
            if path is None:
                path = canonical_in(index, record.folder, word)
                places[record.folder, word] = path
            # Not the compiler's own headers.
            if not path.startswith("/") and path != build + AUTOCONF:
                readers.setdefault(path, []).append(build + shown)
    return readers


def _digest(root: str, path: str) -> str:
    """Return the digest of a file's content; "" if it cannot be read."""
    try:
        with open(os.path.join(root, path), "rb") as file:  # noqa: PTH118, PTH123  a thousand files
            return hashlib.sha256(file.read()).hexdigest()[:32]
    except OSError:
        return ""
