# SPDX-License-Identifier: Apache-2.0
"""Is what a new object says what the patched hypervisor holds at an address?

Two things are the same if their bytes are equal outside relocated fields, each field leads to the
same thing, and the same entries of special sections speak of them. What is under comparison counts
as equal meanwhile: two circles are the same if nobody ever finds a difference.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from xsplice_plugins.check.fields import ALL, Aim
from xsplice_plugins.check.homes import Key, behind, is_flag, meant, stem_of
from xsplice_plugins.check.memory import Image, Loaded, Spot
from xsplice_plugins.check.objects import Entry, ObjectFile, Ref, Unit
from xsplice_plugins.check.placing import joined
from xsplice_plugins.check.records import Record
from xsplice_plugins.check.seen import Seen
from xsplice_plugins.check.sides import (
    COLD,
    Side,
    is_root,
    names_of,
    needed_alignment,
    own_size,
    title,
)
from xsplice_plugins.check.stack import Layers
from xsplice_plugins.check.tables import SNIPPETS
from xsplice_plugins.elf.types import (
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHN_LORESERVE,
    SHN_UNDEF,
    STB_WEAK,
)

_PER_CPU = ".percpu"

Own = tuple[Key, int]  #: a function under comparison, and its address


class Comparison(Seen):
    """A payload under comparison. Its methods return the first difference in words, or ``""``."""

    def __init__(
        self,
        image: Image,
        payload: Loaded | Layers,
        records: list[Record],
        copied: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.image = image
        self.payload = payload
        self.records = {(record.name, record.old): record for record in records}
        #: What the new objects define for each other: name -> where.
        self.definers: dict[str, tuple[Side, Unit]] = {}
        #: Tables of the image that payloads beneath have brought with another content.
        self.copied = frozenset(copied)

    def attempt(self, side: Side, unit: Unit, addr: int) -> str:
        """Compare a unit with an address, and forget what was assumed if it fails."""
        mark = len(self.seen)
        text = self._same(side, unit, addr, None)
        self._forget(mark if text else len(self.seen))
        return text

    def record_of(self, side: Side, unit: Unit) -> Record | None:
        """Return the record that replaces a function."""
        home = side.homes.of(unit)
        names = [*names_of(side.obj, unit), side.homes.renamed.get((unit.section, unit.start), "")]
        found = (self.records.get((name, home)) for name in names)
        return next((record for record in found if record), None)

    def _read(self, addr: int, size: int) -> bytes | None:
        return self._memory(addr).read(addr, size)

    def _memory(self, addr: int) -> Image | Loaded:
        return (self.payload if self.payload.covers(addr) else self.image).at(addr)

    def _same(self, side: Side, unit: Unit, addr: int, own: Own | None) -> str:
        """Compare a unit of a new object with what lies at an address."""
        obj, section = side.obj, side.obj.elf.sections[unit.section]
        is_code = section.is_exec and section.name not in SNIPPETS
        if is_code:
            own = ((unit.section, unit.start), addr)
        key = ("unit", id(obj), unit.section, unit.start, unit.end, addr, own)
        if key in self.seen:
            return ""
        self.seen[key] = 0
        memory, size = self._memory(addr), unit.end - unit.start
        have = memory.read(addr, size)
        if have is None:
            return f"{memory.words} ends before its {size} bytes do"
        at = obj.first_difference(unit.section, unit.start, unit.end, have)
        if at is not None:
            want = obj.content(unit.section, unit.start + at, unit.end)[:8]
            return f"+{at:#x}: {memory.words} has {have[at : at + 8].hex()}, not {want.hex()}"
        if isinstance(memory, Loaded):
            text = self._fit(memory, side, unit, addr)
        else:
            text = "" if is_code else self._stays(side, unit, addr)
        text = text or self._fields(side, unit, addr, own)
        return text or (self._entries(side, unit, addr) if is_code else "")

    def _stays(self, side: Side, unit: Unit, addr: int) -> str:
        """Ask whether the image's place suits a datum that must be aligned more than before."""
        align = side.obj.elf.sections[unit.section].align_bytes
        was, needed = side.homes.aligned.get(addr, 0), needed_alignment(side.obj, unit)
        if addr != side.homes.of(unit) or align <= was or addr % needed == 0:
            return ""
        if len(side.obj.units(unit.section)) == 1:
            return f"the image has it at a place that is no multiple of {needed}"
        self.note(f"{title(side.obj, unit)}: whether it must lie at a multiple of {needed} now")
        return ""

    def _fit(self, memory: Loaded, side: Side, unit: Unit, addr: int) -> str:
        """Compare what kind of memory a payload gives to a unit."""
        section, area = side.obj.elf.sections[unit.section], memory.area(addr)
        has = f"{memory.words} has it"
        flags = section.flags & ~(SHF_WRITE if side.obj.is_constant(unit.section) else 0)
        lost = flags & ~area.flags
        if lost & SHF_EXECINSTR:
            return f"{has} in {area.name}, which cannot run"
        if lost & SHF_WRITE:
            return f"{has} in {area.name}, which cannot be written"
        if not section.is_write and area.flags & SHF_WRITE:
            return f"{has} in {area.name}, which can be written"
        is_code = section.is_exec and section.name not in SNIPPETS
        needed = needed_alignment(side.obj, unit)
        if not is_code and needed > 1 and (addr % needed or area.align_bytes < needed):
            return f"{has} at a place that is no multiple of {needed}"
        return ""

    def _fields(self, side: Side, unit: Unit, addr: int, own: Own | None) -> str:
        """Compare where the relocated fields of a unit lead."""
        refs = side.obj.refs_in(unit.section, unit.start, unit.end)
        memory = self._memory(addr)
        if isinstance(memory, Loaded):
            count = memory.relocated(addr, unit.end - unit.start)
            if count != len(refs):
                return f"{memory.words} relocates {count} fields in it, not {len(refs)}"
        pairs = []
        for ref in refs:
            aim = memory.aim(addr + ref.at - unit.start, ref)
            if aim is None:
                return f"+{ref.at - unit.start:#x}: no such relocation, or to no certain name"
            pairs.append((ref, aim))
        for ref, aim in joined(pairs):
            text = self._leads(side, unit, ref, aim, own)
            if not text and isinstance(memory, Loaded):
                text = self._lasts(side.obj, unit, ref, aim)
            if text:
                return f"+{ref.at - unit.start:#x}: {text}"
        return ""

    def _lasts(self, obj: ObjectFile, unit: Unit, ref: Ref, aim: Aim) -> str:
        """Ask whether what a field of the payload leads to stays as it is, where it is."""
        index = ref.symbol.shndx
        if aim.known != ALL or not 0 < index < SHN_LORESERVE or obj.is_boot_only(index):
            return ""
        more = obj.piece(ref, unit.section)[0] if obj.is_merged(index) else 0
        at = aim.value + (more or behind(obj, ref, unit.section)[0])
        memory = self._memory(at)
        if isinstance(memory, Loaded):
            is_writable = bool(memory.area(at).flags & SHF_WRITE)
        else:
            if self.image.is_freed(at):
                return "it leads to memory that is freed after boot"
            is_writable = self.image.is_variable(at)
        if is_writable and not obj.elf.sections[index].is_write:
            return "what it leads to is constant, and it leads to memory that can be written"
        return ""

    def _leads(
        self, side: Side, unit: Unit, ref: Ref, aim: Aim, own: Own | None, skew: int = 0
    ) -> str:
        """Compare where one field leads with what its relocation names.

        ``skew`` is how many bytes in front of the field the distance in it counts from.
        """
        obj, symbol = side.obj, ref.symbol
        if symbol.shndx == SHN_ABS:
            fits = aim.fits(symbol.value + ref.addend)
            return "" if fits else f"it is not the number {symbol.name}"
        if symbol.shndx == SHN_UNDEF:
            return self._outside(ref, aim)
        if aim.known != ALL:
            self.note(f"{title(obj, unit)}: a field tells only a part of where it leads")
            return ""
        if obj.is_merged(symbol.shndx):
            more, want = obj.piece(ref, unit.section)
            if self._read(aim.value + more, len(want)) == want:
                return ""
            return f"it leads to another text, constant or line than {want[:40]!r}"
        base = aim.value - ref.addend - symbol.value  # where the symbol's section would begin
        if obj.elf.sections[symbol.shndx].name in SNIPPETS:
            target = obj.unit_at(symbol.shndx, symbol.value + ref.addend)
            return self._same(side, target, base + target.start, own)
        text, mark = "", len(self.seen)
        for target in meant(obj, ref, unit.section):
            at = symbol.value + ref.addend + behind(obj, ref, unit.section)[0] - skew
            is_entry = at == target.start
            found = self._thing(side, target, base + target.start, own, is_entry=is_entry)
            if not found:
                return ""
            self._forget(mark)
            text = text or found
        return text

    def _outside(self, ref: Ref, aim: Aim) -> str:
        """Compare a field with a name that another object defines."""
        name = ref.symbol.name
        if name in self.definers and aim.known == ALL:
            side, target = self.definers[name]
            offset = side.obj.globals[name].value - target.start
            addr = aim.value - ref.addend - offset
            return self._thing(side, target, addr, None, is_entry=not offset)
        home = self.image.only(name)
        address = home.value if home else 0 if ref.symbol.bind == STB_WEAK else None
        if address is None:
            return f"the image has no {name}, or several"
        return "" if aim.fits(address + ref.addend) else f"it leads to another place than {name}"

    def _thing(self, side: Side, unit: Unit, addr: int, own: Own | None, *, is_entry: bool) -> str:
        """Compare a function or datum that a field leads to with what it should be."""
        obj, home, name = side.obj, side.homes.of(unit), title(side.obj, unit)
        elsewhere = f"it leads to another place than {name}"
        if obj.elf.sections[unit.section].is_exec:
            if own is not None and own[0] == (unit.section, unit.start):
                return "" if addr == own[1] or (is_entry and addr == home) else elsewhere
            if home is not None and obj.is_boot_only(unit.section):
                return "" if addr == home else elsewhere  # nothing that still runs goes there
            record = self.record_of(side, unit)
            if record is not None:
                return "" if addr == (home if is_entry else record.new) else elsewhere
            if home is not None and self._is_known(unit, addr, home, own):
                body = home if is_entry else self.image.body(home)
                if addr != body or is_root(obj, unit):
                    return "" if addr == body else elsewhere
                if own is not None and self.payload.covers(own[1]) and COLD in unit.name:
                    return f"its part {name} is the image's, not the payload's"
            return self._reached(side, unit, addr)
        if obj.is_boot_only(unit.section):
            return "" if addr == home else elsewhere
        if obj.is_description(unit.section):
            return self._reached(side, unit, addr)
        if obj.is_constant(unit.section):
            return self._constant(side, unit, addr, home)
        if home is not None:
            if addr != home and self.payload.covers(addr):
                return f"state of {name} would start again: the payload brings a copy"
            return "" if self._is_at(side, unit, addr, home) else elsewhere
        likely = side.homes.likely.get((unit.section, unit.start))
        if addr != likely and not self.payload.covers(addr):
            if addr not in side.homes.spare.get(stem_of(unit.name), ()):
                return f"{name} is new, and it leads to what the image has"
            if not is_flag(unit):
                self.note(f"{name}: several variables of the image may be meant")
            return ""
        if addr != likely and _PER_CPU in obj.elf.sections[unit.section].name:
            return f"{name} is a new per-CPU variable, which no payload can bring"
        if is_flag(unit):
            self.seen["flag", addr] = addr
        elif self.seen.setdefault(self._variable(obj, unit), addr) != addr:
            return f"the payload brings {name} twice, so its state is split"
        return "" if addr == likely else self._reached(side, unit, addr)

    def _is_at(self, side: Side, unit: Unit, addr: int, home: int) -> bool:
        """Tell whether a variable of the image lies at an address, now and wherever it was asked.

        Of several that the same functions use, each is any one of them, and the same for all users.
        """
        group = side.homes.alike.get((unit.section, unit.start))
        if group is None or addr not in group:
            return addr == home
        if self.seen.setdefault(self._variable(side.obj, unit, "kept"), addr) != addr:
            return False
        if addr != home:
            self.note(f"{title(side.obj, unit)}: several variables of the image may be meant")
        return True

    def _is_known(self, unit: Unit, addr: int, home: int, own: Own | None) -> bool:
        """Tell whether what lies at an address must be the one place that a name has.

        A payload may hold a copy of a function, and the split-off part of one that it replaces.
        """
        if self.payload.covers(addr):
            return False
        there = self.image.at(addr)
        if there is self.image:
            return True
        is_part = COLD in unit.name and own is not None and self.image.at(own[1]) is there
        return not is_part and self.image.at(home) is not self.image

    def _constant(self, side: Side, unit: Unit, addr: int, home: int | None) -> str:
        """Compare read-only data: the image's own where it is still right, else equal content."""
        if home is None or addr == home or stem_of(unit.name):
            return self._reached(side, unit, addr)
        if unit.name not in self.copied:
            mark = len(self.seen)
            is_right = not self._reached(side, unit, home)
            self._forget(mark)
            if is_right:
                return f"it leads to another place than {title(side.obj, unit)} of the image"
        self.seen["copy", unit.name] = addr
        return self._reached(side, unit, addr)

    def _reached(self, side: Side, unit: Unit, addr: int) -> str:
        """Compare the content of what a field leads to."""
        text = self._same(side, own_size(side.obj, unit), addr, None)
        return f"{title(side.obj, unit)}: {text}" if text else ""

    def _entries(self, side: Side, unit: Unit, addr: int) -> str:
        """Compare the entries of special sections that speak of a unit."""
        wanted: dict[str, list[Entry]] = {}
        for entry in side.obj.entries.get((unit.section, unit.start), ()):
            wanted.setdefault(entry.table, []).append(entry)
        memory = self._memory(addr)
        for table in sorted({*wanted, *memory.tables}):
            spots = memory.spots(table)
            first = bisect_left(spots, Spot(addr, 0))
            there = spots[first : bisect_left(spots, Spot(addr + unit.end - unit.start, 0))]
            want = sorted(wanted.get(table, ()), key=lambda e: (e.owner_offset, e.section, e.start))
            if len(there) != len(want):
                return f"{table} has {len(there)} entries for it, not {len(want)}"
            for entry, spot in zip(want, there, strict=True):
                text = self._entry(side, unit, addr, entry, spot.start)
                if text:
                    return f"its entry in {table} for +{entry.owner_offset:#x}: {text}"
        return ""

    def _entry(self, side: Side, unit: Unit, addr: int, entry: Entry, place: int) -> str:
        """Compare one entry of a special section."""
        self.seen["entry", place] = 0
        obj, size, memory = side.obj, entry.layout.size_bytes, self._memory(place)
        piece = Unit(entry.section, entry.start, entry.start + size, entry.table, None)
        have = memory.read(place, size)
        if have is None or obj.first_difference(*piece[:3], have) is not None:
            return "other bytes"
        refs = obj.refs_in(piece.section, piece.start, piece.end)
        if isinstance(memory, Loaded) and memory.relocated(place, size) != len(refs):
            return "more or fewer relocations"
        own = ((unit.section, unit.start), addr)
        for ref in refs:
            aim = memory.aim(place + ref.at - entry.start, ref)
            if aim is None:
                return "no such relocation, or to no certain name"
            if ref.at == entry.start:
                fits = aim.value - ref.addend - ref.symbol.value == addr - unit.start
                text = "" if fits else "it speaks of another place or line"
            elif entry.layout.snippet_length_at is not None:
                text = self._snippet(side, ref, aim, own, have[entry.layout.snippet_length_at])
            else:
                skew = ref.at - entry.start if entry.layout.is_from_start else 0
                text = self._leads(side, piece, ref, aim, own, skew)
            if text:
                return text
        return ""

    def _snippet(self, side: Side, ref: Ref, aim: Aim, own: Own, size: int) -> str:
        """Compare the out-of-line code of an alternative."""
        offset = ref.symbol.value + ref.addend
        target = Unit(ref.symbol.shndx, offset, offset + size, "", None)
        text = self._same(side, target, aim.value, own) if size else ""
        return f"its replacement: {text}" if text else ""
