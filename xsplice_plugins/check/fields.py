# SPDX-License-Identifier: Apache-2.0
"""Relocated fields: which bits they fill, and where a filled one leads.

Sources: x86-64 psABI 1.0 table 4.9; ELF for the Arm 64-bit architecture (AAELF64), relocations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.errors import RelocationError

ALL = (1 << 64) - 1
_PAGE = ALL & ~0xFFF


class Kind(NamedTuple):
    """One type of relocation."""

    size_bytes: int
    bits: int  #: of the field, as a little-endian number, that the relocation fills
    known: int  #: bits of symbol + addend that a filled field tells
    is_relative: bool  #: the field counts from its own place
    #: field's number, addr_virt of the field -> the known bits of symbol + addend
    lead: Callable[[int, int], int]
    #: In code: bytes from the field to the end of its instruction, from where the machine counts.
    behind: tuple[int, ...] = (0,)


class Aim(NamedTuple):
    """What a filled field tells of symbol + addend."""

    value: int
    known: int  #: mask; `ALL` if it tells everything

    def fits(self, addr_virt: int) -> bool:
        """Tell whether the field may lead to an address."""
        return not (self.value ^ addr_virt) & self.known


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> (bits - 1) & 1 else number


def _whole(size: int, *, relative: bool, signed: bool = True) -> Kind:
    def lead(number: int, place: int) -> int:
        value = _signed(number, 8 * size) if signed else number
        return (place if relative else 0) + value & ALL

    behind = (4, 5, 6, 8) if relative and size == 4 else (0,)  # an immediate may follow
    return Kind(size, (1 << 8 * size) - 1, ALL, relative, lead, behind)


def _arm(bits: int, known: int, *, relative: bool, lead: Callable[[int, int], int]) -> Kind:
    return Kind(4, bits, known, relative, lead)


def _branch(width: int, shift: int) -> Kind:
    mask = (1 << width) - 1

    def lead(number: int, place: int) -> int:
        return place + 4 * _signed(number >> shift & mask, width) & ALL

    return _arm(mask << shift, ALL, relative=True, lead=lead)


def _adr(unit: int, known: int) -> Kind:
    def lead(number: int, place: int) -> int:
        value = _signed((number >> 5 & 0x7FFFF) << 2 | number >> 29 & 3, 21)
        return (place & known) + unit * value & ALL

    return _arm(0x60FFFFE0, known, relative=True, lead=lead)


def _low(scale: int) -> Kind:
    """Return the low 12 bits, counted in the size of what is loaded; that is always aligned."""
    return _arm(
        0xFFF << 10, 0xFFF, relative=False, lead=lambda number, _: (number >> 10 & 0xFFF) << scale
    )


_X86 = {
    1: _whole(8, relative=False),  # R_X86_64_64
    2: _whole(4, relative=True),  # PC32
    4: _whole(4, relative=True),  # PLT32
    10: _whole(4, relative=False, signed=False),  # 32
    11: _whole(4, relative=False),  # 32S
    12: _whole(2, relative=False, signed=False),  # 16
    24: _whole(8, relative=True),  # PC64
}
_ARM64 = {
    257: _whole(8, relative=False),  # ABS64
    258: _whole(4, relative=False, signed=False),  # ABS32
    260: _whole(8, relative=True),  # PREL64
    261: _whole(4, relative=True)._replace(behind=(0,)),  # PREL32
    274: _adr(1, ALL),  # ADR_PREL_LO21
    275: _adr(4096, _PAGE),  # ADR_PREL_PG_HI21
    276: _adr(4096, _PAGE),  # ADR_PREL_PG_HI21_NC
    277: _low(0),  # ADD_ABS_LO12_NC
    278: _low(0),  # LDST8
    279: _branch(14, 5),  # TSTBR14
    280: _branch(19, 5),  # CONDBR19
    282: _branch(26, 0),  # JUMP26
    283: _branch(26, 0),  # CALL26
    284: _low(1),  # LDST16
    285: _low(2),  # LDST32
    286: _low(3),  # LDST64
    299: _low(4),  # LDST128
}
_KINDS = {EM_X86_64: _X86, EM_AARCH64: _ARM64}
#: Types that mean the same where no procedure linkage table exists.
_SAME = {(EM_X86_64, 4): 2, (EM_AARCH64, 282): 282, (EM_AARCH64, 276): 275}


def kind_of(machine: int, number: int, subject: str) -> Kind:
    """Return what is known of a relocation's type.

    Args:
        machine: ``e_machine``.
        number: The relocation's type.
        subject: How messages call the place.

    Raises:
        RelocationError: The type is not in the tables above.
    """
    found = _KINDS.get(machine, {}).get(number)
    if found is None:
        raise RelocationError(
            f"{subject}: relocation type {number} of machine {machine} is not known to the check; "
            "add it to its table"
        )
    return found


def is_same_kind(machine: int, one: int, other: int) -> bool:
    """Tell whether two types of relocation fill a field alike."""
    return _SAME.get((machine, one), one) == _SAME.get((machine, other), other)


def has_anchors(machine: int) -> bool:
    """Tell whether compilers reach several variables of a section from one of them."""
    return machine == EM_AARCH64
