# SPDX-License-Identifier: Apache-2.0
"""What happens while all CPUs wait: apply, revert and replace.

Source: ``livepatch_do_action`` of xen/common/livepatch.c.
"""

from collections.abc import Sequence
from itertools import pairwise

from xsplice_plugins.hypervisor.act.patching import (
    STEP_APPLY,
    STEP_REVERT,
    patch,
    patch_length,
    unpatch,
)
from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.verdicts import (
    EBUSY,
    EFAULT,
    EINVAL,
    ERANGE,
    Hazard,
    XenRefusal,
)
from xsplice_plugins.hypervisor.image.memory import Lift, Perm
from xsplice_plugins.hypervisor.state.payload import ANSWERING_KINDS, Function, LoadedPayload, State
from xsplice_plugins.hypervisor.state.rendezvous import Cpu
from xsplice_plugins.hypervisor.state.xen import Xen

#: What Xen prints. Source: livepatch_do_action of xen/common/livepatch.c, since 4.14.
_INSECURE = (
    "SYSTEM MIGHT BE INSECURE: Replace action has been aborted after reverting ALL payloads!"
)
STEP_EXPECTATIONS = "expectations"
STEP_CONSISTENCY = "consistency"


def check_expectations(payload: LoadedPayload, xen: Xen) -> None:
    """Compare the bytes each record expects with memory as it is now.

    Raises:
        XenRefusal: -EFAULT, -EINVAL or -ERANGE at the first record that does not match.
    """
    for function in payload.functions:
        try:
            _check_expectation(function, xen)
        except XenRefusal:
            _print_name(function, xen, STEP_EXPECTATIONS)
            raise


def _check_expectation(function: Function, xen: Xen) -> None:
    expect = function.expectation
    if expect is None or not expect.is_enabled:
        return
    if not function.old_virt:
        raise XenRefusal(EFAULT, STEP_EXPECTATIONS, f"{function.name}: no old address")
    if expect.reserved:
        raise XenRefusal(EINVAL, STEP_EXPECTATIONS, f"{function.name}: reserved bits are set")
    if function.old_size_bytes < expect.length_bytes:
        raise XenRefusal(ERANGE, STEP_EXPECTATIONS, f"{function.name}: longer than the function")
    wanted = expect.data[: expect.length_bytes]
    found = xen.memory.read(function.old_virt, expect.length_bytes, step=STEP_EXPECTATIONS)
    if found != wanted:
        raise XenRefusal(
            EINVAL,
            STEP_EXPECTATIONS,
            f"{function.name}: expected {wanted.hex()}, memory has {found.hex()}",
        )


def _print_name(function: Function, xen: Xen, step: str) -> None:
    """Follow the pointer to a function's name as Xen's message does.

    Raises:
        Hazard: it leads nowhere; NULL is printed as a word.
    """
    if function.name_virt:
        xen.memory.read_c_string(function.name_virt, step=step)


def call_hook(kind: str, addr_virt: int, payload: LoadedPayload, xen: Xen) -> int:
    """Run one hook.

    Returns:
        Its result; zero for kinds that return nothing.

    Raises:
        Hazard: it crashed the host.
    """
    result = xen.hook_runner(xen, payload, kind, addr_virt)
    return result if kind in ANSWERING_KINDS else 0


def perform(command: str, payload: LoadedPayload, xen: Xen) -> int:
    """Do the scheduled work and give the new ``rc``.

    Args:
        command: ``APPLY``, ``REVERT`` or ``REPLACE``.
        payload: the one the action named.
        xen: the hypervisor.

    Raises:
        Hazard: the host crashed or panicked.
    """
    if command == "APPLY":
        return _apply(payload, xen)
    if command == "REVERT":
        return _revert(payload, xen)
    return _replace(payload, xen)


def _replace(payload: LoadedPayload, xen: Xen) -> int:
    """Revert everything from the top and apply one payload; what was reverted stays so."""
    reverted: list[str] = []

    def aborted(rc: int, reason: str) -> int:
        done = f"{', '.join(reverted)} reverted, " if reverted else ""
        left = "the host is unpatched" if not xen.applied else "the others stay applied"
        payload.why = f"{reason}; {done}{payload.name} not applied: {left}"
        xen.console.append(f"{payload.name}: {payload.why}")
        return rc

    for other in reversed(list(xen.applied)):
        other.rc = _revert(other, xen)
        if other.rc:
            return aborted(-EINVAL, f"{other.name} could not be reverted")
        reverted.append(other.name)
    if xen.release.has_v2_sections:
        try:
            check_expectations(payload, xen)
        except XenRefusal as refusal:
            xen.console.append(f"{payload.name}: {_INSECURE}")
            return aborted(refusal.code, refusal.reason)
    rc = _apply(payload, xen)
    return aborted(rc, f"applying ended with {rc}") if rc else 0


def _is_consistent(payload: LoadedPayload, *, is_applied: bool) -> bool:
    return all(function.is_applied == is_applied for function in payload.functions)


def _apply(payload: LoadedPayload, xen: Xen) -> int:
    if "apply" in payload.hooks:
        result = call_hook("apply", payload.hooks["apply"], payload, xen)
    else:
        result = apply_default(payload, xen)
    if xen.release.has_v2_sections and not _is_consistent(payload, is_applied=result == 0):
        raise Hazard(STEP_CONSISTENCY, f"panic: {payload.name} is partially applied")
    if result == 0:
        xen.applied.append(payload)
        payload.was_applied = True
        payload.is_unlinked = False
        payload.state = State.APPLIED
    return result


def apply_default(payload: LoadedPayload, xen: Xen) -> int:
    """Patch every function: load hooks first, then the records in order."""
    release = xen.release
    is_x86 = xen.image.arch == X86_64
    if release.checks_waitqueues and is_x86 and xen.host.has_waitqueue:
        return -EBUSY
    spans = [(f.old_virt, f.old_virt + f.old_size_bytes) for f in payload.functions]
    if xen.host.checks_stacks and _is_on_a_stack(spans, xen.host.cpus):
        xen.console.append(f"{payload.name}: a function to be patched is on a stack")
        return -EBUSY
    faults = release.faults_on_readonly_funcs and is_x86 and not payload.is_funcs_writable
    if faults and payload.functions:
        raise Hazard(STEP_APPLY, f"page fault: Xen {release.name} writes read-only records")
    _check_targets(payload, xen)
    if not payload.providers <= set(xen.payloads):
        raise Hazard(STEP_APPLY, f"{payload.name} refers to a payload that was unloaded")
    xen.memory.lift = _lift_of(xen)
    try:
        for addr in payload.load_hooks:
            call_hook("load", addr, payload, xen)
        for function in payload.functions:
            if function.is_applied:
                _print_name(function, xen, STEP_APPLY)
                xen.console.append(f"{payload.name}: {function.name} is applied already, skipped")
                continue
            patch(function, xen)
            function.is_applied = True
            _store_state(function, xen)
    finally:
        xen.memory.lift = Lift.NONE
    return 0


def _lift_of(xen: Xen) -> Lift:
    if xen.image.arch != X86_64 or not xen.release.remaps_text:
        return Lift.ALL
    return Lift.TEXT_AND_RODATA if xen.release.remaps_rodata else Lift.TEXT


def _revert(payload: LoadedPayload, xen: Xen) -> int:
    if "revert" in payload.hooks:
        result = call_hook("revert", payload.hooks["revert"], payload, xen)
    else:
        result = revert_default(payload, xen)
    if xen.release.has_v2_sections and not _is_consistent(payload, is_applied=result != 0):
        raise Hazard(STEP_CONSISTENCY, f"panic: {payload.name} is partially reverted")
    if result == 0:
        finish_revert(payload, xen)
    return result


def revert_default(payload: LoadedPayload, xen: Xen) -> int:
    """Restore every function in forward order, then run the unload hooks."""
    spans = [(f.new_virt, f.new_virt + f.new_size_bytes) for f in payload.functions]
    if xen.host.checks_stacks and _is_on_a_stack(spans, xen.host.cpus):
        xen.console.append(f"{payload.name}: a replacement is on a stack")
        return -EBUSY
    xen.memory.lift = _lift_of(xen)
    try:
        for function in payload.functions:
            if not function.old_virt or not function.is_applied:
                _print_name(function, xen, STEP_REVERT)
                xen.console.append(f"{payload.name}: {function.name} is not applied, skipped")
                continue
            unpatch(function, xen)
            function.is_applied = False
            _store_state(function, xen)
        for addr in payload.unload_hooks:
            call_hook("unload", addr, payload, xen)
    finally:
        xen.memory.lift = Lift.NONE
    return 0


def finish_revert(payload: LoadedPayload, xen: Xen) -> None:
    """Take a reverted payload from the stack (also called by hooks that revert on their own).

    Raises:
        Hazard: it was taken away before: its list pointers are poison now.
    """
    if payload.is_unlinked:
        raise Hazard(
            STEP_REVERT, f"{payload.name} is taken from the stack twice: page fault on list poison"
        )
    # A hook may do so before the payload was ever applied: then it is linked with itself only.
    if payload in xen.applied:
        xen.applied.remove(payload)
    payload.is_unlinked = True
    payload.is_reverted = True
    payload.state = State.CHECKED


def _store_state(function: Function, xen: Xen) -> None:
    """Write a function's state into its record where the release keeps it there."""
    release = xen.release
    if release.keeps_fstate:
        return
    start = function.record_virt + (33 if xen.image.arch.is_64bit else 21)
    xen.memory.write(start, function.saved.ljust(31, b"\0")[:31], step=STEP_APPLY)
    if release.has_v2_sections:
        xen.memory.write(start + 31, bytes([function.is_applied]), step=STEP_APPLY)
        if release.endbr:
            xen.memory.write(start + 32, bytes([function.patch_offset]), step=STEP_APPLY)


def _check_targets(payload: LoadedPayload, xen: Xen) -> None:
    """Catch records that overlap each other or overwrite something that is not code."""
    spans = []
    for function in payload.functions:
        segment = xen.memory.find(function.old_virt)
        if segment is None:
            raise Hazard(STEP_APPLY, f"page fault: nothing is mapped at {function.old_virt:#x}")
        if Perm.EXEC not in segment.perm:
            raise Hazard(
                STEP_APPLY, f"{function.name}: {function.old_virt:#x} is data, it is overwritten"
            )
        length = max(patch_length(function, xen.image.arch), 0)
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

    Extension: no release verifies stacks, docs/misc/livepatch.pandoc only plans it. Xen relies on
    CPUs meeting where their stacks are empty, and does not look.
    """
    return any(start <= addr < end for start, end in spans for cpu in cpus for addr in cpu.stack)
