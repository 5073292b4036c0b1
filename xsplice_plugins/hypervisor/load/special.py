# SPDX-License-Identifier: Apache-2.0
"""The special sections behind the function records: bug frames, alternatives, tables, metadata.

They are handled in exactly this order at the end of ``prepare_payload`` of xen/common/livepatch.c.
"""

import struct
from functools import partial
from itertools import count

from xsplice_plugins.hypervisor.facts.arches import MASK32, MASK64, X86_64
from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, EOPNOTSUPP, Hazard, XenRefusal
from xsplice_plugins.hypervisor.image.alternatives import (
    ARM_ENTRY_BYTES,
    ENDBR64,
    AltInstr,
    apply_alternatives,
    parse_alternatives,
)
from xsplice_plugins.hypervisor.image.alternatives_arm import apply_alternatives_arm64
from xsplice_plugins.hypervisor.image.boot import parse_bug_frames, parse_ex_table, unnamed_warnings
from xsplice_plugins.hypervisor.load.container import PayloadElf, PayloadSection
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

STEP_BUG_FRAMES = "bug-frames"
STEP_ALTERNATIVES = "alternatives"
STEP_ALT_CALLS = "alt-call-sites"
STEP_EX_TABLE = "exception-table"
STEP_MODINFO = "modinfo"
_WARN = 1


def loaded_address(section: PayloadSection, step: str) -> int:
    """Give where a special section was placed.

    Raises:
        Hazard: it was not (no SHF_ALLOC, or empty in a release that skips empty sections); Xen
            follows a NULL pointer or one into freed xen.memory.
    """
    if section.addr_load is None:
        raise Hazard(step, f"{section.name} is not in memory: Xen follows a stale or NULL pointer")
    return section.addr_load


def table_of(section: PayloadSection, unit: int, xen: Xen, step: str) -> tuple[int, bytes]:
    """Give where a table lies and its bytes, nothing of an empty one.

    Raises:
        XenRefusal: its size is not a whole number of units (bytes).
        Hazard: it is not in memory.
    """
    if section.size_bytes % unit:
        raise XenRefusal(EINVAL, step, f"{section.name}: {section.size_bytes} bytes, unit {unit}")
    if not section.size_bytes:
        return 0, b""
    addr = loaded_address(section, step)
    return addr, xen.memory.read(addr, section.size_bytes, step=step)


def take_bug_frames(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Register ``.bug_frames.N``."""
    is_x86 = elf.arch == X86_64
    for kind in range(xen.release.bug_frame_kinds(elf.arch)):
        section = elf.find(f".bug_frames.{kind}")
        if section is None:
            continue
        addr, table = table_of(section, 8 if is_x86 else 16, xen, STEP_BUG_FRAMES)
        # Arm had no frames that run a function before 4.15; the other kinds came one earlier.
        number = kind + 4 - xen.release.bug_frame_kinds(elf.arch)
        payload.bug_frames.update(parse_bug_frames(table, addr, number, is_x86=is_x86))
        if not is_x86 and number == _WARN:
            payload.bug_frames.update(unnamed_warnings(table, addr, xen.image.covers))


def _check_bounds(
    elf: PayloadElf, payload: LoadedPayload, alternatives: tuple[AltInstr, ...]
) -> None:
    """Every original inside the payload's text, every replacement inside its section."""
    replacement = elf.find(".altinstr_replacement")
    if not payload.text_size_bytes:
        raise XenRefusal(EINVAL, STEP_ALTERNATIVES, "alternatives without any text")
    if replacement is None:
        raise XenRefusal(EINVAL, STEP_ALTERNATIVES, "no .altinstr_replacement")
    # Its address is only compared: what was not placed (NULL) holds no replacement.
    start = replacement.addr_load or 0
    end = start + replacement.size_bytes
    text_end = payload.text_virt + payload.text_size_bytes
    for alt in alternatives:
        # An empty original right behind the text passes; padding is not counted.
        if not payload.text_virt <= alt.orig_virt <= text_end - alt.orig_bytes:
            raise XenRefusal(EINVAL, STEP_ALTERNATIVES, f"{alt.orig_virt:#x} is not in the text")
        if not start <= alt.repl_virt <= end or alt.repl_virt + alt.repl_bytes > end:
            raise XenRefusal(EINVAL, STEP_ALTERNATIVES, "a replacement is outside its section")


def _is_text(xen: Xen, virt: int) -> bool:
    """Whether Xen knows an address as code: the image's, or of a payload that is registered."""
    registered = xen.payloads if xen.release.registers_region_at_load else xen.applied
    return any(
        region.name == "text" and region.addr_virt <= virt < region.addr_virt + len(region.data)
        for region in xen.image.regions
    ) or any(p.text_virt <= virt < p.text_virt + p.text_size_bytes for p in registered)


def apply_payload_alternatives(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Apply ``.altinstructions`` to the payload's own code, which is still writable.

    Raises:
        XenRefusal: wrong size, out of bounds, or bad lengths where the release returns errors.
        Hazard: bad lengths or places where it does not.
    """
    release, image = xen.release, xen.image
    section = elf.find(".altinstructions")
    if section is None:
        return
    if release.has_hooks_basic and not release.has_alternatives(elf.arch):
        raise XenRefusal(EOPNOTSUPP, STEP_ALTERNATIVES, f"not supported on {elf.arch.name}")
    entry_bytes = release.alt_entry_bytes if elf.arch == X86_64 else ARM_ENTRY_BYTES
    addr, table = table_of(section, entry_bytes, xen, STEP_ALTERNATIVES)
    if not table:
        return
    is_x86 = elf.arch == X86_64
    alternatives = parse_alternatives(table, addr, entry_bytes=entry_bytes, has_polarity=is_x86)
    if release.checks_alternative_bounds:
        _check_bounds(elf, payload, alternatives)
    if elf.arch.livepatch_feature:
        apply_alternatives_arm64(
            xen.memory,
            alternatives,
            taken=elf.arch.livepatch_feature,
            named=image.features_named,
            is_text=partial(_is_text, xen),
            step=STEP_ALTERNATIVES,
        )
        return
    if not is_x86:
        if any(alt.orig_bytes != alt.repl_bytes for alt in alternatives):
            raise Hazard(STEP_ALTERNATIVES, "BUG: an alternative changes the length on Arm")
        return
    apply_alternatives(
        xen.memory,
        alternatives,
        cpu=image.cpu,
        feature_words=image.feature_words or release.feature_words,
        has_ibt=image.has_ibt,
        has_altcall_idiom=release.has_altcall_idiom,
        has_ideal_nops=image.has_ideal_nops,
        returns_errors=release.returns_alternative_errors,
        step=STEP_ALTERNATIVES,
    )


def apply_alt_call_sites(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Turn the calls listed in ``.alt_call_sites`` (4.21 and later) into direct ones."""
    section = elf.find(".alt_call_sites")
    if section is None or not xen.release.has_alt_call_sites:
        return
    if not elf.arch.has_alternative_calls:
        raise XenRefusal(EOPNOTSUPP, STEP_ALT_CALLS, f"not supported on {elf.arch.name}")
    if section.size_bytes and not payload.text_size_bytes:
        raise XenRefusal(EINVAL, STEP_ALT_CALLS, "call sites without any text")
    base, table = table_of(section, 4, xen, STEP_ALT_CALLS)
    sites = [
        (base + 4 * index + offset) & MASK64
        for index, (offset,) in enumerate(struct.iter_unpack("<i", table))
    ]
    text_end = payload.text_virt + payload.text_size_bytes
    for site in sites:
        if not payload.text_virt <= site or site + 6 > text_end:
            raise XenRefusal(EINVAL, STEP_ALT_CALLS, f"{site:#x} is not in the text")
        if xen.memory.read(site, 2, step=STEP_ALT_CALLS) != b"\xff\x15":
            raise XenRefusal(EINVAL, STEP_ALT_CALLS, f"{site:#x} is not an indirect call")
    for site in sites:
        xen.memory.write(site, _direct_call_bytes(site, xen), step=STEP_ALT_CALLS)


def _direct_call_bytes(site: int, xen: Xen) -> bytes:
    disp = int.from_bytes(xen.memory.read(site + 2, 4, step=STEP_ALT_CALLS), "little", signed=True)
    slot = xen.memory.read((site + 6 + disp) & MASK64, 8, step=STEP_ALT_CALLS)
    target = int.from_bytes(slot, "little")
    if not target:
        return b"\x0f\x0b" * 3
    if xen.image.has_ibt and xen.memory.read(target, 4, step=STEP_ALT_CALLS) == ENDBR64:
        target += 4
    relative = (target - (site + 6)) & MASK32
    return b"\x2e\xe8" + relative.to_bytes(4, "little")


def sort_exception_table(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Sort ``.ex_table`` in place by address, keeping each entry's own-relative offsets right."""
    section = elf.find(".ex_table")
    if section is None:
        return
    if not elf.arch.has_ex_table:
        if xen.release.has_hooks_basic:
            raise XenRefusal(EOPNOTSUPP, STEP_EX_TABLE, f"not supported on {elf.arch.name}")
        return
    if not section.size_bytes and not xen.release.is_empty_ex_table_ok:
        raise XenRefusal(EINVAL, STEP_EX_TABLE, "empty")
    base, table = table_of(section, 8, xen, STEP_EX_TABLE)
    entries = sorted(parse_ex_table(table, base), key=lambda entry: entry[0])
    ordered = b"".join(
        struct.pack("<II", (addr - place) & MASK32, (cont - place - 4) & MASK32)
        for place, (addr, cont) in zip(count(base, 8), entries, strict=False)
    )
    xen.memory.write(base, ordered, step=STEP_EX_TABLE)
    payload.ex_table = dict(entries)


def take_modinfo(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Keep ``.modinfo``, which must end in NUL."""
    section = elf.find(".modinfo")
    if section is None or not xen.release.has_v2_sections:
        return
    if not section.size_bytes:
        raise Hazard(STEP_MODINFO, "an empty .modinfo makes Xen read 4 GiB behind it")
    _, data = table_of(section, 1, xen, STEP_MODINFO)
    if data[-1]:
        raise XenRefusal(EINVAL, STEP_MODINFO, "the metadata does not end in NUL")
    payload.metadata = data
