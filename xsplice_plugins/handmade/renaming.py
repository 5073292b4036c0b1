# SPDX-License-Identifier: Apache-2.0
"""Give undefined symbols of an object the names of Xen's statics, which C cannot spell."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHDR_SIZE_BYTES, SHT_SYMTAB, SYM_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = struct.Struct("<I")
_SECTIONS_AT = 40  #: e_shoff
_OFFSET_AT = 24  #: sh_offset
_SIZE_AT = 32  #: sh_size
_NAME_MASK = (1 << 32) - 1


def rename_symbols(data: bytes, wanted: Mapping[str, str]) -> bytes:
    """Return an object with other names for undefined symbols.

    Args:
        data: The object.
        wanted: New names by old ones.

    Returns:
        The object with a longer string table, put at its end.
    """
    elf = read_elf(data, "object")
    symtab = next(section for section in elf.sections if section.type == SHT_SYMTAB)
    strings = elf.sections[symtab.link]
    table = bytearray(strings.data)
    result = bytearray(data)
    for symbol in elf.symbols:
        if symbol.shndx == 0 and symbol.name in wanted:
            assert len(table) <= _NAME_MASK
            place = symtab.offset_file + symbol.number * SYM_SIZE_BYTES
            _NAME.pack_into(result, place, len(table))
            table += wanted[symbol.name].encode("utf-8", "surrogateescape") + b"\0"
    header = int.from_bytes(data[_SECTIONS_AT : _SECTIONS_AT + 8], "little")
    header += strings.index * SHDR_SIZE_BYTES
    struct.pack_into("<Q", result, header + _OFFSET_AT, len(result))
    struct.pack_into("<Q", result, header + _SIZE_AT, len(table))
    return bytes(result + table)
