# SPDX-License-Identifier: Apache-2.0
"""The argument that hooks get: ``struct payload`` as one release lays it out.

A hook is compiled against that structure; the model puts it into its own memory, lets the hook run,
and reads back what hooks may write: ``rc`` and the per-function state. Offsets were measured with
the headers of each release. Source: xen/include/xen/livepatch_payload.h, virtual_region.h.
"""

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import PAGE_SIZE, X86_64, Arch
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.state.payload import (
    HOOK_KINDS,
    NAME_BYTES_MAX,
    LoadedPayload,
    name_bytes,
)
from xsplice_plugins.hypervisor.state.xen import Xen

#: Where the argument lies in the heap, away from the image.
_ARGUMENT_OFFSET = 0x100000
_FSTATE_OFFSET = 1024
_FSTATE_BYTES = 40


class _Offsets(Struct, frozen=True, kw_only=True):
    """Offsets of ``struct payload`` on x86_64 that differ between releases."""

    nfuncs: int
    build_id: int
    hooks: int

    @classmethod
    def of(cls, release: Release) -> "_Offsets":
        """Give a release's: ``fstate`` and the region's rodata came, ``xen_dep`` went."""
        nfuncs = 112 + 8 * release.keeps_fstate
        build_id = nfuncs + 24 + (136 if release.remaps_rodata else 120) + 8
        return cls(
            nfuncs=nfuncs,
            build_id=build_id,
            hooks=build_id + 48 + 16 * (not release.checks_build_id_first),
        )


def _put(out: bytearray, offset: int, value: int, size: int) -> None:
    out[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def argument_virt(arch: Arch) -> int:
    """Give where the structure that hooks get is put."""
    return arch.heap_virt + _ARGUMENT_OFFSET


def encode_argument(payload: LoadedPayload, xen: Xen, *, filler: int = 0) -> bytearray:
    """Lay ``struct payload`` out, followed by the per-function state.

    Behind the virtual region, members are written on x86 only, where the offsets were measured;
    hooks elsewhere find zeros there.

    Args:
        payload: the one whose hook runs.
        xen: its release decides the layout.
        filler: stands where the model has no member.

    Returns:
        Bytes for ``argument_virt``, whole pages.
    """
    arch = xen.image.arch
    offsets = _Offsets.of(xen.release)
    size = _FSTATE_OFFSET + _FSTATE_BYTES * len(payload.functions)
    out = bytearray([filler]) * (-(-size // PAGE_SIZE) * PAGE_SIZE)
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
        (104, payload.funcs_virt, 8),
        (offsets.nfuncs, len(payload.functions), 4),
    ):
        _put(out, offset, int(value), width)
    if arch == X86_64:
        _put_late_members(out, payload, offsets)
    if xen.release.keeps_fstate:
        _put(out, 112, argument_virt(arch) + _FSTATE_OFFSET, 8)
        for index, function in enumerate(payload.functions):
            start = _FSTATE_OFFSET + _FSTATE_BYTES * index
            _put(out, start, function.patch_offset, 4)
            _put(out, start + 4, function.is_applied, 4)
            out[start + 8 : start + 39] = function.saved.ljust(31, b"\0")[:31]
    return out


def _put_late_members(out: bytearray, payload: LoadedPayload, offsets: _Offsets) -> None:
    counts = offsets.hooks + 8 * len(HOOK_KINDS)
    for offset, value in (
        (offsets.build_id + 8, len(payload.build_id)),
        (offsets.build_id + 24, len(payload.depends)),
        (counts, len(payload.load_hooks)),
        (counts + 4, len(payload.unload_hooks)),
        (counts + 8 + NAME_BYTES_MAX + 8, len(payload.metadata)),
    ):
        _put(out, offset, value, 4)
    for index, kind in enumerate(HOOK_KINDS):
        _put(out, offsets.hooks + 8 * index, payload.hooks.get(kind, 0), 8)
    name = name_bytes(payload.name).ljust(NAME_BYTES_MAX, b"\0")
    out[counts + 8 : counts + 8 + len(name)] = name


def unknown_members(payload: LoadedPayload, xen: Xen) -> tuple[int, ...]:
    """Give the addresses in that structure of what only a running Xen has there: its lists."""
    first, other = (encode_argument(payload, xen, filler=byte) for byte in (0, 0xFF))
    start = argument_virt(xen.image.arch)
    return tuple(start + at for at in range(_FSTATE_OFFSET) if first[at] != other[at])


def decode_argument(raw: bytes | bytearray, payload: LoadedPayload, xen: Xen) -> None:
    """Take over what a hook changed: ``rc``, and each function's flag, offset and saved bytes."""
    payload.rc = int.from_bytes(raw[4:8], "little", signed=True)
    for index, function in enumerate(payload.functions):
        if xen.release.keeps_fstate:
            start = _FSTATE_OFFSET + _FSTATE_BYTES * index
            function.patch_offset = int.from_bytes(raw[start : start + 4], "little")
            function.is_applied = int.from_bytes(raw[start + 4 : start + 8], "little") == 1
            saved = bytes(raw[start + 8 : start + 39])
        else:
            state = xen.memory.read(function.record_virt + 33, 33, step="hook")
            saved = state[:31]
            function.is_applied = state[31] == 1
            function.patch_offset = state[32] if xen.release.endbr else 0
        if saved[: len(function.saved)] != function.saved or any(saved[len(function.saved) :]):
            function.saved = saved
