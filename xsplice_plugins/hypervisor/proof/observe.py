# SPDX-License-Identifier: Apache-2.0
"""What a proof looks at: patched bytes, functions with NOPs, and what only a booted host knows."""

from collections.abc import Sequence

from msgspec import Struct

from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.arches import ARM32
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.run import execute
from xsplice_plugins.hypervisor.state.payload import LoadedPayload

#: Shown of each function: more than any patch overwrites behind ENDBR64.
SHOWN_BYTES = 16


class FunctionProof(Struct, frozen=True, kw_only=True):
    """One replaced function; addresses and bytes are hexadecimal text."""

    payload: str
    name: str
    old_virt: str
    new_virt: str
    old_size_bytes: int
    new_size_bytes: int
    patch_offset: int  #: bytes left alone at its start (ENDBR64)
    bytes_before: str  #: the first bytes before the payload was applied
    bytes_during: str  #: with it applied
    bytes_after: str  #: with everything reverted


def bytes_at(addr_virt: int, hv: Hypervisor) -> str:
    """Give the first bytes at an address as hexadecimal text, fewer at the end of memory."""
    return hv.memory.peek(addr_virt, SHOWN_BYTES).hex()


def check_nop_records(stack: Sequence[LoadedPayload], hv: Hypervisor) -> None:
    """Run every function that was overwritten with NOPs, with zeros as arguments.

    Acceptance says nothing about NOP records: a payload that leaves half an instruction behind is
    applied with rc 0, and the host dies at the next call.

    Raises:
        Hazard: the function does not return.
    """
    if hv.image.arch == ARM32:
        return
    for payload in stack:
        for function in payload.functions:
            if function.new_virt or not function.saved:
                continue
            try:
                execute.call_function(hv, function.old_virt, (), step="nop-record", is_pure=True)
            except Hazard as hazard:
                raise type(hazard)(
                    "nop-record", f"{function.name} was overwritten with NOPs: {hazard.reason}"
                ) from hazard


def image_notes(functions: Sequence[FunctionProof], image: BootedImage) -> tuple[str, ...]:
    """Say which shown bytes a booted host decides: alternative calls through pointers set late."""
    notes: list[str] = []
    for function in functions:
        start = int(function.old_virt, 16)
        notes.extend(
            f"{function.name}: the {size} bytes at {addr:#x} are a call that drivers decide at boot"
            for addr, size in image.null_calls
            if start < addr + size and addr < start + SHOWN_BYTES
        )
    return tuple(notes)
