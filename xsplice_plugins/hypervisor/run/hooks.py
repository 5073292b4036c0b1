# SPDX-License-Identifier: Apache-2.0
"""Hooks: the argument they get, and what they may have changed when they return.

A hook is compiled against ``struct payload`` of one release; the model lays that structure out in
its own memory, lets the hook run, and reads back what hooks may write: ``rc`` and the per-function
state. Source: specification section 2.2 (offsets measured from the headers of each release).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE, X86_64, Arch
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import Hazard
from xsplice_plugins.hypervisor.image.image import Image
from xsplice_plugins.hypervisor.image.memory import RW, Memory, Segment
from xsplice_plugins.hypervisor.state.payload import HOOK_KINDS, Payload

#: Where the argument lies in the heap, away from the image.
_ARGUMENT_OFFSET = 0x100000
_FSTATE_OFFSET = 1024
_FSTATE_BYTES = 40
_STRUCT_BYTES = 1024
#: The kinds whose result Xen looks at.
ANSWERING_KINDS = frozenset({"preapply", "apply", "prerevert", "revert"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Offsets of ``struct payload`` on x86_64; 0 where a member does not exist."""

    funcs: int
    fstate: int
    nfuncs: int
    build_id: int
    depends: int
    load_funcs: int
    hooks: int
    n_load_funcs: int
    name: int
    metadata: int


LAYOUTS = {
    "4.14": _Layout(
        funcs=104, fstate=0, nfuncs=112, build_id=264, depends=280, load_funcs=312,
        hooks=328, n_load_funcs=376, name=384, metadata=512,
    ),
    "4.17.3": _Layout(
        funcs=104, fstate=112, nfuncs=120, build_id=288, depends=304, load_funcs=336,
        hooks=352, n_load_funcs=400, name=408, metadata=536,
    ),
    "master": _Layout(
        funcs=104, fstate=112, nfuncs=120, build_id=288, depends=304, load_funcs=320,
        hooks=336, n_load_funcs=384, name=392, metadata=520,
    ),
}  # fmt: skip


class HookHost(Protocol):
    """What running a hook needs of a hypervisor."""

    image: Image
    release: Release
    memory: Memory
    payloads: list[Payload]
    applied: list[Payload]
    console: list[str]
    engine: object | None

    @property
    def hook_runner(self) -> "HookRunner":
        """How hooks are run."""


#: Runs the hook of a kind at an address for a payload, and gives its result.
HookRunner = Callable[[HookHost, Payload, str, int], int]


def _put(out: bytearray, offset: int, value: int, size: int) -> None:
    out[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def argument_virt(arch: Arch) -> int:
    """Give where the structure that hooks get is put."""
    return arch.heap_virt + _ARGUMENT_OFFSET


def encode_argument(payload: Payload, arch: Arch, release: Release) -> bytearray:
    """Lay ``struct payload`` out, followed by the per-function state.

    Args:
        payload: the one whose hook runs.
        arch: behind the virtual region, members are written on x86 only, where the offsets were
            measured; hooks elsewhere find zeros there.
        release: decides the layout.

    Returns:
        Bytes for ``argument_virt``, whole pages.
    """
    layout = LAYOUTS[release.hook_layout]
    size = _FSTATE_OFFSET + _FSTATE_BYTES * len(payload.functions)
    out = bytearray(-(-size // PAGE_SIZE) * PAGE_SIZE)
    for offset, value, width in (
        (0, int(payload.state), 4),
        (4, payload.rc, 4),
        (8, payload.is_reverted, 1),
        (9, payload.is_safe_to_reapply, 1),
        (32, payload.text_virt, 8),
        (40, payload.text_size_bytes, 8),
        (48, payload.rw_virt, 8),
        (56, payload.rw_size_bytes, 8),
        (64, payload.ro_virt, 8),
        (72, payload.ro_size_bytes, 8),
        (80, payload.pages, 4),
        (layout.funcs, payload.funcs_virt, 8),
        (layout.nfuncs, len(payload.functions), 4),
    ):
        _put(out, offset, int(value), width)
    if arch == X86_64:
        _put_late_members(out, payload, layout)
    if layout.fstate:
        _put(out, layout.fstate, argument_virt(arch) + _FSTATE_OFFSET, 8)
        for index, function in enumerate(payload.functions):
            start = _FSTATE_OFFSET + _FSTATE_BYTES * index
            _put(out, start, function.patch_offset, 4)
            _put(out, start + 4, function.is_applied, 4)
            out[start + 8 : start + 39] = function.saved.ljust(31, b"\0")[:31]
    return out


def _put_late_members(out: bytearray, payload: Payload, layout: _Layout) -> None:
    for offset, value in (
        (layout.n_load_funcs, len(payload.load_hooks)),
        (layout.n_load_funcs + 4, len(payload.unload_hooks)),
        (layout.build_id + 8, len(payload.build_id)),
        (layout.depends + 8, len(payload.depends)),
        (layout.metadata + 8, len(payload.metadata)),
    ):
        _put(out, offset, value, 4)
    for index, kind in enumerate(HOOK_KINDS):
        _put(out, layout.hooks + 8 * index, payload.hooks.get(kind, 0), 8)
    name = payload.name.encode("latin-1")[:127]
    out[layout.name : layout.name + len(name)] = name


def decode_argument(
    raw: bytes | bytearray, payload: Payload, *, memory: Memory, release: Release
) -> None:
    """Take over what a hook changed: ``rc``, and each function's flag, offset and saved bytes."""
    payload.rc = int.from_bytes(raw[4:8], "little", signed=True)
    for index, function in enumerate(payload.functions):
        if release.keeps_fstate:
            start = _FSTATE_OFFSET + _FSTATE_BYTES * index
            function.patch_offset = int.from_bytes(raw[start : start + 4], "little")
            function.is_applied = int.from_bytes(raw[start + 4 : start + 8], "little") == 1
            saved = bytes(raw[start + 8 : start + 39])
        else:
            state = memory.read(function.record_virt + 33, 33, step="hook")
            saved = state[:31]
            function.is_applied = state[31] == 1
            function.patch_offset = state[32] if release.endbr else 0
        if saved[: len(function.saved)] != function.saved or any(saved[len(function.saved) :]):
            function.saved = saved


def _outcome(payload: Payload, kind: str, result: int) -> tuple[object, ...]:
    """Give what of a hook's run decides how Xen goes on."""
    return (
        result if kind in ANSWERING_KINDS else 0,
        payload.rc,
        payload.state,
        payload.is_reverted,
        tuple(function.is_applied for function in payload.functions),
    )


def emulate_hook(hv: HookHost, payload: Payload, kind: str, addr_virt: int) -> int:
    """Run a hook's machine code in the model's memory.

    It runs twice, the first time as a rehearsal (see ``rehearsal.py``) that is undone. A hook whose
    outcome differs between the two relies on a value that nobody set, for example on what
    ``printk`` leaves in the result register.

    Args:
        hv: the hypervisor.
        payload: gets back what the hook changed.
        kind: ``load``, ``unload`` or one of the single hooks.
        addr_virt: its first instruction.

    Returns:
        The hook's result as a signed 32-bit number; meaningless for ``void`` kinds.

    Raises:
        Hazard: the hook crashed, panicked, hit a BUG, did not return, spoilt its caller's
            registers or relies on a value that nobody set.
    """
    from xsplice_plugins.hypervisor.run import rehearsal  # noqa: PLC0415  # it needs this module

    before = rehearsal.take_snapshot(hv, payload)
    rehearsed: tuple[object, ...] | None = None
    problem = ""
    try:
        with rehearsal.other_leftovers(hv.payloads):
            result = _run_once(hv, payload, kind, addr_virt, is_rehearsal=True)
        rehearsed = _outcome(payload, kind, result)
    except Hazard as hazard:
        problem = f": {hazard.reason}"
    finally:
        rehearsal.put_back(hv, before)
    result = 0
    outcome: tuple[object, ...] | None = None
    try:
        result = _run_once(hv, payload, kind, addr_virt, is_rehearsal=False)
        outcome = _outcome(payload, kind, result)
    except Hazard as hazard:
        if rehearsed is None:
            raise
        problem = f": {hazard.reason}"
    if rehearsed != outcome:
        raise Hazard(f"{kind}-hook", f"{rehearsal.RELIES}{problem}")
    return result


def _run_once(
    hv: HookHost, payload: Payload, kind: str, addr_virt: int, *, is_rehearsal: bool
) -> int:
    from xsplice_plugins.hypervisor.run import execute  # noqa: PLC0415  # it needs this module

    step = f"{kind}-hook"
    if kind in {"load", "unload"}:
        return execute.call_function(hv, addr_virt, (), step=step, is_rehearsal=is_rehearsal)
    segment = Segment(
        addr_virt=argument_virt(hv.image.arch),
        data=encode_argument(payload, hv.image.arch, hv.release),
        perm=RW,
        name="struct payload",
        owner="(hook argument)",
    )
    hv.memory.map(segment)
    try:
        result = execute.call_function(
            hv,
            addr_virt,
            (segment.addr_virt,),
            step=step,
            subject=payload,
            argument=segment,
            is_rehearsal=is_rehearsal,
        )
        decode_argument(segment.data, payload, memory=hv.memory, release=hv.release)
    finally:
        hv.memory.unmap(segment)
    result &= 0xFFFFFFFF
    return result - (1 << 32) if result >> 31 else result
