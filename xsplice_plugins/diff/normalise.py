# SPDX-License-Identifier: Apache-2.0
"""Take an object apart: every allocated byte goes to a part, every relocation becomes an edge."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.diff.parts import (
    EXTERNAL,
    Edge,
    Entry,
    Part,
    PartKind,
    entry_line,
    primary_first,
    string_bounds,
)
from xsplice_plugins.elf.types import (
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_NOBITS,
    STT_FILE,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
    Reloc,
    Section,
    Symbol,
)
from xsplice_plugins.errors import DiffError
from xsplice_plugins.target.references import References
from xsplice_plugins.target.sections import SectionClass, SpecialSection, class_of, measured

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.target.sections import Profile

_UNLIKELY = ".o.unlikely"  #: xen/arch/x86/include/asm/asm_defns.h puts the object in front
_COLD = re.compile(r"(.+)\.cold(?:\.\d+)?")
#: Sections whose content no symbol names piece by piece.
_UNNAMED = (SectionClass.STRINGS, SectionClass.CONSTANTS, SectionClass.TABLE, SectionClass.SNIPPETS)


class ObjectParts:
    """An object taken apart.

    Invariants: parts of one section do not overlap; strings, constants and unnamed data become
    parts when first asked for, all else at construction.
    """

    def __init__(self, file: ElfFile, profile: Profile, other: ElfFile) -> None:
        """Take ``file`` apart as ``profile`` describes it; ``other`` is the other side."""
        self.file = file
        self._common = {symbol.name for symbol in other.symbols if symbol.shndx != SHN_UNDEF}
        self.profile = profile
        self.references = References(file, profile)
        self.all: list[Part] = []
        self.classes = tuple(class_of(profile, s, file.base_name(s)) for s in file.sections)
        self.aliases: dict[int, list[Symbol]] = {}  #: further symbols within a part
        self.owner: dict[int, int] = {}  #: cold piece, entry, snippet -> function
        self.pieces: dict[int, list[int]] = {}  #: function -> itself and its cold pieces
        self.entries: dict[int, list[Entry]] = {}  #: function -> its table entries
        self.orphans: list[Entry] = []  #: entries that point at no function
        #: per table, offsets of fields that point at a replacement without bytes
        self._to_nothing: dict[int, set[int]] = {}
        self._numbers: dict[int, list[int]] = {}  #: of each section's parts, by offset
        self._unnamed: dict[tuple[int, int], int] = {}
        self._relocs: dict[int, tuple[list[int], tuple[Reloc, ...]]] = {}
        self._edges: dict[int, tuple[Edge, ...]] = {}
        self._take_symbols()
        self._take_cold_pieces()
        self._take_tables()

    # ------------------------------------------------------------ content

    def content(self, part: Part) -> bytes:
        """Return a part's bytes; zeros for a part of a section without file content."""
        section = self.file.sections[part.section]
        if section.type == SHT_NOBITS:
            return bytes(part.size_bytes)
        return section.data[part.offset : part.offset + part.size_bytes]

    def edges(self, part: Part) -> tuple[Edge, ...]:
        """Return the relocations of a part in order of offset."""
        if part.number not in self._edges:
            section = self.file.sections[part.section]
            self._edges[part.number] = tuple(
                self._edge(section, reloc, part.offset)
                for reloc in self._relocs_within(section, part.offset, part.size_bytes)
                if reloc.offset not in self._to_nothing.get(section.index, ())
            )
        return self._edges[part.number]

    def _edge(self, section: Section, reloc: Reloc, base: int) -> Edge:
        target = self.references.target_of(section, reloc)
        kind = self.profile.machine.same_types.get(reloc.type, reloc.type)
        if target.section_index is None:
            return Edge(reloc.offset - base, kind, EXTERNAL, target.offset, target.symbol.name)
        number, at = self.find(target.section_index, target.offset, target.symbol)
        return Edge(reloc.offset - base, kind, number, at, "")

    def _relocs_within(self, section: Section, start: int, size: int) -> tuple[Reloc, ...]:
        if section.index not in self._relocs:
            relocs = sorted(self.file.relocs(section))
            self._relocs[section.index] = ([r.offset for r in relocs], tuple(relocs))
        offsets, relocs_sorted = self._relocs[section.index]
        return relocs_sorted[bisect_left(offsets, start) : bisect_left(offsets, start + size)]

    # ------------------------------------------------------------- lookup

    def find(self, section: int, offset: int, symbol: Symbol | None = None) -> tuple[int, int]:
        """Return the part at a place and the distance from its start.

        A place before the first, behind the last or between two parts belongs to the symbol that
        the relocation names, else to the nearest part in front (one past the end of an array),
        else to the one behind (``array[i - 1]``).
        """
        kind = self.classes[section]
        if kind in (SectionClass.STRINGS, SectionClass.CONSTANTS):
            return self._find_merged(section, offset)
        numbers = self._numbers.get(section, [])
        place = bisect_right(numbers, offset, key=self._start) - 1
        if place >= 0:
            part = self.all[numbers[place]]
            if offset < part.offset + max(part.size_bytes, 1):
                return part.number, offset - part.offset
        if symbol is not None and symbol.type not in (STT_SECTION, STT_FILE):
            named = bisect_right(numbers, symbol.value, key=self._start) - 1
            if named >= 0 and self.all[numbers[named]].offset == symbol.value:
                return numbers[named], offset - symbol.value
        if place >= 0 and offset == part.offset + part.size_bytes:
            return part.number, part.size_bytes
        size = self.file.sections[section].size_bytes
        if 0 <= offset < size or not numbers:
            return self._find_unnamed(section, offset, place)
        nearest = numbers[0] if offset < 0 else numbers[-1]
        return nearest, offset - self.all[nearest].offset

    def _start(self, number: int) -> int:
        return self.all[number].offset

    def _find_merged(self, section_index: int, offset: int) -> tuple[int, int]:
        section = self.file.sections[section_index]
        width = max(section.entry_size_bytes, 1)
        if offset == section.size_bytes > 0:  # one past the end belongs to what ends there
            number, at = self._find_merged(section_index, offset - 1)
            return number, at + 1
        if not 0 <= offset < section.size_bytes:
            raise DiffError(
                f"{self.file.name}({section.name}+{offset:#x}): a relocation points outside the "
                "section; compile the object again"
            )
        if section.is_strings:
            start, end = string_bounds(section.data, offset, width)
        else:
            start = offset - offset % width
            end = start + width
        kind = PartKind.STRING if section.is_strings else PartKind.CONSTANT
        return self._unnamed_part(section_index, kind, start, end), offset - start

    def _find_unnamed(self, section_index: int, offset: int, place: int) -> tuple[int, int]:
        numbers = self._numbers.get(section_index, [])
        start, end = 0, self.file.sections[section_index].size_bytes
        if place >= 0:
            before = self.all[numbers[place]]
            start = before.offset + before.size_bytes
        if place + 1 < len(numbers):
            end = self._start(numbers[place + 1])
        return self._unnamed_part(section_index, PartKind.ANONYMOUS, start, end), offset - start

    def _unnamed_part(self, section: int, kind: PartKind, start: int, end: int) -> int:
        number = self._unnamed.get((section, start))
        if number is None:
            number = self._add(kind, section, start, end - start, None)
            self._unnamed[section, start] = number
        return number

    def unnamed_ranges(self, section: Section) -> list[Part]:
        """Return parts for all bytes of a section that no symbol names and that are no padding."""
        result = []
        bounds = [0]
        for number in self._numbers.get(section.index, []):
            part = self.all[number]
            bounds += [part.offset, part.offset + part.size_bytes]
        bounds.append(section.size_bytes)
        for start, end in list(pairwise(bounds))[::2]:
            if start < end and not self._is_padding(section, start, end):
                number = self._unnamed_part(section.index, PartKind.ANONYMOUS, start, end)
                result.append(self.all[number])
        return result

    def is_code_padding(self, part: Part) -> bool:
        """Tell whether a part is nothing but NOPs, as in front of a patchable function."""
        section = self.file.sections[part.section]
        end = part.offset + part.size_bytes
        return section.is_exec and self._is_padding(section, part.offset, end)

    def _is_padding(self, section: Section, start: int, end: int) -> bool:
        if section.type == SHT_NOBITS:
            return True
        if self._relocs_within(section, start, end - start):
            return False
        data = section.data[start:end]
        if section.is_exec:
            return bool(self.profile.machine.padding.fullmatch(data))
        return not any(data)

    # -------------------------------------------------------- construction

    def _add(
        self, kind: PartKind, section: int, offset: int, size: int, symbol: Symbol | None
    ) -> int:
        number = len(self.all)
        self.all.append(
            Part(
                number=number,
                kind=kind,
                section=section,
                section_name=self.file.sections[section].name,
                section_class=self.classes[section],
                offset=offset,
                size_bytes=size,
                name=symbol.name if symbol else "",
                symbol=symbol,
            )
        )
        return number

    def _take_symbols(self) -> None:
        by_section: dict[int, list[Symbol]] = {}
        for symbol in self.file.symbols:
            if (
                symbol.name
                and SHN_UNDEF < symbol.shndx < SHN_LORESERVE
                and symbol.type not in (STT_SECTION, STT_FILE)
                and not symbol.name.startswith((".L", "$"))
            ):
                by_section.setdefault(symbol.shndx, []).append(symbol)
        for index, symbols in sorted(by_section.items()):
            if self.classes[index] in _UNNAMED:
                continue
            symbols.sort(key=lambda symbol: primary_first(symbol, self._common))
            self._take_section(index, symbols)

    def _take_section(self, index: int, symbols: list[Symbol]) -> None:
        section = self.file.sections[index]
        # The label of `.subsection 1` (Xen's UNLIKELY_START) stands for no function of its own.
        named = [s for s in symbols if not (section.is_exec and s.name.endswith(_UNLIKELY))]
        if len({s.value for s in named}) == 1:
            symbols = named
        numbers: list[int] = []
        end = 0
        for place, symbol in enumerate(symbols):
            is_sized = symbol.type in (STT_FUNC, STT_OBJECT) and symbol.size_bytes
            if numbers and (symbol.value == self._start(numbers[-1]) or symbol.value < end):
                self.aliases.setdefault(numbers[-1], []).append(symbol)
                continue
            following = next(
                (s.value for s in symbols[place + 1 :] if s.value > symbol.value),
                section.size_bytes,
            )
            size = symbol.size_bytes if is_sized else following - symbol.value
            size = max(0, min(size, section.size_bytes - symbol.value))
            kind = PartKind.FUNCTION if section.is_exec else PartKind.DATA
            numbers.append(self._add(kind, index, symbol.value, size, symbol))
            end = symbol.value + size
        self._numbers[index] = numbers
        if section.is_exec and len(numbers) == 1 and end < section.size_bytes:
            # Inline assembler's `.subsection 1` (Xen's UNLIKELY_START) lands behind `.size`.
            part = self.all[numbers[0]]
            if not self._is_padding(section, end, section.size_bytes):
                size = section.size_bytes - part.offset
                self.all[numbers[0]] = replace(part, size_bytes=size)

    def _take_cold_pieces(self) -> None:
        functions = [p for p in self.all if p.kind is PartKind.FUNCTION]
        by_name = {p.name: p.number for p in functions}
        for part in functions:
            found = _COLD.fullmatch(part.name)
            parent = by_name.get(found[1]) if found else None
            self.owner[part.number] = part.number if parent is None else parent
            if parent is None:
                self.pieces.setdefault(part.number, []).insert(0, part.number)
            else:
                self.pieces.setdefault(parent, []).append(part.number)

    def _take_tables(self) -> None:
        tables: list[tuple[Section, SpecialSection]] = []
        for section in self.file.sections:
            if self.classes[section.index] is SectionClass.TABLE:
                row = self.profile.table(section.name)
                assert row is not None, "class_of said that a row describes the section"
                if self.profile.name == "linux":
                    offsets = [reloc.offset for reloc in self.file.relocs(section)]
                    row = measured(row, section.size_bytes, offsets)
                elif section.size_bytes % row.entry_size_bytes:
                    raise DiffError(
                        f"{self.file.name}({section.name}): {section.size_bytes} bytes are no "
                        f"multiple of the {row.entry_size_bytes} of profile {self.profile.name}; "
                        "give the release of the tree"
                    )
                tables.append((section, row))
        bounds = self._snippet_bounds(tables)
        for section, row in tables:
            numbers = self._numbers[section.index] = [
                self._add(PartKind.ENTRY, section.index, at, row.entry_size_bytes, None)
                for at in range(0, section.size_bytes, row.entry_size_bytes)
            ]
            for number in numbers:
                self._take_entry(self.all[number], row, bounds)

    def _snippet_bounds(self, tables: list[tuple[Section, SpecialSection]]) -> dict[int, list[int]]:
        """Return, per section of snippets whose length no table states, where they start."""
        result: dict[int, set[int]] = {}
        for section, row in tables:
            if row.snippet_field is None or row.snippet_length_field is not None:
                continue
            for reloc in self.file.relocs(section):
                if reloc.offset % row.entry_size_bytes == row.snippet_field:
                    target = self.references.target_of(section, reloc)
                    if target.section_index is not None:
                        result.setdefault(target.section_index, set()).add(target.offset)
        return {
            index: sorted(starts | {self.file.sections[index].size_bytes})
            for index, starts in result.items()
            if self.classes[index] is SectionClass.SNIPPETS
        }

    def _take_entry(self, part: Part, row: SpecialSection, bounds: dict[int, list[int]]) -> None:
        section = self.file.sections[part.section]
        relocs = self._relocs_within(section, part.offset, part.size_bytes)
        places = {r.offset - part.offset: self.references.target_of(section, r) for r in relocs}
        snippet = EXTERNAL
        out_of_line = places.get(-1 if row.snippet_field is None else row.snippet_field)
        if (
            out_of_line is not None
            and out_of_line.section_index is not None
            and self.classes[out_of_line.section_index] is SectionClass.SNIPPETS
        ):
            index, start = out_of_line.section_index, out_of_line.offset
            if row.snippet_length_field is not None:
                end = start + section.data[part.offset + row.snippet_length_field]
            else:
                end = bounds[index][bisect_right(bounds[index], start)]
            if end > start:
                snippet = self._snippet(index, start, end)
            else:
                field = part.offset + (row.snippet_field or 0)
                self._to_nothing.setdefault(section.index, set()).add(field)
        code = places.get(row.owner_field)
        piece, at, owner = EXTERNAL, 0, EXTERNAL
        if code is not None and code.section_index is not None:
            piece, at = self.find(code.section_index, code.offset)
            owner = self.owner.get(piece, EXTERNAL)
            if owner == EXTERNAL:
                owner = self._behind_padding(code.section_index, code.offset)
        entry = Entry(part.number, row, piece, at, snippet, entry_line(section, part, row, relocs))
        if owner == EXTERNAL:
            self.orphans.append(entry)
            return
        self.owner[part.number] = owner
        if snippet != EXTERNAL:
            self.owner.setdefault(snippet, owner)
        self.entries.setdefault(owner, []).append(entry)

    def _behind_padding(self, section: int, offset: int) -> int:
        """Return the function whose ``-fpatchable-function-entry`` NOPs an offset lies in."""
        numbers = self._numbers.get(section, [])
        following = bisect_right(numbers, offset, key=self._start)
        if following == len(numbers):
            return EXTERNAL
        place, number = self.file.sections[section], numbers[following]
        if not (place.is_exec and self._is_padding(place, offset, self._start(number))):
            return EXTERNAL
        return self.owner.get(number, EXTERNAL)

    def _snippet(self, section: int, start: int, end: int) -> int:
        is_new = (section, start) not in self._unnamed
        number = self._unnamed_part(section, PartKind.SNIPPET, start, end)
        if is_new:
            insort(self._numbers.setdefault(section, []), number, key=self._start)
        elif self.all[number].size_bytes < end - start:
            self.all[number] = replace(self.all[number], size_bytes=end - start)
        return number
