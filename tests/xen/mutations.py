# SPDX-License-Identifier: Apache-2.0
"""Systematic mutations of a valid payload: one field wrong at a time, each with a stable name.

Only ELF's own layout is used here, not the code under test.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

Mutation = tuple[str, bytes]

HEADER = {
    "class": (4, 1), "data": (5, 1), "ident_version": (6, 1), "osabi": (7, 1),
    "abiversion": (8, 1), "type": (16, 2), "machine": (18, 2), "version": (20, 4),
    "entry": (24, 8), "phoff": (32, 8), "shoff": (40, 8), "flags": (48, 4), "ehsize": (52, 2),
    "phentsize": (54, 2), "phnum": (56, 2), "shentsize": (58, 2), "shnum": (60, 2),
    "shstrndx": (62, 2),
}  # fmt: skip
SECTION = {
    "name": (0, 4), "type": (4, 4), "flags": (8, 8), "addr": (16, 8), "offset": (24, 8),
    "size": (32, 8), "link": (40, 4), "info": (44, 4), "align": (48, 8), "entsize": (56, 8),
}  # fmt: skip
SYMBOL = {
    "name": (0, 4), "info": (4, 1), "other": (5, 1), "shndx": (6, 2), "value": (8, 8),
    "size": (16, 8),
}  # fmt: skip
RELA = {"offset": (0, 8), "type": (8, 4), "symbol": (12, 4), "addend": (16, 8)}
RECORD = {
    "name": (0, 8), "new_addr": (8, 8), "old_addr": (16, 8), "new_size": (24, 4),
    "old_size": (28, 4), "version": (32, 1), "opaque": (33, 1), "applied": (64 + 8, 1),
    "patch_offset": (64 + 9, 1), "expect_head": (72 + 0, 1),
}  # fmt: skip
NOTE = {"namesz": (0, 4), "descsz": (4, 4), "type": (8, 4), "name": (12, 4), "desc": (16, 4)}
NOTES = (".note.gnu.build-id", ".livepatch.depends", ".livepatch.xen_depends")
EXECUTABLE = 4
SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 2, 4, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sec:
    """One section header."""

    index: int
    name: str
    at: int
    kind: int
    flags: int
    offset: int
    size: int
    info: int


def sections_of(data: bytes) -> list[Sec]:
    """Read the section table of a valid 64-bit file."""
    (shoff,) = struct.unpack_from("<Q", data, 40)
    count, strings = struct.unpack_from("<HH", data, 60)
    (names,) = struct.unpack_from("<Q", data, shoff + 64 * strings + 24)
    found = []
    for index in range(count):
        at = shoff + 64 * index
        name, kind, flags, _, offset, size, _, info = struct.unpack_from("<IIQQQQII", data, at)
        end = data.index(b"\0", names + name)
        text = data[names + name : end].decode()
        found.append(
            Sec(index=index, name=text, at=at, kind=kind, flags=flags, offset=offset, size=size,
                info=info)
        )  # fmt: skip
    return found


def values(old: int, size: int, *more: int) -> list[int]:
    """Return interesting values for a field, other than its own."""
    top = 1 << (8 * size)
    tried = [0, 1, 2, 3, 4, 7, 8, old - 1, old + 1, old ^ 1, old * 2, top - 1, top // 2]
    tried += [top // 2 - 1, old ^ (top // 2), *more]
    return sorted({value % top for value in tried} - {old})


def put(data: bytes, at: int, size: int, value: int) -> bytes:
    """Return a copy with one little-endian field changed."""
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def field_mutations(
    data: bytes, label: str, at: int, fields: dict[str, tuple[int, int]], *more: int
) -> Iterator[Mutation]:
    """Change each field of a structure."""
    for name, (offset, size) in fields.items():
        if at + offset + size > len(data):
            continue
        old = int.from_bytes(data[at + offset : at + offset + size], "little")
        for value in values(old, size, *more):
            yield f"{label}.{name}={value:#x}", put(data, at + offset, size, value)


def mutations(data: bytes) -> Iterator[Mutation]:
    """Give every mutation of a payload, in a fixed order."""
    sections = sections_of(data)
    yield from field_mutations(data, "header", 0, HEADER, len(data), len(data) - 1, 0x1_0000)
    for sec in sections:
        more = (
            sec.size - 1,
            sec.size + 1,
            len(data),
            16,
            4096,
            0x2_0000,
            6,
            0x10,
            9,
            len(sections),
        )
        yield from field_mutations(data, f"section[{sec.name}]", sec.at, SECTION, *more)
    yield from _names(data, sections)
    for sec in sections:
        if sec.kind == SHT_SYMTAB:
            yield from _symbols(data, sec, len(sections))
        if sec.kind == SHT_RELA:
            yield from _relocations(data, sec, sections)
        if sec.name in NOTES:
            yield from field_mutations(data, f"note[{sec.name}]", sec.offset, NOTE, 5, 20, 21)
        if sec.name == ".livepatch.funcs":
            for number in range(sec.size // 104):
                at = sec.offset + 104 * number
                yield from field_mutations(data, f"record[{number}]", at, RECORD, 5, 31, 32, 0x10)
    yield from _truncations(data, sections)


def _names(data: bytes, sections: list[Sec]) -> Iterator[Mutation]:
    """Give each section every other section's name, and spoil each name."""
    for sec in sections[1:]:
        for other in sections[1:]:
            if other.name != sec.name:
                name = int.from_bytes(data[other.at : other.at + 4], "little")
                yield f"section[{sec.name}].named[{other.name}]", put(data, sec.at, 4, name)


def _symbols(data: bytes, sec: Sec, sections: int) -> Iterator[Mutation]:
    more = (
        sections - 1,
        sections,
        0xFFF1,
        0xFFF2,
        0xFF00,
        0x10,
        0x11,
        0x12,
        0x20,
        0x22,
        0x30,
        0xA0,
    )
    for number in range(sec.size // 24):
        at = sec.offset + 24 * number
        yield from field_mutations(data, f"symbol[{number}]", at, SYMBOL, *more)


def _relocations(data: bytes, sec: Sec, sections: list[Sec]) -> Iterator[Mutation]:
    size = sections[sec.info].size
    edges = (size, size - 1, size - 3, size - 4, size - 5, size - 7, size - 8, size - 9)
    limits = (2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32 - 1, 2**32)
    for number in range(sec.size // 24):
        at = sec.offset + 24 * number
        label = f"rela[{sec.name}:{number}]"
        for kind in range(45):
            yield f"{label}.type={kind}", put(data, at + 8, 4, kind)
        yield from field_mutations(data, label, at, RELA, *edges, *limits)


def _truncations(data: bytes, sections: list[Sec]) -> Iterator[Mutation]:
    edges = {0, 1, 16, 52, 63, 64, 65, len(data) - 1}
    for sec in sections:
        size = 0 if sec.kind == SHT_NOBITS else sec.size
        edges |= {sec.offset + delta for delta in (-1, 0, 1, size - 1, size, size + 1)}
        edges |= {sec.at + delta for delta in (-1, 0, 1, 63)}
    for edge in sorted(edges):
        if 0 <= edge < len(data):
            yield f"truncated={edge}", data[:edge]
