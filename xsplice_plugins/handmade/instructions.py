# SPDX-License-Identifier: Apache-2.0
"""Hold hand-written patch places against the instructions of the image.

The hypervisor checks sizes only. NOPs over the last instruction of a function let the processor
run into the next one: the in-tree test payload did that to ``xen_minor_version`` on 4.17, which
ends in a 5-byte jump to the return thunk, and the machine double-faulted for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.errors import LinkError
from xsplice_plugins.target.listing import instruction_text
from xsplice_plugins.target.machine import Flow

if TYPE_CHECKING:
    from xsplice_plugins.link.image import ImageSymbol, XenImage
    from xsplice_plugins.target.machine import Instruction


class Code(Struct, frozen=True, kw_only=True):
    """A function's instructions, and the branches that lead into it."""

    image: XenImage
    name: str
    addr_virt: int
    size_bytes: int
    instructions: tuple[Instruction, ...]  #: start and end count from the function's start
    entered: frozenset[int]  #: offsets that branches of this function lead to

    def text(self, row: Instruction) -> str:
        """Return one of its instructions as assembler text."""
        start = self.addr_virt + row.start
        data = self.image.read(start, row.end - row.start)
        return instruction_text(self.image.elf.machine, data, start)


def read_code(image: XenImage, symbol: ImageSymbol) -> Code:
    """Decode a function of the image.

    Raises:
        LinkError: Not all of its bytes are instructions.
    """
    base, size = symbol.addr_virt, symbol.size_bytes
    own = image.instructions(base, size)
    if not own or own[-1].end != base + size or any(row.flow is Flow.UNKNOWN for row in own):
        raise LinkError(
            f"{image.name}: `{symbol.name}` cannot be decoded to its end; replace it as a whole"
        )
    cold = image.symbols.get(f"{symbol.name}.cold")
    away = () if cold is None else image.instructions(cold.addr_virt, cold.size_bytes)
    entered = {row.target - base for row in (*own, *away) if row.target is not None}
    return Code(
        image=image,
        name=symbol.name,
        addr_virt=base,
        size_bytes=size,
        instructions=tuple(row._replace(start=row.start - base, end=row.end - base) for row in own),
        entered=frozenset(offset for offset in entered if 0 <= offset < size),
    )


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
            f"{subject}: `{code.name}` is {code.size_bytes} bytes long and ends in "
            f"`{code.text(last)}`; no part of it can become NOPs, replace it"
        )
    return end


def check_nops(code: Code, offset: int, size_bytes: int, subject: str) -> None:
    """Check that instructions can become NOPs and the function still ends where it ended.

    ``offset`` counts bytes from the function's start; ``subject`` is where it was declared.

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
                    f"`{code.text(row)}` at {row.start:#x} to {row.end:#x}; take whole instructions"
                )
    gone = [row for row in code.instructions if offset <= row.start < end]
    for row in gone:
        if not row.falls_through:
            follows = "the next function" if row.end == code.size_bytes else "what follows it"
            raise LinkError(
                f"{subject}: without `{code.text(row)}` at {row.start:#x} `{code.name}` runs into "
                f"{follows}; leave that instruction, or replace the function"
            )
    known = [row.stack_bytes for row in gone if row.stack_bytes is not None]
    if len(known) != len(gone) or sum(known) != 0:
        raise LinkError(
            f"{subject}: `{code.name}` would leave with another stack pointer; take "
            "instructions that leave the stack alone, or replace the function"
        )
    _refuse_entered(code, offset, end, "become NOPs", subject)
    _refuse_rewritten(code, offset, end, subject)


def check_jump(code: Code, offset: int, size_bytes: int, subject: str) -> None:
    """Check that a jump of that size can be put into the middle of a function.

    Raises:
        LinkError: The place splits an instruction, or the jump's bytes are branched into.
    """
    for row in code.instructions:
        if row.start < offset < row.end:
            raise LinkError(
                f"{subject}: offset {offset:#x} of `{code.name}` splits `{code.text(row)}` at "
                f"{row.start:#x} to {row.end:#x}; take the start of an instruction"
            )
    if offset:
        _refuse_entered(code, offset, offset + size_bytes, "become a jump", subject)


def _refuse_entered(code: Code, start: int, end: int, what: str, subject: str) -> None:
    inner = sorted(offset for offset in code.entered if start < offset < end)
    # Where all instructions have one size, each of the new ones may be entered.
    if not code.image.profile.machine.instruction_size_bytes and inner:
        raise LinkError(
            f"{subject}: a branch of `{code.name}` leads to {inner[0]:#x}, into the bytes that "
            f"would {what}; end the range there"
        )


def _refuse_rewritten(code: Code, start: int, end: int, subject: str) -> None:
    for rewrite in code.image.rewrites:
        first = rewrite.addr_virt - code.addr_virt
        last = first + rewrite.size_bytes
        if first < end and start < last and not (start <= first and last <= end):
            raise LinkError(
                f"{subject}: {rewrite.reason} at {first:#x} to {last:#x} of `{code.name}` may be "
                "rewritten at boot; take all of it or nothing"
            )
