# SPDX-License-Identifier: Apache-2.0
"""Entries of an image's tables that no object has.

A linker script gathers a table of the sections of all objects, so each byte of it lies in one of
them. Where none lies, the image was linked with an entry that the objects lack: the function that
it speaks of has a fixup or an alternative more than its object tells, be its code equal or not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.check.tables import known_tables
from xsplice_plugins.check.unplaced import mismatch, odd_sections, told_otherwise

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from xsplice_plugins.check.memory import Image, Spot
    from xsplice_plugins.check.placing import Placed
    from xsplice_plugins.check.results import Mismatch


class Span(NamedTuple):
    """What a section of an object takes of the image."""

    start: int
    end: int
    title: str
    number: int  #: of the object
    section: int


class _Gap(NamedTuple):
    """A part of a table that no section fills."""

    table: str
    start: int
    end: int
    spots: Sequence[Spot]  #: its entries; none where nothing tells how they look


def blamed(placed: Placed, spans: list[Span]) -> Iterator[tuple[int, Mismatch]]:
    """Give the code of which the image's tables have entries that its object has not.

    Args:
        placed: Objects with the places of their sections.
        spans: What their sections take of the image, sorted.

    Returns:
        Number of the object, and the function; code without a name goes by that of its section.
    """
    starts = [span.start for span in spans]
    spoken = {
        (span.number, span.section, unit.start): unit
        for gap in _gaps(placed.image, spans, starts)
        for spot in gap.spots
        for span in _around(spans, starts, spot.owner)
        for unit in [placed.objects[span.number].unit_at(span.section, spot.owner - span.start)]
    }
    known = [{row.name for row in rows} for rows in placed.wrong]
    odd = {n: odd_sections(placed, n, known[n]) for n in {number for number, *_ in spoken}}
    for (number, section, _), unit in spoken.items():
        name = unit.name or placed.objects[number].elf.sections[section].name
        text = "" if name in known[number] else told_otherwise(placed, number, unit, odd[number])
        if text:
            yield number, mismatch(name, text)


def unexplained(image: Image, spans: list[Span], names: Collection[str]) -> Iterator[str]:
    """Name what tables of the image hold and no object has, where nothing else says so.

    Args:
        image: The linked hypervisor.
        spans: What the sections of all its objects take of it, sorted.
        names: Functions that are known to differ, or to be in no object.
    """
    starts = [span.start for span in spans]
    others = [symbol for name in names for symbol in image.homes.get(name, ())]
    for gap in _gaps(image, spans, starts):
        if not gap.spots or not all(
            any(_around(spans, starts, spot.owner))
            or any(0 <= spot.owner - row.value < max(1, row.size_bytes) for row in others)
            for spot in gap.spots
        ):
            yield f"{gap.end - gap.start} bytes of {gap.table} at {gap.start:#x}"


def _around(spans: list[Span], starts: list[int], addr: int) -> Iterator[Span]:
    """Give the sections around an address; members of an archive may share it with others."""
    place = bisect_right(starts, addr) - 1
    while place >= 0 and addr < spans[place].end:
        yield spans[place]
        place -= 1


def _gaps(image: Image, spans: list[Span], starts: list[int]) -> Iterator[_Gap]:
    """Give the parts of all tables that no section fills."""
    for table in known_tables():
        at, end = image.span(table)
        entries: list[Spot] = []
        first = max(bisect_right(starts, at) - 1, 0)
        edges = [(span.start, span.end) for span in spans[first : bisect_left(starts, end)]]
        for low, high in [*edges, (end, end)]:
            if at < low:
                entries = entries or sorted(image.spots(table), key=_place)
                inside = slice(*(bisect_left(entries, edge, key=_place) for edge in (at, low)))
                yield _Gap(table, at, low, entries[inside])
            at = max(at, high)


def _place(spot: Spot) -> int:
    return spot.start
