# SPDX-License-Identifier: Apache-2.0
"""An object file as the check sees it: sections with their relocations, named units, entries."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from xsplice_plugins.check.fields import Kind, kind_of
from xsplice_plugins.check.tables import SNIPPETS, Layout, layout_of
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import (
    SHF_MERGE,
    SHN_LORESERVE,
    STT_FILE,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
    Section,
    Symbol,
)
from xsplice_plugins.errors import ElfFormatError

_NOT_LOADED = (".discard", ".eh_frame", ".exit", ".exitcall", ".note", ".comment", ".llvm")
_SANITIZER = re.compile(r"\.\.Lubsan_(data|type)\d+$")  #: of ``-fsanitize=undefined``
_BOOT_ONLY = (".init", ".text.startup", ".trampoline", ".ctors", ".init_array")


class Ref(NamedTuple):
    """One relocation with its symbol."""

    at: int  #: bytes from the section's start
    type: int
    kind: Kind
    symbol: Symbol
    addend: int


class Unit(NamedTuple):
    """A named piece of a section, or a whole section without names."""

    section: int
    start: int
    end: int
    name: str  #: decorated; "" without a symbol
    symbol: Symbol | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectFile:
    """One object. Build it with `read_object`."""

    path: str
    elf: ElfFile = field(repr=False)
    sizes: Mapping[str, tuple[Layout, ...]] = field(repr=False)
    known: Container[str] = field(default=(), repr=False)  #: decorated names that the image has
    _refs: dict[int, tuple[Ref, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def loaded(self) -> tuple[Section, ...]:
        """Return the sections that take part in the image, empty ones left out.

        Left out is also what a sanitizer describes and no code refers to: thousands of pieces
        without names, alike in many objects.
        """
        rows = [
            section
            for section in self.elf.sections
            if section.is_alloc and section.size_bytes and not section.name.startswith(_NOT_LOADED)
        ]
        unused = {row.index for row in rows if self.is_description(row.index)}
        pending = [row.index for row in rows if row.index not in unused] if unused else []
        while pending:
            led = {ref.symbol.shndx for ref in self.refs(pending.pop())} & unused
            pending += led
            unused -= led
        return tuple(row for row in rows if row.index not in unused)

    def refs(self, section: int) -> tuple[Ref, ...]:
        """Return a section's relocations, sorted by place.

        Raises:
            RelocationError: One is of an unknown type.
            ElfFormatError: One lies outside its section.
        """
        found = self._refs.get(section)
        if found is None:
            symbols, row = self.elf.symbols, self.elf.sections[section]
            subject, machine = f"{self.path}({row.name})", self.elf.machine
            found = tuple(
                sorted(
                    Ref(r.offset, r.type, kind_of(machine, r.type, subject),
                        symbols[r.symbol], r.addend)
                    for r in self.elf.relocs(row)
                    if r.type
                )
            )  # fmt: skip
            if any(ref.at + ref.kind.size_bytes > row.size_bytes for ref in found):
                raise ElfFormatError(f"{subject}: a relocation lies outside it; build it again")
            self._refs[section] = found
        return found

    def refs_in(self, section: int, start: int, end: int) -> tuple[Ref, ...]:
        """Return the relocations that begin in a part of a section."""
        refs = self.refs(section)
        if not start and end >= self.elf.sections[section].size_bytes:
            return refs
        first = bisect_left(refs, start, key=lambda ref: ref.at)
        return refs[first : bisect_left(refs, end, key=lambda ref: ref.at)]

    def content(self, section: int, start: int, end: int) -> bytes:
        """Return a part of a section's bytes; zeros where none are stored."""
        row = self.elf.sections[section]
        return row.data[start:end] if row.data else bytes(end - start)

    def first_difference(self, section: int, start: int, end: int, have: bytes) -> int | None:
        """Compare a part of a section with bytes, relocated fields left out.

        Returns:
            The first differing offset from ``start``; ``None`` if all are equal.
        """
        want, at = self.content(section, start, end), 0
        for ref in self.refs_in(section, start, end):
            low = ref.at - start
            high = low + ref.kind.size_bytes
            if want[at:low] != have[at:low]:
                break
            kept = ~ref.kind.bits
            pair = (int.from_bytes(side[low:high], "little") & kept for side in (want, have))
            if next(pair) != next(pair):
                return low
            at = max(at, high)
        if want[at:] == have[at:] and at >= 0:
            return None
        return next((n for n in range(at, len(want)) if want[n : n + 1] != have[n : n + 1]), None)

    def piece(self, ref: Ref, section: int) -> tuple[int, bytes]:
        """Return the piece of a merged section that a relocation means.

        Args:
            ref: The relocation; its symbol lies in a merged section.
            section: The section that holds the relocation.

        Returns:
            What to add to symbol + addend to get the piece's address, and its content: a text
            with its end mark, or one constant; empty at the very end of the section.

        Raises:
            ElfFormatError: It leads beyond the section.
        """
        symbol, home = ref.symbol, self.elf.sections[ref.symbol.shndx]
        if symbol.type == STT_SECTION:
            more = ref.kind.behind[0] if self.elf.sections[section].is_exec else 0
            offset = symbol.value + ref.addend + more
        else:
            more, offset = -ref.addend, symbol.value
        if offset > home.size_bytes:
            raise ElfFormatError(
                f"{self.path}({self.elf.sections[section].name}): a relocation leads beyond "
                f"{home.name}; build it again"
            )
        width = home.entry_size_bytes or 1
        if not home.is_strings:
            inside = offset % width
            return more - inside, home.data[offset - inside : offset - inside + width]
        end = offset
        while home.data[end : end + width].strip(b"\0"):
            end += width
        return more, home.data[offset : end + width]

    def is_merged(self, section: int) -> bool:
        """Tell whether the linker merges a section's pieces with those of other objects."""
        return bool(self.elf.sections[section].flags & SHF_MERGE)

    def is_description(self, section: int) -> bool:
        """Tell whether a section is what a sanitizer says of a place in the code, without a name.

        Nobody but its handlers reads it, and they write into it that they have spoken of it.
        """
        name = self.elf.sections[section].name
        return bool(_SANITIZER.search(name)) and section not in self.named

    def is_boot_only(self, section: int) -> bool:
        """Tell whether the hypervisor frees a section after boot."""
        return self.elf.sections[section].name.startswith(_BOOT_ONLY)

    def is_constant(self, section: int) -> bool:
        """Tell whether nothing writes to a section once its relocations are done."""
        row = self.elf.sections[section]
        return not row.is_write or row.name.startswith((".data.rel.ro", ".livepatch."))

    @cached_property
    def named(self) -> dict[int, list[Symbol]]:
        """Map a section to the symbols defined in it, sorted by place, the best name first."""
        result: dict[int, list[Symbol]] = {}
        for symbol in self.elf.symbols[1:]:
            if (
                0 < symbol.shndx < SHN_LORESERVE
                and symbol.type not in (STT_SECTION, STT_FILE)
                and symbol.name
                and not symbol.name.startswith((".L", "$"))
            ):
                result.setdefault(symbol.shndx, []).append(symbol)
        for index, symbols in result.items():
            functions = {s.value for s in symbols if s.type == STT_FUNC}
            if self.elf.sections[index].is_exec and len(functions) == 1:
                # Labels (UNLIKELY_START of asm_defns.h) belong to the function around them.
                symbols[:] = [s for s in symbols if s.type == STT_FUNC or not s.is_local]
            symbols.sort(
                key=lambda s: (
                    s.value,
                    s.type not in (STT_FUNC, STT_OBJECT),
                    s.decorated not in self.known,  # an alias may be new
                    s.is_local,
                    s.name,
                )
            )
        return result

    @cached_property
    def _starts(self) -> dict[int, list[int]]:
        """Return where units start: at names; snippets where a table's entry says so."""
        result = {n: sorted({0, *(s.value for s in row)}) for n, row in self.named.items()}
        snippets = {s.index for s in self.loaded if s.name in SNIPPETS}
        if snippets:
            found: dict[int, set[int]] = {index: {0} for index in snippets}
            for section in self.loaded:
                if layout_of(self.sizes, section.name):
                    for ref in self.refs(section.index):
                        if ref.symbol.shndx in snippets:
                            found[ref.symbol.shndx].add(ref.symbol.value + ref.addend)
            result |= {index: sorted(starts) for index, starts in found.items()}
        return result

    def unit_at(self, section: int, offset: int) -> Unit:
        """Return the unit that covers an offset of a section; the nearest one outside it."""
        size = self.elf.sections[section].size_bytes
        starts = self._starts.get(section, [0])
        place = max(bisect_right(starts, offset) - 1, 0)
        if place and starts[place] >= size:
            place -= 1
        start = starts[place]
        end = starts[place + 1] if place + 1 < len(starts) else size
        symbol = next((s for s in self.named.get(section, ()) if s.value == start), None)
        return Unit(section, start, min(end, size), symbol.decorated if symbol else "", symbol)

    def units(self, section: int) -> list[Unit]:
        """Return all units of a section."""
        size = self.elf.sections[section].size_bytes
        return [self.unit_at(section, s) for s in self._starts.get(section, [0]) if s < size]

    @cached_property
    def globals(self) -> dict[str, Symbol]:
        """Map the names that other objects can see to their symbols."""
        return {
            symbol.name: symbol
            for symbol in self.elf.symbols[1:]
            if not symbol.is_local and symbol.shndx
        }

    @cached_property
    def entries(self) -> dict[tuple[int, int], list[Entry]]:
        """Map each unit of code (section, start) to the entries of tables that belong to it."""
        result: dict[tuple[int, int], list[Entry]] = {}
        for section in self.loaded:
            layouts = layout_of(self.sizes, section.name)
            if not layouts:
                continue
            refs = {ref.at: ref for ref in self.refs(section.index)}
            layout = fitting(layouts, section, refs.keys(), self.path)
            for start in range(0, section.size_bytes, layout.size_bytes):
                owner = refs[start]
                offset = owner.symbol.value + layout.owner_offset(owner.addend)
                unit = self.unit_at(owner.symbol.shndx, offset)
                entry = Entry(section.index, start, layout, offset - unit.start, section.name)
                result.setdefault((unit.section, unit.start), []).append(entry)
        return result


class Entry(NamedTuple):
    """One entry of a special section."""

    section: int
    start: int
    layout: Layout
    owner_offset: int  #: of the place it speaks of, from its unit's start
    table: str  #: name of the section


def fitting(
    layouts: tuple[Layout, ...], section: Section, places: Container[int], path: str
) -> Layout:
    """Choose the layout under which every entry starts with a relocation.

    Raises:
        ElfFormatError: None does.
    """
    for layout in layouts:
        starts = range(0, section.size_bytes, layout.size_bytes)
        if section.size_bytes % layout.size_bytes == 0 and all(s in places for s in starts):
            return layout
    raise ElfFormatError(
        f"{path}({section.name}): {section.size_bytes} bytes are no whole entries of this build; "
        "give the facts of the tree that it comes from"
    )


def read_object(
    path: str,
    data: bytes,
    sizes: Mapping[str, tuple[Layout, ...]],
    known: Container[str] = (),
) -> ObjectFile:
    """Read an object for the check.

    Args:
        path: Relative to the build root, e.g. ``common/version.o``.
        data: The whole file.
        sizes: What the build's tables look like, from `tables.layouts`.
        known: Names that the image has: of several at one place they come first.

    Raises:
        ElfFormatError: Not an object of a 64-bit little-endian machine.
    """
    return ObjectFile(path=path, elf=read_elf(data, path), sizes=sizes, known=known)
