# SPDX-License-Identifier: Apache-2.0
"""Payloads that load and are wrong: each must be caught by the independent check alone.

They are made from right ones, one place at a time: no byte moves, so that the file stays what the
loader takes. Only ELF's own layout is used here, not the code under test.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.xen.mutations import Sec, put, sections_of
from xsplice_plugins.check.memory import Image
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHT_RELA, SHT_SYMTAB, STT_SECTION

ALLOC, WRITE, EXEC = 2, 1, 4
RECORD = 104
TABLES = {".altinstructions": 14, ".ex_table": 8, ".bug_frames.0": 8, ".bug_frames.1": 8,
          ".bug_frames.2": 8}  # fmt: skip
REPLACEMENT_LENGTH = 11  #: offset of a byte in an entry of .altinstructions


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A payload with one thing wrong."""

    kind: str
    name: str
    data: bytes


def led_to(data: bytes, image: Image, section: str, place: int) -> bytes:
    """Return a payload whose fields that lead into a section lead to an address of the image.

    They are made against a name that the payload takes from the image, with another addend.
    """
    rows = sections_of(data)
    [index] = [row.index for row in rows if row.name == section]
    [table] = [row for row in rows if row.kind == SHT_SYMTAB]
    symbols = list(struct.iter_unpack("<IBBHQQ", data[table.offset : table.offset + table.size]))
    [own] = [n for n, s in enumerate(symbols) if s[3] == index and s[1] & 0xF == STT_SECTION]
    outside, anchor = next(
        (number, found.value)
        for number, symbol in enumerate(read_elf(data, "payload").symbols)
        if number and not symbol.shndx and (found := image.only(symbol.name))
    )
    for row in rows:
        for at in range(row.offset, row.offset + row.size, 24) if row.kind == SHT_RELA else ():
            info, addend = struct.unpack_from("<Qq", data, at + 8)
            if info >> 32 == own:
                data = put(data, at + 12, 4, outside)
                data = put(data, at + 16, 8, (addend + place - anchor) % (1 << 64))
    return data


class Sample:
    """One right payload, taken apart for those who spoil it."""

    def __init__(self, data: bytes, addresses: dict[str, set[int]]) -> None:
        self.data = data
        self.secs = sections_of(data)
        self.by_name = {sec.name: sec for sec in self.secs}
        self.symtab = next(sec for sec in self.secs if sec.kind == SHT_SYMTAB)
        self.addresses = addresses
        known = sorted(min(rows) for name, rows in addresses.items() if name.startswith("do_"))
        self.somewhere = known[:4]  #: functions of the image

    def relas(self) -> Iterator[tuple[Sec, int]]:
        """Give the relocations that matter: their section, and their place in the file."""
        for sec in self.secs:
            target = self.secs[sec.info]
            if sec.kind != SHT_RELA or not target.flags & ALLOC:
                continue
            for at in range(sec.offset, sec.offset + sec.size, 24):
                if not self._is_void(target, at):
                    yield target, at

    def _is_void(self, target: Sec, at: int) -> bool:
        """Tell whether a relocation leads to an empty replacement: nobody ever looks there."""
        offset = self.number(at, 8)
        if target.name != ".altinstructions" or offset % 14 != 4:
            return False
        return self.data[target.offset + offset - 4 + REPLACEMENT_LENGTH] == 0

    def number(self, at: int, size: int) -> int:
        """Return a field of the file."""
        return int.from_bytes(self.data[at : at + size], "little")

    def symbol(self, index: int) -> tuple[str, int, int, int]:
        """Return a symbol's name, place in the file, section, and value."""
        at = self.symtab.offset + 24 * index
        name, _, _, shndx, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
        strings = self.by_name[".strtab"].offset
        end = self.data.index(b"\0", strings + name)
        return self.data[strings + name : end].decode(), at, shndx, value

    def undefined(self) -> list[int]:
        """Return the symbols that the hypervisor must resolve."""
        count = self.symtab.size // 24
        return [index for index in range(1, count) if not self.symbol(index)[2]]

    def spans(self, flags: int) -> Iterator[tuple[str, int, int]]:
        """Give the named things in sections with these flags: name, start, end in the file."""
        for index in range(1, self.symtab.size // 24):
            name, at, shndx, value = self.symbol(index)
            size = self.number(at + 16, 8)
            if 0 < shndx < len(self.secs) and size:
                sec = self.secs[shndx]
                if sec.flags & (ALLOC | WRITE | EXEC) == flags and sec.kind == 1:
                    yield name, sec.offset + value, sec.offset + value + size

    def fields(self) -> set[int]:
        """Return every byte of the file that a relocation fills."""
        found: set[int] = set()
        for sec in self.secs:
            if sec.kind == SHT_RELA:
                for at in range(sec.offset, sec.offset + sec.size, 24):
                    offset = self.secs[sec.info].offset + self.number(at, 8)
                    found.update(range(offset, offset + (8 if self.number(at + 8, 4) == 1 else 4)))
        return found


def moved_addends(sample: Sample) -> Iterator[Wrong]:
    """Let a relocation lead a little elsewhere."""
    for target, at in sample.relas():
        if target.name == ".livepatch.funcs":
            continue
        old = struct.unpack_from("<q", sample.data, at + 16)[0]
        for step in (1, -1, 4, -8, 16):
            data = put(sample.data, at + 16, 8, (old + step) % (1 << 64))
            yield Wrong(kind="addend moved", name=f"{target.name}@{at:#x}{step:+}", data=data)


def other_symbols(sample: Sample) -> Iterator[Wrong]:
    """Let a relocation lead to another symbol of the hypervisor."""
    names = sample.undefined()
    for target, at in sample.relas():
        old = sample.number(at + 12, 4)
        if old not in names:
            continue
        for index in names:
            name, old_name = sample.symbol(index)[0], sample.symbol(old)[0]
            if sample.addresses.get(name) == sample.addresses.get(old_name):
                continue
            kind = "wrong one of two statics" if "#" in name and "#" in old_name else "other symbol"
            data = put(sample.data, at + 12, 4, index)
            yield Wrong(kind=kind, name=f"{target.name}@{at:#x}:{old_name}:{name}", data=data)


def own_copies(sample: Sample) -> Iterator[Wrong]:
    """Let the payload have something of its own where the hypervisor's was meant."""
    for index in sample.undefined():
        name, at, _, _ = sample.symbol(index)
        for number, sec in enumerate(sample.secs):
            if (
                sec.flags & ALLOC
                and sec.size >= 8
                and sec.kind == 1
                and ".livepatch" not in sec.name
            ):
                kind = "variable or table copied" if not sec.flags & EXEC else "function copied"
                data = put(sample.data, at, 4, 0)  # without the name, which exists already
                data = put(put(data, at + 4, 1, 3), at + 6, 2, number)
                yield Wrong(kind=kind, name=f"{name}:{sec.name}", data=data)


def flipped(sample: Sample) -> Iterator[Wrong]:
    """Change a byte of code, of data, of a table."""
    filled = sample.fields()

    def flip(kind: str, name: str, start: int, end: int) -> Iterator[Wrong]:
        for at in range(start, end):
            if at not in filled:
                data = put(sample.data, at, 1, sample.data[at] ^ 0x11)
                yield Wrong(kind=kind, name=f"{name}@{at:#x}", data=data)

    for name, start, end in sample.spans(ALLOC | EXEC):
        yield from flip("code byte flipped", name, start, end)
    for name, start, end in sample.spans(ALLOC | WRITE):
        yield from flip("data byte flipped", name, start, end)
    for sec in sample.secs:
        if sec.name.startswith(".rodata"):
            yield from flip("rodata byte flipped", sec.name, sec.offset, sec.offset + sec.size)
        if sec.name == ".altinstructions":
            for at in range(sec.offset, sec.offset + sec.size, 14):
                yield from flip("alternative's condition or size", sec.name, at + 8, at + 12)
        if sec.name == ".altinstr_replacement":
            for at, size in replacements(sample):
                yield from flip("replacement byte flipped", sec.name, sec.offset + at,
                                sec.offset + at + size)  # fmt: skip


def replacements(sample: Sample) -> Iterator[tuple[int, int]]:
    """Give offset and size of what alternatives put into place."""
    for target, at in sample.relas():
        offset = sample.number(at, 8)
        if target.name == ".altinstructions" and offset % 14 == 4:
            size = sample.data[target.offset + offset - 4 + REPLACEMENT_LENGTH]
            yield sample.number(at + 16, 8), size


def exchanged_strings(sample: Sample) -> Iterator[Wrong]:
    """Let a relocation lead to another string of the payload."""
    for number, sec in enumerate(sample.secs):
        if not sec.name.startswith(".rodata.str"):
            continue
        text = sample.data[sec.offset : sec.offset + sec.size]
        starts = [0, *(n + 1 for n, byte in enumerate(text[:-1]) if not byte)]
        for target, at in sample.relas():
            if sample.symbol(sample.number(at + 12, 4))[2] != number:
                continue
            old = struct.unpack_from("<q", sample.data, at + 16)[0]
            place = min(starts, key=lambda start, old=old: abs(start - (old & 0xFFFFFF) - 4))
            for start in starts:
                if start != place:
                    data = put(sample.data, at + 16, 8, (old + start - place) % (1 << 64))
                    yield Wrong(kind="string exchanged", name=f"{target.name}@{at:#x}:{start}",
                                data=data)  # fmt: skip


def without(sample: Sample, name: str, size: int, number: int) -> bytes:
    """Take one entry out of a table, and its relocations with it; the rest moves up."""
    sec, rela = sample.by_name[name], sample.by_name[f".rela{name}"]
    start, end = number * size, (number + 1) * size
    content = sample.data[sec.offset : sec.offset + sec.size]
    kept = []
    for at in range(rela.offset, rela.offset + rela.size, 24):
        offset, info, addend = struct.unpack_from("<QQQ", sample.data, at)
        if not start <= offset < end:
            kept.append(struct.pack("<QQQ", offset - (size if offset >= end else 0), info, addend))
    data = bytearray(sample.data)
    data[sec.offset : sec.offset + sec.size] = (content[:start] + content[end:]).ljust(sec.size)
    data[rela.offset : rela.offset + rela.size] = b"".join(kept).ljust(rela.size, b"\0")
    struct.pack_into("<Q", data, sec.at + 32, sec.size - size)
    struct.pack_into("<Q", data, rela.at + 32, 24 * len(kept))
    return bytes(data)


def without_names(sample: Sample, data: bytes) -> bytes:
    """Take the names of replacing functions away: the loader takes no second one of a name."""
    for index in range(1, sample.symtab.size // 24):
        name, at, shndx, _ = sample.symbol(index)
        if shndx and name in sample.addresses:
            data = put(data, at, 4, 0)
    return data


def dropped(sample: Sample) -> Iterator[Wrong]:
    """Leave an entry, a record or a relocation out."""
    sizes = TABLES | {".livepatch.funcs": RECORD}
    for name, size in sizes.items():
        sec = sample.by_name.get(name)
        for number in range(sec.size // size if sec else 0):
            data = without(sample, name, size, number)
            kind = f"entry dropped: {name.rstrip('.012')}"
            if size == RECORD:
                data, kind = without_names(sample, data), "function left out"
            yield Wrong(kind=kind, name=f"{name}[{number}]", data=data)
    for target, at in sample.relas():
        if target.name != ".livepatch.funcs":
            data = put(sample.data, at + 8, 4, 0)
            yield Wrong(kind="relocation dropped", name=f"{target.name}@{at:#x}", data=data)


def wrong_records(sample: Sample) -> Iterator[Wrong]:
    """Spoil a function record."""
    sec = sample.by_name.get(".livepatch.funcs")
    for number in range(sec.size // RECORD if sec else 0):
        assert sec
        at = sec.offset + RECORD * number
        new, old = sample.number(at + 24, 4), sample.number(at + 28, 4)
        for label, offset, size, value in (
            ("new size cut", 24, 4, new - 1), ("new size cut", 24, 4, max(new // 2, 1)),
            ("new size cut", 24, 4, 6), ("old size wrong", 28, 4, old - 1),
            ("old size wrong", 28, 4, old + 1),
            *(("old address wrong", 16, 8, place) for place in sample.somewhere),
        ):  # fmt: skip
            data = put(sample.data, at + offset, size, value)
            if data != sample.data:
                yield Wrong(kind=label, name=f"record[{number}]:{value:#x}", data=data)
    for target, at in sample.relas():
        if target.name == ".livepatch.funcs" and sample.number(at, 8) % RECORD == 8:
            for step in (1, 4, 16):
                data = put(sample.data, at + 16, 8, sample.number(at + 16, 8) + step)
                data = without_names(sample, data)
                yield Wrong(kind="new address wrong", name=f"record@{at:#x}+{step}", data=data)


def cold_parts(sample: Sample) -> Iterator[Wrong]:
    """Leave a split-off part out: let its function go on to the image's old one."""
    strings = sample.by_name[".strtab"].offset
    for index in range(1, sample.symtab.size // 24):
        name, at, shndx, value = sample.symbol(index)
        kept = name[: name.find(".cold") + 5]
        if not shndx or ".cold" not in name or kept not in sample.addresses:
            continue
        data = put(sample.data, at + 4, 1, 0x10)
        data = put(data, at + 6, 10, 0)  # undefined, value 0
        data = put(data, strings + sample.number(at, 4) + len(kept), 1, 0)
        size = sample.number(at + 16, 8)
        for _, place in sample.relas():
            old = struct.unpack_from("<q", sample.data, place + 16)[0]
            in_section = sample.symbol(sample.number(place + 12, 4))[2] == shndx
            if in_section and value <= old + 4 < value + size:
                data = put(data, place + 12, 4, index)
                data = put(data, place + 16, 8, (old - value) % (1 << 64))
        yield Wrong(kind="cold part left out", name=name, data=data)


MAKERS: tuple[Callable[[Sample], Iterator[Wrong]], ...] = (
    moved_addends, other_symbols, own_copies, flipped, exchanged_strings, dropped, wrong_records,
    cold_parts,
)  # fmt: skip


def wrong_payloads(
    payload: bytes, addresses: dict[str, set[int]], dice: random.Random, each: int
) -> list[Wrong]:
    """Return wrong versions of a right payload, at most so many of a kind.

    Args:
        payload: The right one.
        addresses: Of the image, by name.
        dice: Chooses among the many of a kind.
        each: How many of a kind at most.
    """
    kinds: dict[str, list[Wrong]] = {}
    seen: Counter[str] = Counter()
    sample = Sample(payload, addresses)
    for maker in MAKERS:
        for wrong in maker(sample):  # of a large payload too many to keep
            rows = kinds.setdefault(wrong.kind, [])
            seen[wrong.kind] += 1
            if len(rows) < each:
                rows.append(wrong)
            elif (place := dice.randrange(seen[wrong.kind])) < each:
                rows[place] = wrong
    return [wrong for _, rows in sorted(kinds.items()) for wrong in rows]
