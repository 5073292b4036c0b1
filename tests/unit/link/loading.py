# SPDX-License-Identifier: Apache-2.0
"""A loader for the tests: pyelftools reads, addresses are given, fields are filled.

Neither the project's reader nor the reference hypervisor core takes part, so that a mistake in
them cannot hide one of the linker.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

ADDR_PAYLOAD_VIRT = 0xFFFF82D040600000
_WIDTHS = {1: 8, 2: 4, 4: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSection:
    """A section at its address."""

    addr_virt: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPayload:
    """All sections of a payload, relocated."""

    sections: dict[str, LoadedSection]


def load(data: bytes, names: dict[str, int]) -> LoadedPayload:
    """Load an x86-64 payload.

    Args:
        data: The payload.
        names: Addresses of the image's symbols.
    """
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415
    from elftools.elf.relocation import RelocationSection  # noqa: PLC0415

    elf = ELFFile(io.BytesIO(data))
    addr = ADDR_PAYLOAD_VIRT
    places: dict[int, int] = {}
    content: dict[int, bytearray] = {}
    for index, section in enumerate(elf.iter_sections()):
        if section["sh_flags"] & 2:
            addr += -addr % section["sh_addralign"]
            places[index] = addr
            content[index] = bytearray(section.data())
            addr += section["sh_size"]
    symtab = elf.get_section_by_name(".symtab")
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection):
            continue
        target = section["sh_info"]
        for reloc in section.iter_relocations():
            symbol = symtab.get_symbol(reloc["r_info_sym"])
            index = symbol["st_shndx"]
            value = names[symbol.name] if index == "SHN_UNDEF" else symbol["st_value"]
            value += 0 if index == "SHN_UNDEF" else places[index]
            value += reloc["r_addend"]
            if reloc["r_info_type"] != 1:
                value -= places[target] + reloc["r_offset"]
                assert -(1 << 31) <= value < 1 << 31
            width = _WIDTHS[reloc["r_info_type"]]
            field = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
            at = reloc["r_offset"]
            content[target][at : at + width] = field
    return LoadedPayload(
        sections={
            elf.get_section(index).name: LoadedSection(addr_virt=place, data=bytes(content[index]))
            for index, place in places.items()
        }
    )
