# SPDX-License-Identifier: Apache-2.0
"""arm64, as those who write payloads need to know it.

Sources: ELF for the Arm 64-bit architecture (AAELF64) section 5.7; xen/arch/arm/arm64/livepatch.c;
Arm Architecture Reference Manual C4.1, "A64 instruction set encoding".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.elf.types import EM_AARCH64, R_AARCH64_ABS64
from xsplice_plugins.target.arm64_effects import REGISTERS
from xsplice_plugins.target.arm64_erratum import PAGE_END_BYTES, page_end_traps
from xsplice_plugins.target.machine import Flow, Instruction, Marks, TargetMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.artefacts import Facts
    from xsplice_plugins.releases import Version

#: Types that xen/arch/arm/arm64/livepatch.c applies.
_TYPES = (*range(257, 273), *range(274, 281), *range(282, 294), 299)
_WIDE_TYPES = (R_AARCH64_ABS64, 260)  # PREL64
#: (mask, value, lowest bit of the distance in words, its length, flow): what leads to a place.
_RELATIVE = (
    (0xFC000000, 0x14000000, 0, 26, Flow.JUMP),  # B
    (0xFC000000, 0x94000000, 0, 26, Flow.CALL),  # BL
    (0xFF000010, 0x54000000, 5, 19, Flow.BRANCH),  # B.cond
    (0x7E000000, 0x34000000, 5, 19, Flow.BRANCH),  # CBZ, CBNZ
    (0x7E000000, 0x36000000, 5, 14, Flow.BRANCH),  # TBZ, TBNZ
    (0x3B000000, 0x18000000, 5, 19, Flow.NEXT),  # LDR (literal)
)
_ADR_MASK, _ADR_VALUE, _ADR_FIELDS = 0x9F000000, 0x10000000, 0x60FFFFE0
_MOVZ_MASK, _MOVZ_VALUE, _MOVZ_FIELD = 0xFF800000, 0x52800000, 0xFFFF << 5  # movz w, #imm16


def adapt(facts: Facts, version: Version) -> Facts:
    """Put in what Arm's headers define: BUG() is ``brk 1`` (asm/arm64/{brk,bug}.h)."""
    del version
    return replace(facts, bug_instruction="200020d4")


def decode(code: bytes, base: int, marks: Marks) -> tuple[Instruction, ...]:
    """Take code apart: every word is an instruction, whatever ``marks`` say."""
    del marks
    return tuple(_decode(code, base))


def _decode(code: bytes, base: int) -> Iterator[Instruction]:
    for at in range(0, len(code) - 3, 4):
        data = code[at : at + 4]
        word = int.from_bytes(data, "little")
        target, operation = None, word
        immediate, flow = None, _flow(word)
        for mask, value, low, length, direct in _RELATIVE:
            if word & mask == value:
                flow = direct
                target = base + at + 4 * _signed(word >> low, length)
                operation = word & ~(((1 << length) - 1) << low)
        if word & _ADR_MASK == _ADR_VALUE:
            target = base + at + _signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)
            operation = word & ~_ADR_FIELDS
        elif word & _MOVZ_MASK == _MOVZ_VALUE:
            immediate, operation = word >> 5 & 0xFFFF, word & ~_MOVZ_FIELD
        yield Instruction(
            base + at,
            base + at + 4,
            flow,
            target,
            base + at,
            operation,
            immediate,
            None if _touches_stack(word) else 0,
        )


def _flow(word: int) -> Flow:
    """Return the flow of what is no direct branch (C4.1.65 and C4.1.66)."""
    if word & 0xFFFFFC1F == 0xD63F0000:  # BLR
        return Flow.INDIRECT_CALL
    is_register_branch = word >> 25 == 0b1101011 and (word >> 21) & 15 != 1
    return Flow.LEAVE if is_register_branch or word >> 24 == 0xD4 else Flow.NEXT


def _touches_stack(word: int) -> bool:
    """Tell an add or sub (no cmp) with an immediate to sp, and loads and stores through sp."""
    if word & 0x1F == 31 and (word >> 24) & 0x3F == 0x11:
        return True
    return (word >> 5) & 0x1F == 31 and (word >> 25) & 0b0101 == 0b0100


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def text(code: bytes, base: int, marks: Marks) -> list[tuple[int, str]]:
    """Return place and text of each instruction."""
    del marks
    import capstone  # noqa: PLC0415  (slow to import; only for what is shown)

    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    engine.skipdata = True
    return [(i.address, f"{i.mnemonic} {i.op_str}".rstrip()) for i in engine.disasm(code, base)]


ARM64 = TargetMachine(
    number=EM_AARCH64,
    name="arm64",
    first_release=(4, 8),
    adapt=adapt,
    four_bug_frames_since=(4, 15),
    relocation_sizes=dict.fromkeys(_TYPES, 4) | dict.fromkeys(_WIDE_TYPES, 8),
    none_types=frozenset({0, 256}),
    absolute_type=R_AARCH64_ABS64,
    same_types={},
    end_relative_types=frozenset(),
    ends_with_field=lambda _code, _field, _kind: True,
    jump_size_bytes=4,
    jump_range_bytes=128 << 20,
    endbr=b"",
    instruction_size_bytes=4,
    code_filler=b"\0",
    padding=re.compile(rb"(?s:.*)"),
    opcode_window=(-4, 8),  # the address comes first, the neighbours tell the use
    has_anchors=True,
    indirect_branches=frozenset(),
    decode=decode,
    text=text,
    registers=REGISTERS,
    setting="ARM",
    page_end_traps=page_end_traps,
    page_end_bytes=PAGE_END_BYTES,
)
