# SPDX-License-Identifier: Apache-2.0
"""Relocating a payload in its final place: the part that all architectures share.

Source: ``livepatch_elf_perform_relocs`` of xen/common/livepatch_elf.c. The operations themselves
are the function ``relocate`` of a file for each architecture, ``relocations_<name>.py``.
"""

import struct
from collections.abc import Callable, Iterator
from importlib import import_module

from xsplice_plugins.hypervisor.facts.arches import Arch
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, EOPNOTSUPP, Hazard, XenRefusal
from xsplice_plugins.hypervisor.image.memory import Memory
from xsplice_plugins.hypervisor.load.container import SHT_REL, SHT_RELA, PayloadElf, PayloadSection
from xsplice_plugins.hypervisor.load.relocation_entry import STEP, Relocation
from xsplice_plugins.hypervisor.state.xen import Xen


def _handler(arch: Arch) -> Callable[[Relocation, Memory], None]:
    module = import_module(f"{__package__}.relocations_{arch.name}")
    handler: Callable[[Relocation, Memory], None] = module.relocate
    return handler


def _entries(
    section: PayloadSection, base: PayloadSection, elf: PayloadElf, release: Release
) -> Iterator[Relocation]:
    """Decode one section's entries; a generator, so that an earlier entry's error comes first."""
    is_rela = section.sh_type == SHT_RELA
    if elf.arch.is_64bit:
        layout, shift = ("<QQq" if is_rela else "<QQ"), 32
    else:
        layout, shift = ("<IIi" if is_rela else "<II"), 8
    for start in range(0, section.size_bytes, section.entsize):
        fields = struct.unpack_from(layout, section.data, start)
        subject = f"{base.name}+{fields[0]:#x}"
        value = _symbol_value(fields[1] >> shift, subject, elf, release)
        yield Relocation(
            subject=subject,
            kind=fields[1] & ((1 << shift) - 1),
            offset_bytes=fields[0],
            symbol_virt=value,
            addend=fields[2] if is_rela else None,
            # A section without a place has address NULL; no field of it passes the bounds.
            target_virt=base.addr_load or 0,
            target_bytes=base.size_bytes,
        )


def _symbol_value(index: int, subject: str, elf: PayloadElf, release: Release) -> int:
    if index == 0:
        if release.checks_symbol_zero:
            raise XenRefusal(EOPNOTSUPP, STEP, f"{subject}: refers to symbol 0")
        raise Hazard(STEP, f"{subject}: refers to symbol 0, NULL dereference")
    if index == len(elf.symbols) and not release.checks_symbol_zero:
        raise Hazard(STEP, f"{subject}: refers behind the last symbol, wild read")
    if index >= len(elf.symbols):
        raise XenRefusal(EINVAL, STEP, f"{subject}: refers to symbol {index}, past the last")
    symbol = elf.symbols[index]
    if symbol.is_ignored and release.flags_ignored_symbols:
        raise XenRefusal(EINVAL, STEP, f"{subject}: {symbol.name} has no place in memory")
    return symbol.value


def relocate(elf: PayloadElf, xen: Xen) -> int:
    """Perform every relocation of a placed payload, in section order.

    Args:
        elf: sections placed, symbols resolved.
        xen: the fields are written in its memory; its release decides which checks exist.

    Returns:
        How many entries there were.

    Raises:
        XenRefusal: unknown type, out of bounds, overflow.
        Hazard: an old release reads or writes outside the payload.
    """
    entry_bytes = {SHT_RELA: 24, SHT_REL: 16} if elf.arch.is_64bit else {SHT_RELA: 12, SHT_REL: 8}
    count = 0
    for section in elf.sections[1:]:
        if section.sh_type not in entry_bytes or section.info >= len(elf.sections):
            continue
        base = elf.sections[section.info]
        if section.info == 0:
            raise Hazard(STEP, f"{section.name}: its target is section 0, NULL dereference")
        if not base.is_alloc:
            continue
        if section.link != elf.symtab_index:
            raise XenRefusal(EINVAL, STEP, f"{section.name}: not linked to the symbol table")
        if not section.size_bytes:
            continue
        entsize = section.entsize
        if entsize < entry_bytes[section.sh_type] or section.size_bytes % entsize:
            raise XenRefusal(EINVAL, STEP, f"{section.name}: wrong entry size")
        handler = _handler(elf.arch)
        if section.sh_type == SHT_REL and elf.arch.rel_errno:
            raise XenRefusal(elf.arch.rel_errno, STEP, f"{section.name}: SHT_REL is not supported")
        for entry in _entries(section, base, elf, xen.release):
            handler(entry, xen.memory)
            count += 1
    return count
