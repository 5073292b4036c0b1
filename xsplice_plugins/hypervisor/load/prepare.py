# SPDX-License-Identifier: Apache-2.0
"""Preparing a relocated payload: function records, hooks, identities, then the special sections.

The order is that of ``prepare_payload`` in xen/common/livepatch.c; a bad function record hides a
duplicate build-id.
"""

import struct

from xsplice_plugins.hypervisor.act.patching import STEP_VERIFY, check_distance, verify_function
from xsplice_plugins.hypervisor.facts.arches import Arch
from xsplice_plugins.hypervisor.facts.notes import parse_build_id
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import (
    EEXIST,
    EINVAL,
    ENOENT,
    EOPNOTSUPP,
    Hazard,
    XenRefusal,
)
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load import special
from xsplice_plugins.hypervisor.load.container import PayloadElf, PayloadSection
from xsplice_plugins.hypervisor.load.symbols import find_symbol
from xsplice_plugins.hypervisor.state.payload import (
    HOOK_KINDS,
    ExpectedBytes,
    Function,
    LoadedPayload,
)
from xsplice_plugins.hypervisor.state.xen import Xen

STEP_HOOKS = "hooks"
STEP_BUILD_ID = "build-id"
STEP_DEPENDS = "depends"
STEP_XEN_DEPENDS = "xen-depends"
FUNCS = ".livepatch.funcs"


def _expectation(raw: bytes) -> ExpectedBytes:
    head = raw[0]
    return ExpectedBytes(
        is_enabled=bool(head & 1), length_bytes=head >> 1 & 31, reserved=head >> 6, data=raw[1:]
    )


def _read_name(pointer: int, memory: Memory) -> str:
    """Read a function's name for people; Xen itself follows the pointer only to look it up."""
    if not pointer:
        return ""
    try:
        return memory.read_c_string(pointer, limit=256).decode("latin-1")
    except Hazard:
        return ""


def read_record(raw: bytes, record_virt: int, *, arch: Arch, release: Release) -> Function:
    """Decode one function record.

    Args:
        raw: its bytes, relocated.
        record_virt: where it lies.
        arch: decides pointer sizes.
        release: decides what the bytes behind the version mean.
    """
    layout = "<QQQII" if arch.is_64bit else "<IIIII"
    name, new, old, new_size, old_size = struct.unpack_from(layout, raw)
    start = struct.calcsize(layout) + 1
    function = Function(
        record_virt=record_virt,
        name_virt=name,
        name="",
        new_virt=new,
        old_virt=old,
        new_size_bytes=new_size,
        old_size_bytes=old_size,
        expectation=_expectation(raw[start + 39 :]) if release.has_v2_sections else None,
    )
    if release.has_v2_sections and not release.keeps_fstate:
        # State lives in the record, so whatever the file holds there counts as state.
        function.saved = raw[start : start + 31]
        function.is_applied = function.is_claimed = raw[start + 31] == 1
        function.patch_offset = raw[start + 32] if release.endbr else 0
    return function


def _resolve_old(function: Function, payload: LoadedPayload, xen: Xen) -> None:
    if function.old_virt:
        return
    if not function.name_virt:
        raise Hazard(
            STEP_VERIFY, "a record has neither an old address nor a name: NULL dereference"
        )
    name = xen.memory.read_c_string(function.name_virt, step=STEP_VERIFY).decode("latin-1")
    addr = find_symbol(name, xen, payload)
    if addr is None:
        raise XenRefusal(ENOENT, STEP_VERIFY, f"{name} is in no table")
    function.old_virt = addr


def _check_record(raw: bytes, function: Function, arch: Arch, release: Release) -> None:
    version = raw[32 if arch.is_64bit else 20]
    subject = function.name or f"record at {function.record_virt:#x}"
    if version != release.payload_version:
        raise XenRefusal(
            EOPNOTSUPP,
            STEP_VERIFY,
            f"{subject}: version {version}, Xen {release.name} takes {release.payload_version}",
        )
    if release.has_hooks_basic:
        if not function.old_size_bytes:
            raise XenRefusal(EINVAL, STEP_VERIFY, f"{subject}: the old size is 0")
    elif not function.new_virt or not function.new_size_bytes:
        raise XenRefusal(EINVAL, STEP_VERIFY, f"{subject}: no replacement (Xen 4.7 knows no NOPs)")


def _take_functions(section: PayloadSection, payload: LoadedPayload, xen: Xen) -> None:
    arch, memory, release = xen.image.arch, xen.memory, xen.release
    record_bytes = release.record_bytes(arch)
    base, table = special.table_of(section, record_bytes, xen, STEP_VERIFY)
    payload.funcs_virt = base
    payload.is_funcs_writable = section.is_write
    for start in range(0, section.size_bytes, record_bytes):
        raw = table[start : start + record_bytes]
        function = read_record(raw, base + start, arch=arch, release=release)
        function.name = _read_name(function.name_virt, memory)
        _check_record(raw, function, arch, release)
        if release.endbr:
            _resolve_old(function, payload, xen)
            if xen.image.is_init(function.old_virt):
                raise Hazard(STEP_VERIFY, f"{function.name}: init text, freed after boot")
        verify_function(function, xen)
        if not release.endbr:
            _resolve_old(function, payload, xen)
        check_distance(function, xen)
        if not function.name:
            function.name = (xen.image.name_of(function.old_virt) or "").partition("+")[0]
        pointer = function.old_virt.to_bytes(arch.pointer_bytes, "little")
        memory.write(function.record_virt + 2 * arch.pointer_bytes, pointer, step=STEP_VERIFY)
        payload.functions.append(function)


def _pointers(elf: PayloadElf, kind: str, xen: Xen, *, is_single: bool) -> tuple[int, ...]:
    """Give what a section of hooks points to; nothing where it is missing or empty."""
    section, size = elf.find(f".livepatch.hooks.{kind}"), elf.arch.pointer_bytes
    if section is None:
        return ()
    if is_single and section.size_bytes != size:
        raise XenRefusal(EINVAL, STEP_HOOKS, f"{section.name}: exactly one pointer belongs there")
    _, raw = special.table_of(section, size, xen, STEP_HOOKS)
    return tuple(
        int.from_bytes(raw[start : start + size], "little") for start in range(0, len(raw), size)
    )


def _take_hooks(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    payload.load_hooks = _pointers(elf, "load", xen, is_single=False)
    payload.unload_hooks = _pointers(elf, "unload", xen, is_single=False)
    for kind in HOOK_KINDS if xen.release.has_v2_sections else ():
        for pointer in filter(None, _pointers(elf, kind, xen, is_single=True)):
            payload.hooks[kind] = pointer


def _read_note(elf: PayloadElf, name: str, xen: Xen, *, step: str) -> bytes:
    """Read and check one identity section that is known to be there.

    Raises:
        XenRefusal: it holds no build-id.
    """
    section = elf.find(name)
    assert section is not None, "presence was checked before"
    if section.size_bytes <= 12:
        raise XenRefusal(EINVAL, step, f"{name}: {section.size_bytes} bytes")
    note = xen.memory.read(special.loaded_address(section, step), section.size_bytes, step=step)
    passes = xen.release.passes_note_errno and step != STEP_XEN_DEPENDS
    return parse_build_id(note, step=step, passes_errno=passes)


def prepare_payload(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Check and take everything a payload brings, in Xen's order.

    Args:
        elf: placed and relocated.
        payload: filled in.
        xen: the payload's pages are still writable; its release decides which gates exist.

    Raises:
        XenRefusal: a gate rejects.
        Hazard: Xen's behaviour is undefined.
    """
    release = xen.release
    section = elf.find(FUNCS)
    if section is not None:
        _take_functions(section, payload, xen)
    if release.has_hooks_basic:
        _take_hooks(elf, payload, xen)
    payload.build_id = _read_note(elf, ".note.gnu.build-id", xen, step=STEP_BUILD_ID)
    twin = next((other for other in xen.payloads if other.build_id == payload.build_id), None)
    if twin is not None:
        raise XenRefusal(EEXIST, STEP_BUILD_ID, f"payload {twin.name} has the same build-id")
    payload.depends = _read_note(elf, ".livepatch.depends", xen, step=STEP_DEPENDS)
    if release.has_v2_sections and not release.checks_build_id_first:
        payload.xen_depends = _read_note(elf, ".livepatch.xen_depends", xen, step=STEP_XEN_DEPENDS)
    special.take_bug_frames(elf, payload, xen)
    special.apply_payload_alternatives(elf, payload, xen)
    special.apply_alt_call_sites(elf, payload, xen)
    special.sort_exception_table(elf, payload, xen)
    special.take_modinfo(elf, payload, xen)
