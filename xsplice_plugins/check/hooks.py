# SPDX-License-Identifier: Apache-2.0
"""The hooks of new objects, slot by slot: whose they are, and which nobody has."""

from __future__ import annotations

from collections.abc import Iterable

from xsplice_plugins.check.compare import Comparison
from xsplice_plugins.check.memory import Area
from xsplice_plugins.check.objects import Unit
from xsplice_plugins.check.sides import Side

_PREFIX = ".livepatch.hooks."
_SLOT_BYTES = 8

Slot = tuple[Side, Unit]  #: a slot of an object
Place = tuple[str, int]  #: a slot of a payload: name of its section, address


def slots_of(sides: Iterable[Side]) -> list[Slot]:
    """Return the slots of objects."""
    return [
        (side, Unit(row.index, at, at + _SLOT_BYTES, row.name, None))
        for side in sides
        for row in side.obj.loaded
        if row.name.startswith(_PREFIX)
        for at in range(0, row.size_bytes, _SLOT_BYTES)
    ]


def left_of(check: Comparison, wanted: list[Slot], areas: Iterable[Area]) -> list[Place]:
    """Match slots one to one; what is found is taken out of ``wanted``.

    Args:
        check: Compares them.
        wanted: Slots of objects.
        areas: Sections of payloads.

    Returns:
        The slots of the payloads that no object has.
    """
    left: list[Place] = []
    for area in areas:
        slots = range(area.start, area.end, _SLOT_BYTES) if area.name.startswith(_PREFIX) else ()
        for at in slots:
            mine = (row for row in wanted if row[1].name == area.name)
            found = next((row for row in mine if not check.attempt(*row, at)), None)
            if found is None:
                left.append((area.name, at))
            else:
                wanted.remove(found)
    return left
