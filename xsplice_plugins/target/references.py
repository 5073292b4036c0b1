# SPDX-License-Identifier: Apache-2.0
"""Where a relocation of an object truly points, and where its instructions lie.

A relocation's ``symbol + addend`` is not yet the place that an instruction means: x86-64 counts a
PC-relative displacement from the end of the instruction, so that ``cmpl $0, flag(%rip)`` carries
addend -8 and ``mov flag(%rip), %eax`` addend -4 for the same ``flag``. Xen's bug frames hide line
numbers in the upper bits of the addend and count from the frame, not from the field. Whoever
asks which function or datum a relocation refers to asks `References`.

Code may hold what a decoder does not know: BUG() of Xen 4.22 is one byte, UDB. The tables of
special sections say where instructions start, and bug frames where that byte is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import SHN_LORESERVE, SHN_UNDEF, Reloc, Section, Symbol
from xsplice_plugins.errors import RelocationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.target.machine import Effect, Instruction, Marks
    from xsplice_plugins.target.sections import Profile, SpecialSection


class Target(NamedTuple):
    """The place a relocation refers to.

    ``section_index`` is None for undefined, common and absolute symbols; then ``offset`` counts
    from the symbol, else from the start of the section.
    """

    section_index: int | None
    offset: int
    symbol: Symbol


class References:
    """The places of one object. What it finds once it keeps."""

    def __init__(
        self,
        file: ElfFile,
        profile: Profile,
        traps: dict[int, dict[int, int]] | None = None,
        resumed: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Read ``file`` as ``profile`` describes its special sections.

        ``traps`` are places of instructions that decoders may not know (section -> offset ->
        length) in a file whose own tables do not tell, as a linked one's; ``resumed`` are those
        (section, offset) behind which code goes on.
        """
        self.file = file
        self.profile = profile
        self._marks = traps
        self._resumed = set(resumed)
        self._ends: dict[tuple[int, int], dict[int, int]] = {}

    def target_of(self, section: Section, reloc: Reloc) -> Target:
        """Return the true place that one of ``file.relocs(section)`` refers to.

        Raises:
            RelocationError: The relocation does not lie in a field of an instruction.
        """
        symbol = self.file.symbols[reloc.symbol]
        row = self.profile.table(section.name)
        if row is not None and row.counts_from_entry and row.entry_size_bytes:
            offset = entry_distance(row, reloc.addend) - reloc.offset % row.entry_size_bytes
        else:
            offset = reloc.addend + self._bias_of(section, reloc)
        if symbol.shndx == SHN_UNDEF or symbol.shndx >= SHN_LORESERVE:
            return Target(None, offset, symbol)
        return Target(symbol.shndx, symbol.value + offset, symbol)

    def instructions(self, section: int, start: int, end: int) -> tuple[Instruction, ...]:
        """Return the instructions of a range of a section; places count from its start."""
        return self.profile.machine.decode(*self._code(section, start, end))

    def text(self, section: int, start: int, end: int) -> list[tuple[int, str]]:
        """Return place and assembler text of each instruction of a range of a section."""
        return self.profile.machine.text(*self._code(section, start, end))

    def effects(self, section: int, start: int, end: int) -> tuple[Effect, ...]:
        """Return what the instructions of a range do with registers and memory."""
        return self.profile.machine.registers.effects(*self._code(section, start, end))

    def goes_on(self, section: int, offset: int) -> bool:
        """Tell whether code goes on behind a trap: a warning, a function that is run."""
        self._known_places()
        return (section, offset) in self._resumed

    def _code(self, section: int, start: int, end: int) -> tuple[bytes, int, Marks]:
        known = self._known_places().get(section, {})
        marks = {at - start: size for at, size in known.items() if start <= at < end}
        return self.file.sections[section].data[start:end], start, marks

    def _bias_of(self, section: Section, reloc: Reloc) -> int:
        """Return what to add to a relocation's addend to get its distance from the symbol.

        0 for absolute relocations and for tables; where a type counts from the field and the
        processor from the end of the instruction, the way from one to the other.
        """
        machine, at = self.profile.machine, reloc.offset
        if not section.is_exec or reloc.type not in machine.end_relative_types:
            return 0
        if machine.ends_with_field(section.data, at, reloc.type):
            return 4
        distance = self._distances(section, at).get(at)
        if distance is None:
            raise RelocationError(
                f"{self.file.name}({section.name}+{at:#x}): the relocation lies in no "
                "displacement of an instruction; data within code is not supported"
            )
        return distance

    def _distances(self, section: Section, at: int) -> dict[int, int]:
        """Map each displacement around an offset to the distance to its instruction's end."""
        starts = self.file.symbol_starts.get(section.index, [])
        place = bisect_right(starts, at)
        start = starts[place - 1] if place else 0
        end = starts[place] if place < len(starts) else section.size_bytes
        key = (section.index, start)
        if key not in self._ends:
            rows = self.instructions(section.index, start, end)
            self._ends[key] = {r.field: r.end - r.field for r in rows if r.target is not None}
        return self._ends[key]

    def _known_places(self) -> dict[int, dict[int, int]]:
        """Return the marks of each section of code (offset -> length or 0)."""
        if self._marks is None:
            self._marks = {}
            for section in self.file.sections:
                row = self.profile.table(section.name)
                if row is not None and row.entry_size_bytes:
                    self._mark(section, row, self._marks)
        return self._marks

    def _mark(self, table: Section, row: SpecialSection, marks: dict[int, dict[int, int]]) -> None:
        for reloc in self.file.relocs(table):
            if reloc.offset % row.entry_size_bytes != row.owner_field:
                continue
            index, offset, _symbol = self.target_of(table, reloc)
            if index is None or offset < 0 or not self.file.sections[index].is_exec:
                continue
            is_trap = self.file.sections[index].data.startswith(row.trap, offset)
            if row.is_resumed:
                self._resumed.add((index, offset))
            known = marks.setdefault(index, {})
            known[offset] = max(known.get(offset, 0), len(row.trap) if is_trap else 0)


def entry_distance(row: SpecialSection, word: int) -> int:
    """Return the distance that a table's pointer states; the line above it is left off."""
    bits = row.displacement_bits
    if not bits:
        return word
    low = word & ((1 << bits) - 1)
    return low - (1 << bits) if low >> (bits - 1) else low


def within(marks: Marks, places: list[int], start: int, end: int) -> dict[int, int]:
    """Return the marks of a range, from its start; ``places`` are all marks, sorted."""
    chosen = places[bisect_left(places, start) : bisect_left(places, end)]
    return {at - start: marks[at] for at in chosen}
