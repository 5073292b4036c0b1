# SPDX-License-Identifier: Apache-2.0
"""Alternative instructions on x86: the same engine serves the image at boot and a payload at load.

Source: ``_apply_alternatives`` of xen/arch/x86/alternative.c.
"""

import struct
from typing import Protocol

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import MASK64
from xsplice_plugins.hypervisor.facts.cpu import ALWAYS, CpuProfile, ideal_nops
from xsplice_plugins.hypervisor.facts.verdicts import ENOSPC, ERANGE, Hazard, XenRefusal

#: Size of an alternative's record on Arm.
ARM_ENTRY_BYTES = 12
ENDBR64 = bytes.fromhex("f30f1efa")
ENDBR64_POISON = bytes.fromhex("660f1f01")
#: What a call through a NULL pointer becomes: UD2, then UD0, easy to recognise in a dump.
NULL_CALL = bytes.fromhex("0f0b0fffff")
_PATCH_BYTES_MAX = 254
_POLARITY = 0x8000


class ByteSpace(Protocol):
    """Memory the engine works on."""

    def read(self, addr_virt: int, size_bytes: int, *, step: str = ...) -> bytes:
        """Read bytes."""

    def write(self, addr_virt: int, data: bytes, *, step: str = ...) -> None:
        """Write bytes."""


class AltInstr(Struct, frozen=True, kw_only=True):
    """One alternative with its offsets turned into addresses."""

    orig_virt: int  #: the instruction to replace
    repl_virt: int  #: the replacement's bytes
    feature: int  #: number of the feature bit
    is_inverted: bool  #: replace where the feature is missing
    orig_bytes: int  #: length of the original
    repl_bytes: int  #: length of the replacement
    pad_bytes: int  #: padding behind the original, part of the site


def parse_alternatives(
    table: bytes, addr_virt: int, *, entry_bytes: int, has_polarity: bool = True
) -> tuple[AltInstr, ...]:
    """Decode ``.altinstructions``.

    Args:
        table: the section's bytes, relocated; a whole number of entries.
        addr_virt: its address; offsets are relative to their own field.
        entry_bytes: 14 on x86 since 4.11, 12 before and on Arm.
        has_polarity: whether the feature's top bit inverts the test (x86).
    """
    layout = "<iiHBBBB" if entry_bytes == 14 else "<iiHBB"
    out = []
    for index, fields in enumerate(struct.iter_unpack(layout, table)):
        base = addr_virt + index * entry_bytes
        orig, repl, cpuid, orig_bytes, repl_bytes = fields[:5]
        out.append(
            AltInstr(
                orig_virt=(base + orig) & MASK64,
                repl_virt=(base + 4 + repl) & MASK64,
                feature=cpuid & ~_POLARITY if has_polarity else cpuid,
                is_inverted=has_polarity and bool(cpuid & _POLARITY),
                orig_bytes=orig_bytes,
                repl_bytes=repl_bytes,
                pad_bytes=fields[5] if entry_bytes == 14 else 0,
            )
        )
    return tuple(out)


def _check(alt: AltInstr, *, feature_words: int, returns_errors: bool, step: str) -> None:
    total = alt.orig_bytes + alt.pad_bytes
    for is_bad, errno, reason in (
        (alt.repl_bytes > total, ENOSPC, f"{alt.repl_bytes} bytes replace {total}"),
        (total > _PATCH_BYTES_MAX, ENOSPC, f"site of {total} bytes, limit {_PATCH_BYTES_MAX}"),
        (alt.feature >= feature_words * 32, ERANGE, f"feature {alt.feature} is unknown"),
    ):
        if is_bad and returns_errors:
            raise XenRefusal(errno, step, f"alternative at {alt.orig_virt:#x}: {reason}")
        if is_bad:
            raise Hazard(step, f"BUG: alternative at {alt.orig_virt:#x}: {reason}")


def _moved_branch(alt: AltInstr, repl: bytes) -> bytes:
    """Keep the target of a direct call or jump that is copied from the replacement's place."""
    if len(repl) < 5 or repl[0] & 0xFE != 0xE8:
        return repl
    disp = int.from_bytes(repl[1:5], "little") + alt.repl_virt - alt.orig_virt
    return repl[:1] + (disp & 0xFFFFFFFF).to_bytes(4, "little") + repl[5:]


def _is_altcall(alt: AltInstr, orig: bytes, repl: bytes) -> bool:
    """Tell an alternative call: its replacement is a direct branch to itself."""
    return (
        len(repl) >= 5
        and repl[0] & 0xFE == 0xE8
        and alt.feature == ALWAYS
        and not alt.is_inverted
        and repl[1:5] == b"\xfb\xff\xff\xff"
        and alt.orig_bytes >= 6
        and orig[:1] == b"\xff"
        and orig[1] == (0x25 if repl[0] & 1 else 0x15)
    )


def _direct_call(
    space: ByteSpace, alt: AltInstr, orig: bytes, repl: bytes, *, has_ibt: bool, step: str
) -> bytes | None:
    """Turn an indirect call into a direct one; None where the pointer is NULL."""
    disp = int.from_bytes(orig[2:6], "little", signed=True)
    slot = (alt.orig_virt + 6 + disp) & MASK64
    target = int.from_bytes(space.read(slot, 8, step=step), "little")
    if not target:
        return None
    if has_ibt and space.read(target, 4, step=step) == ENDBR64:
        target += 4
    relative = target - (alt.orig_virt + 5)
    if not -(1 << 31) <= relative < 1 << 31:
        raise Hazard(step, f"ASSERT: alternative call to {target:#x} is out of reach")
    return repl[:1] + relative.to_bytes(4, "little", signed=True)


def apply_alternatives(
    space: ByteSpace,
    alternatives: tuple[AltInstr, ...],
    *,
    cpu: CpuProfile,
    feature_words: int,
    has_ibt: bool,
    has_altcall_idiom: bool,
    has_ideal_nops: bool,
    returns_errors: bool,
    step: str,
) -> tuple[tuple[int, int], ...]:
    """Patch every site in order, as Xen does with ``force`` set.

    Args:
        space: memory that may be written.
        alternatives: the table.
        cpu: decides each feature test and the NOPs.
        feature_words: 32-bit words of features; a higher number than they hold is bad.
        has_ibt: Xen was built with CONFIG_XEN_IBT (direct calls skip ENDBR64).
        has_altcall_idiom: indirect calls may become direct ones.
        has_ideal_nops: the assembler's padding already is what Xen would write.
        returns_errors: bad entries give an errno; otherwise they are a BUG.
        step: named in verdicts.

    Returns:
        (address, bytes) of each site whose pointer was NULL: on a real host drivers decide.

    Raises:
        XenRefusal: an entry is bad and the release returns errors for it.
        Hazard: an entry is bad and the release does not.
    """
    null_calls = []
    base_virt = -1
    is_touched = False
    for alt in alternatives:
        _check(alt, feature_words=feature_words, returns_errors=returns_errors, step=step)
        if base_virt != alt.orig_virt:
            # Entries for one site follow each other; only the first looks at its own NOPs.
            base_virt = alt.orig_virt
            is_touched = False
        total = alt.orig_bytes + alt.pad_bytes
        if cpu.has(alt.feature) == alt.is_inverted:
            if is_touched:
                continue
            is_touched = True
            if not has_ideal_nops and alt.pad_bytes > 1:
                nops = ideal_nops(cpu, alt.pad_bytes)
                space.write(alt.orig_virt + alt.orig_bytes, nops, step=step)
            continue
        is_touched = True
        orig = space.read(alt.orig_virt, alt.orig_bytes, step=step)
        repl = space.read(alt.repl_virt, alt.repl_bytes, step=step)
        if has_altcall_idiom and _is_altcall(alt, orig, repl):
            direct = _direct_call(space, alt, orig, repl, has_ibt=has_ibt, step=step)
            if direct is None:
                null_calls.append((alt.orig_virt, total))
            repl = (direct or NULL_CALL) + repl[5:]
        else:
            repl = _moved_branch(alt, repl)
        space.write(alt.orig_virt, repl + ideal_nops(cpu, total - len(repl)), step=step)
    return tuple(null_calls)
