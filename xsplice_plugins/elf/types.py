# SPDX-License-Identifier: Apache-2.0
"""Numbers and values of the ELF specification that more than one stage needs.

Address spaces, named once for the whole project:

* ``offset_file``: bytes from the start of the file;
* ``offset`` / ``value`` in a relocatable object: bytes from the start of a section;
* ``addr_virt``: a virtual address of the running hypervisor.

Source: System V gABI chapters 4 and 5; x86-64 psABI 1.0 table 4.9; ELF for the Arm 64-bit
architecture (AAELF64) section 5.7.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from msgspec import Struct

ET_REL = 1

EM_X86_64 = 62
EM_AARCH64 = 183

SHT_NULL = 0
SHT_PROGBITS = 1
SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_RELA = 4
SHT_NOTE = 7
SHT_NOBITS = 8
SHT_REL = 9

SHF_WRITE = 0x1
SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
SHF_MERGE = 0x10
SHF_STRINGS = 0x20
SHF_INFO_LINK = 0x40
SHF_GROUP = 0x200
SHF_COMPRESSED = 0x800

SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2

STB_LOCAL = 0
STB_GLOBAL = 1
STB_WEAK = 2

STT_NOTYPE = 0
STT_OBJECT = 1
STT_FUNC = 2
STT_SECTION = 3
STT_FILE = 4

R_X86_64_64 = 1
R_X86_64_PC32 = 2
R_X86_64_PLT32 = 4
R_AARCH64_ABS64 = 257

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
SHDR = struct.Struct("<IIQQQQIIQQ")
SYM = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")
CHDR = struct.Struct("<IIQQ")  #: in front of what SHF_COMPRESSED marks
EHDR_SIZE_BYTES, SHDR_SIZE_BYTES = EHDR.size, SHDR.size
SYM_SIZE_BYTES, RELA_SIZE_BYTES = SYM.size, RELA.size


class Symbol(NamedTuple):
    """One entry of a symbol table."""

    number: int  #: index in the table (``index`` is taken by tuple)
    name: str
    value: int  #: offset in its section (object) or addr_virt (image)
    size_bytes: int
    bind: int
    type: int
    shndx: int
    visibility: int
    file: str  #: text of the STT_FILE symbol in force; "" for globals and before the first one

    @property
    def is_local(self) -> bool:
        """Tell whether the symbol is invisible to other objects."""
        return self.bind == STB_LOCAL

    @property
    def decorated(self) -> str:
        """Return the name as Xen's symbol table spells it: ``file.c#name`` for locals.

        Source: xen/tools/symbols.c since d37d63d4b5 (2015).
        """
        return f"{self.file}#{self.name}" if self.is_local and self.file else self.name


class Reloc(NamedTuple):
    """One RELA entry."""

    offset: int  #: bytes from the start of the section it changes
    type: int
    symbol: int  #: index in the symbol table
    addend: int


class Section(Struct, frozen=True, kw_only=True):
    """One section with its content.

    ``data`` is empty for SHT_NOBITS; ``size_bytes`` is the header's figure in every case.
    """

    index: int
    name: str
    type: int
    flags: int
    addr_virt: int
    offset_file: int
    size_bytes: int
    link: int
    info: int
    align_bytes: int
    entry_size_bytes: int
    data: bytes

    @property
    def is_alloc(self) -> bool:
        """Tell whether the section takes part in the loaded image."""
        return bool(self.flags & SHF_ALLOC)

    @property
    def is_exec(self) -> bool:
        """Tell whether the section holds instructions."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def is_write(self) -> bool:
        """Tell whether the section is writable at run time."""
        return bool(self.flags & SHF_WRITE)

    @property
    def is_strings(self) -> bool:
        """Tell whether the section holds mergeable NUL-terminated strings."""
        return bool(self.flags & SHF_STRINGS)
