# SPDX-License-Identifier: Apache-2.0
"""Read what ``include/xsplice.h`` wrote into an object's section ``.xsplice.decl``."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.elf.types import SHN_UNDEF, STT_SECTION
from xsplice_plugins.errors import LinkError

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc, Symbol

DECLARATION_SECTION = ".xsplice.decl"
DECLARATIONS_MAX = 10_000  #: far more than one payload of 2 MiB can hold

_RECORD = struct.Struct("<4sHHQQQI132s32s")
_STRIDE_BYTES = -(-_RECORD.size // 8) * 8
_OBJECT_OFFSET = 24
_MAGIC = b"XSPL"
_VERSION = 1


class DeclarationKind(IntEnum):
    """What a declaration asks for; the numbers are those of ``xsplice.h``."""

    REPLACE = 1
    REPLACE_AT = 2
    REPLACE_ADDRESS = 3
    NOP = 4
    NOP_ADDRESS = 5
    NOP_BODY = 6
    EXPECT = 7
    EXPECT_IMAGE = 8
    SYMBOL = 9


class Declared(Struct, frozen=True, kw_only=True):
    """One macro of ``xsplice.h``, as the object holds it."""

    kind: DeclarationKind
    subject: str  #: ``hotfix.c:12``, for messages
    name: str  #: as the author wrote it; "" for addresses
    where: int  #: offset in bytes, or an address of the image
    size_bytes: int
    expect: bytes
    object: Symbol | None  #: the function, or the symbol that gets another name


def read_declarations(elf: ElfFile) -> tuple[Declared, ...]:
    """Read the declarations of one object, in the order of the source.

    Raises:
        LinkError: The section was not written by this version's header.
    """
    section = elf.section_by_name.get(DECLARATION_SECTION)
    if section is None:
        return ()
    count, rest = divmod(section.size_bytes, _STRIDE_BYTES)
    foreign = f"{elf.name}({DECLARATION_SECTION}): not what this version's xsplice.h writes"
    if rest or count > DECLARATIONS_MAX:
        raise LinkError(f"{foreign}; include only that header")
    relocs = {reloc.offset: reloc for reloc in elf.relocs(section)}
    result = []
    for start in range(0, section.size_bytes, _STRIDE_BYTES):
        magic, version, kind, where, size, _pointer, line, name, expect = _RECORD.unpack_from(
            section.data, start
        )
        if (magic, version) != (_MAGIC, _VERSION) or kind not in set(DeclarationKind):
            raise LinkError(f"{foreign}; include only that header")
        subject = f"{elf.name.removesuffix('.o')}.c:{line}"
        text = name.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if size > len(expect) and kind == DeclarationKind.EXPECT:
            raise LinkError(f"{subject}: {size} bytes expected; the hypervisor compares 31 at most")
        result.append(
            Declared(
                kind=DeclarationKind(kind),
                subject=subject,
                name=text,
                where=where,
                size_bytes=size,
                expect=expect[:size] if kind == DeclarationKind.EXPECT else b"",
                object=_symbol(elf, relocs.get(start + _OBJECT_OFFSET), subject),
            )
        )
    return tuple(sorted(result, key=lambda d: (int(d.subject.rpartition(":")[2]), d.kind)))


def _symbol(elf: ElfFile, reloc: Reloc | None, subject: str) -> Symbol | None:
    """Return the function that a declaration points to, or the undefined symbol it names."""
    if reloc is None:
        return None
    named = elf.symbols[reloc.symbol]
    if named.shndx == SHN_UNDEF:
        return named
    place = (named.shndx, named.value + reloc.addend)
    found = [
        symbol
        for symbol in elf.symbols
        if (symbol.shndx, symbol.value) == place and symbol.type != STT_SECTION and symbol.name
    ]
    if not found:
        raise LinkError(f"{subject}: it names no function; write one in this file")
    return min(found, key=lambda symbol: (not symbol.size_bytes, symbol.name))
