# SPDX-License-Identifier: Apache-2.0
"""A new object with its places in the image, and what can be said of its units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xsplice_plugins.check.homes import Homes
from xsplice_plugins.check.objects import ObjectFile, Unit
from xsplice_plugins.check.tables import SNIPPETS

COLD = ".cold"  #: in the name of a part that the compiler split off a function


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """A new object, or its line-neutral twin."""

    obj: ObjectFile
    homes: Homes


def names_of(obj: ObjectFile, unit: Unit) -> list[str]:
    """Return all decorated names of a unit."""
    return [s.decorated for s in obj.named.get(unit.section, ()) if s.value == unit.start]


def units_of(obj: ObjectFile, *, is_code: bool) -> Iterator[Unit]:
    """Return the pieces of loaded sections, without merged and replacement ones."""
    for row in obj.loaded:
        if row.is_exec == is_code and not obj.is_merged(row.index) and row.name not in SNIPPETS:
            yield from obj.units(row.index)


def all_units(obj: ObjectFile) -> Iterator[Unit]:
    """Return the pieces of code, then those of data."""
    for is_code in (True, False):
        yield from units_of(obj, is_code=is_code)


def title(obj: ObjectFile, unit: Unit) -> str:
    """Return how messages call a unit."""
    return unit.name or obj.elf.sections[unit.section].name


def own_size(obj: ObjectFile, unit: Unit) -> Unit:
    """Leave out the padding up to the next unit, where the symbol tells."""
    if unit.symbol is None or not unit.symbol.size_bytes:
        return unit
    if obj.elf.sections[unit.section].is_exec and len(obj.units(unit.section)) == 1:
        return unit  # code may go on behind the symbol's end, in a subsection
    return unit._replace(end=min(unit.end, unit.start + unit.symbol.size_bytes))


def is_root(obj: ObjectFile, unit: Unit) -> bool:
    """Tell whether a unit of code is a function that is compared for its own sake."""
    return bool(unit.name) and COLD not in unit.name and not obj.is_boot_only(unit.section)


def needed_alignment(obj: ObjectFile, unit: Unit) -> int:
    """Return what divides a unit's address, as far as its place in the object tells."""
    align = obj.elf.sections[unit.section].align_bytes
    return min(align, unit.start & -unit.start) if unit.start else align
