# SPDX-License-Identifier: Apache-2.0
"""What a hook before revert takes from replaced functions, which other CPUs still run.

Between that hook and the moment when all CPUs meet the payload is in force, and if they do not meet
it stays so. Nothing shows what the functions make of it: the model calls them only when asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.verdicts import Unknown
from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.hypervisor.proof.dangling import name_of, pointers
from xsplice_plugins.hypervisor.run.watch import HEAP_OWNER

if TYPE_CHECKING:
    from xsplice_plugins.hypervisor.core import Hypervisor
    from xsplice_plugins.hypervisor.image.memory import MemorySegment
    from xsplice_plugins.hypervisor.state.payload import LoadedPayload

_STEP = "prerevert-hook"
_WORD_BYTES = 8
_IMMEDIATE_MAX = 4  #: bytes of an instruction behind its displacement
_STILL = "while the replaced functions still run"


class Used(Struct, frozen=True):
    """What replaced functions may use, before the hook runs."""

    borrowed: tuple[MemorySegment, ...]  #: memory that hooks allocated
    variables: tuple[tuple[MemorySegment, bytes], ...]  #: the payload's, with their content


def what_is_used(hv: Hypervisor, payload: LoadedPayload) -> Used:
    """Remember what replaced functions may use.

    Args:
        hv: The hypervisor, with the payload applied.
        payload: That one.
    """
    return Used(
        tuple(segment for segment in hv.memory.segments() if segment.owner == HEAP_OWNER),
        tuple((part, bytes(part.data)) for part in payload.segments if Perm.WRITE in part.perm),
    )


def check_freed(used: Used) -> None:
    """See that the hook freed nothing that was allocated before it.

    Raises:
        Unknown: It did.
    """
    for segment in used.borrowed:
        if segment.owner != HEAP_OWNER:
            raise Unknown(
                _STEP,
                f"the hook before revert frees memory ({segment.name}) {_STILL}, and nothing shows "
                "that they do without; free it after the revert",
            )


def check_variables(used: Used, hv: Hypervisor, payload: LoadedPayload) -> None:
    """See that the hook changed no variable that code other than hooks refers to.

    Args:
        used: As it was before.
        hv: The hypervisor, after the hook.
        payload: Whose hook it is.

    Raises:
        Unknown: It did; where the machine code cannot be searched, any change counts.
    """
    for part, before in used.variables:
        changed = [
            part.addr_virt + offset
            for offset, (old, new) in enumerate(zip(before, part.data, strict=True))
            if old != new
        ]
        for start, end in sorted({_extent(payload, addr) for addr in changed}):
            if hv.image.arch != X86_64 or _is_referred_to(payload, start, end):
                raise Unknown(
                    _STEP,
                    f"the hook before revert changes {name_of(payload, start)} {_STILL}, and "
                    "nothing shows what they make of it; change it after the revert",
                )


def _extent(payload: LoadedPayload, addr_virt: int) -> tuple[int, int]:
    """Give where the variable around an address starts and ends; a word if it has no name."""
    for symbol in payload.symbols:
        if symbol.addr_virt <= addr_virt < symbol.addr_virt + symbol.size_bytes:
            return symbol.addr_virt, symbol.addr_virt + symbol.size_bytes
    start = addr_virt - addr_virt % _WORD_BYTES
    return start, start + _WORD_BYTES


def _is_referred_to(payload: LoadedPayload, start: int, end: int) -> bool:
    """Tell whether code other than hooks, or data, leads to [start, end)."""
    for part in payload.segments:
        if Perm.EXEC in part.perm:
            if _reaches(_code(payload, part), part.addr_virt, start, end):
                return True
        elif any(True for _ in pointers(part.data, start, end)):
            return True
    return False


def _code(payload: LoadedPayload, part: MemorySegment) -> bytes:
    """Give the code of a segment with zeros in the place of hooks."""
    hooks = {*payload.hooks.values(), *payload.load_hooks, *payload.unload_hooks}
    names = {symbol.name for symbol in payload.symbols if symbol.addr_virt in hooks}
    kept = bytearray(part.data)
    for symbol in payload.symbols:
        # The compiler puts what is rarely run apart: `hook.cold`.
        if symbol.name in names or symbol.name.removesuffix(".cold") in names:
            first = symbol.addr_virt - part.addr_virt
            if 0 <= first < len(kept):
                kept[first : first + symbol.size_bytes] = bytes(symbol.size_bytes)
    return bytes(kept)


def _reaches(code: bytes, addr_virt: int, start: int, end: int) -> bool:
    """Tell whether a displacement in code, or an address, leads to [start, end)."""
    low, high = start - _IMMEDIATE_MAX, end
    for at in range(len(code) - 3):
        value = int.from_bytes(code[at : at + 4], "little", signed=True)
        if low <= addr_virt + at + 4 + value < high:
            return True
    return any(True for _ in pointers(code, start, end))
