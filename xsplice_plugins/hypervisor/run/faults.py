# SPDX-License-Identifier: Apache-2.0
"""Faults of executed code: Xen's tables say where it goes on, or it is a crash with a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.verdicts import Hazard, Unknown
from xsplice_plugins.hypervisor.run.watch import STACK_AROUND_BYTES, Watch, describe_address

if TYPE_CHECKING:
    from xsplice_plugins.hypervisor.image.image import BootedImage
    from xsplice_plugins.hypervisor.image.memory import MemorySegment
    from xsplice_plugins.hypervisor.state.payload import LoadedPayload
    from xsplice_plugins.hypervisor.state.xen import Xen

#: Of Xen's stack when a hook begins: struct cpu_info and Xen's own calls, and room for an
#: interrupt. Measured on 4.17.5, 4.20.0 and a debug build of 4.23 (x86) by hooks that filled the
#: stack and looked how far it was overwritten: they began 456 to 1192 bytes below its top, the
#: deepest ones in the hypercall, and an interrupt took up to 776 bytes.
STACK_USED_BYTES = 1536 + 1024
#: What a function takes that the model performs itself: `printk` up to 728 bytes, `vmalloc` 648.
STACK_CALLED_BYTES = 1024
_BUG_KINDS = ("run a function", "WARN", "BUG", "ASSERT", "a payload's WARN, which Arm refuses,")


class Fault(Struct, frozen=True, kw_only=True):
    """What the processor stopped at."""

    step: str  #: named in hazards
    words: str  #: the emulator's
    pc_virt: int  #: the instruction
    addr_virt: int | None  #: memory that is not mapped, or not so
    stack_virt: int  #: the stack pointer


def overrun(step: str, stack: MemorySegment, where: str) -> Hazard:
    """Give the hazard of code that needs more stack than Xen has left for it."""
    left = len(stack.data) - STACK_USED_BYTES
    return Hazard(
        step,
        f"it overruns Xen's stack at {where}: a hook and all that it calls have {left} bytes; keep "
        "large variables static",
    )


def after_fault(fault: Fault, xen: Xen, watch: Watch, stack: MemorySegment) -> int:
    """Find where execution continues after a fault: the tables decide, as in Xen's handlers.

    Args:
        fault: what happened.
        xen: the hypervisor.
        watch: knows which memory a running host may have.
        stack: what is mapped of the stack.

    Returns:
        The address of the next instruction.

    Raises:
        Hazard: nowhere: it is a crash.
        Unknown: it needs memory that only a running host has.
    """
    rip, step = fault.pc_virt, fault.step
    where = describe_address(xen, rip)
    # A payload's tables are found once its region is registered: at load in newer releases, in
    # older ones only while it is applied, so that a WARN in its pre-apply hook is a crash.
    registered = xen.payloads if xen.release.registers_region_at_load else xen.applied
    tables: tuple[BootedImage | LoadedPayload, ...] = (xen.image, *registered)
    # On x86 Xen looks at the instruction before it looks for a frame (do_invalid_op).
    trap = xen.release.bug_instruction if xen.image.arch == X86_64 else bytes(4)
    is_bug = xen.image.arch != X86_64 or xen.memory.peek(rip, len(trap)) == trap
    for table in tables:
        if rip in table.ex_table:
            return table.ex_table[rip]
        kind = table.bug_frames.get(rip) if is_bug else None
        if kind in {0, 1}:
            xen.console.append(f"{_BUG_KINDS[kind]} at {where}")
            return rip + len(trap)
        if kind is not None:
            raise Hazard(step, f"{_BUG_KINDS[kind]} at {where}")
    addr = fault.addr_virt
    if addr is None:
        raise Hazard(step, f"crash at {where}: {fault.words}")
    if stack.addr_virt - STACK_AROUND_BYTES <= addr < stack.addr_virt:
        raise overrun(step, stack, where)
    if watch.may_be_mapped(addr):
        raise Unknown(
            step, f"needs memory at {addr:#x} that only a running host has, used by {where}"
        )
    raise Hazard(step, f"crash at {where}: {fault.words} {addr:#x}")
