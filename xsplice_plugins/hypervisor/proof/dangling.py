# SPDX-License-Identifier: Apache-2.0
"""Pointers into payloads that memory still holds once they were unloaded."""

from collections.abc import Iterator, Sequence

from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.hypervisor.state.payload import LoadedPayload

TAKE_BACK = "take it back in a hook"
_LOW_BYTES = 2  #: of a pointer that differ within 64 KiB; the upper ones are searched for


def check_pointers(
    stack: Sequence[LoadedPayload], hv: Hypervisor, *, hint: str = TAKE_BACK
) -> None:
    """Search all writable memory for pointers into payloads that were unloaded.

    Args:
        stack: The payloads, all unloaded.
        hv: The hypervisor after that.
        hint: What to do about it.

    Raises:
        Hazard: There is one; the text names where it lies and what it pointed to.
    """
    for payload in stack:
        for part in payload.segments:
            for segment in hv.memory.segments():
                if Perm.WRITE in segment.perm:
                    for offset, value in pointers(segment.data, part.addr_virt, part.end_virt):
                        where = hv.image.name_of(segment.addr_virt + offset) or segment.name
                        raise Hazard(
                            "unload",
                            f"{where} still points to {name_of(payload, value)} of "
                            f"{payload.name}, which was unloaded; {hint}",
                        )


def pointers(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give (offset, value) of each aligned pointer to [start, end) in bytes that start a page."""
    low = 8 * _LOW_BYTES
    for high in range(start >> low, ((end - 1) >> low) + 1):
        needle = high.to_bytes(8 - _LOW_BYTES, "little")
        at = data.find(needle)
        while at >= 0:
            place = at - _LOW_BYTES
            if place >= 0 and place % 8 == 0:
                value = int.from_bytes(data[place : place + 8], "little")
                if start <= value < end:
                    yield place, value
            at = data.find(needle, at + 1)


def name_of(payload: LoadedPayload, addr_virt: int) -> str:
    """Call a place of a payload by the symbol around it, else by the part it lies in."""
    for symbol in payload.symbols:
        if symbol.addr_virt <= addr_virt < symbol.addr_virt + max(symbol.size_bytes, 1):
            return symbol.name
    for part in payload.segments:
        if part.addr_virt <= addr_virt < part.end_virt:
            return f"its {part.name}+{addr_virt - part.addr_virt:#x}"
    return f"its memory+{addr_virt - payload.base_virt:#x}"
