# SPDX-License-Identifier: Apache-2.0
"""The hypervisor's memory with a payload in it, as far as files tell.

The image lies at its own addresses. A payload's sections lie at made-up ones from 2**62 on, where
no machine has memory, so no address of one can be taken for an address of the other. Payloads
beneath it lie behind it, each in a range of its own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from xsplice_plugins.check.erratum import unlinked
from xsplice_plugins.check.fields import ALL, Aim, is_same_kind, kind_of
from xsplice_plugins.check.objects import Ref, fitting
from xsplice_plugins.check.tables import Layout, bounds, known_tables, layout_of
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import (
    ET_REL,
    SHN_ABS,
    SHN_LORESERVE,
    SHT_NOBITS,
    STT_FILE,
    STT_SECTION,
    Symbol,
)
from xsplice_plugins.errors import ElfFormatError

PAYLOAD_BASE = 1 << 62
_STEP = 1 << 32  #: from section to section
LAYER = 1 << 49  #: from payload to payload


class Area(NamedTuple):
    """Bytes at an address."""

    start: int
    end: int
    data: bytes  #: shorter than the area where nothing is stored
    name: str
    flags: int
    align_bytes: int


class Spot(NamedTuple):
    """One entry of a table in memory."""

    owner: int  #: address of the code that it speaks of
    start: int  #: its own address


def _read(areas: list[Area], starts: list[int], addr: int, size: int) -> bytes | None:
    place = bisect_right(starts, addr) - 1
    if place < 0 or addr + size > areas[place].end:
        return None
    area = areas[place]
    found = area.data[addr - area.start : addr - area.start + size]
    return found if len(found) == size else found + bytes(size - len(found))


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A linked hypervisor, ``xen-syms``. Build it with `read_image`."""

    elf: ElfFile = field(repr=False)
    areas: list[Area] = field(repr=False)
    starts: list[int] = field(repr=False)
    sizes: Mapping[str, tuple[Layout, ...]] = field(repr=False)
    #: start and end address of code that the linker put in, round an erratum of the processor
    linkers: tuple[tuple[int, int], ...] = ()
    words = "the image"  #: how messages call it
    _spots: dict[str, list[Spot]] = field(default_factory=dict, repr=False)
    _keys: dict[str, dict[int, list[int]]] = field(default_factory=dict, repr=False)

    @cached_property
    def homes(self) -> dict[str, list[Symbol]]:
        """Map each decorated name to the symbols that bear it."""
        result: dict[str, list[Symbol]] = {}
        for symbol in self.elf.symbols[1:]:
            is_place = 0 < symbol.shndx < SHN_LORESERVE or symbol.shndx == SHN_ABS
            if is_place and symbol.type not in (STT_SECTION, STT_FILE):
                result.setdefault(symbol.decorated, []).append(symbol)
        return result

    def only(self, name: str) -> Symbol | None:
        """Return the symbol of a name; ``None`` if there is none, or if there are several."""
        found = self.homes.get(name, [])
        return found[0] if len({symbol.value for symbol in found}) == 1 else None

    def read(self, addr: int, size: int) -> bytes | None:
        """Return bytes of the image as they were linked; ``None`` outside it.

        Code that the linker then changed for an erratum of the processor is as objects have it.
        """
        return _read(self.areas, self.starts, addr, size)

    def stored(self, addr: int, size: int) -> bytes | None:
        """Return bytes of the image as they lie in memory; ``None`` outside it."""
        return next(
            (
                s.data[addr - s.addr_virt :][:size]
                for s in self.elf.sections
                if s.is_alloc and s.addr_virt <= addr <= s.addr_virt + s.size_bytes - size
            ),
            None,
        )

    def at(self, addr: int) -> Image | Loaded:  # noqa: ARG002  payloads beneath tell more
        """Return what holds an address: the image, or a payload beneath."""
        return self

    def body(self, entry: int) -> int:
        """Return where the code lies that runs when a function of this address is called."""
        return entry

    def is_freed(self, addr: int) -> bool:
        """Tell whether the hypervisor frees an address after boot."""
        start, end = (self.only(name) for name in ("__init_begin", "__init_end"))
        return start is not None and end is not None and start.value <= addr < end.value

    def is_variable(self, addr: int) -> bool:
        """Tell whether an address lies where the hypervisor writes."""
        return any(
            section.is_write
            and section.name.startswith((".data", ".bss"))
            and not section.name.startswith((".data.rel.ro", ".data.ro_after_init"))
            and 0 <= addr - section.addr_virt < section.size_bytes
            for section in self.elf.sections
            if section.is_alloc
        )

    def aim(self, place: int, ref: Ref) -> Aim | None:
        """Return where the field of a relocation leads in the image; ``None`` outside it."""
        raw = self.read(place, ref.kind.size_bytes)
        if raw is None:
            return None
        return Aim(ref.kind.lead(int.from_bytes(raw, "little"), place), ref.kind.known)

    def span(self, section: str) -> tuple[int, int]:
        """Return where the linker script gathered a table; (0, 0) if the image has none."""
        firsts, last = bounds(section)
        begin = next((found for name in firsts if (found := self.only(name))), None)
        end = self.only(last)
        return (begin.value, end.value) if begin and end else (0, 0)

    def keys(self, section: str) -> dict[int, list[int]]:
        """Map what a first member says, modulo 2**32, to the addresses of such members."""
        found = self._keys.get(section)
        if found is None:
            found = self._keys[section] = {}
            begin, end = self.span(section)
            rows = layout_of(self.sizes, section)
            step = min(row.size_bytes for row in rows) if rows else 4
            raw = self.read(begin, end - begin) or b""
            for at in range(0, len(raw) - 3, step):
                key = begin + at + int.from_bytes(raw[at : at + 4], "little")
                found.setdefault(key & 0xFFFFFFFF, []).append(begin + at)
        return found

    def spots(self, section: str) -> list[Spot]:
        """Return a table's entries, sorted by the code that they speak of.

        Of several ways to read a table the one counts by which every entry speaks of code.
        """
        found = self._spots.get(section)
        if found is None:
            begin, end = self.span(section)
            raw = self.read(begin, end - begin) or b""
            found = []
            for layout in layout_of(self.sizes, section):
                found = sorted(
                    Spot(
                        begin
                        + at
                        + layout.owner_offset(int.from_bytes(raw[at : at + 4], "little")),
                        begin + at,
                    )
                    for at in range(0, len(raw) - 3, layout.size_bytes)
                )
                if all(self._is_code(spot.owner) for spot in found):
                    break
            self._spots[section] = found
        return found

    @cached_property
    def tables(self) -> list[str]:
        """Return the names of the tables that it has."""
        names = sorted(name for name in known_tables() if layout_of(self.sizes, name))
        return [name for name in names if self.span(name)[1]]

    def _is_code(self, addr: int) -> bool:
        place = bisect_right(self.starts, addr) - 1
        return place >= 0 and ".text" in self.areas[place].name


def read_image(data: bytes, name: str, sizes: Mapping[str, tuple[Layout, ...]]) -> Image:
    """Read a linked hypervisor.

    Args:
        data: The whole of ``xen-syms``.
        name: How messages call it.
        sizes: What the build's tables look like, from `tables.layouts`.

    Raises:
        ElfFormatError: Not a linked ELF file with a symbol table.
    """
    elf = read_elf(data, name)
    if elf.type == ET_REL or elf.symbol_section is None:
        raise ElfFormatError(f"{name}: not a linked image with its symbols; give xen-syms")
    loaded = sorted(
        (s for s in elf.sections if s.is_alloc and s.size_bytes), key=lambda s: s.addr_virt
    )
    areas: list[Area] = []
    linkers: list[tuple[int, int]] = []
    for s in loaded:
        found = unlinked(s.data, s.addr_virt, elf.machine if s.is_exec else 0)
        end = s.addr_virt + s.size_bytes
        areas.append(Area(s.addr_virt, end, found.code, s.name, s.flags, s.align_bytes))
        linkers += found.pages
    starts = [area.start for area in areas]
    return Image(elf=elf, areas=areas, starts=starts, sizes=sizes, linkers=tuple(linkers))


class Filled(NamedTuple):
    """One relocation of a payload, resolved."""

    type: int
    value: int | None  #: symbol + addend; ``None`` where the name leads nowhere certain
    size_bytes: int  #: of the field


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A payload at made-up addresses. Build it with `load_payload`."""

    elf: ElfFile = field(repr=False)
    image: Image = field(repr=False)
    base: int  #: address from which on it lies
    areas: list[Area] = field(repr=False)
    starts: list[int] = field(repr=False)
    filled: dict[int, Filled] = field(repr=False)  #: by address of the field
    places: list[int] = field(repr=False)  #: the addresses of all relocated fields, sorted

    @property
    def words(self) -> str:
        """Return how messages call it."""
        return self.elf.name

    def covers(self, addr: int) -> bool:
        """Tell whether an address is one of the payload's."""
        return self.base <= addr < self.base + LAYER

    def at(self, addr: int) -> Loaded:  # noqa: ARG002  as with several payloads
        """Return what holds an address of the payload."""
        return self

    def read(self, addr: int, size: int) -> bytes | None:
        """Return bytes of the payload; ``None`` outside its sections."""
        return _read(self.areas, self.starts, addr, size)

    def stored(self, addr: int, size: int) -> bytes | None:
        """Return the same bytes as `read`."""
        return self.read(addr, size)

    def aim(self, place: int, ref: Ref) -> Aim | None:
        """Return where the relocation of a field leads; ``None`` if there is none of that kind."""
        found = self.filled.get(place)
        if found is None or found.value is None:
            return None
        if not is_same_kind(self.elf.machine, found.type, ref.type):
            return None
        return Aim(found.value, ALL)

    def relocated(self, addr: int, size: int) -> int:
        """Return how many relocated fields lie in a range, be it with one byte."""
        first = bisect_left(self.places, addr - 7)
        found = self.places[first : bisect_left(self.places, addr + size)]
        return sum(place + self.filled[place].size_bytes > addr for place in found)

    def address_of(self, symbol: Symbol) -> int | None:
        """Return where a symbol of the payload lies; ``None`` if not in memory."""
        is_inside = 0 < symbol.shndx < len(self.elf.sections)
        if not is_inside or not self.elf.sections[symbol.shndx].is_alloc:
            return None
        return self.base + symbol.shndx * _STEP + symbol.value

    def exported(self, name: str) -> int | None:
        """Return where a function or datum that others may name lies; ``None`` if it has none."""
        found = (self.address_of(row) for row in self.elf.symbols if row.name == name
                 and not row.is_local)  # fmt: skip
        return next((addr for addr in found if addr is not None), None)

    def area(self, addr: int) -> Area:
        """Return the section around an address, which must be in the payload."""
        return self.areas[bisect_right(self.starts, addr) - 1]

    def section(self, name: str) -> list[Area]:
        """Return the areas of the sections of one name."""
        return [area for area in self.areas if area.name == name]

    @cached_property
    def tables(self) -> dict[str, list[Spot]]:
        """Map the names of its tables to their entries, sorted by their code."""
        sizes = self.image.sizes
        names = {row.name for row in self.elf.sections if layout_of(sizes, row.name)}
        return {name: self._entries(name, layout_of(sizes, name)) for name in sorted(names)}

    def spots(self, section: str) -> list[Spot]:
        """Return the entries of the payload's tables of one name, sorted by their code."""
        return self.tables.get(section, [])

    def _entries(self, section: str, layouts: tuple[Layout, ...]) -> list[Spot]:
        found = []
        for row in self.elf.sections:
            if row.name != section or not row.size_bytes or not row.is_alloc:
                continue
            start = self.base + row.index * _STEP
            offsets = {place - start for place in self.places if start <= place < start + _STEP}
            layout = fitting(layouts, row, offsets, self.elf.name)
            for at in range(0, row.size_bytes, layout.size_bytes):
                value = self.filled[start + at].value
                owner = 0 if value is None else self._owner(value, start + at, layout)
                found.append(Spot(owner, start + at))
        return sorted(found)

    def _owner(self, value: int, place: int, layout: Layout) -> int:
        """Take the line number out of symbol + addend."""
        if self.covers(value):
            return (value & ~0xFFFFFFFF) + layout.owner_offset(value & 0xFFFFFFFF)
        return place + layout.owner_offset(value - place)


def load_payload(data: bytes, name: str, image: Image, base: int = PAYLOAD_BASE) -> Loaded:
    """Put a payload into memory: sections at made-up addresses, relocations resolved.

    Args:
        data: The unsigned payload, or a signed one.
        name: How messages call it.
        image: What its undefined symbols are looked up in, by decorated name.
        base: Address from which on it lies.

    Raises:
        ElfFormatError: Not a relocatable ELF file.
        RelocationError: A relocation is of an unknown type.
    """
    elf = read_elf(data, name)
    if elf.type != ET_REL:
        raise ElfFormatError(f"{name}: not a payload; give the file before it was signed")
    bases = {row.index: base + row.index * _STEP for row in elf.sections if row.is_alloc}
    areas = [
        Area(bases[row.index], bases[row.index] + row.size_bytes,
             b"" if row.type == SHT_NOBITS else row.data, row.name, row.flags, row.align_bytes)
        for row in elf.sections
        if row.index in bases and row.size_bytes
    ]  # fmt: skip
    filled: dict[int, Filled] = {}
    for row in elf.sections:
        if row.index not in bases:
            continue
        for reloc in elf.relocs(row):
            if reloc.type == 0:  # asks for nothing
                continue
            kind = kind_of(elf.machine, reloc.type, f"{name}({row.name})")
            symbol = elf.symbols[reloc.symbol]
            place = bases[row.index] + reloc.offset
            if symbol.shndx in bases:
                value: int | None = bases[symbol.shndx] + symbol.value + reloc.addend
            else:
                home = image.only(symbol.name) if symbol.shndx == 0 else None
                value = home.value + reloc.addend if home else None
            if place in filled:
                value = None  # two relocations for one field: what counts is not certain
            filled[place] = Filled(reloc.type, value, kind.size_bytes)
    return Loaded(
        elf=elf,
        image=image,
        base=base,
        areas=areas,
        starts=[area.start for area in areas],
        filled=filled,
        places=sorted(filled),
    )
