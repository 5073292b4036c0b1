# SPDX-License-Identifier: Apache-2.0
"""What a comparison has assumed equal or proved so far, where things lie, and what it left open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from xsplice_plugins.check.homes import stem_of
from xsplice_plugins.check.objects import ObjectFile, Unit
from xsplice_plugins.check.sides import Side, own_size, title, units_of


class Seen:
    """The memory of a comparison; what turns out wrong is forgotten, back to a mark."""

    def __init__(self) -> None:
        #: What was assumed equal, or proved, in order; with the address of what is new.
        self.seen: dict[object, int] = {}

    def note(self, text: str) -> None:
        """Keep what could not be compared."""
        self.seen["note", text] = 0

    @property
    def notes(self) -> Iterator[str]:
        """Return what could not be compared, in order."""
        return (str(value) for value in self._keyed("note"))

    def brought(self, obj: ObjectFile, unit: Unit) -> int | None:
        """Return where the payload has a new variable of an object; ``None`` if nothing told."""
        return self.seen.get(self._variable(obj, unit))

    def brought_again(self) -> set[str]:
        """Return the names of the image's tables of which the payload has a copy that is read."""
        return {str(value) for value in self._keyed("copy")}

    def home_of(self, side: Side, unit: Unit) -> int | None:
        """Return where the image has a variable, as its users say; ``None`` if it has it not."""
        return self.seen.get(self._variable(side.obj, unit, "kept"), side.homes.of(unit))

    def _variable(self, obj: ObjectFile, unit: Unit, state: str = "new") -> object:
        """Return the key of a variable, new or kept; a twin's is the same variable."""
        size = own_size(obj, unit).end - unit.start
        return state, obj.path, unit.start, size, title(obj, unit)

    def overlaps(self) -> Iterator[str]:
        """Say which variables share bytes: new ones in the payload, others in the image."""
        rows = [
            (addr, addr + key[3], str(key[4]))
            for key, addr in self.seen.items()
            if isinstance(key, tuple) and key[0] in ("new", "kept")
        ]
        flags = ((addr, addr + 1, "a flag of a message") for addr in self._keyed("flag"))
        for (_, end, one), (start, _, other) in pairwise(sorted((*rows, *flags))):
            if start < end:
                yield f"{one} and {other} share bytes in memory"

    def ask_restarted(self, side: Side) -> None:
        """Ask about statics of one name of which more are new than the object has more now."""
        for stem, places in side.homes.spare.items():
            alike = (
                unit for unit in units_of(side.obj, is_code=False) if stem_of(unit.name) == stem
            )
            fresh = [self.brought(side.obj, unit) for unit in alike if side.homes.of(unit) is None]
            if len(fresh) - fresh.count(None) > max(0, len(fresh) - len(places)):
                self.note(f"{stem}: several variables of the image may be meant, and are not used")

    def _keyed(self, kind: str) -> list[Any]:
        return [key[1] for key in self.seen if isinstance(key, tuple) and key[0] == kind]

    def _forget(self, mark: int) -> None:
        while len(self.seen) > mark:
            self.seen.popitem()
