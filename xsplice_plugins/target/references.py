# SPDX-License-Identifier: Apache-2.0
"""Where a relocation of an object truly points.

A relocation's ``symbol + addend`` is not yet the place that an instruction means: x86-64 counts a
PC-relative displacement from the end of the instruction, so that ``cmpl $0, flag(%rip)`` carries
addend -8 and ``mov flag(%rip), %eax`` addend -4 for the same ``flag``. Xen's bug frames hide line
numbers in the upper bits of the addend and count from the frame, not from the field. Whoever
asks which function or datum a relocation refers to asks `target_of`.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import (
    EM_X86_64,
    R_X86_64_PC32,
    R_X86_64_PLT32,
    SHN_LORESERVE,
    SHN_UNDEF,
    Reloc,
    Section,
    Symbol,
)
from xsplice_plugins.errors import RelocationError

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

R_X86_64_GOTPCREL = 9
R_X86_64_GOTPCRELX = 41
R_X86_64_REX_GOTPCRELX = 42

#: Types whose value is counted from the field; in code the instruction ends at or behind it.
PC_RELATIVE_X86 = frozenset(
    {
        R_X86_64_PC32,
        R_X86_64_PLT32,
        R_X86_64_GOTPCREL,
        R_X86_64_GOTPCRELX,
        R_X86_64_REX_GOTPCRELX,
    }
)

BUG_FRAME_PREFIX = ".bug_frames."
BUG_DISPLACEMENT_BITS = 24  #: xen/arch/x86/include/asm/bug.h: BUG_DISP_WIDTH
BUG_ASSERT_CLASS = "3"  #: assert frames carry a message and are twice as long
#: Opcodes in front of a ModRM byte that no immediate can follow, in any opcode map.
_OPCODES_WITHOUT_IMMEDIATE = frozenset({0x88, 0x89, 0x8A, 0x8B, 0x8D})


class Target(NamedTuple):
    """The place a relocation refers to.

    ``section_index`` is None for undefined, common and absolute symbols; then ``offset`` counts
    from the symbol, else from the start of the section.
    """

    section_index: int | None
    offset: int
    symbol: Symbol


def bug_frame_size_bytes(section_name: str, machine: int) -> int:
    """Return the length of one frame of a ``.bug_frames.N`` section.

    Source: xen/arch/x86/include/asm/bug.h (8 bytes, 16 with a message) and
    xen/arch/arm/include/asm/bug.h (16 bytes).
    """
    if machine == EM_X86_64 and not section_name.endswith(BUG_FRAME_PREFIX + BUG_ASSERT_CLASS):
        return 8
    return 16


def target_of(file: ElfFile, section: Section, reloc: Reloc) -> Target:
    """Return the true place that a relocation refers to.

    Args:
        file: The object.
        section: The section that the relocation changes.
        reloc: One of ``file.relocs(section)``.

    Returns:
        Section and offset of the target; for a target inside an instruction's reach the
        displacement's bias is taken off by decoding the instruction where it is not plain.

    Raises:
        RelocationError: The relocation does not lie in a field of an instruction.
    """
    symbol = file.symbols[reloc.symbol]
    offset = reloc.addend + bias_of(file, section, reloc)
    if section.name.startswith(BUG_FRAME_PREFIX):
        offset = _bug_frame_offset(file.machine, section.name, reloc)
    if symbol.shndx == SHN_UNDEF or symbol.shndx >= SHN_LORESERVE:
        return Target(None, offset, symbol)
    return Target(symbol.shndx, symbol.value + offset, symbol)


def bias_of(file: ElfFile, section: Section, reloc: Reloc) -> int:
    """Return what to add to a relocation's addend to get its distance from the symbol.

    0 for absolute relocations and for tables; for PC-relative fields of x86 instructions the
    distance from the field to the end of the instruction.
    """
    if file.machine != EM_X86_64 or not section.is_exec or reloc.type not in PC_RELATIVE_X86:
        return 0
    if reloc.type == R_X86_64_PLT32:
        return 4  # calls and jumps end with their displacement
    data, at = section.data, reloc.offset
    if at >= 2 and data[at - 2] in _OPCODES_WITHOUT_IMMEDIATE and data[at - 1] & 0xC7 == 0x05:
        return 4
    start = _code_start(file, section, at)
    distance = _distances(data, start).get(at)
    if distance is None:
        raise RelocationError(
            f"{file.name}({section.name}+{at:#x}): the relocation lies in no displacement of an "
            "instruction; data within code is not supported"
        )
    return distance


def _bug_frame_offset(machine: int, section_name: str, reloc: Reloc) -> int:
    field = reloc.offset % bug_frame_size_bytes(section_name, machine)
    if machine != EM_X86_64:
        return reloc.addend - field
    return signed(reloc.addend, BUG_DISPLACEMENT_BITS) - field


def signed(value: int, bits: int) -> int:
    """Return the low bits of a number as a two's complement number."""
    low = value & ((1 << bits) - 1)
    return low - (1 << bits) if low >> (bits - 1) else low


def _code_start(file: ElfFile, section: Section, at: int) -> int:
    """Return the nearest place at or before an offset where an instruction is known to start."""
    starts = file.symbol_starts.get(section.index, [])
    place = bisect_right(starts, at) - 1
    return starts[place] if place >= 0 else 0


@lru_cache(maxsize=256)
def _distances(code: bytes, start: int) -> dict[int, int]:
    """Map the offset of each PC-relative displacement to the distance to its instruction's end."""
    import iced_x86  # noqa: PLC0415  (0.02 s that most runs do not need)

    decoder = iced_x86.Decoder(64, code[start:], ip=start)
    result: dict[int, int] = {}
    for instruction in decoder:
        if instruction.is_ip_rel_memory_operand:
            offsets = decoder.get_constant_offsets(instruction)
            result[instruction.ip + offsets.displacement_offset] = (
                instruction.len - offsets.displacement_offset
            )
        elif instruction.is_jcc_short_or_near or instruction.flow_control in (
            iced_x86.FlowControl.CALL,
            iced_x86.FlowControl.UNCONDITIONAL_BRANCH,
            iced_x86.FlowControl.XBEGIN_XABORT_XEND,
        ):
            offsets = decoder.get_constant_offsets(instruction)
            if offsets.has_immediate:
                result[instruction.ip + offsets.immediate_offset] = (
                    instruction.len - offsets.immediate_offset
                )
    return result
