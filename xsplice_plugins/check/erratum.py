# SPDX-License-Identifier: Apache-2.0
"""Erratum 843419 of Cortex-A53: who meets it, and what the linker did about it in an image.

An ADRP in the last two words of a page, then a load or store, then (at once, or one instruction
later) a load or store by the ADRP's register: that last one may go to a wrong address. Xen's link
says ``--fix-cortex-a53-843419``; the loader of live patches does nothing.

The linker makes an ADR of the ADRP where that reaches; else it exchanges the last instruction for a
branch to a copy of it. The copies lie in pages of the linker's own behind some object: a branch
over them, a NOP, then two words each, the copy and a branch back.

Sources: Arm's notice ARM-EPM-048406; bfd/elfnn-aarch64.c of binutils; xen/arch/arm/arch.mk.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import EM_AARCH64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.reader import ElfFile

PAGE_SIZE_BYTES = 4096
_END_BYTES = 8  #: of a page, where the ADRP must not lie
_NOP = 0xD503201F
_B, _B_MASK = 0x14000000, 0xFC000000
_ADR, _ADRP, _ADR_MASK, _ADR_FIELDS = 0x10000000, 0x90000000, 0x9F000000, 0x60FFFFE0
_MEMORY, _MEMORY_MASK = 0x08000000, 0x0A000000  #: all loads and stores
_BY_NUMBER, _BY_NUMBER_MASK = 0x39000000, 0x3B000000  #: with an unsigned number behind the register


class Unlinked(NamedTuple):
    """Linked code as it was before the linker mended it."""

    code: bytes
    pages: tuple[tuple[int, int], ...] = ()  #: start and end address of what is the linker's own


def met(payload: ElfFile) -> Iterator[str]:
    """Say where the erratum meets the code of a payload, once it is loaded.

    The loader puts executable sections behind each other, from the start of a page on.
    """
    place = 0
    for section in payload.sections if payload.machine == EM_AARCH64 else ():
        if not (section.is_alloc and section.is_exec and section.size_bytes):
            continue
        place += -place % max(1, section.align_bytes)
        words = _words(section.data)
        for at in range(len(words)):
            if _is_last(place + 4 * at) and _meets(words, at):
                yield f"{section.name}+{4 * at:#x}"
        place += section.size_bytes


def unlinked(code: bytes, addr_virt: int, machine: int) -> Unlinked:
    """Return linked code as it was before the linker mended it, and the linker's own pages.

    Only what a copy in such a page speaks of is taken back.

    Args:
        code: All bytes of a section.
        addr_virt: Of its first byte.
        machine: ``e_machine``.
    """
    if machine != EM_AARCH64:
        return Unlinked(code)
    words = _words(code)
    pages: list[tuple[int, int]] = []
    mended: dict[int, int] = {}
    for at, word in enumerate(words):
        size = _distance(word)
        if size <= 0 or size % PAGE_SIZE_BYTES or words[at + 1 : at + 2] != (_NOP,):
            continue
        found = _mended(words, range(at + 2, at + size // 4), addr_virt)
        if found:
            pages.append((addr_virt + 4 * at, addr_virt + 4 * at + size))
            mended |= found
    changed = bytearray(code)
    for at, word in mended.items():
        struct.pack_into("<I", changed, 4 * at, word)
    return Unlinked(bytes(changed), tuple(pages))


def _mended(words: tuple[int, ...], page: range, addr_virt: int) -> dict[int, int]:
    """Return what each word was that the copies of a page speak of; nothing if it is no such page.

    Words are counted from the start of the section.
    """
    found: dict[int, int] = {}
    if page.stop > len(words):
        return {}
    for at in page[::2]:
        copy, back = words[at], words[at + 1] if at + 1 in page else 0
        if not (copy or back):
            return {} if any(words[at : page.stop]) else found
        place = at + 1 + _distance(back) // 4  # one behind the copied instruction
        if back & _B_MASK != _B or not 4 <= place < len(words) or not _uses_number(copy):
            return {}
        is_branch = words[place - 1] == _branch(place - 1, at)
        if words[place - 1] != copy and not is_branch:
            return {}
        adrp = next((p for p in (place - 3, place - 4) if _is_last(addr_virt + 4 * p)
                     and _by(copy) == words[p] & 31
                     and words[p] & _ADR_MASK in (_ADR, _ADRP)), None)  # fmt: skip
        if adrp is None:
            return {}
        if words[adrp] & _ADR_MASK == _ADR:
            target = addr_virt + 4 * adrp + _number(words[adrp])
            if target % PAGE_SIZE_BYTES:
                return {}
            pages = (target - (addr_virt + 4 * adrp & -PAGE_SIZE_BYTES)) // PAGE_SIZE_BYTES
            found[adrp] = _ADRP | _fields(pages) | words[adrp] & 31
        if is_branch:
            found[place - 1] = copy
    return found


def _words(code: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(code) // 4}I", code[: len(code) & ~3])


def _is_last(addr: int) -> bool:
    return addr % PAGE_SIZE_BYTES >= PAGE_SIZE_BYTES - _END_BYTES


def _meets(words: tuple[int, ...], at: int) -> bool:
    """Tell whether an ADRP, a load or store, and one by the ADRP's register are there."""
    adrp, second, *later = (*words[at : at + 4], 0, 0)[:4]
    is_load_or_store = second & _MEMORY_MASK == _MEMORY
    return (
        adrp & _ADR_MASK == _ADRP
        and is_load_or_store
        and any(_uses_number(word) and _by(word) == adrp & 31 for word in later)
    )


def _uses_number(word: int) -> bool:
    return word & _BY_NUMBER_MASK == _BY_NUMBER


def _by(word: int) -> int:
    """Return the register that addresses a load's or store's memory."""
    return word >> 5 & 31


def _distance(word: int) -> int:
    """Return how far a B goes, in bytes; 0 if it is none."""
    if word & _B_MASK != _B:
        return 0
    return 4 * ((word & 0x3FFFFFF ^ 0x2000000) - 0x2000000)


def _branch(at: int, to: int) -> int:
    return _B | to - at & 0x3FFFFFF


def _number(word: int) -> int:
    """Return the signed number of an ADR or ADRP."""
    value = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
    return (value ^ 1 << 20) - (1 << 20)


def _fields(number: int) -> int:
    return (number >> 2 & 0x7FFFF) << 5 | (number & 3) << 29
