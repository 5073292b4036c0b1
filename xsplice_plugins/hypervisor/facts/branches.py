# SPDX-License-Identifier: Apache-2.0
"""What code leads to or takes the address of, read off its bytes without following it.

One reader for instructions of any length, one for those of 32 bits. What they give is made into
remarks, no verdict. Bytes within another instruction may look like a reference: they are none.
"""

import re
from array import array
from collections.abc import Iterator

#: (place, address, whether it is a branch)
Reference = tuple[int, int, bool]

#: call and jmp, the conditional jumps, and lea of an address near by; each with 32 bits.
_BRANCH = re.compile(rb"(?:[\xe8\xe9]|\x0f[\x80-\x8f])(?=(....))", re.DOTALL)
_LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=(....))", re.DOTALL)
_PREFIX_BYTES = 1  #: before a branch: a hint, or padding
#: (mask, value of those bits, where the distance begins, its bits): B and BL, B.cond, CBZ and CBNZ,
#: TBZ and TBNZ. Source: Arm Architecture Reference Manual, C4.1.
_BRANCHES = (
    (0x7C000000, 0x14000000, 0, 26),
    (0xFF000010, 0x54000000, 5, 19),
    (0x7E000000, 0x34000000, 5, 19),
    (0x7E000000, 0x36000000, 5, 14),
)
_ADRP, _ADR, _ADR_MASK = 0x90000000, 0x10000000, 0x9F000000
_ADD, _ADD_MASK = 0x91000000, 0xFFC00000  #: add of 64 bits, an immediate that is not shifted
_PAGE_BITS = 12
_NEAR = 8  #: instructions between the two that make an address


def byte_references(data: bytes, addr_virt: int) -> Iterator[Reference]:
    """Give the references of x86 code.

    Args:
        data: The code.
        addr_virt: Of its first byte.
    """
    import iced_x86 as iced  # noqa: PLC0415  # costs what only verifying pays

    starts = {row.next_ip: row.ip for row in iced.Decoder(64, data, ip=addr_virt)}
    for pattern, is_branch in ((_BRANCH, True), (_LEA, False)):
        for match in pattern.finditer(data):
            end = addr_virt + match.end() + 4
            start = starts.get(end)
            if start is not None and start + _PREFIX_BYTES >= addr_virt + match.start():
                distance = int.from_bytes(match[1], "little", signed=True)
                yield end - 5, end + distance, is_branch


def word_references(data: bytes, addr_virt: int) -> Iterator[Reference]:
    """Give the references of code whose instructions have 32 bits (AArch64).

    An address is made of a page and a place in it, by two instructions on one register that stand
    close together.

    Args:
        data: The code.
        addr_virt: Of its first byte.
    """
    pages: dict[int, tuple[int, int]] = {}  # register -> where, and which page
    words = array("I", data[: len(data) & ~3])
    for index, word in enumerate(words):
        place = addr_virt + 4 * index
        kind = word & _ADR_MASK
        if kind in {_ADRP, _ADR}:
            distance = _signed(word >> 5 << 2 | word >> 29 & 3, 21)
            if kind == _ADR:
                yield place, place + distance, False
            else:
                pages[word & 31] = (index, (place >> _PAGE_BITS) + distance << _PAGE_BITS)
        elif word & _ADD_MASK == _ADD:
            at, page = pages.get(word >> 5 & 31, (-_NEAR - 1, 0))
            if index - at <= _NEAR:
                yield place, page + (word >> 10 & 0xFFF), False
        else:
            for mask, value, start, bits in _BRANCHES:
                if word & mask == value:
                    yield place, place + 4 * _signed(word >> start, bits), True
                    break


def _signed(number: int, bits: int) -> int:
    """Read a number of so many bits as one with a sign."""
    return (number & ((1 << bits) - 1)) - ((number >> (bits - 1) & 1) << bits)
