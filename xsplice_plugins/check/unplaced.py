# SPDX-License-Identifier: Apache-2.0
"""Functions of which tables of the image say something else: other alternatives, other fixups.

A section of table entries has one place in an image. Where it fits nowhere, the function that an
entry speaks of may be equal to the last bit, and yet run otherwise.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from xsplice_plugins.check.memory import Image, Spot
from xsplice_plugins.check.results import Mismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from xsplice_plugins.check.objects import Entry, ObjectFile


def spoken_otherwise(
    image: Image, obj: ObjectFile, bases: Mapping[int, int], wrong: Collection[str]
) -> Iterator[Mismatch]:
    """Give the functions of an object whose table entries, or nameless parts, the image has not.

    Args:
        image: The linked hypervisor.
        obj: An object of it.
        bases: Where its sections lie, by index; one that fits nowhere is missing.
        wrong: Names of what differs; of what has none, the section's.
    """
    odd = {
        row.index
        for row in obj.loaded
        if not obj.is_merged(row.index)
        and (row.index not in bases or row.name in wrong)
        and not any(unit.name for unit in obj.units(row.index))
    }
    if not odd:
        return
    for row in obj.loaded:
        for ref in obj.refs(row.index) if row.is_exec and row.index in bases else ():
            unit = obj.unit_at(row.index, ref.at)
            if ref.symbol.shndx in odd and unit.name and unit.name not in wrong:
                yield _mismatch(unit.name, "it leads to what the image has otherwise")
    rows = [
        (key, table, [row for row in entries if row.table == table])
        for key, entries in obj.entries.items()
        if key[0] in bases and obj.unit_at(*key).name not in {"", *wrong}
        for table in sorted({row.table for row in entries})
    ]
    rows = [row for row in rows if any(e.section in odd or _leads(obj, e, odd) for e in row[2])]
    others = [row for row in rows if not _are_there(image, obj, bases, odd, *row)]
    told = {entry.section for row in others for entry in row[2]}
    # Where no entry is another one as far as its bytes tell, each may be: numbers lie in fields.
    others += [row for row in rows if row[2][0].section in odd - told - bases.keys()]
    for key, table, _ in others:
        yield _mismatch(obj.unit_at(*key).name, f"its entries in {table} are others")


def _are_there(
    image: Image,
    obj: ObjectFile,
    bases: Mapping[int, int],
    odd: set[int],
    key: tuple[int, int],
    table: str,
    entries: list[Entry],
) -> bool:
    """Tell whether the image has as many entries for a function, of the same bytes."""
    base, unit = bases[key[0]], obj.unit_at(*key)
    spots = image.spots(table)
    first = bisect_left(spots, Spot(base + unit.start, 0))
    there = spots[first : bisect_left(spots, Spot(base + unit.end, 0))]
    wanted = sorted(entries, key=lambda row: (row.owner_offset, row.section, row.start))
    return len(there) == len(wanted) and all(
        _is_there(image, obj, row, spot.start) and not _leads(obj, row, odd)
        for row, spot in zip(wanted, there, strict=True)
    )


def _mismatch(name: str, text: str) -> Mismatch:
    return Mismatch(name=name, offset=0, want="", have="", text=text)


def _leads(obj: ObjectFile, row: Entry, odd: set[int]) -> bool:
    """Tell whether an entry leads into a section that the image has otherwise."""
    refs = obj.refs_in(row.section, row.start, row.start + row.layout.size_bytes)
    return any(ref.symbol.shndx in odd for ref in refs)


def _is_there(image: Image, obj: ObjectFile, row: Entry, addr: int) -> bool:
    """Tell whether the image has an entry's bytes."""
    size = row.layout.size_bytes
    have = image.read(addr, size)
    return have is not None and (
        obj.first_difference(row.section, row.start, row.start + size, have) is None
    )
