# SPDX-License-Identifier: Apache-2.0
"""Does what boots load what its ``xen-syms`` says? Held byte for byte; an unknown form is refused.

Source: xen/arch/x86/boot/mkelf32.c writes the one loaded segment of ``xen-syms`` as it is behind a
32-bit header, and the entry is where it begins; xen/arch/arm/Makefile has `objcopy -O binary`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.elf.types import EM_X86_64, SHT_NOBITS

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

_PT_LOAD = 1
_PHDR_64 = struct.Struct("<IIQQQQQQ")
_PHDR_32 = struct.Struct("<IIIIIIII")
_EHDR_32_BYTES, _EHDR_64_BYTES = 52, 64
_ELF_32, _EM_386 = b"\x7fELF\x01\x01\x01", b"\x03\0"
_ELF_64 = b"\x7fELF\x02\x01\x01"
_FLAT_AT, _FLAT = 56, b"ARMd"  #: the header of a flat image
_UNKNOWN = "its form is not known, so it cannot be compared"
_CUT = "its segments lie outside of the file; is it cut short?"


class _Segment(Struct, frozen=True):
    """What is loaded as one piece."""

    addr_virt: int
    addr_phys: int
    offset: int
    data: bytes


def boot_difference(boot: bytes, image: ElfFile) -> str:
    """Say in what the loaded bytes of what boots differ from those of its image.

    Args:
        boot: ``xen``, unpacked.
        image: Its ``xen-syms``.

    Returns:
        The first difference in words, or that the form is not known; "" if there is none.
    """
    segments = _segments(image.data)
    is_x86 = boot[:7] == _ELF_32 and boot[18:20] == _EM_386 and image.machine == EM_X86_64
    if is_x86 and len(segments) == 1:
        return _x86_difference(boot, segments[0], image)
    if boot[:7] == _ELF_64 and boot[18:20] == image.data[18:20] and segments:
        return _elf_difference(boot, segments, image)
    if image.machine != EM_X86_64 and boot[_FLAT_AT : _FLAT_AT + 4] == _FLAT:
        flat = _flat(image, segments)
        return _difference(boot, flat, image) if flat.data else _UNKNOWN
    return _UNKNOWN


def _segments(data: bytes) -> list[_Segment]:
    """Return what of a 64-bit ELF file is loaded, but for its own header; nothing if it is odd."""
    if len(data) < _EHDR_64_BYTES:
        return []
    (start,), (step, count) = (
        struct.unpack_from("<Q", data, 32),
        struct.unpack_from("<HH", data, 54),
    )
    if step != _PHDR_64.size or start + count * _PHDR_64.size > len(data):
        return []
    rows = (_PHDR_64.unpack_from(data, start + n * _PHDR_64.size) for n in range(count))
    return [
        _Segment(virt + cut, phys + cut, offset + cut, data[offset + cut : offset + size])
        for kind, _, offset, virt, phys, size, _, _ in rows
        if kind == _PT_LOAD and size > (cut := max(0, _EHDR_64_BYTES - offset))
    ]


def _x86_difference(boot: bytes, known: _Segment, image: ElfFile) -> str:
    if len(boot) < _EHDR_32_BYTES:
        return _CUT
    (entry, at), (step, count) = (
        struct.unpack_from("<II", boot, 24),
        struct.unpack_from("<HH", boot, 42),
    )
    if step != _PHDR_32.size:
        return _UNKNOWN
    if at + count * _PHDR_32.size > len(boot):
        return _CUT
    rows = [_PHDR_32.unpack_from(boot, at + number * _PHDR_32.size) for number in range(count)]
    loads = [row for row in rows if row[0] == _PT_LOAD]
    if len(loads) != 1:
        return f"it loads {len(loads)} segments, and not one"
    _, offset, _, phys, size, memory, *_ = loads[0]
    if offset + size > len(boot):
        return _CUT
    if memory < size:
        return f"it asks for {memory} bytes of memory, and loads {size}"
    if entry != phys:
        return f"it is entered at {entry:#x}, and not where it begins ({phys:#x})"
    if not known.addr_phys >> 32 and phys != known.addr_phys:
        return f"it is loaded at {phys:#x}, and not at {known.addr_phys:#x}"
    return _difference(boot[offset : offset + size], known, image)


def _elf_difference(boot: bytes, known: list[_Segment], image: ElfFile) -> str:
    entries = [struct.unpack_from("<Q", data, 24)[0] for data in (boot, image.data)]
    if entries[0] != entries[1]:
        return f"it is entered at {entries[0]:#x}, and not at {entries[1]:#x}"
    loaded = _segments(boot)
    if len(loaded) != len(known):
        return f"it loads {len(loaded)} segments, and not {len(known)}"
    for one, other in zip(loaded, known, strict=True):
        for here, there in ((one.addr_phys, other.addr_phys), (one.addr_virt, other.addr_virt)):
            if here != there:
                return f"it is loaded at {here:#x}, and not at {there:#x}"
        if said := _difference(one.data, other, image):
            return said
    return ""


def _flat(image: ElfFile, segments: list[_Segment]) -> _Segment:
    """Lay out what is loaded as `objcopy -O binary` does: by where it is loaded, zero between."""
    pieces = [
        (row.addr_phys + section.offset_file - row.offset, section)
        for section in image.sections
        if section.is_alloc and section.type != SHT_NOBITS and section.size_bytes
        for row in segments
        if row.offset <= section.offset_file < row.offset + len(row.data)
    ]
    if not pieces:
        return _Segment(0, 0, 0, b"")
    start, first = min(pieces, key=lambda piece: piece[0])
    flat = bytearray(max(place + section.size_bytes for place, section in pieces) - start)
    for place, section in pieces:
        flat[place - start : place - start + section.size_bytes] = section.data
    return _Segment(first.addr_virt, start, 0, bytes(flat))


def _difference(loaded: bytes, known: _Segment, image: ElfFile) -> str:
    if loaded == known.data:
        return ""
    pairs = enumerate(zip(loaded, known.data, strict=False))
    places = [place for place, (one, other) in pairs if one != other]
    if not places:
        return f"{len(loaded)} bytes are loaded of it, and {len(known.data)} of xen-syms"
    addr = known.addr_virt + places[0]
    name = _name_at(image, addr)
    where = f"{addr:#x}" + (f" in {name}" if name else "")
    return f"{len(places)} bytes are not those of xen-syms, the first one at {where}"


def _name_at(image: ElfFile, addr_virt: int) -> str:
    """Return the function or datum that an address lies in; "" if none does."""
    rows = [s for s in image.symbols if s.shndx and s.value <= addr_virt < s.value + s.size_bytes]
    return min(rows, key=lambda row: row.size_bytes).decorated if rows else ""
