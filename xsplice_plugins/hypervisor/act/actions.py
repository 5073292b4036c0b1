# SPDX-License-Identifier: Apache-2.0
"""What happens while all CPUs wait: apply, revert and replace.

Source: specification sections 8.6 to 8.8; ``livepatch_do_action`` of xen/common/livepatch.c.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from xsplice_plugins.hypervisor.act.patching import (
    STEP_APPLY,
    STEP_REVERT,
    patch,
    patch_length,
    unpatch,
)
from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.verdicts import EBUSY, EFAULT, EINVAL, ERANGE, Hazard, Refusal
from xsplice_plugins.hypervisor.image.memory import Lift, Perm
from xsplice_plugins.hypervisor.run.hooks import ANSWERING_KINDS, HookHost
from xsplice_plugins.hypervisor.state.payload import Function, Payload, State
from xsplice_plugins.hypervisor.state.rendezvous import Cpu

STEP_EXPECTATIONS = "expectations"
STEP_CONSISTENCY = "consistency"


class _Conditions(Protocol):
    cpus: list[Cpu]
    has_waitqueue: bool
    checks_stacks: bool


class ActionHost(HookHost, Protocol):
    """What the work needs of a hypervisor."""

    applied: list[Payload]
    console: list[str]

    @property
    def host(self) -> _Conditions:
        """The conditions around the hypervisor."""


def check_expectations(payload: Payload, hv: ActionHost) -> None:
    """Compare the bytes each record expects with memory as it is now.

    Raises:
        Refusal: -EFAULT, -EINVAL or -ERANGE at the first record that does not match.
    """
    for function in payload.functions:
        try:
            _check_expectation(function, hv)
        except Refusal:
            _print_name(function, hv, STEP_EXPECTATIONS)
            raise


def _check_expectation(function: Function, hv: ActionHost) -> None:
    expect = function.expectation
    if expect is None or not expect.is_enabled:
        return
    if not function.old_virt:
        raise Refusal(EFAULT, STEP_EXPECTATIONS, f"{function.name}: no old address")
    if expect.reserved:
        raise Refusal(EINVAL, STEP_EXPECTATIONS, f"{function.name}: reserved bits are set")
    if function.old_size_bytes < expect.length_bytes:
        raise Refusal(ERANGE, STEP_EXPECTATIONS, f"{function.name}: longer than the function")
    wanted = expect.data[: expect.length_bytes]
    found = hv.memory.read(function.old_virt, expect.length_bytes, step=STEP_EXPECTATIONS)
    if found != wanted:
        raise Refusal(
            EINVAL,
            STEP_EXPECTATIONS,
            f"{function.name}: expected {wanted.hex()}, memory has {found.hex()}",
        )


def _print_name(function: Function, hv: ActionHost, step: str) -> None:
    """Follow the pointer to a function's name as Xen's message does.

    Raises:
        Hazard: it leads nowhere; NULL is printed as a word.
    """
    if function.name_virt:
        hv.memory.read_c_string(function.name_virt, step=step)


def call_hook(kind: str, addr_virt: int, payload: Payload, hv: ActionHost) -> int:
    """Run one hook.

    Returns:
        Its result; zero for kinds that return nothing.

    Raises:
        Hazard: it crashed the host.
    """
    result = hv.hook_runner(hv, payload, kind, addr_virt)
    return result if kind in ANSWERING_KINDS else 0


def perform(command: str, payload: Payload, hv: ActionHost) -> int:
    """Do the scheduled work and give the new ``rc``.

    Args:
        command: ``APPLY``, ``REVERT`` or ``REPLACE``.
        payload: the one the action named.
        hv: the hypervisor.

    Raises:
        Hazard: the host crashed or panicked.
    """
    if command == "APPLY":
        return _apply(payload, hv)
    if command == "REVERT":
        return _revert(payload, hv)
    for other in reversed(list(hv.applied)):
        other.rc = _revert(other, hv)
        if other.rc:
            hv.console.append(f"{payload.name}: {other.name} could not be reverted")
            return -EINVAL
    if hv.release.has_v2_sections:
        try:
            check_expectations(payload, hv)
        except Refusal as refusal:
            hv.console.append(f"{payload.name}: {refusal.reason}; nothing is applied any more")
            return refusal.code
    return _apply(payload, hv)


def _is_consistent(payload: Payload, *, is_applied: bool) -> bool:
    return all(function.is_applied == is_applied for function in payload.functions)


def _apply(payload: Payload, hv: ActionHost) -> int:
    if "apply" in payload.hooks:
        result = call_hook("apply", payload.hooks["apply"], payload, hv)
    else:
        result = apply_default(payload, hv)
    if hv.release.has_v2_sections and not _is_consistent(payload, is_applied=result == 0):
        raise Hazard(STEP_CONSISTENCY, f"panic: {payload.name} is partially applied")
    if result == 0:
        hv.applied.append(payload)
        payload.is_unlinked = False
        payload.state = State.APPLIED
    return result


def apply_default(payload: Payload, hv: ActionHost) -> int:
    """Patch every function: load hooks first, then the records in order."""
    release = hv.release
    is_x86 = hv.image.arch == X86_64
    if release.checks_waitqueues and is_x86 and hv.host.has_waitqueue:
        return -EBUSY
    spans = [(f.old_virt, f.old_virt + f.old_size_bytes) for f in payload.functions]
    if hv.host.checks_stacks and _is_on_a_stack(spans, hv.host.cpus):
        hv.console.append(f"{payload.name}: a function to be patched is on a stack")
        return -EBUSY
    faults = release.faults_on_readonly_funcs and is_x86 and not payload.is_funcs_writable
    if faults and payload.functions:
        raise Hazard(STEP_APPLY, f"page fault: Xen {release.name} writes read-only records")
    _check_targets(payload, hv)
    if not payload.providers <= set(hv.payloads):
        raise Hazard(STEP_APPLY, f"{payload.name} refers to a payload that was unloaded")
    hv.memory.lift = _lift_of(hv)
    try:
        for addr in payload.load_hooks:
            call_hook("load", addr, payload, hv)
        for function in payload.functions:
            if function.is_applied:
                _print_name(function, hv, STEP_APPLY)
                hv.console.append(f"{payload.name}: {function.name} is applied already, skipped")
                continue
            patch(
                function,
                arch=hv.image.arch,
                memory=hv.memory,
                release=release,
                cpu=hv.image.cpu,
            )
            function.is_applied = True
            _store_state(function, hv)
    finally:
        hv.memory.lift = Lift.NONE
    return 0


def _lift_of(hv: ActionHost) -> Lift:
    if hv.image.arch != X86_64 or not hv.release.remaps_text:
        return Lift.ALL
    return Lift.TEXT_AND_RODATA if hv.release.remaps_rodata else Lift.TEXT


def _revert(payload: Payload, hv: ActionHost) -> int:
    if "revert" in payload.hooks:
        result = call_hook("revert", payload.hooks["revert"], payload, hv)
    else:
        result = revert_default(payload, hv)
    if hv.release.has_v2_sections and not _is_consistent(payload, is_applied=result != 0):
        raise Hazard(STEP_CONSISTENCY, f"panic: {payload.name} is partially reverted")
    if result == 0:
        finish_revert(payload, hv)
    return result


def revert_default(payload: Payload, hv: ActionHost) -> int:
    """Restore every function in forward order, then run the unload hooks."""
    spans = [(f.new_virt, f.new_virt + f.new_size_bytes) for f in payload.functions]
    if hv.host.checks_stacks and _is_on_a_stack(spans, hv.host.cpus):
        hv.console.append(f"{payload.name}: a replacement is on a stack")
        return -EBUSY
    hv.memory.lift = _lift_of(hv)
    try:
        for function in payload.functions:
            if not function.old_virt or not function.is_applied:
                _print_name(function, hv, STEP_REVERT)
                hv.console.append(f"{payload.name}: {function.name} is not applied, skipped")
                continue
            unpatch(function, arch=hv.image.arch, memory=hv.memory)
            function.is_applied = False
            _store_state(function, hv)
        for addr in payload.unload_hooks:
            call_hook("unload", addr, payload, hv)
    finally:
        hv.memory.lift = Lift.NONE
    return 0


def finish_revert(payload: Payload, hv: ActionHost) -> None:
    """Take a reverted payload from the stack (also called by hooks that revert on their own).

    Raises:
        Hazard: it was taken away before: its list pointers are poison now.
    """
    if payload.is_unlinked:
        raise Hazard(
            STEP_REVERT, f"{payload.name} is taken from the stack twice: page fault on list poison"
        )
    # A hook may do so before the payload was ever applied: then it is linked with itself only.
    if payload in hv.applied:
        hv.applied.remove(payload)
    payload.is_unlinked = True
    payload.is_reverted = True
    payload.state = State.CHECKED


def _store_state(function: Function, hv: ActionHost) -> None:
    """Write a function's state into its record where the release keeps it there."""
    release = hv.release
    if release.keeps_fstate:
        return
    start = function.record_virt + (33 if hv.image.arch.is_64bit else 21)
    hv.memory.write(start, function.saved.ljust(31, b"\0")[:31], step=STEP_APPLY)
    if release.has_v2_sections:
        hv.memory.write(start + 31, bytes([function.is_applied]), step=STEP_APPLY)
        if release.endbr:
            hv.memory.write(start + 32, bytes([function.patch_offset]), step=STEP_APPLY)


def _check_targets(payload: Payload, hv: ActionHost) -> None:
    """Catch records that overlap each other or overwrite something that is not code."""
    spans = []
    for function in payload.functions:
        segment = hv.memory.find(function.old_virt)
        if segment is None:
            raise Hazard(STEP_APPLY, f"page fault: nothing is mapped at {function.old_virt:#x}")
        if Perm.EXEC not in segment.perm:
            raise Hazard(
                STEP_APPLY, f"{function.name}: {function.old_virt:#x} is data, it is overwritten"
            )
        length = max(patch_length(function, hv.image.arch), 0)
        # ENDBR64 moves a jump by four bytes; equal functions overlap either way.
        spans.append((function.old_virt, function.old_virt + length, function.name))
    spans.sort()
    for before, after in pairwise(spans):
        if after[0] < before[1]:
            raise Hazard(
                STEP_APPLY, f"{after[2]} and {before[2]} overlap: revert restores wrong bytes"
            )


def _is_on_a_stack(spans: Sequence[tuple[int, int]], cpus: Sequence[Cpu]) -> bool:
    """Whether a return address on any CPU's stack lies in code that must not be in use.

    Extension: the 2015 plan's stack verification. Real Xen relies on CPUs meeting where their
    stacks are empty, and does not look.
    """
    return any(start <= addr < end for start, end in spans for cpu in cpus for addr in cpu.stack)
