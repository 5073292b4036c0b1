# SPDX-License-Identifier: Apache-2.0
"""Which structures an image has otherwise than the objects that were built again for it.

Code that is compiled with the objects' headers finds a member where they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import debug_units
from xsplice_plugins.elf.layouts import Layouts, layouts_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.elf.layouts import StructLayout
    from xsplice_plugins.elf.reader import ElfFile

#: A structure, what of it is otherwise, what that is by the objects, and in the image.
Moved = tuple[tuple[str, str, str, str], ...]
_Seen = dict[str, set[tuple[tuple[str, str], ...]]]
_SIZE = "its size"
_NOT_THERE = "not there"


def moved_structures(objects: Iterable[ElfFile], image: ElfFile) -> Moved:
    """Compare all structures that objects know with all that an image knows, by their names.

    Files are not paired, for another build calls them otherwise. Where files have several
    structures of one name, both sides must have the same ones.

    Args:
        objects: As they were built again.
        image: The one that was shipped.

    Returns:
        One row for each structure that lies otherwise, or that only one side knows, by name.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    ours: _Seen = {}
    theirs: _Seen = {}
    for file in objects:
        _add(ours, layouts_of(file))
    for entries, place_of in debug_units(image):
        _add(theirs, Layouts(entries, place_of).by_name())
    return tuple(
        (name, *_difference(ours.get(name, set()), theirs.get(name, set())))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    )


def _add(seen: _Seen, layouts: dict[str, StructLayout]) -> None:
    for name, layout in layouts.items():
        seen.setdefault(name, set()).add(_rows(layout))


def _rows(layout: StructLayout) -> tuple[tuple[str, str], ...]:
    """Return each member with its place, size and type, then the size of all."""
    rows = [
        (f"`{name}`", f"{_count(bits)}, {_count(size)} of `{kind}`")
        for (name, bits, size), kind in zip(layout.members, layout.types, strict=True)
    ]
    return (*rows, (_SIZE, f"{layout.size_bytes:#x}"))


def _count(bits: int) -> str:
    """Return a number of bits as bytes, and bits where some are left."""
    return f"{bits // 8:#x}" + (f" and {bits % 8} bits" if bits % 8 else "")


def _difference(
    ours: set[tuple[tuple[str, str], ...]], theirs: set[tuple[tuple[str, str], ...]]
) -> tuple[str, str, str]:
    """Return the first thing that is otherwise, and what it is on both sides."""
    here = dict(min(ours - theirs, default=min(ours, default=())))
    there = dict(min(theirs - ours, default=min(theirs, default=())))
    name = next((name for name in (*here, *there) if here.get(name) != there.get(name)), _SIZE)
    return name, here.get(name, _NOT_THERE), there.get(name, _NOT_THERE)
