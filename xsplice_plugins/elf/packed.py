# SPDX-License-Identifier: Apache-2.0
"""Sections whose content is packed, as distributions pack debug information.

Source: the ELF gABI, "Section Compression".
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import CHDR, SHF_COMPRESSED
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

_ZLIB = 1  #: ELFCOMPRESS_ZLIB
_HOW = "unpack it with `objcopy --decompress-debug-sections`"


def check_unpackable(file: ElfFile) -> None:
    """Refuse debug information that cannot be unpacked.

    Raises:
        DiffError: A section is damaged, or not packed by zlib.
    """
    for name in file.section_by_name:
        if name.startswith(".debug_"):
            unpacked(file, name)


def unpacked(file: ElfFile, section_name: str) -> bytes:
    """Return the content of a section that is there, packed or not.

    Raises:
        DiffError: It is damaged, or not packed by zlib.
    """
    section = file.section_by_name[section_name]
    if not section.flags & SHF_COMPRESSED:
        return section.data
    kind = int.from_bytes(section.data[:4], "little")
    if kind != _ZLIB:
        raise DiffError(f"{file.name}: {section_name} is not packed by zlib (type {kind}); {_HOW}")
    try:
        return zlib.decompress(section.data[CHDR.size :])
    except zlib.error as error:
        text = f"{file.name}: {section_name} cannot be unpacked ({error}); {_HOW}"
        raise DiffError(text) from error
