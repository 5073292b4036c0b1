# SPDX-License-Identifier: Apache-2.0
"""The function records of a finished payload, ``.livepatch.funcs``, as its file has them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.artefacts import plain
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.target import abi
from xsplice_plugins.target.known import RECORD_SIZES_BYTES

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

_RECORDS_MAX = 65536


class Record(Struct, frozen=True, kw_only=True):
    """One entry of ``.livepatch.funcs`` as the file has it, before relocation."""

    name: str
    new: str  #: symbol or section+offset of the replacement; "" for a NOP
    old: str  #: symbol or address in the hypervisor; "" if looked up by name
    size_new_bytes: int
    size_old_bytes: int
    version: int
    expect: str  #: hex; "" if there is no expectation


def read_funcs(file: ElfFile) -> tuple[Record, ...]:
    """Read a payload's function records.

    Raises:
        ElfFormatError: They are of no version that is known.
    """
    section = file.section_by_name.get(abi.FUNCS_SECTION)
    if section is None or not section.data:
        return ()
    data, relocs = section.data, {r.offset: r for r in file.relocs(section)}
    version = data[abi.NEW_SIZE_OFFSET + 8] if len(data) > abi.NEW_SIZE_OFFSET + 8 else 0
    size = RECORD_SIZES_BYTES.get(version)
    if size is None or len(data) % size or len(data) // size > _RECORDS_MAX:
        raise ElfFormatError(
            f"{file.name}({abi.FUNCS_SECTION}): records of version {version} in {len(data)} bytes "
            "are not known; is the payload of a newer release?"
        )

    def place(offset: int) -> tuple[str, bytes]:
        """Return what a pointer leads to, as a name, and the bytes there."""
        if (reloc := relocs.get(offset)) is None:
            (value,) = struct.unpack_from("<Q", data, offset)
            return hex(value) if value else "", b""
        symbol = file.symbols[reloc.symbol]
        there = file.sections[symbol.shndx] if symbol.shndx < len(file.sections) else None
        name = symbol.name or (there.name if there else f"section {symbol.shndx:#x}")
        text = plain(name) + (f"+{reloc.addend:#x}" if reloc.addend else "")
        return text, there.data[max(0, symbol.value + reloc.addend) :] if there else b""

    result = []
    for start in range(0, len(data), size):
        size_new, size_old, record_version = abi.RECORD_SIZES.unpack_from(
            data, start + abi.NEW_SIZE_OFFSET
        )
        expect = data[start + abi.EXPECT_OFFSET : start + size] or b"\0"
        text = place(start + abi.NAME_OFFSET)[1].partition(b"\0")[0]
        result.append(
            Record(
                name=text.decode("utf-8", "backslashreplace"),
                new=place(start + abi.NEW_ADDR_OFFSET)[0],
                old=place(start + abi.OLD_ADDR_OFFSET)[0],
                size_new_bytes=size_new,
                size_old_bytes=size_old,
                version=record_version,
                expect=expect[1 : 1 + (expect[0] >> 1 & 31)].hex() if expect[0] & 1 else "",
            )
        )
    return tuple(result)
