# SPDX-License-Identifier: Apache-2.0
"""Find branches that leave a taken range of code without a relocation.

An assembler resolves branches within a section by itself. Where a delta takes a part of a code
section only, such a branch would land in whatever the payload holds behind it, and no relocation
tells. Seen on Xen 4.17.5: `nvmx_handle_vmx_insn` branches to code of ``.subsection 1``, which lies
behind the end that its symbol states.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.errors import LinkError
from xsplice_plugins.target.abi import ALT_REPLACEMENT_SECTION

if TYPE_CHECKING:
    from xsplice_plugins.link.placement import Layout

#: (mask, value, lowest bit of the offset, its length): B and BL, B.cond, CBZ, TBZ, LDR (literal).
#: Source: Arm Architecture Reference Manual, C4.1 "A64 instruction set encoding".
_ARM64_BRANCHES = (
    (0x7C000000, 0x14000000, 0, 26),
    (0xFF000010, 0x54000000, 5, 19),
    (0x7E000000, 0x34000000, 5, 19),
    (0x7E000000, 0x36000000, 5, 14),
    (0x3B000000, 0x18000000, 5, 19),
)
_WORD = struct.Struct("<I")


def check_branches(layout: Layout) -> None:
    """See to it that code of which only a part is taken does not branch out of it.

    Raises:
        LinkError: A branch without a relocation leaves its range.
    """
    for source, pieces in zip(layout.sources, layout.pieces, strict=True):
        for piece in pieces:
            section = source.elf.sections[piece.section]
            is_whole = (piece.start, piece.end) == (0, section.size_bytes)
            if is_whole or not section.is_exec or section.name == ALT_REPLACEMENT_SECTION:
                continue  # replacements run at the place of the original
            fields = {reloc.offset for reloc in source.elf.relocs(section)}
            code = section.data[piece.start : piece.end]
            find = _x86_targets if source.elf.machine == EM_X86_64 else _arm64_targets
            for field, target in find(code):
                if piece.start + field not in fields and not 0 <= target < len(code):
                    raise LinkError(
                        f"{source.where(section, piece.start + field)}: a branch leaves the range "
                        f"that the delta takes, to +{piece.start + target:#x}, and has no "
                        "relocation; take the whole section"
                    )


def _x86_targets(code: bytes) -> Iterator[tuple[int, int]]:
    """Yield the place of each relative field and where it leads, both from the code's start."""
    import iced_x86  # noqa: PLC0415  (most payloads take whole sections)

    decoder = iced_x86.Decoder(64, code, ip=0)
    for instruction in decoder:
        offsets = decoder.get_constant_offsets(instruction)
        if instruction.is_ip_rel_memory_operand:
            target = instruction.ip_rel_memory_address
            yield instruction.ip + offsets.displacement_offset, _signed(target)
        elif offsets.has_immediate and instruction.op0_kind in {
            iced_x86.OpKind.NEAR_BRANCH64,
            iced_x86.OpKind.NEAR_BRANCH32,
            iced_x86.OpKind.NEAR_BRANCH16,
        }:
            target = instruction.near_branch_target
            yield instruction.ip + offsets.immediate_offset, _signed(target)


def _arm64_targets(code: bytes) -> Iterator[tuple[int, int]]:
    for place, (word,) in enumerate(_WORD.iter_unpack(code[: len(code) & ~3])):
        for mask, value, low, length in _ARM64_BRANCHES:
            if word & mask == value:
                offset = word >> low & ((1 << length) - 1)
                offset -= (offset >> (length - 1)) << length
                yield 4 * place, 4 * (place + offset)


def _signed(addr: int) -> int:
    return addr - (1 << 64) if addr >> 63 else addr
