# SPDX-License-Identifier: Apache-2.0
"""Hold hand-written patch places against the instructions of the image.

The hypervisor checks sizes only. NOPs over the last instruction of a function let the processor
run into the next one: the in-tree test payload did that to ``xen_minor_version`` on 4.17, which
ends in a 5-byte jump to the return thunk, and the machine double-faulted for ever.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.errors import LinkError

if TYPE_CHECKING:
    from xsplice_plugins.link.image import Image, ImageSymbol

_JUMP_SIZE_BYTES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction of a function; offsets in bytes from its start."""

    start: int
    end: int
    text: str
    falls_through: bool  #: the next instruction may run after it
    target_virt: int  #: of a direct branch; 0 for others
    stack_bytes: int | None  #: what it adds to the stack pointer; ``None``: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A function's instructions, and the branches that lead into it."""

    name: str
    size_bytes: int
    is_x86: bool
    instructions: tuple[Instruction, ...]
    entered: frozenset[int]  #: offsets that direct branches of this function lead to

    @property
    def starts(self) -> frozenset[int]:
        """Return every offset at which an instruction starts."""
        return frozenset(instruction.start for instruction in self.instructions)


def read_code(image: Image, symbol: ImageSymbol) -> Code:
    """Decode a function of the image.

    Raises:
        LinkError: Not all of its bytes are instructions.
    """
    data = image.read(symbol.addr_virt, symbol.size_bytes)
    is_x86 = image.elf.machine == EM_X86_64
    decode = _decode_x86 if is_x86 else _decode_arm64
    own = decode(data, symbol.addr_virt)
    if not own or own[-1].end != symbol.size_bytes:
        raise LinkError(
            f"{image.name}: `{symbol.name}` cannot be decoded to its end; replace it as a whole"
        )
    cold = image.symbols.get(f"{symbol.name}.cold")
    away = () if cold is None else decode(image.read(cold[1], cold[2]), cold.addr_virt)
    entered = {row.target_virt - symbol.addr_virt for row in (*own, *away) if row.target_virt}
    return Code(
        name=symbol.name,
        size_bytes=symbol.size_bytes,
        is_x86=is_x86,
        instructions=own,
        entered=frozenset(offset for offset in entered if 0 <= offset < symbol.size_bytes),
    )


@lru_cache(maxsize=64)
def _decode_x86(data: bytes, addr_virt: int) -> tuple[Instruction, ...]:
    import iced_x86  # noqa: PLC0415  (0.02 s that most runs do not need)

    formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.GAS)
    flow = iced_x86.FlowControl
    falling = {flow.NEXT, flow.CONDITIONAL_BRANCH, flow.CALL, flow.INDIRECT_CALL}
    near = {iced_x86.OpKind.NEAR_BRANCH64}
    result = []
    for row in iced_x86.Decoder(64, data, ip=addr_virt):
        if row.is_invalid:
            return ()
        is_call = row.flow_control in {flow.CALL, flow.INDIRECT_CALL}
        changes_stack = row.op_count and row.op0_kind == iced_x86.OpKind.REGISTER
        changes_stack = changes_stack and row.op0_register == iced_x86.Register.RSP
        stack: int | None = 0 if is_call else row.stack_pointer_increment
        if changes_stack and row.mnemonic not in {iced_x86.Mnemonic.CMP, iced_x86.Mnemonic.TEST}:
            stack = None
        is_branch = row.op_count and row.op0_kind in near and not is_call
        result.append(
            Instruction(
                start=row.ip - addr_virt,
                end=row.ip - addr_virt + row.len,
                text=formatter.format(row).replace("\t", " "),
                falls_through=row.flow_control in falling,
                target_virt=row.near_branch_target if is_branch else 0,
                stack_bytes=stack,
            )
        )
    return tuple(result)


def _decode_arm64(data: bytes, addr_virt: int) -> tuple[Instruction, ...]:
    """Tell which words leave the function or touch the stack pointer; more is not needed.

    Source: Arm ARM C4.1.66 (unconditional branches), C4.1.65 (exception generation).
    """
    del addr_virt  # every word is an instruction, so branches into a range do no harm
    result = []
    for number, (word,) in enumerate(struct.iter_unpack("<I", data[: len(data) & ~3])):
        is_jump = word >> 26 == 0b000101 or (word >> 25 == 0b1101011 and (word >> 21) & 15 != 1)
        leaves = is_jump or word >> 24 == 0xD4
        # add and sub (not cmp) with an immediate to sp; any load or store through sp
        touches = word & 0x1F == 31 and (word >> 24) & 0x3F == 0x11
        touches = touches or ((word >> 5) & 0x1F == 31 and (word >> 25) & 0b0101 == 0b0100)
        result.append(
            Instruction(
                start=number * 4,
                end=number * 4 + 4,
                text=f".inst {word:#010x}",
                falls_through=not leaves,
                target_virt=0,
                stack_bytes=None if touches else 0,
            )
        )
    return tuple(result)


def body_size_bytes(code: Code, subject: str) -> int:
    """Return how many bytes of a function lie before the instruction that leaves it.

    Traps that the compiler puts behind that instruction (``-mharden-sls``) belong to it.

    Raises:
        LinkError: There are none, or the last instruction does not leave the function.
    """
    last = code.instructions[-1]
    end = last.start
    for row in reversed(code.instructions):
        if row.falls_through:
            break
        end = row.start
    if last.falls_through or not end:
        raise LinkError(
            f"{subject}: `{code.name}` is {code.size_bytes} bytes long and ends in `{last.text}`; "
            "no part of it can become NOPs, replace it"
        )
    return end


def check_nops(code: Code, offset: int, size_bytes: int, image: Image, subject: str) -> None:
    """Check that instructions can become NOPs and the function still ends where it ended.

    Args:
        code: The function.
        offset: First byte, from the function's start.
        size_bytes: How many.
        image: For what boot rewrites.
        subject: Where it was declared, for messages.

    Raises:
        LinkError: The range splits an instruction, removes one that leaves the function, takes
            from the stack what it does not give, or is branched into.
    """
    end = offset + size_bytes
    if not 0 < size_bytes <= code.size_bytes - offset:
        raise LinkError(
            f"{subject}: `{code.name}` is {code.size_bytes} bytes long; {size_bytes} bytes from "
            f"{offset:#x} on are no part of it"
        )
    for row in code.instructions:
        for edge in (offset, end):
            if row.start < edge < row.end:
                raise LinkError(
                    f"{subject}: the range {offset:#x} to {end:#x} of `{code.name}` splits "
                    f"`{row.text}` at {row.start:#x} to {row.end:#x}; take whole instructions"
                )
    gone = [row for row in code.instructions if offset <= row.start < end]
    for row in gone:
        if not row.falls_through:
            follows = "the next function" if row.end == code.size_bytes else "what follows it"
            raise LinkError(
                f"{subject}: without `{row.text}` at {row.start:#x} `{code.name}` runs into "
                f"{follows}; leave that instruction, or replace the function"
            )
    known = [row.stack_bytes for row in gone if row.stack_bytes is not None]
    if len(known) != len(gone) or sum(known) != 0:
        raise LinkError(
            f"{subject}: `{code.name}` would leave with another stack pointer; take "
            "instructions that leave the stack alone, or replace the function"
        )
    _refuse_entered(code, offset, end, "become NOPs", subject)
    _refuse_rewritten(code, offset, end, image, subject)


def check_jump(code: Code, offset: int, subject: str) -> None:
    """Check that a jump can be put into the middle of a function.

    Raises:
        LinkError: The place splits an instruction, or the jump's bytes are branched into.
    """
    for row in code.instructions:
        if row.start < offset < row.end:
            raise LinkError(
                f"{subject}: offset {offset:#x} of `{code.name}` splits `{row.text}` at "
                f"{row.start:#x} to {row.end:#x}; take the start of an instruction"
            )
    if offset:
        _refuse_entered(code, offset, offset + _JUMP_SIZE_BYTES, "become a jump", subject)


def _refuse_entered(code: Code, start: int, end: int, what: str, subject: str) -> None:
    inner = sorted(offset for offset in code.entered if start < offset < end)
    if code.is_x86 and inner:
        raise LinkError(
            f"{subject}: a branch of `{code.name}` leads to {inner[0]:#x}, into the bytes that "
            f"would {what}; end the range there"
        )


def _refuse_rewritten(code: Code, start: int, end: int, image: Image, subject: str) -> None:
    base = image.symbols[code.name].addr_virt
    for rewrite in image.rewrites:
        first = rewrite.addr_virt - base
        last = first + rewrite.size_bytes
        if first < end and start < last and not (start <= first and last <= end):
            raise LinkError(
                f"{subject}: {rewrite.reason} at {first:#x} to {last:#x} of `{code.name}` may be "
                "rewritten at boot; take all of it or nothing"
            )
