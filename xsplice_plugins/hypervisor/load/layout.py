# SPDX-License-Identifier: Apache-2.0
"""Placing a payload's sections: text, then writable data, then read-only data.

Source: ``move_payload`` and ``secure_payload`` of xen/common/livepatch.c.
"""

from collections.abc import Iterator

from xsplice_plugins.hypervisor.facts.arches import MASK64, PAGE_SIZE, page_align
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import ENOMEM, EOPNOTSUPP, Hazard, XenRefusal
from xsplice_plugins.hypervisor.image.memory import RO, RW, RX, MemorySegment, Perm
from xsplice_plugins.hypervisor.load.container import SHT_NOBITS, PayloadElf, PayloadSection
from xsplice_plugins.hypervisor.state.payload import LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

STEP = "layout"
#: Fresh pages hold whatever was there; INT3 makes the use of an uninitialised gap visible.
FILLER = b"\xcc"
_OFFSET_MAX = (1 << 32) - 1


def is_ignored(section: PayloadSection, release: Release) -> bool:
    """Whether a section gets no place in memory."""
    if not section.is_alloc:
        return True
    return release.skips_empty_sections and not section.size_bytes


def _part_of(section: PayloadSection) -> str:
    if section.is_exec and section.is_write:
        raise XenRefusal(EOPNOTSUPP, STEP, f"{section.name}: writable and executable")
    if section.is_exec:
        return "text"
    return "rw" if section.is_write else "ro"


def _assign_offsets(
    elf: PayloadElf, release: Release
) -> tuple[dict[str, int], list[tuple[PayloadSection, str, int]]]:
    """Give each part's size and each section's (part, offset), in index order."""
    sizes = {"text": 0, "rw": 0, "ro": 0}
    placed = []
    for section in elf.sections[1:]:
        if is_ignored(section, release):
            continue
        part = _part_of(section)
        align = section.addralign
        # With align 0 the mask is 0: the section lands at offset 0, over whatever is there.
        offset = (sizes[part] + align - 1) & ~(align - 1) & MASK64
        sizes[part] = (offset + section.size_bytes) & MASK64
        placed.append((section, part, offset))
    return sizes, placed


def _is_safe_to_reapply(elf: PayloadElf, release: Release) -> bool:
    if not release.has_hooks_basic:
        return True
    writable = [
        section.name
        for section in elf.sections[1:]
        if section.is_alloc and section.is_write and not section.is_exec and section.size_bytes
    ]
    if not writable:
        return release.is_reapply_without_rw_ok
    return writable == [".livepatch.funcs"]


def place_sections(elf: PayloadElf, payload: LoadedPayload, xen: Xen) -> None:
    """Allocate memory for a payload and copy its sections there.

    The pages stay writable until ``protect`` is called at the end of the upload. On any verdict the
    caller frees what ``payload`` holds.

    Args:
        elf: the checked container; sections get their ``addr_load``.
        payload: gets addresses, sizes and segments.
        xen: its release decides what is ignored.

    Raises:
        XenRefusal: a writable and executable section, or no memory.
        Hazard: the layout overflows what was allocated.
    """
    sizes, placed = _assign_offsets(elf, xen.release)
    text, rw = page_align(sizes["text"]), page_align(sizes["rw"])
    total = page_align(text + rw + sizes["ro"])
    if not total:
        raise Hazard(STEP, "ASSERT: the payload has nothing to load")
    base = xen.arena.allocate(total)
    if base is None:
        raise XenRefusal(ENOMEM, STEP, f"no room for {total:#x} bytes")
    payload.base_virt, payload.pages = base, total // PAGE_SIZE
    starts = {"text": base, "rw": base + text, "ro": base + text + rw}
    payload.text_virt, payload.text_size_bytes = base, sizes["text"]
    payload.rw_virt, payload.rw_size_bytes = starts["rw"], sizes["rw"]
    payload.ro_virt, payload.ro_size_bytes = starts["ro"], sizes["ro"]
    ends = {"text": starts["rw"], "rw": starts["ro"], "ro": base + total}
    payload.segments = tuple(
        MemorySegment(
            addr_virt=starts[part],
            data=bytearray(FILLER * (ends[part] - starts[part])),
            perm=RW,
            name=f"{payload.name}:{part}",
            owner=f"payload {payload.name}",
        )
        for part in ("text", "rw", "ro")
        if ends[part] > starts[part]
    )
    for segment in payload.segments:
        xen.memory.map(segment)
    for section, part, offset in placed:
        if offset > _OFFSET_MAX or starts[part] + offset + section.size_bytes > base + total:
            raise Hazard(STEP, f"{section.name}: copied behind the memory that was allocated")
        section.addr_load = starts[part] + offset
        is_bss = section.sh_type == SHT_NOBITS
        xen.memory.write(
            section.addr_load, bytes(section.size_bytes) if is_bss else section.data, step=STEP
        )
    payload.gaps = tuple(_gaps(elf, payload))
    payload.section_ends = tuple(
        section.addr_load + section.size_bytes
        for section in elf.sections
        if section.addr_load is not None
    )
    payload.is_safe_to_reapply = _is_safe_to_reapply(elf, xen.release)


def _gaps(elf: PayloadElf, payload: LoadedPayload) -> Iterator[tuple[MemorySegment, int, int]]:
    """Give the parts of a payload's pages that no section fills."""
    spans = sorted(
        (section.addr_load, section.addr_load + section.size_bytes)
        for section in elf.sections
        if section.addr_load is not None
    )
    for segment in payload.segments:
        at = segment.addr_virt
        for start, end in (*spans, (segment.end_virt, segment.end_virt)):
            if not segment.addr_virt <= start <= segment.end_virt:
                continue
            if at < start:
                yield segment, at - segment.addr_virt, start - segment.addr_virt
            at = max(at, end)


def protect(payload: LoadedPayload, xen: Xen) -> None:
    """Give the three parts their final permissions: RX, RW, RO.

    Raises:
        Hazard: Xen 4.7 asserts that there is text.
    """
    if not xen.release.has_hooks_basic and not payload.text_size_bytes:
        raise Hazard("permissions", "ASSERT: Xen 4.7 expects a payload to have text")
    perms: dict[str, Perm] = {"text": RX, "rw": RW, "ro": RO}
    for segment in payload.segments:
        segment.perm = perms[segment.name.rpartition(":")[2]]
        segment.touch()
