# SPDX-License-Identifier: Apache-2.0
"""Source lines of instructions, from ``.debug_line`` where the compiler wrote it."""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import SHN_LORESERVE
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows = dict[int, list[tuple[int, str]]]  #: section -> (offset, ``file.c:123``), sorted by offset


def line_of(file: ElfFile, section: int, offset: int) -> str:
    """Return the line of an instruction as ``file.c:123``, or "" if it is not known.

    Raises:
        DiffError: The line table is damaged.
    """
    rows = _rows(file.data, file.name).get(section, [])
    i = bisect_right(rows, offset, key=itemgetter(0)) - 1
    return rows[i][1] if i >= 0 else ""


@lru_cache(maxsize=8)
def _rows(data: bytes, name: str) -> Rows:
    file = read_elf(data, name)  # the cache's key is the bytes
    section = file.section_by_name.get(".debug_line")
    if section is None:
        return {}
    body = bytearray(data)
    for reloc in file.relocs(section):
        symbol = file.symbols[reloc.symbol]
        if 0 < symbol.shndx < SHN_LORESERVE:  # the text of a function, or .debug_line_str
            value, size = (symbol.value + reloc.addend) & 0xFFFFFFFF, 4
            if file.sections[symbol.shndx].is_alloc:
                value, size = value | symbol.shndx << 32, 8
            at = section.offset_file + reloc.offset
            body[at : at + size] = value.to_bytes(size, "little")
    result: Rows = {}
    try:
        for address, text in _line_programs(bytes(body), section.size_bytes):
            result.setdefault(address >> 32, []).append((address & 0xFFFFFFFF, text))
    except Exception as error:  # pyelftools meets damage with errors of every kind
        raise DiffError(f"{name}: its line table is damaged; compile the object again") from error
    for rows in result.values():
        rows.sort(key=itemgetter(0))  # of several at one place the last counts
    return result


def _line_programs(data: bytes, size_bytes: int) -> Iterator[tuple[int, str]]:
    """Yield (section << 32 | offset, line) of each row; "" where a sequence ends."""
    from elftools.dwarf.structs import DWARFStructs  # noqa: PLC0415  (0.16 s)
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    dwarf = ELFFile(io.BytesIO(data)).get_dwarf_info(relocate_dwarf_sections=False)
    structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
    at = 0
    while at < size_bytes:  # the public way to a program needs a relocated .debug_info
        program = dwarf._parse_line_program_at_offset(at, structs)  # noqa: SLF001
        names = [entry.name.decode("utf-8", "replace") for entry in program["file_entry"]]
        first = 0 if program["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is not None:
                place = state.file - first
                name = names[place] if 0 <= place < len(names) else ""
                yield state.address, "" if state.end_sequence else f"{name}:{state.line}"
        at = program.program_end_offset
