# SPDX-License-Identifier: Apache-2.0
"""Hooks around an apply and a revert that fail: who asked for them may unload, or ask again.

The first hook runs when an action is asked for. If CPUs then do not meet in time the action ends
with -EBUSY: nothing was changed and no other hook runs. If a domain waits in a queue, apply ends
with -EBUSY while the CPUs meet, and the hook behind it runs. Either can happen on any host, so both
are played around a payload that has such hooks. Source: ``check_for_livepatch_work`` of
xen/common/livepatch.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.verdicts import (
    Hazard,
    HostUnknown,
    Stopped,
    Unknown,
    XenRefusal,
)
from xsplice_plugins.hypervisor.proof.dangling import TAKE_BACK, check_pointers
from xsplice_plugins.hypervisor.proof.remaining import xens_data
from xsplice_plugins.hypervisor.proof.withdrawn import check_freed, check_variables, what_is_used
from xsplice_plugins.hypervisor.state.payload import LoadedPayload, name_bytes
from xsplice_plugins.hypervisor.state.rendezvous import Cpu, CpuState
from xsplice_plugins.hypervisor.state.requests import Command, Host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ASKED_MAX = 3  #: as often a revert is asked for again
_LATE = "its CPUs come too late"
_WAITING = "a domain waits in a queue"


class Course(Struct, frozen=True, kw_only=True):
    """What shall be played on a host of its own."""

    payloads: Sequence[tuple[str, bytes]]  #: bottom first; the last one is judged
    boot: Callable[[], Hypervisor]  #: gives a new host
    observe: Callable[[Hypervisor], None]  #: asks what holds while everything is applied


def play_failures(course: Course) -> tuple[tuple[str, str], ...]:
    """Play each way in which an action around hooks can fail, where the payload has such hooks.

    Args:
        course: What is played; without the failures it is known to go well.

    Returns:
        (action, what was played and went well) for each.

    Raises:
        Hazard: Something goes wrong; the text begins with what was played.
        Unknown: The model cannot tell whether it does.
    """
    hv, top = _loaded(course)
    played: list[tuple[str, str]] = []
    for why in _reasons(hv, top):
        for path in (_unloaded, _applied_again):
            text = f"apply ends with -EBUSY ({why}), then {_WORDS[path]}"
            _try(text, lambda path=path, why=why: path(course, why))  # type: ignore[misc]
            played.append(("apply", text))
    if "prerevert" in top.hooks:
        text = f"revert ends with -EBUSY ({_LATE}), then asked again"
        _try(text, lambda: _reverted_again(course))
        played.append(("revert", text))
    return tuple(played)


def _reasons(hv: Hypervisor, top: LoadedPayload) -> list[str]:
    """Say why an apply may fail around the hooks that a payload has."""
    hooks = set(top.hooks)
    reasons = [_LATE] if "preapply" in hooks else []
    is_asked = hv.release.checks_waitqueues and hv.image.arch == X86_64 and "apply" not in hooks
    if is_asked and hooks & {"preapply", "postapply"}:
        reasons.append(_WAITING)
    return reasons


def _try(played: str, course: Callable[[], None]) -> None:
    """Play; say of what goes wrong after what it did."""
    try:
        course()
    except XenRefusal as refusal:
        raise Hazard(refusal.step, f"{played}: {refusal.reason}") from refusal
    except Stopped as stopped:
        again = type(stopped)(stopped.step, f"{played}: {stopped.reason}")
        if isinstance(stopped, HostUnknown) and isinstance(again, HostUnknown):
            again.payload = stopped.payload
        raise again from stopped


def _loaded(course: Course) -> tuple[Hypervisor, LoadedPayload]:
    """Boot a host, apply all but the last payload and upload that one."""
    hv = course.boot()
    for name, data in course.payloads:
        if hv.payloads:
            _act(hv, hv.payloads[-1], Command.APPLY)
        answer = hv.upload(name_bytes(name) + b"\0", data)
        if answer.code < 0:
            raise XenRefusal(-answer.code, answer.step, answer.reason)
    return hv, hv.payloads[-1]


def _act(hv: Hypervisor, payload: LoadedPayload, command: Command) -> int:
    """Ask for an action, let the CPUs do it; give its result."""
    answer = hv.action(name_bytes(payload.name) + b"\0", command)
    if not answer.code:
        hv.run_pending()
    return answer.code or payload.rc


def _failed(hv: Hypervisor, payload: LoadedPayload, command: Command, why: str) -> None:
    """Ask for an action on a host where it fails."""
    kept = hv.host
    late = [Cpu(number=0, state=CpuState.HYPERCALL), Cpu(number=1, is_stuck=True)]
    hv.host = Host(cpus=late) if why == _LATE else Host(cpus=kept.cpus, has_waitqueue=True)
    _act(hv, payload, command)
    hv.host = kept


def _unloaded(course: Course, why: str) -> None:
    hint = "no hook runs then; hand it out in one that runs once it is applied"
    hv, top = _loaded(course)
    before, data = hv.memory.digest(owner="xen", code_only=True), xens_data(hv)
    kept = set(hv.told)
    _failed(hv, top, Command.APPLY, why)
    set_by_hook = _written(hv, data, kept)
    _end(hv, top, before, hint if why == _LATE else TAKE_BACK)
    left = {addr for addr, byte in set_by_hook.items() if hv.memory.peek(addr, 1)[0] == byte}
    if left:
        name = (hv.image.name_of(min(left)) or f"{min(left):#x}").partition("+")[0]
        raise Unknown(
            "preapply-hook",
            f"a hook changes {name}, and nothing undoes it; change it in a hook that runs once it "
            "is applied",
        )


def _written(hv: Hypervisor, data: list[tuple[int, bytes]], kept: set[int]) -> dict[int, int]:
    """Give what hooks have written to the hypervisor's data: address and byte.

    Args:
        hv: The hypervisor, after the hooks.
        data: Its data before.
        kept: The bytes that hooks had written before, whatever a host holds there.
    """
    found: dict[int, int] = {}
    for start, old in data:
        new = hv.memory.peek(start, len(old))
        if new != old:
            pairs = enumerate(zip(old, new, strict=True))
            found |= {start + at: byte for at, (was, byte) in pairs if was != byte}
        if hv.image.host_pages is None:  # a host may hold something else there
            same = (addr for addr in hv.told - kept if start <= addr < start + len(old))
            found |= {addr: new[addr - start] for addr in same}
    return found


def _applied_again(course: Course, why: str) -> None:
    hv, top = _loaded(course)
    before = hv.memory.digest(owner="xen", code_only=True)
    _failed(hv, top, Command.APPLY, why)
    if not _act(hv, top, Command.APPLY):  # a hook may refuse: it is unloaded then
        course.observe(hv)
        rc = _act(hv, top, Command.REVERT)
        if rc:
            raise Hazard("revert", f"revert ends with {rc}")
    _end(hv, top, before)


_WORDS = {_unloaded: "it is unloaded", _applied_again: "asked again"}


def _reverted_again(course: Course) -> None:
    hv, top = _loaded(course)
    before = hv.memory.digest(owner="xen", code_only=True)
    _act(hv, top, Command.APPLY)
    used = what_is_used(hv, top)
    _failed(hv, top, Command.REVERT, _LATE)
    course.observe(hv)
    check_freed(used)
    check_variables(used, hv, top)
    for _ in range(_ASKED_MAX):
        rc = _act(hv, top, Command.REVERT)
        if not rc:
            return _end(hv, top, before)
    raise Hazard("revert", f"revert ends with {rc} each time; the payload cannot be taken off")


def _end(hv: Hypervisor, top: LoadedPayload, before: str, hint: str = TAKE_BACK) -> None:
    """Unload, and see that nothing is left."""
    hv.action(name_bytes(top.name) + b"\0", Command.UNLOAD)
    if hv.memory.digest(owner="xen", code_only=True) != before:
        raise Hazard("unload", "code or read-only data is not what it was before")
    check_pointers([top], hv, hint=hint)
