# SPDX-License-Identifier: Apache-2.0
"""Patching instructions: which bytes are written over an old function, and where.

Source: ``arch_livepatch_verify_func``, ``_apply`` and ``_revert`` in livepatch.c of the three
architectures.
"""

from xsplice_plugins.hypervisor.facts.arches import X86_64, Arch
from xsplice_plugins.hypervisor.facts.cpu import CpuProfile, ideal_nops
from xsplice_plugins.hypervisor.facts.verdicts import (
    EINVAL,
    EOPNOTSUPP,
    EOVERFLOW,
    Hazard,
    XenRefusal,
)
from xsplice_plugins.hypervisor.image.alternatives import ENDBR64, ENDBR64_POISON
from xsplice_plugins.hypervisor.state.payload import Function
from xsplice_plugins.hypervisor.state.xen import Xen

STEP_VERIFY = "function-records"
STEP_APPLY = "patching"
STEP_REVERT = "unpatching"
#: Bytes the hypervisor can save per function.
SAVED_BYTES_MAX = 31


def _entry_offset(old_virt: int, xen: Xen, *, step: str) -> int:
    """Give the bytes to keep at a function's start: 4 where it begins with ENDBR64.

    Args:
        old_virt: the function.
        xen: its memory as it is now; unaware releases never look.
        step: named in a hazard.
    """
    if not xen.release.endbr:
        return 0
    head = xen.memory.read(old_virt, 4, step=step)
    return 4 if head == ENDBR64 or (xen.release.endbr == 2 and head == ENDBR64_POISON) else 0


def verify_function(function: Function, xen: Xen) -> None:
    """Check sizes at load time.

    Raises:
        XenRefusal: too large a NOP record, or too small an old function.
        Hazard: the old function is not readable.
    """
    arch = xen.image.arch
    name = function.name or f"{function.old_virt:#x}"
    is_nop = not function.new_virt and xen.release.has_hooks_basic
    if is_nop:
        if function.new_size_bytes > SAVED_BYTES_MAX or (
            arch != X86_64 and function.new_size_bytes % 4
        ):
            raise XenRefusal(
                EOPNOTSUPP, STEP_VERIFY, f"{name}: {function.new_size_bytes} bytes of NOPs"
            )
        if arch == X86_64:
            if function.old_size_bytes < function.new_size_bytes:
                raise XenRefusal(
                    EINVAL, STEP_VERIFY, f"{name}: more NOPs than the function has bytes"
                )
            return
    needed = arch.insn_size_bytes
    if arch == X86_64:
        needed += _entry_offset(function.old_virt, xen, step=STEP_VERIFY)
    if function.old_size_bytes < needed:
        raise XenRefusal(
            EINVAL, STEP_VERIFY, f"{name}: {function.old_size_bytes} bytes, a jump needs {needed}"
        )


def check_distance(function: Function, xen: Xen) -> None:
    """Check that a jump reaches, with the sign Xen uses: old minus new.

    Raises:
        XenRefusal: -EOVERFLOW.
    """
    if not xen.release.has_hooks_basic or not function.new_virt:
        return
    distance = function.old_virt - function.new_virt
    reach = xen.image.arch.range_bytes
    if not -reach <= distance < reach:
        name = function.name or f"{function.old_virt:#x}"
        raise XenRefusal(EOVERFLOW, STEP_VERIFY, f"{name}: the replacement is {distance:#x} away")


def _instructions(function: Function, length: int, *, arch: Arch, cpu: CpuProfile) -> bytes:
    """Give the bytes to write at old address plus offset."""
    if function.new_virt:
        return arch.jump(function.old_virt + function.patch_offset, function.new_virt)
    return arch.nop * (length // len(arch.nop)) if arch.nop else ideal_nops(cpu, length)


def patch_length(function: Function, arch: Arch) -> int:
    """Give how many bytes are saved and overwritten."""
    if function.new_virt:
        return arch.insn_size_bytes
    return function.new_size_bytes - function.patch_offset


def patch(function: Function, xen: Xen) -> None:
    """Write the jump or the NOPs over an old function and save what was there.

    Args:
        function: gets ``patch_offset`` and ``saved``.
        xen: its memory's write protection must be lifted.

    Raises:
        Hazard: what Xen would write is undefined.
    """
    arch = xen.image.arch
    function.patch_offset = 0
    if arch == X86_64:
        function.patch_offset = _entry_offset(function.old_virt, xen, step=STEP_APPLY)
    length = patch_length(function, arch)
    if length == 0:
        function.saved = b""
        return
    if length < 0 and function.new_size_bytes == 0:
        raise Hazard(STEP_APPLY, "zero bytes of NOPs behind ENDBR64: unsigned underflow, memcpy")
    if length < 0:
        raise Hazard(
            STEP_APPLY,
            f"{function.new_size_bytes} bytes of NOPs on a function with ENDBR64: "
            "unsigned underflow in the length of a memcpy",
        )
    if arch != X86_64 and not function.new_virt and length > function.old_size_bytes:
        raise Hazard(STEP_APPLY, "the NOPs run over the end of the function; Arm does not compare")
    place = function.old_virt + function.patch_offset
    function.saved = xen.memory.read(place, length, step=STEP_APPLY)
    code = _instructions(function, length, arch=arch, cpu=xen.image.cpu)
    xen.memory.write(place, code, step=STEP_APPLY)


def unpatch(function: Function, xen: Xen) -> None:
    """Write the saved bytes back.

    Raises:
        Hazard: nothing was saved (a hook or the file only claimed that the function is patched), so
            Xen writes whatever its buffer holds over the function.
    """
    length = patch_length(function, xen.image.arch)
    if function.is_claimed or len(function.saved) < length:
        raise Hazard(
            STEP_REVERT, f"{function.name} was never patched: its buffer is written over it"
        )
    place = function.old_virt + function.patch_offset
    xen.memory.write(place, function.saved[: max(length, 0)], step=STEP_REVERT)
