# SPDX-License-Identifier: Apache-2.0
"""Hooks: running a payload's own code, twice, in the model's memory."""

from xsplice_plugins.hypervisor.image.memory import RW, MemorySegment
from xsplice_plugins.hypervisor.run import execute, rehearsal
from xsplice_plugins.hypervisor.run.trials import How, Sight
from xsplice_plugins.hypervisor.state.hook_argument import (
    argument_virt,
    decode_argument,
    encode_argument,
    unknown_members,
)
from xsplice_plugins.hypervisor.state.payload import ANSWERING_KINDS, LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen


def _value(payload: LoadedPayload, kind: str, result: int) -> tuple[object, ...]:
    """Give what of a hook's run decides how Xen goes on."""
    return (
        result if kind in ANSWERING_KINDS else 0,
        payload.rc,
        payload.state,
        payload.is_reverted,
        tuple((function.is_applied, function.saved) for function in payload.functions),
    )


def emulate_hook(xen: Xen, payload: LoadedPayload, kind: str, addr_virt: int) -> int:
    """Run a hook's machine code in the model's memory.

    It runs twice, the first time as a rehearsal (see ``rehearsal.py``) that is undone. A hook whose
    outcome differs between the two relies on a value that nobody set, for example on what
    ``printk`` leaves in the result register. Where it reads what boot has written, it is tried with
    other contents too (see ``trials.py``).

    Args:
        xen: the hypervisor.
        payload: gets back what the hook changed.
        kind: ``load``, ``unload`` or one of the single hooks.
        addr_virt: its first instruction.

    Returns:
        The hook's result as a signed 32-bit number; meaningless for ``void`` kinds.

    Raises:
        Hazard: the hook crashed, panicked, hit a BUG, did not return, spoilt its caller's
            registers or relies on a value that nobody set.
        Unknown: what it does depends on a running host.
    """
    return rehearsal.run_tried(
        xen,
        payload,
        run=lambda how, sight: _run_once(xen, payload, kind, addr_virt, how=how, sight=sight),
        value=lambda result: _value(payload, kind, result),
        step=f"{kind}-hook",
    )


def _run_once(
    xen: Xen, payload: LoadedPayload, kind: str, addr_virt: int, *, how: How, sight: Sight
) -> int:
    step = f"{kind}-hook"
    if kind in {"load", "unload"}:
        return execute.call_function(xen, addr_virt, (), step=step, how=how, sight=sight)
    segment = MemorySegment(
        addr_virt=argument_virt(xen.image.arch),
        data=encode_argument(payload, xen),
        perm=RW,
        name="struct payload",
        owner="(hook argument)",
    )
    xen.memory.map(segment)
    unknown = dict.fromkeys(unknown_members(payload, xen), "struct payload")
    xen.unsure.update(unknown)
    try:
        result = execute.call_function(
            xen,
            addr_virt,
            (segment.addr_virt,),
            step=step,
            subject=payload,
            argument=segment,
            how=how,
            sight=sight,
        )
        decode_argument(segment.data, payload, xen)
    finally:
        xen.memory.unmap(segment)
        for addr in unknown:
            del xen.unsure[addr]
    result &= 0xFFFFFFFF
    return result - (1 << 32) if result >> 31 else result
