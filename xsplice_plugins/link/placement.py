# SPDX-License-Identifier: Apache-2.0
"""Place the extents of all objects into the payload's sections, and find them again."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct, field

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import ET_REL, SHT_NOBITS, SHT_REL, STT_SECTION
from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.sections import SectionKind, kind_of, order_of
from xsplice_plugins.target.machine import PAGE_SIZE_BYTES, is_trapped
from xsplice_plugins.target.references import References

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Delta, Reference
    from xsplice_plugins.elf.types import Section, Symbol
    from xsplice_plugins.target.abi import Abi


class Source(Struct, frozen=True, kw_only=True):
    """One object with what changed in it."""

    delta: Delta
    elf: ElfFile
    references: References

    def where(self, section: Section, offset: int | None = None) -> str:
        """Return how messages call a place in this object."""
        at = "" if offset is None else f"+{offset:#x}"
        return f"{self.elf.name}({section.name}{at})"


class Piece(NamedTuple):
    """An extent with its place in the payload."""

    section: int  #: index in the object
    start: int  #: first byte, from the start of that section
    end: int
    place: int  #: of the first byte, from the start of the payload's section
    kind: SectionKind
    is_shared: bool  #: an equal string's bytes are used instead


class Spot(NamedTuple):
    """Where a place of an object is found: in the payload, or in the image (`reference`)."""

    section: str  #: the payload's section; "" for the image
    offset: int  #: from its start, or to the reference's target
    reference: Reference | None


class Draft(Struct):
    """A payload's section while it is filled."""

    kind: SectionKind
    align_bytes: int = 1
    data: bytearray = field(default_factory=bytearray)
    size_bytes: int = 0

    def next_place(self, start: int, align_bytes: int) -> int:
        """Return where bytes go that stood at ``start`` of a section of that alignment."""
        if self.kind.is_packed:
            return self.size_bytes
        return self.size_bytes + (start - self.size_bytes) % align_bytes

    def reserve(
        self, start: int, size_bytes: int, align_bytes: int, filler: bytes, more_bytes: int = 0
    ) -> int:
        """Make room for such bytes, ``more_bytes`` behind the next place."""
        place = self.next_place(start, align_bytes) + more_bytes
        self.align_bytes = max(self.align_bytes, align_bytes)
        if self.kind.type != SHT_NOBITS:
            fill = filler if self.kind.is_text is False else b"\0"
            self.data += fill * (place - self.size_bytes)
        self.size_bytes = place + size_bytes
        return place


class Spans(NamedTuple):
    """What the delta says of one section: ranges that do not overlap, in order."""

    starts: tuple[int, ...]
    rows: tuple[tuple[int, int, Piece | Reference], ...]  #: (start, end, owner)


class Placement(Struct, frozen=True, kw_only=True):
    """Every taken byte has a place."""

    sources: tuple[Source, ...]
    pieces: tuple[tuple[Piece, ...], ...]  #: of each source, sorted by section and start
    spans: tuple[dict[int, Spans], ...]  #: of each source, by section
    drafts: dict[str, Draft]  #: in the order of the file

    def locate(self, source: int, section: int, offset: int, symbol: Symbol) -> Spot | None:
        """Find where a place of an object went; ``None`` if no extent and no reference covers it.

        ``offset`` counts from the start of the section and may lie outside it, as in
        ``&table[-1]``; what the relocation names decides where the offset alone does not.
        """
        spans = self.spans[source].get(section)
        if spans is None:
            return None
        starts, rows = spans
        i = bisect_right(starts, offset) - 1
        if i >= 0 and offset < rows[i][1]:
            return _spot(rows[i], offset)
        # Outside every span: `&table[-1]`, or `end = table + ARRAY_SIZE(table)`.
        if symbol.type != STT_SECTION and symbol.shndx == section:
            j = bisect_right(starts, symbol.value) - 1
            if j >= 0 and symbol.value < max(rows[j][1], rows[j][0] + 1):
                return _spot(rows[j], offset)
        size = self.sources[source].elf.sections[section].size_bytes
        if offset == rows[-1][1] == size:
            return _spot(rows[-1], offset)
        if len(rows) == 1 and rows[0][:2] == (0, size):
            return _spot(rows[0], offset)
        return None

    def place_of(self, source: int, symbol: Symbol) -> Spot | None:
        """Return where a symbol's first byte went, if the payload took it."""
        spans = self.spans[source].get(symbol.shndx)
        i = bisect_right(spans.starts, symbol.value) - 1 if spans is not None else -1
        if spans is None or i < 0 or symbol.value >= spans.rows[i][1]:
            return None
        spot = _spot(spans.rows[i], symbol.value)
        return spot if spot.reference is None else None


def _spans(source: Source, pieces: tuple[Piece, ...]) -> dict[int, Spans]:
    found: dict[int, list[tuple[int, int, Piece | Reference]]] = {}
    for piece in pieces:
        found.setdefault(piece.section, []).append((piece.start, piece.end, piece))
    for ref in source.delta.references:
        if not 0 < ref.section < len(source.elf.sections) or ref.size_bytes < 0:
            raise LinkError(
                f"{source.elf.name}: a reference to `{ref.target}` names section {ref.section}, "
                "which it does not have; run the diff stage again"
            )
        found.setdefault(ref.section, []).append((ref.offset, ref.offset + ref.size_bytes, ref))
    result = {}
    for section, rows in found.items():
        rows.sort(key=lambda row: row[:2])
        for first, second in pairwise(rows):
            if second[0] < first[1]:
                where = source.where(source.elf.sections[section], second[0])
                raise LinkError(
                    f"{where}: the delta says two things of this range (taken, and in the image?); "
                    "run the diff stage again"
                )
        result[section] = Spans(tuple(row[0] for row in rows), tuple(rows))
    return result


def _spot(span: tuple[int, int, Piece | Reference], offset: int) -> Spot:
    start, _end, owner = span
    if isinstance(owner, Piece):
        return Spot(owner.kind.name, owner.place + offset - start, None)
    return Spot("", owner.target_offset + offset - start, owner)


def read_sources(
    deltas: tuple[Delta, ...], objects: tuple[bytes, ...], abi: Abi
) -> tuple[Source, ...]:
    """Take the objects apart and hold them against their deltas, in order of their paths.

    Raises:
        LinkError: A delta is refused or empty, or does not speak of its object.
        ElfFormatError: An object cannot be read.
    """
    if not deltas or len(deltas) != len(objects):
        raise LinkError(
            f"{len(deltas)} deltas, {len(objects)} objects: each delta needs its object; "
            "run the diff stage again"
        )
    result = []
    machine = abi.machine.number
    for delta, data in sorted(zip(deltas, objects, strict=True), key=lambda p: p[0].object_path):
        name = delta.object_path
        if delta.refused:
            raise LinkError(f"{name}: {delta.refused[0].reason}; it cannot be live patched")
        if hashlib.sha256(data).hexdigest() != delta.digest_new:
            raise LinkError(f"{name}: it is not the object that was compared; build it again")
        elf = read_elf(data, name)
        if elf.type != ET_REL:
            raise LinkError(f"{name}: not a relocatable object; give what the compiler wrote")
        if not elf.machine == delta.machine == machine:
            raise LinkError(
                f"{name}: made for machine {elf.machine}, the image for {machine}; "
                "build both with the same compiler"
            )
        result.append(Source(delta=delta, elf=elf, references=References(elf, abi.profile)))
    paths = [source.delta.object_path for source in result]
    for first, second in pairwise(paths):
        if first == second:
            raise LinkError(f"{first}: given twice; give each object once")
    return tuple(result)


def place_extents(sources: tuple[Source, ...], abi: Abi) -> Placement:
    """Give every extent its place.

    Raises:
        LinkError: An extent lies outside its section, overlaps another, or cannot be taken.
    """
    drafts: dict[str, Draft] = {}
    shared: dict[tuple[str, bytes], int] = {}
    all_pieces = []
    for source in sources:
        pieces = []
        for section, start, end in _ranges(source):
            kind = kind_of(section, source.elf.base_name(section), source.where(section), abi)
            draft = drafts.setdefault(kind.name, Draft(kind=kind))
            content = section.data[start:end]
            known = shared.get((kind.name, content)) if kind.is_text else None
            if known is not None:
                pieces.append(Piece(section.index, start, end, known, kind, is_shared=True))
                continue
            align = max(1, section.entry_size_bytes if kind.is_text else section.align_bytes)
            filler = abi.machine.code_filler if section.is_exec else b"\0"
            more = (
                0
                if kind.is_packed or not section.is_exec
                else _room(
                    source.where(section), content, draft.next_place(start, align), align, abi
                )
            )
            place = draft.reserve(start, end - start, align, filler, more)
            draft.data += content
            if kind.is_text and section.index not in source.elf.rela_by_target:
                shared[kind.name, content] = place
            pieces.append(Piece(section.index, start, end, place, kind, is_shared=False))
        all_pieces.append(tuple(pieces))
    return Placement(
        sources=sources,
        pieces=tuple(all_pieces),
        spans=tuple(_spans(*pair) for pair in zip(sources, all_pieces, strict=True)),
        drafts={name: drafts[name] for name in sorted(drafts, key=lambda n: order_of(n, abi))},
    )


def _room(subject: str, code: bytes, place: int, align_bytes: int, abi: Abi) -> int:
    """Return how many bytes to leave out so that no erratum of the processor meets the code.

    The loader puts ``.text`` at the start of a page.
    """
    machine = abi.machine
    for more in range(0, PAGE_SIZE_BYTES, max(align_bytes, machine.page_end_bytes or 1)):
        if not is_trapped(machine, code, place + more):
            return more
    raise LinkError(
        f"{subject}: wherever it lies, an erratum of the processor meets one of its instructions "
        "at the end of a page; make the function smaller"
    )


def _ranges(source: Source) -> list[tuple[Section, int, int]]:
    """Return the extents as ranges, sorted, each once."""
    elf = source.elf
    changed_by_rel = {s.info for s in elf.sections if s.type == SHT_REL}
    result: list[tuple[Section, int, int]] = []
    seen = {(e.section, e.offset, e.offset + e.size_bytes) for e in source.delta.extents}
    for index, start, end in sorted(seen):
        if not 0 < index < len(elf.sections):
            raise LinkError(f"{elf.name}: it has no section {index}; run the diff stage again")
        section = elf.sections[index]
        if not 0 <= start <= end <= section.size_bytes:
            raise LinkError(
                f"{source.where(section, start)}: the range lies outside its section; "
                "run the diff stage again"
            )
        if index in changed_by_rel:
            raise LinkError(f"{source.where(section)}: SHT_REL relocations; Xen takes RELA only")
        if start == end:
            continue
        if result and result[-1][0].index == index and start < result[-1][2]:
            raise LinkError(
                f"{source.where(section, start)}: two ranges of the delta overlap; "
                "run the diff stage again"
            )
        result.append((section, start, end))
    return result
