# SPDX-License-Identifier: Apache-2.0
"""Damaging valid payloads: one or a few fields at a time, at places that mean something."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.kit.payloads import (
    ALLOC,
    EXEC,
    PROGBITS,
    WRITE,
    Draft,
    Rel,
    Sec,
    Sym,
    add_code,
    add_hook,
    expectation,
    minimal,
)
from xsplice_plugins.hypervisor.facts.arches import X86_64, Arch

if TYPE_CHECKING:
    from xsplice_plugins.hypervisor.facts.releases import Release

#: Values at which sizes, offsets and addresses turn from good to bad.
EDGES = (
    0, 1, 2, 3, 4, 7, 8, 9, 12, 16, 31, 32, 63, 64, 255, 1023, 1024, 4095, 4096, 0x7FFF, 0xFF00,
    0xFFF1, 0xFFF2, 0xFFFF, 1 << 16, 2 << 20, (2 << 20) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
    1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 64,
    0xFFFF82D040200100, 0xFFFF82D040201000, 0xFFFF82D040202000,
)  # fmt: skip


def rich(arch: Arch, release: Release) -> Draft:
    """Draft a payload that uses most of a release's format."""
    version = release.payload_version
    draft = minimal(arch, version=version)
    # Some releases crash on read-only records.
    draft.sec(".livepatch.funcs").flags |= WRITE
    add_code(draft, "hook_code", b"\x31\xc0\xc3" if arch == X86_64 else bytes(4))
    add_hook(draft, "load", "hook_code")
    add_hook(draft, "unload", "hook_code", flags=ALLOC | WRITE)
    draft.sections.append(Sec(".data", b"12345678", flags=ALLOC | WRITE, align=8))
    draft.sections.append(Sec(".bug_frames.2", bytes(16), align=4))
    if version == 2:
        for kind in ("preapply", "postapply", "prerevert", "postrevert"):
            add_hook(draft, kind, "hook_code")
        draft.sections.append(Sec(".modinfo", b"key=value\0"))
        draft.record(expect=expectation(b"", length=0))
    if arch == X86_64:
        table = Sec(".ex_table", bytes(16), align=4)
        table.relocs = [Rel(4 * i, 2, "new_function", i) for i in range(4)]
        draft.sections.append(table)
        is_long = release.alt_entry_bytes == 14
        numbers = (0, 0, 93, 1, 1, 0, 0) if is_long else (0, 0, 93, 1, 1)
        entry = struct.pack("<iiHBBBB" if is_long else "<iiHBB", *numbers)
        alt = Sec(".altinstructions", entry)
        alt.relocs = [Rel(0, 2, "hook_code", 2), Rel(4, 2, "alt_code", 0)]
        draft.sections.append(alt)
        draft.sections.append(Sec(".altinstr_replacement", b"\xc3", flags=ALLOC | EXEC))
        draft.symbols.append(Sym("alt_code", ".altinstr_replacement", info=0))
    return draft


def _number(rng: random.Random) -> int:
    return rng.choice(EDGES) if rng.random() < 0.8 else rng.getrandbits(rng.choice((8, 16, 32, 64)))


def _flip_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _table(data: bytes) -> tuple[int, int, int, bool]:
    """Give where the section headers are: offset, entry size, count, 64 bit."""
    is_64bit = data[4] == 2
    if is_64bit:
        return struct.unpack_from("<Q", data, 0x28)[0], 64, data[60] | data[61] << 8, True
    return struct.unpack_from("<I", data, 0x20)[0], 40, data[48] | data[49] << 8, False


def _put(data: bytes, offset: int, size: int, value: int) -> bytes:
    out = bytearray(data)
    if offset + size <= len(out):
        out[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(out)


def _header_field(data: bytes, rng: random.Random) -> bytes:
    wide = data[4] == 2
    fields = [(i, 1) for i in range(16)] + [(16, 2), (18, 2), (20, 4)]
    fields += (
        [(0x28, 8), (0x30, 4), (0x38, 2), (0x3A, 2), (0x3C, 2), (0x3E, 2)]
        if wide
        else [(0x20, 4), (0x24, 4), (0x2C, 2), (0x2E, 2), (0x30, 2), (0x32, 2)]
    )
    offset, size = rng.choice(fields)
    return _put(data, offset, size, _number(rng))


def _section_field(data: bytes, rng: random.Random) -> bytes:
    start, stride, count, wide = _table(data)
    fields = (
        [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)]
        if wide
        else [(4 * i, 4) for i in range(10)]
    )
    offset, size = rng.choice(fields)
    return _put(data, start + stride * rng.randrange(1, count) + offset, size, _number(rng))


def _swap_sections(data: bytes, rng: random.Random) -> bytes:
    start, stride, count, _ = _table(data)
    a, b = (start + stride * rng.randrange(1, count) for _ in range(2))
    out = bytearray(data)
    out[a : a + stride], out[b : b + stride] = data[b : b + stride], data[a : a + stride]
    return bytes(out)


def _in_section_of(kinds: tuple[int, ...]) -> Callable[[bytes, random.Random], bytes]:
    """Change one aligned word inside a section of one of the types."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        start, stride, count, wide = _table(data)
        spans = []
        for index in range(1, count):
            entry = start + stride * index
            kind = int.from_bytes(data[entry + 4 : entry + 8], "little")
            if kind in kinds:
                layout, place = ("<QQ", 24) if wide else ("<II", 16)
                spans.append(struct.unpack_from(layout, data, entry + place))
        spans = [span for span in spans if span[1]]
        if not spans:
            return data
        offset, size = rng.choice(spans)
        width = rng.choice((1, 2, 4, 8))
        place = offset + rng.randrange(max(size // width, 1)) * width
        return _put(data, place, width, _number(rng))

    return mutate


MUTATORS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bytes,
    _cut,
    _header_field,
    _section_field,
    _section_field,
    _swap_sections,
    _in_section_of((2,)),
    _in_section_of((3,)),
    _in_section_of((4, 9)),
    _in_section_of((4, 9)),
    _in_section_of((7, PROGBITS)),
    _in_section_of((7, PROGBITS)),
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a payload in one to three places."""
    out = data
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            out = rng.choice(MUTATORS)(out, rng)
        except (struct.error, ValueError, IndexError):
            # An earlier cut left no table to change; the damage so far is damage enough.
            break
    return out
