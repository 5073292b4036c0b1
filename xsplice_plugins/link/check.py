# SPDX-License-Identifier: Apache-2.0
"""Read a written payload back and hold it against the writer's checklist.

A failure here is a fault of this program, not of the input: hence assertions. The reference
hypervisor core judges the signed file again, with code of its own.

Source: xen/common/livepatch_elf.c and `prepare_payload` of xen/common/livepatch.c; docs/loader.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import (
    EHDR_SIZE_BYTES,
    ET_REL,
    RELA_SIZE_BYTES,
    SHN_LORESERVE,
    SHT_NOBITS,
    SHT_REL,
    SHT_RELA,
    SHT_SYMTAB,
    STB_WEAK,
)
from xsplice_plugins.link.image import derive_build_id, read_note, write_note
from xsplice_plugins.target.abi import (
    BUILD_ID_SECTION,
    DEPENDS_SECTION,
    FUNCS_SECTION,
    HOOK_PREFIX,
    MODINFO_SECTION,
    NEW_ADDR_OFFSET,
    NEW_SIZE_OFFSET,
    POINTER_SIZE_BYTES,
    RECORD_SIZES,
    SECTIONS_MAX,
    SINGLE_HOOKS,
    XEN_DEPENDS_SECTION,
)
from xsplice_plugins.target.machine import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.abi import Abi


def check_payload(data: bytes, abi: Abi) -> None:
    """Assert that a written, unsigned file is what the hypervisor's loader asks for."""
    elf = read_elf(data, "payload")
    assert elf.type == ET_REL, "a payload is relocatable"
    assert elf.machine == abi.machine.number, "made for the image's machine"
    assert elf.phnum == 0, "a payload has no segments"
    assert len(data) <= abi.facts.file_size_max, "larger than the hypervisor takes"
    assert len(elf.sections) <= SECTIONS_MAX, "more sections than the hypervisor takes"
    names = [section.name for section in elf.sections[1:]]
    assert len(set(names)) == len(names), "look-ups by name find the first section only"
    assert sum(s.type == SHT_SYMTAB for s in elf.sections) == 1, "one symbol table"
    for section in elf.sections[1:]:
        _check_section(elf, section, abi)
    _check_symbols(elf)
    _check_special(elf, abi)
    _check_identity(elf, data, abi)


def _check_section(elf: ElfFile, section: Section, abi: Abi) -> None:
    name = section.name
    align = section.align_bytes
    assert 1 <= align <= PAGE_SIZE_BYTES, f"{name}: alignment {align}"
    assert align & (align - 1) == 0, f"{name}: alignment {align}"
    assert section.offset_file >= EHDR_SIZE_BYTES, f"{name}: offset inside the ELF header"
    assert section.addr_virt == 0, f"{name}: has an address"
    assert not (section.is_write and section.is_exec), f"{name}: writable and executable"
    assert section.type != SHT_REL, f"{name}: SHT_REL"
    if section.is_alloc:
        assert section.size_bytes, f"{name}: empty sections have no address in old releases"
        assert section.size_bytes <= abi.facts.file_size_max, (
            f"{name}: larger than the hypervisor takes"
        )
    if section.type != SHT_RELA:
        return
    changed = elf.sections[section.info]
    assert section.link == elf.symbol_section.index if elf.symbol_section else False
    assert section.size_bytes % RELA_SIZE_BYTES == 0
    assert changed.is_alloc, f"{name}: relocates what is not loaded"
    assert changed.type != SHT_NOBITS, f"{name}: relocates what has no content"
    for reloc in elf.relocs(changed):
        assert reloc.type in abi.machine.relocation_sizes, f"{name}: type {reloc.type}"
        assert reloc.symbol, f"{name}: a relocation against symbol 0"
        assert reloc.offset + 4 <= changed.size_bytes, f"{name}: out of bounds"


def _check_symbols(elf: ElfFile) -> None:
    seen = set()
    for symbol in elf.symbols[1:]:
        assert symbol.shndx < SHN_LORESERVE, f"{symbol.name}: common, absolute or extended"
        assert symbol.bind != STB_WEAK, f"{symbol.name}: weak"
        if symbol.shndx == 0:
            assert symbol.name, "an undefined symbol without a name"
        if symbol.name:
            key = (symbol.name, symbol.shndx == 0)
            assert key not in seen, f"{symbol.name}: twice in the payload"
            seen.add(key)


def _check_special(elf: ElfFile, abi: Abi) -> None:
    sections = elf.section_by_name
    funcs = sections.get(FUNCS_SECTION)
    hooks = [s for s in elf.sections if s.name.startswith(HOOK_PREFIX)]
    assert funcs is not None or (hooks and abi.is_v2), "nothing to patch"
    if funcs is not None:
        size = abi.facts.record_size_bytes
        assert funcs.size_bytes % size == 0
        assert funcs.is_write == abi.is_funcs_writable
        fields = {reloc.offset for reloc in elf.relocs(funcs)}
        for start in range(0, funcs.size_bytes, size):
            new, old, version = RECORD_SIZES.unpack_from(funcs.data, start + NEW_SIZE_OFFSET)
            assert version == abi.facts.record_version, "record of another format"
            assert new, "a record without a size"
            least = abi.facts.jump_size_bytes if start + NEW_ADDR_OFFSET in fields else new
            assert old >= least, "no room for the jump, or for the NOPs"
    for hook in hooks:
        if hook.name.removeprefix(HOOK_PREFIX) in SINGLE_HOOKS:
            assert hook.size_bytes == POINTER_SIZE_BYTES, f"{hook.name}: one pointer"
    modinfo = sections.get(MODINFO_SECTION)
    assert (modinfo is not None) == abi.is_v2
    assert modinfo is None or modinfo.data.endswith(b"\0"), "modinfo must end with NUL"
    for section in elf.sections[1:]:
        row = abi.profile.table(section.name)
        if row is not None:
            assert row.entry_size_bytes, f"{section.name}: this build has no such table"
            assert not row.refused, f"{section.name}: {row.refused}"
            assert section.size_bytes % row.entry_size_bytes == 0, f"{section.name}: cut entries"
            assert not row.snippets or row.snippets in sections, f"{section.name}: no snippets"
        if row is not None or section.name in (FUNCS_SECTION, MODINFO_SECTION):
            assert section.is_alloc, f"{section.name}: not loaded"


def _check_identity(elf: ElfFile, data: bytes, abi: Abi) -> None:
    required = [BUILD_ID_SECTION, DEPENDS_SECTION]
    if abi.is_v2:
        required.append(XEN_DEPENDS_SECTION)
    for name in required:
        section = elf.section_by_name[name]
        assert section.is_alloc, f"{name}: not loaded"
        read_note(section.data, name)
    place = elf.section_by_name[BUILD_ID_SECTION]
    build_id = read_note(place.data, BUILD_ID_SECTION)
    blank = (
        data[: place.offset_file]
        + write_note(bytes(len(build_id)))
        + data[place.offset_file + place.size_bytes :]
    )
    assert derive_build_id(blank) == build_id, "the build-id is not that of the content"
