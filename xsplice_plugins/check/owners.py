# SPDX-License-Identifier: Apache-2.0
"""Whose is what an image holds and no object has? As far as names and places tell.

A static goes by its file, what debug information speaks of by its compile unit, all else by its
neighbours: a linker keeps together what is of one object.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import PurePosixPath

from xsplice_plugins.check.gathered import Span
from xsplice_plugins.check.objects import ObjectFile
from xsplice_plugins.check.placing import Placed
from xsplice_plugins.elf.defining import units_defining
from xsplice_plugins.elf.types import Symbol
from xsplice_plugins.errors import DiffError

#: What `strangers` and `gathered` call bytes without a name.
_BYTES = re.compile(r"(\d+) bytes of \S+ at (0x[0-9a-f]+)")

Owners = tuple[tuple[str, tuple[str, ...]], ...]


def owners_of(placed: Placed, spans: list[Span], names: Iterable[str]) -> Owners:
    """Say to which objects what is in none of them may belong.

    Args:
        placed: All objects, with the places of their sections.
        spans: What their sections take of the image, sorted.
        names: What lies in none of them: decorated names, and bytes without a name.

    Returns:
        Each of the names with the paths of one object, or of several where nobody knows.
    """
    return _Owners(placed, spans, list(dict.fromkeys(names))).rows()


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
            for file in {symbol.file for symbol in obj.elf.symbols if symbol.file}:
                self.files.setdefault(file, set()).add(obj.path)
        plain = {name for name in names if any(not s.is_local for s in self.homes.get(name, ()))}
        try:
            self.units = units_defining(placed.image.elf, plain)
        except DiffError:  # places tell enough
            self.units = {}

    def rows(self) -> Owners:
        """Return all, those without a name last asked: it may be what a name lies in."""
        named = {name: self._of_name(name) for name in self.names if name in self.homes}
        found = dict(named)
        for name in self.names:
            match = _BYTES.fullmatch(name)
            if match is not None:
                start, size = int(match[2], 16), int(match[1])
                inside = [
                    owners
                    for other, owners in named.items()
                    if any(start <= row.value < start + size for row in self.homes[other])
                ]
                found[name] = set().union(*inside) or self._around(start)
        return tuple((name, tuple(sorted(found.get(name, ())))) for name in self.names)

    def _of_name(self, name: str) -> set[str]:
        found: set[str] = set()
        for symbol in self.homes[name]:
            found |= self._of_file(symbol) or self._around(symbol.value)
        return found

    def _of_file(self, symbol: Symbol) -> set[str]:
        """Return the objects of the file that a symbol or debug information names."""
        if symbol.is_local:
            return self.files.get(symbol.file, set())
        found: set[str] = set()
        for unit in self.units.get(symbol.name, ()):
            parts = PurePosixPath(unit).with_suffix("").parts
            tails = ("/".join(parts[at:]) for at in range(len(parts)))
            known = next((self.stems[tail] for tail in tails if tail in self.stems), None)
            if known is None:
                return set()  # a source that is compiled several times, or none of the tree
            found |= known
        return found

    def _around(self, addr: int) -> set[str]:
        """Return the objects whose sections lie before and behind an address."""
        place = bisect_right(self.starts, addr)
        return {self.paths[span.number] for span in self.spans[max(place - 1, 0) : place + 1]}


def _stem(obj: ObjectFile) -> str:
    """Return an object's path without what tells how it was made of its source."""
    return obj.path.removesuffix(".o").removesuffix(".init")
