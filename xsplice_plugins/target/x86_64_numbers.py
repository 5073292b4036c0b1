# SPDX-License-Identifier: Apache-2.0
"""The numbers that x86 code adds to pointers, or holds as they are."""

from __future__ import annotations

from collections import Counter


def numbers_in(code: bytes, *, is_pointers_only: bool = False) -> Counter[int]:
    """Count distances from pointers, and constants, in code that no relocation fills in.

    A place in the stack, and one beside the instruction itself, is no distance from a pointer.
    Negative numbers count as positive ones: from a member back to its structure.
    """
    import iced_x86  # noqa: PLC0415  (0.02 s that most runs do not need)

    registers, kinds = iced_x86.Register, iced_x86.OpKind
    none = {registers.RSP, registers.RIP, registers.NONE}
    found: Counter[int] = Counter()
    for row in iced_x86.Decoder(64, code):
        for place in range(row.op_count):
            kind = row.op_kind(place)
            if kind == kinds.MEMORY and row.memory_base not in none:
                found[_size(row.memory_displacement)] += 1
            elif not is_pointers_only and kinds.IMMEDIATE8 <= kind <= kinds.IMMEDIATE32TO64:
                found[_size(row.immediate(place))] += 1
    return found


def _size(number: int) -> int:
    return (1 << 64) - number if number >> 63 else number
