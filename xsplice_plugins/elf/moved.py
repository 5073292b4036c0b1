# SPDX-License-Identifier: Apache-2.0
"""Which structures an image has otherwise than the objects that were built again for it.

Code that is compiled with the objects' headers finds a member where they say. What a structure
holds in others is a place in it as well: the compiler adds the distances up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import AT_NAME, debug_units
from xsplice_plugins.elf.layouts import Layouts, layouts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xsplice_plugins.elf.layouts import StructLayout
    from xsplice_plugins.elf.reader import ElfFile

#: A structure's name to numbers in code that mean another place there, and what they are.
Moved = dict[str, dict[int, str]]
_INNER = re.compile(r"((?:struct|union) \w+)(?:\[\d+\])*")
_SIZE = "its size"


def moved_structures(objects: Iterable[ElfFile], image: ElfFile) -> Moved:
    """Compare the structures of each object with those of the same file in the image.

    Args:
        objects: As they were built again.
        image: The one that was shipped; without debug information nothing is known.

    Returns:
        For each structure that lies otherwise in the image: the places and sizes, in bytes, that
        the objects know and the image has not, each with the member's name.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    ours: dict[str, list[ElfFile]] = {}
    for file in objects:
        entries, _ = next(debug_units(file), ([], {}))
        if entries:
            ours.setdefault(str(entries[0].values.get(AT_NAME, "")), []).append(file)
    found: Moved = {}
    for entries, place_of in debug_units(image):
        for file in ours.get(str(entries[0].values.get(AT_NAME, "")), ()) if entries else ():
            for name, rows in _compare(layouts_of(file), Layouts(entries, place_of).by_name()):
                found.setdefault(name, {}).update(rows)
    return found


def _compare(
    ours: Mapping[str, StructLayout], theirs: Mapping[str, StructLayout]
) -> Iterable[tuple[str, dict[int, str]]]:
    both = ours.keys() & theirs.keys()
    if all(ours[name] == theirs[name] for name in both):
        return
    places: dict[str, dict[str, tuple[int, int]]] = {}
    others: dict[str, dict[str, tuple[int, int]]] = {}
    for name in sorted(both):
        mine, their = _places(name, ours, places), _places(name, theirs, others)
        rows = {bits // 8: path for path, (bits, size) in mine.items()
                if their.get(path) != (bits, size)}  # fmt: skip
        if ours[name].size_bytes != theirs[name].size_bytes:
            rows[ours[name].size_bytes] = _SIZE
        if rows:
            yield name, rows


def _places(
    name: str,
    layouts: Mapping[str, StructLayout],
    known: dict[str, dict[str, tuple[int, int]]],
) -> dict[str, tuple[int, int]]:
    """Return place and size in bits of each member, and of the members of what it holds."""
    if name in known:
        return known[name]
    known[name] = found = {}
    layout = layouts[name]
    for (member, bits, size), kind in zip(layout.members, layout.types, strict=True):
        inner = _INNER.fullmatch(kind)
        # Where something with members begins tells nothing of its size: its members do.
        found[member] = (bits, 0 if inner or kind == "{}" else size)
        if inner and inner[1] in layouts:
            for path, (more, bits_inner) in _places(inner[1], layouts, known).items():
                found[f"{member}.{path}"] = (bits + more, bits_inner)
    return found
