# SPDX-License-Identifier: Apache-2.0
"""Entries of lists that the linker makes of sections: nothing in an object refers to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.check.homes import unreferenced
from xsplice_plugins.check.sides import units_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.check.homes import Key
    from xsplice_plugins.check.objects import ObjectFile
    from xsplice_plugins.check.sides import Side


def other_entries(old: Side, side: Side) -> Iterator[tuple[str, str]]:
    """Find what the linker gathers of the object before, and of the new one no more, or elsewhere.

    The linker may sort a list by the names of sections.

    Args:
        old: The object before.
        side: The new one.

    Yields:
        A name, and what is wrong with it.
    """
    listed, kept = unreferenced(old.obj), {home: key for key, home in side.homes.by_unit.items()}
    for unit in units_of(old.obj, is_code=False):
        is_hook = old.obj.elf.sections[unit.section].name.startswith(".livepatch")
        is_left = is_hook or old.obj.is_boot_only(unit.section)
        is_entry = (unit.section, unit.start) in listed and not is_left
        home = old.homes.of(unit) if is_entry and unit.symbol and unit.symbol.is_local else None
        if home is None:
            continue
        if home not in kept:
            yield unit.name, "it is gone, and a list made at link time still has it"
            continue
        was, now = _section(old.obj, (unit.section, unit.start)), _section(side.obj, kept[home])
        if was != now:
            text = f"it lies in {was} and would in {now}: a list made at link time is sorted"
            yield unit.name, text


def _section(obj: ObjectFile, key: Key) -> str:
    """Return the section of a datum, without what a compiler adds to it of the datum's name."""
    names = (unit.name for unit in obj.units(key[0]) if unit.start == key[1])
    return obj.elf.sections[key[0]].name.removesuffix(f".{next(names, '')}")
