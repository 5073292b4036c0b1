# SPDX-License-Identifier: Apache-2.0
"""Whose is what an image holds and no object has? As far as names and places tell.

A static goes by its file, what debug information speaks of by its compile unit, all else by its
neighbours: a linker keeps together what is of one object. A file or a unit that is no object's is
none of the tree: then the files count that it was made of.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import PurePosixPath

from xsplice_plugins.check.gathered import Span
from xsplice_plugins.check.memory import Image
from xsplice_plugins.check.objects import ObjectFile
from xsplice_plugins.check.placing import Placed
from xsplice_plugins.elf.compiled import CompiledUnits, Made
from xsplice_plugins.elf.defining import units_defining
from xsplice_plugins.elf.types import STT_FILE, STT_FUNC, Symbol
from xsplice_plugins.errors import DiffError

#: What `strangers` and `gathered` call bytes without a name.
_BYTES = re.compile(r"(\d+) bytes of (\S+) at (0x[0-9a-f]+)")
#: Else the linker says which object has no name of a file, and that of a table of its own.
_SOURCES = (".c", ".S")
_FILL_BYTES = 16  #: less than that may fill up between functions

Owners = tuple[tuple[str, tuple[str, ...]], ...]
_Found = set[str] | None  #: paths; ``None`` where it may be of any object


def owners_of(placed: Placed, spans: list[Span], names: Iterable[str]) -> Owners:
    """Say to which objects what is in none of them may belong, and of which files it was made.

    Args:
        placed: All objects, with the places of their sections.
        spans: What their sections take of the image, sorted.
        names: What lies in none of them: decorated names, and bytes without a name.

    Returns:
        Each of the names with the paths of one object, or of several where nobody knows; and with
        those of other files that it was made of. None where it may be of any object.
    """
    return _Owners(placed, spans, list(dict.fromkeys(names))).rows()


def files_of(image: Image, names: Iterable[str]) -> Owners:
    """Say of which files functions were made, but for their own source.

    Args:
        image: The linked hypervisor.
        names: Decorated names of functions; others say nothing.

    Returns:
        Each of the names that debug information tells more of.
    """
    made = CompiledUnits(image.elf)
    found: dict[str, set[str]] = {}
    for name in names:
        for symbol in image.homes.get(name, ()):
            unit = made.at(symbol.value) if symbol.type == STT_FUNC else None
            if unit is not None and unit.files:
                found.setdefault(name, set()).update(unit.files)
    return tuple((name, tuple(sorted(files))) for name, files in found.items())


class _Owners:
    """The objects of one image, by all that tells one from another."""

    def __init__(self, placed: Placed, spans: list[Span], names: list[str]) -> None:
        self.homes, self.names = placed.image.homes, names
        self.spans, self.starts = spans, [span.start for span in spans]
        self.paths = [obj.path for obj in placed.objects]
        self.files: dict[str, set[str]] = {}
        self.stems: dict[str, set[str]] = {}
        for obj in placed.objects:
            self.stems.setdefault(_stem(obj), set()).add(obj.path)
            for file in _files(obj.elf.symbols):
                self.files.setdefault(file, set()).add(obj.path)
        self.made = CompiledUnits(placed.image.elf)
        self.shipped = _files(placed.image.elf.symbols)
        plain = {
            name
            for name in names
            if any(not s.is_local and not self.made.at(s.value) for s in self.homes.get(name, ()))
        }
        try:
            self.units = units_defining(placed.image.elf, plain)
        except DiffError:  # places tell enough
            self.units = {}

    @cached_property
    def is_lost(self) -> bool:
        """Whether what nothing tells of may be of a file that is none of the tree, and no unit."""
        strange = self.shipped - self.files.keys()
        return not all(self.made.named(file) for file in strange if file.endswith(".c"))

    def rows(self) -> Owners:
        """Return all, those without a name last asked: it may be what a name lies in."""
        found = {
            name: _united(map(self._of_symbol, self.homes[name]))
            for name in self.names
            if name in self.homes
        }
        named = [
            (symbol.value, symbol.value + symbol.size_bytes, owners)
            for name, owners in found.items()
            for symbol in self.homes[name]
        ]
        for name in self.names:
            if match := _BYTES.fullmatch(name):
                start = int(match[3], 16)
                found[name] = self._of_bytes(start, start + int(match[1]), named)
        return tuple((name, tuple(sorted(found.get(name) or ()))) for name in self.names)

    def _of_symbol(self, symbol: Symbol) -> _Found:
        """Return the objects and files of what has a name."""
        made = self._made_of(symbol)
        objects = self.files.get(symbol.file, set()) if symbol.is_local else set()
        if made:
            return objects | self._of_units(made)
        if symbol.is_local and symbol.file.endswith(_SOURCES) and not objects:
            return None
        return objects or self._near(symbol.value)

    def _made_of(self, symbol: Symbol) -> list[Made]:
        """Return the compile units that define something."""
        made = self.made.at(symbol.value)
        if made is not None:
            return [made]
        names = {symbol.file} if symbol.is_local else self.units.get(symbol.name, frozenset())
        return [unit for name in names if name for unit in self.made.named(name)]

    def _of_units(self, made: Iterable[Made]) -> set[str]:
        """Return the objects of compile units, and what else those were made of."""
        found: set[str] = set()
        for unit in made:
            parts = PurePosixPath(unit.name).with_suffix("").parts
            tails = ("/".join(parts[at:]) for at in range(len(parts)))
            known = next((self.stems[tail] for tail in tails if tail in self.stems), None)
            found |= (known or {unit.name}) | set(unit.files)
        return found

    def _of_bytes(self, start: int, end: int, named: list[tuple[int, int, _Found]]) -> _Found:
        """Return the owners of the names in some bytes, and of what lies between these names."""
        inside = [row for row in named if row[0] < end and start < row[1]]
        rest = _between(start, end, sorted((low, high) for low, high, _ in inside))
        around = [self._near(low) for low, high in rest if high - low >= _FILL_BYTES or not inside]
        return _united([*(owners for _, _, owners in inside), *around])

    def _near(self, addr: int) -> _Found:
        """Return the unit at an address, else the objects whose sections lie around it."""
        made = self.made.at(addr)
        if made is not None:
            return self._of_units([made])
        if self.is_lost:
            return None
        place = bisect_right(self.starts, addr)
        return {self.paths[span.number] for span in self.spans[max(place - 1, 0) : place + 1]}


def _united(rows: Iterable[_Found]) -> _Found:
    found: set[str] = set()
    for row in rows:
        if row is None:
            return None
        found |= row
    return found


def _between(start: int, end: int, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Give what some sorted spans leave of a range."""
    for low, high in [*spans, (end, end)]:
        if start < low:
            yield start, low
        start = max(start, high)


def _files(symbols: Iterable[Symbol]) -> set[str]:
    """Return the source files that a symbol table names."""
    return {symbol.name for symbol in symbols if symbol.type == STT_FILE and symbol.name}


def _stem(obj: ObjectFile) -> str:
    """Return an object's path without what tells how it was made of its source."""
    return obj.path.removesuffix(".o").removesuffix(".init")
