# SPDX-License-Identifier: Apache-2.0
"""The special sections behind the function records: bug frames, alternatives, tables, metadata.

They are handled in exactly this order at the end of ``prepare_payload``. Source: specification
section 7.
"""

import struct

from xsplice_plugins.hypervisor.facts.arches import MASK64, X86_64
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, EOPNOTSUPP, Hazard, Refusal
from xsplice_plugins.hypervisor.image.alternatives import (
    ENDBR64,
    apply_alternatives,
    parse_alternatives,
)
from xsplice_plugins.hypervisor.image.boot import parse_bug_frames
from xsplice_plugins.hypervisor.image.image import Image
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load.container import PayloadElf, PayloadSection
from xsplice_plugins.hypervisor.state.payload import Payload

STEP_BUG_FRAMES = "bug-frames"
STEP_ALTERNATIVES = "alternatives"
STEP_ALT_CALLS = "alt-call-sites"
STEP_EX_TABLE = "exception-table"
STEP_MODINFO = "modinfo"


def loaded_address(section: PayloadSection, step: str) -> int:
    """Give where a special section was placed.

    Raises:
        Hazard: it was not (no SHF_ALLOC, or empty in a release that skips empty sections); Xen
            follows a NULL pointer or one into freed memory.
    """
    if section.addr_load is None:
        raise Hazard(step, f"{section.name} is not in memory: Xen follows a stale or NULL pointer")
    return section.addr_load


def _check_multiple(section: PayloadSection, unit: int, step: str) -> None:
    if section.size_bytes % unit:
        raise Refusal(EINVAL, step, f"{section.name}: {section.size_bytes} bytes, unit {unit}")


def take_bug_frames(elf: PayloadElf, payload: Payload, *, memory: Memory, release: Release) -> None:
    """Register ``.bug_frames.N``."""
    is_x86 = elf.arch == X86_64
    for kind in range(release.bug_frame_kinds(elf.arch)):
        section = elf.find(f".bug_frames.{kind}")
        if section is None:
            continue
        _check_multiple(section, 8 if is_x86 else 16, STEP_BUG_FRAMES)
        if not section.size_bytes:
            continue
        addr = loaded_address(section, STEP_BUG_FRAMES)
        table = memory.read(addr, section.size_bytes, step=STEP_BUG_FRAMES)
        # Arm had no frames that run a function before 4.15; the other kinds came one earlier.
        number = kind + 4 - release.bug_frame_kinds(elf.arch)
        payload.bug_frames.update(parse_bug_frames(table, addr, number, is_x86=is_x86))


def _check_bounds(
    elf: PayloadElf, payload: Payload, table: bytes, addr: int, release: Release
) -> None:
    """Every original inside the payload's text, every replacement inside its section."""
    replacement = elf.find(".altinstr_replacement")
    if not payload.text_size_bytes:
        raise Refusal(EINVAL, STEP_ALTERNATIVES, "alternatives without any text")
    if replacement is None:
        raise Refusal(EINVAL, STEP_ALTERNATIVES, "no .altinstr_replacement")
    # Its address is only compared: what was not placed (NULL) holds no replacement.
    start = replacement.addr_load or 0
    end = start + replacement.size_bytes
    text_end = payload.text_virt + payload.text_size_bytes
    entry_bytes = release.alt_entry_bytes if elf.arch == X86_64 else 12
    for alt in parse_alternatives(
        table, addr, entry_bytes=entry_bytes, has_polarity=elf.arch == X86_64
    ):
        # An empty original right behind the text passes; padding is not counted.
        if not payload.text_virt <= alt.orig_virt <= text_end - alt.orig_bytes:
            raise Refusal(EINVAL, STEP_ALTERNATIVES, f"{alt.orig_virt:#x} is not in the text")
        if not start <= alt.repl_virt <= end or alt.repl_virt + alt.repl_bytes > end:
            raise Refusal(EINVAL, STEP_ALTERNATIVES, "a replacement is outside its section")


def apply_payload_alternatives(
    elf: PayloadElf, payload: Payload, *, image: Image, memory: Memory, release: Release
) -> None:
    """Apply ``.altinstructions`` to the payload's own code, which is still writable.

    Raises:
        Refusal: wrong size, out of bounds, or bad lengths where the release returns errors.
        Hazard: bad lengths or places where it does not.
    """
    section = elf.find(".altinstructions")
    if section is None:
        return
    if release.has_hooks_basic and not release.has_alternatives(elf.arch):
        raise Refusal(EOPNOTSUPP, STEP_ALTERNATIVES, f"not supported on {elf.arch.name}")
    entry_bytes = release.alt_entry_bytes if elf.arch == X86_64 else 12
    _check_multiple(section, entry_bytes, STEP_ALTERNATIVES)
    if not section.size_bytes:
        return
    addr = loaded_address(section, STEP_ALTERNATIVES)
    table = memory.read(addr, section.size_bytes, step=STEP_ALTERNATIVES)
    if release.checks_alternative_bounds:
        _check_bounds(elf, payload, table, addr, release)
    if elf.arch != X86_64:
        for alt in parse_alternatives(table, addr, entry_bytes=12, has_polarity=False):
            if alt.orig_bytes != alt.repl_bytes:
                raise Hazard(STEP_ALTERNATIVES, "BUG: an alternative changes the length on Arm")
        return
    apply_alternatives(
        memory,
        parse_alternatives(table, addr, entry_bytes=entry_bytes),
        cpu=image.cpu,
        has_ibt=image.has_ibt,
        has_altcall_idiom=release.has_altcall_idiom,
        has_ideal_nops=image.has_ideal_nops,
        returns_errors=release.returns_alternative_errors,
        step=STEP_ALTERNATIVES,
    )


def apply_alt_call_sites(
    elf: PayloadElf, payload: Payload, *, image: Image, memory: Memory, release: Release
) -> None:
    """Turn the calls listed in ``.alt_call_sites`` (4.21 and later) into direct ones."""
    section = elf.find(".alt_call_sites")
    if section is None or not release.has_alt_call_sites:
        return
    if not elf.arch.has_alternative_calls:
        raise Refusal(EOPNOTSUPP, STEP_ALT_CALLS, f"not supported on {elf.arch.name}")
    _check_multiple(section, 4, STEP_ALT_CALLS)
    if not section.size_bytes:
        return
    if not payload.text_size_bytes:
        raise Refusal(EINVAL, STEP_ALT_CALLS, "call sites without any text")
    base = loaded_address(section, STEP_ALT_CALLS)
    table = memory.read(base, section.size_bytes, step=STEP_ALT_CALLS)
    sites = [
        (base + 4 * index + offset) & MASK64
        for index, (offset,) in enumerate(struct.iter_unpack("<i", table))
    ]
    text_end = payload.text_virt + payload.text_size_bytes
    for site in sites:
        if not payload.text_virt <= site or site + 6 > text_end:
            raise Refusal(EINVAL, STEP_ALT_CALLS, f"{site:#x} is not in the text")
        if memory.read(site, 2, step=STEP_ALT_CALLS) != b"\xff\x15":
            raise Refusal(EINVAL, STEP_ALT_CALLS, f"{site:#x} is not an indirect call")
    for site in sites:
        memory.write(site, _direct_call_bytes(site, memory, image), step=STEP_ALT_CALLS)


def _direct_call_bytes(site: int, memory: Memory, image: Image) -> bytes:
    disp = int.from_bytes(memory.read(site + 2, 4, step=STEP_ALT_CALLS), "little", signed=True)
    slot = memory.read((site + 6 + disp) & MASK64, 8, step=STEP_ALT_CALLS)
    target = int.from_bytes(slot, "little")
    if not target:
        return b"\x0f\x0b" * 3
    if image.has_ibt and memory.read(target, 4, step=STEP_ALT_CALLS) == ENDBR64:
        target += 4
    relative = (target - (site + 6)) & 0xFFFFFFFF
    return b"\x2e\xe8" + relative.to_bytes(4, "little")


def sort_exception_table(
    elf: PayloadElf, payload: Payload, *, memory: Memory, release: Release
) -> None:
    """Sort ``.ex_table`` in place by address, keeping each entry's own-relative offsets right."""
    section = elf.find(".ex_table")
    if section is None:
        return
    if not elf.arch.has_ex_table:
        if release.has_hooks_basic:
            raise Refusal(EOPNOTSUPP, STEP_EX_TABLE, f"not supported on {elf.arch.name}")
        return
    if not section.size_bytes and not release.is_empty_ex_table_ok:
        raise Refusal(EINVAL, STEP_EX_TABLE, "empty")
    _check_multiple(section, 8, STEP_EX_TABLE)
    if not section.size_bytes:
        return
    base = loaded_address(section, STEP_EX_TABLE)
    rows = struct.iter_unpack("<ii", memory.read(base, section.size_bytes, step=STEP_EX_TABLE))
    entries = [
        (base + 8 * index + addr, base + 8 * index + 4 + cont)
        for index, (addr, cont) in enumerate(rows)
    ]
    entries.sort(key=lambda entry: entry[0])
    table = b"".join(
        struct.pack(
            "<II",
            (addr - (base + 8 * index)) & 0xFFFFFFFF,
            (cont - (base + 8 * index + 4)) & 0xFFFFFFFF,
        )
        for index, (addr, cont) in enumerate(entries)
    )
    memory.write(base, table, step=STEP_EX_TABLE)
    payload.ex_table = dict(entries)


def take_modinfo(elf: PayloadElf, payload: Payload, *, memory: Memory, release: Release) -> None:
    """Keep ``.modinfo``, which must end in NUL."""
    section = elf.find(".modinfo")
    if section is None or not release.has_v2_sections:
        return
    if not section.size_bytes:
        raise Hazard(STEP_MODINFO, "an empty .modinfo makes Xen read 4 GiB behind it")
    addr = loaded_address(section, STEP_MODINFO)
    data = memory.read(addr, section.size_bytes, step=STEP_MODINFO)
    if data[-1]:
        raise Refusal(EINVAL, STEP_MODINFO, "the metadata does not end in NUL")
    payload.metadata = data
