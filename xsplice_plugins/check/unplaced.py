# SPDX-License-Identifier: Apache-2.0
"""Functions of which tables of the image say something else: other alternatives, other fixups.

A section of table entries has one place in an image. Where it fits nowhere, the function that an
entry speaks of may be equal to the last bit, and yet run otherwise. So may one that an entry speaks
of that no object has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

from xsplice_plugins.check.memory import Spot
from xsplice_plugins.check.objects import Unit
from xsplice_plugins.check.placing import compare_unit
from xsplice_plugins.check.results import Mismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from xsplice_plugins.check.objects import Entry, ObjectFile
    from xsplice_plugins.check.placing import Placed


def spoken_otherwise(placed: Placed, number: int, wrong: Collection[str]) -> Iterator[Mismatch]:
    """Give the functions of an object whose table entries, or nameless parts, the image has not.

    Args:
        placed: Objects with the places of their sections; of the object, some have one.
        number: Which object.
        wrong: Names of what differs in it; of what has none, the section's.
    """
    obj, bases = placed.objects[number], placed.bases[number]
    odd = odd_sections(placed, number, wrong)
    if not odd:
        return
    for row in obj.loaded:
        for ref in obj.refs(row.index) if row.is_exec and row.index in bases else ():
            unit = obj.unit_at(row.index, ref.at)
            if ref.symbol.shndx in odd and unit.name and unit.name not in wrong:
                yield mismatch(unit.name, "it leads to what the image has otherwise")
    for key, entries in obj.entries.items():
        unit = obj.unit_at(*key)
        if key[0] not in bases or unit.name in {"", *wrong}:
            continue
        if any(row.section in odd or _leads(obj, row, odd) for row in entries):
            text = told_otherwise(placed, number, unit, odd)
            if text:
                yield mismatch(unit.name, text)


def odd_sections(placed: Placed, number: int, wrong: Collection[str]) -> set[int]:
    """Return the sections without names that the image has otherwise, or not at all."""
    obj, bases = placed.objects[number], placed.bases[number]
    return {
        row.index
        for row in obj.loaded
        if not obj.is_merged(row.index)
        and (row.index not in bases or row.name in wrong)
        and not any(unit.name for unit in obj.units(row.index))
    }


def told_otherwise(placed: Placed, number: int, unit: Unit, odd: set[int]) -> str:
    """Compare the entries that object and image have for a piece of code.

    Args:
        placed: Objects with the places of their sections.
        number: Which object.
        unit: A piece of it whose section has a place.
        odd: From `odd_sections`.

    Returns:
        The first difference in words; ``""`` if the image has these entries, and no other.
    """
    obj, image = placed.objects[number], placed.image
    start = placed.bases[number][unit.section] + unit.start
    wanted: dict[str, list[Entry]] = defaultdict(list)
    for entry in obj.entries.get((unit.section, unit.start), ()):
        wanted[entry.table].append(entry)
    for table in sorted({*wanted, *image.tables}):
        spots = image.spots(table)
        first = bisect_left(spots, Spot(start, 0))
        there = spots[first : bisect_left(spots, Spot(start + unit.end - unit.start, 0))]
        want = sorted(wanted[table], key=lambda row: (row.owner_offset, row.section, row.start))
        if len(there) != len(want):
            return f"the image has {len(there)} entries for it in {table}, not {len(want)}"
        pairs = zip(want, there, strict=True)
        if not all(_is_there(placed, number, row, spot.start, odd) for row, spot in pairs):
            return f"its entries in {table} are others"
    return ""


def mismatch(name: str, text: str) -> Mismatch:
    """Return what differs, without bytes to show."""
    return Mismatch(name=name, offset=0, want="", have="", text=text)


def _leads(obj: ObjectFile, row: Entry, odd: set[int]) -> bool:
    """Tell whether an entry leads into a section that the image has otherwise."""
    refs = obj.refs_in(row.section, row.start, row.start + row.layout.size_bytes)
    return any(ref.symbol.shndx in odd for ref in refs)


def _is_there(placed: Placed, number: int, row: Entry, addr: int, odd: set[int]) -> bool:
    """Tell whether an entry lies at an address: its bytes, and where its fields lead."""
    piece = Unit(row.section, row.start, row.start + row.layout.size_bytes, "", None)
    leads: list[tuple[int, int]] = []
    wrong = compare_unit(placed, number, piece, addr - row.start, leads)
    return wrong is None and not leads and not _leads(placed.objects[number], row, odd)
