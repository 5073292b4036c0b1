# SPDX-License-Identifier: Apache-2.0
"""Hooks: running a payload's own code, twice, in the model's memory."""

from collections.abc import Callable, Collection, Mapping

from xsplice_plugins.hypervisor.facts.verdicts import HostUnknown
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
from xsplice_plugins.hypervisor.state.xen import HookRunner, Xen


def _value(payload: LoadedPayload, kind: str, result: int) -> tuple[object, ...]:
    """Give what of a hook's run decides how Xen goes on."""
    return (
        result if kind in ANSWERING_KINDS else 0,
        payload.rc,
        payload.state,
        payload.is_reverted,
        tuple((function.is_applied, function.saved) for function in payload.functions),
    )


def vouched(words: Mapping[str, Collection[str]], said: list[tuple[str, str, str]]) -> HookRunner:
    """Return a way to run hooks for some of which somebody vouches.

    Args:
        words: kinds of hooks, by the payload's name.
        said: gets payload, kind and what the hook depended on, where only a host has that.
    """

    def run(xen: Xen, payload: LoadedPayload, kind: str, addr_virt: int) -> int:
        is_known = kind not in words.get(payload.name, ())
        vouch = None if is_known else lambda why: said.append((payload.name, kind, why))
        return emulate_hook(xen, payload, kind, addr_virt, vouch=vouch)

    return run


def emulate_hook(
    xen: Xen,
    payload: LoadedPayload,
    kind: str,
    addr_virt: int,
    *,
    vouch: Callable[[str], None] | None = None,
) -> int:
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
        vouch: as `rehearsal.run_tried` has it.

    Returns:
        The hook's result as a signed 32-bit number; meaningless for ``void`` kinds.

    Raises:
        Hazard: the hook crashed, panicked, hit a BUG, did not return, spoilt its caller's
            registers or relies on a value that nobody set.
        Unknown: what it does depends on a running host.
    """
    try:
        return rehearsal.run_tried(
            xen,
            payload,
            run=lambda how, sight: _run_once(xen, payload, kind, addr_virt, how=how, sight=sight),
            value=lambda result: _value(payload, kind, result),
            step=f"{kind}-hook",
            vouch=vouch,
        )
    except HostUnknown as unknown:
        unknown.payload = payload.name
        raise


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
