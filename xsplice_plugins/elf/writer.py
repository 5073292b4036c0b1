# SPDX-License-Identifier: Apache-2.0
"""Write a relocatable ELF64 object, byte for byte reproducibly.

The caller gives sections and symbols as values that name each other; this module assigns every
index and offset. It is our ``ld -r``: the same values give the same bytes.
"""

from __future__ import annotations

from msgspec import Struct

from xsplice_plugins.elf.types import (
    EHDR,
    EHDR_SIZE_BYTES,
    ET_REL,
    RELA,
    RELA_SIZE_BYTES,
    SHDR,
    SHDR_SIZE_BYTES,
    SHF_INFO_LINK,
    SHN_ABS,
    SHN_UNDEF,
    SHT_NOBITS,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_LOCAL,
    SYM,
    SYM_SIZE_BYTES,
)

UNDEFINED = ""  #: section name of a symbol that the hypervisor resolves
ABSOLUTE = "*ABS*"  #: section name of a symbol whose value is an address already


class OutSymbol(Struct, frozen=True, kw_only=True):
    """A symbol to be written.

    ``key`` is unique in the object and is what relocations name; ``name`` is what the file shows
    and may be empty or repeated (locals).
    """

    key: str
    name: str
    section: str  #: name of an `OutSection`, or UNDEFINED, or ABSOLUTE
    value: int = 0  #: bytes from the start of the section; addr_virt for ABSOLUTE
    size_bytes: int = 0
    bind: int = STB_LOCAL
    type: int = 0
    visibility: int = 0


class OutReloc(Struct, frozen=True, kw_only=True):
    """A relocation to be written: ``offset`` in bytes from the start of its section."""

    offset: int
    type: int
    symbol: str  #: `OutSymbol.key`
    addend: int


class OutSection(Struct, frozen=True, kw_only=True):
    """A section to be written.

    ``name`` must be unique. For SHT_NOBITS ``data`` is empty and ``size_bytes`` counts; otherwise
    the size is that of ``data``.
    """

    name: str
    type: int
    flags: int
    align_bytes: int
    data: bytes = b""
    size_bytes: int = 0
    entry_size_bytes: int = 0
    relocs: tuple[OutReloc, ...] = ()


class _Strings:
    """A string table under construction: equal texts share one place."""

    def __init__(self) -> None:
        self._places = {"": 0}
        self._data = bytearray(b"\0")

    def place(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self._data)
            self._data += text.encode("utf-8", "surrogateescape") + b"\0"
        return self._places[text]

    def bytes(self) -> bytes:
        return bytes(self._data)


def write_object(
    sections: tuple[OutSection, ...], symbols: tuple[OutSymbol, ...], *, machine: int
) -> bytes:
    """Return the bytes of a relocatable object.

    Sections, whose names are unique, stay in the order given; locals are written before globals.
    Every section, empty ones too, has a file offset behind the ELF header, as
    `elf_resolve_sections` of xen/common/livepatch_elf.c asks, and an alignment of at least 1.
    """
    names = [section.name for section in sections]
    assert len(set(names)) == len(names), "section names must be unique"
    assert len({symbol.key for symbol in symbols}) == len(symbols), "symbol keys must be unique"
    index_of_section = {name: i + 1 for i, name in enumerate(names)}
    index_of_section |= {UNDEFINED: SHN_UNDEF, ABSOLUTE: SHN_ABS}
    ordered = [s for s in symbols if s.bind == STB_LOCAL]
    local_count = len(ordered) + 1
    ordered += [s for s in symbols if s.bind != STB_LOCAL]
    index_of_symbol = {symbol.key: i + 1 for i, symbol in enumerate(ordered)}
    symtab_index = len(sections) + sum(bool(s.relocs) for s in sections) + 1

    strings = _Strings()
    symtab = bytearray(SYM_SIZE_BYTES)
    for symbol in ordered:
        symtab += SYM.pack(
            strings.place(symbol.name),
            symbol.bind << 4 | symbol.type,
            symbol.visibility,
            index_of_section[symbol.section],
            symbol.value,
            symbol.size_bytes,
        )
    # name, type, flags, data, size, link, info, align, entsize
    rows: list[tuple[str, int, int, bytes, int, int, int, int, int]] = [
        (s.name, s.type, s.flags, s.data, s.size_bytes if s.type == SHT_NOBITS else len(s.data))
        + (0, 0, max(1, s.align_bytes), s.entry_size_bytes)
        for s in sections
    ]
    for section in sections:
        if section.relocs:
            data = b"".join(
                RELA.pack(r.offset, index_of_symbol[r.symbol] << 32 | r.type, r.addend)
                for r in section.relocs
            )
            rows.append(
                (".rela" + section.name, SHT_RELA, SHF_INFO_LINK, data, len(data))
                + (symtab_index, index_of_section[section.name], 8, RELA_SIZE_BYTES)
            )
    text = strings.bytes()
    rows.append(
        (".symtab", SHT_SYMTAB, 0, bytes(symtab), len(symtab))
        + (symtab_index + 1, local_count, 8, SYM_SIZE_BYTES)
    )
    rows.append((".strtab", SHT_STRTAB, 0, text, len(text), 0, 0, 1, 0))
    return _lay_out(rows, machine)


def _lay_out(
    rows: list[tuple[str, int, int, bytes, int, int, int, int, int]], machine: int
) -> bytes:
    names = _Strings()
    places = [names.place(row[0]) for row in rows]
    own_place = names.place(".shstrtab")
    text = names.bytes()
    rows = [*rows, (".shstrtab", SHT_STRTAB, 0, text, len(text), 0, 0, 1, 0)]
    places.append(own_place)
    body = bytearray(EHDR_SIZE_BYTES)
    headers = bytearray(SHDR_SIZE_BYTES)
    for place, (_name, kind, flags, data, size, link, info, align, entsize) in zip(
        places, rows, strict=True
    ):
        body += bytes(-len(body) % align)
        headers += SHDR.pack(place, kind, flags, 0, len(body), size, link, info, align, entsize)
        body += data
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    body[:EHDR_SIZE_BYTES] = EHDR.pack(
        ident, ET_REL, machine, 1, 0, 0, len(body), 0, EHDR_SIZE_BYTES, 0, 0,
        SHDR_SIZE_BYTES, len(rows) + 1, len(rows),
    )  # fmt: skip
    return bytes(body + headers)
