# SPDX-License-Identifier: Apache-2.0
"""Read an ELF64 little-endian file into plain values.

Own code on purpose: pyelftools needs 0.7 to 0.9 s for the symbols of ``xen-syms``, this reader a
few hundredths (DECISIONS.md). pyelftools still reads DWARF, and the tests hold this reader
against it and against readelf.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from xsplice_plugins.elf.types import (
    EHDR,
    EHDR_SIZE_BYTES,
    RELA,
    RELA_SIZE_BYTES,
    SHDR,
    SHDR_SIZE_BYTES,
    SHN_LORESERVE,
    SHT_NOBITS,
    SHT_NULL,
    SHT_RELA,
    SHT_SYMTAB,
    STB_LOCAL,
    STT_FILE,
    STT_SECTION,
    SYM,
    SYM_SIZE_BYTES,
    Reloc,
    Section,
    Symbol,
)
from xsplice_plugins.errors import ElfFormatError

_SPLIT = frozenset({"text", "data", "bss", "rodata"})  #: what compilers give each symbol


@dataclass(frozen=True, kw_only=True)
class ElfFile:
    """An ELF file taken apart.

    Build it with `read_elf`. Look-ups that need an index make it on first use.
    """

    name: str  #: how messages call this file
    data: bytes = field(repr=False)
    type: int
    machine: int
    phoff: int
    phnum: int
    sections: tuple[Section, ...] = field(repr=False)

    @cached_property
    def symbol_section(self) -> Section | None:
        """Return the symbol table's section, if there is one."""
        return next((s for s in self.sections if s.type == SHT_SYMTAB), None)

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """Return all symbols in table order, index 0 included."""
        table = self.symbol_section
        if table is None:
            return ()
        if table.size_bytes % SYM_SIZE_BYTES or table.link >= len(self.sections):
            raise ElfFormatError(f"{self.name}: its symbol table is damaged; build the file again")
        names = self.sections[table.link].data
        result: list[Symbol] = []
        file = ""
        count = len(self.sections)
        for number, row in enumerate(SYM.iter_unpack(table.data)):
            st_name, info, other, shndx, value, size = row
            name = _text(names, st_name, self.name)
            bind, kind = info >> 4, info & 0xF
            if count <= shndx < SHN_LORESERVE:
                raise ElfFormatError(
                    f"{self.name}: symbol `{name}` lies in section {shndx} of {count}"
                )
            if kind == STT_FILE:
                file = name
            scope = file if bind == STB_LOCAL else ""
            result.append(Symbol(number, name, value, size, bind, kind, shndx, other & 3, scope))
        return tuple(result)

    def values_of(self, *names: str) -> dict[str, int]:
        """Return the value of some symbols by name, without reading the names of all others.

        A name that several symbols bear has the last one's value.
        """
        table = self.symbol_section
        if table is None or table.size_bytes % SYM_SIZE_BYTES or table.link >= len(self.sections):
            return {}
        strings, places = self.sections[table.link].data, {}
        for name in names:
            text = name.encode() + b"\0"
            at = strings.find(text)
            while at >= 0:  # a name may be the tail of another
                places[at] = name
                at = strings.find(text, at + 1)
        return {
            places[st_name]: value
            for st_name, _, _, _, value, _ in SYM.iter_unpack(table.data)
            if st_name in places
        }

    @cached_property
    def section_by_name(self) -> dict[str, Section]:
        """Map each section name to the first section that has it."""
        result: dict[str, Section] = {}
        for section in self.sections:
            result.setdefault(section.name, section)
        return result

    @cached_property
    def _homes(self) -> frozenset[tuple[int, str]]:
        return frozenset((symbol.shndx, symbol.name) for symbol in self.symbols)

    def base_name(self, section: Section) -> str:
        """Return a section's name without the symbol that the compiler made it for.

        ``-ffunction-sections`` calls the section of a function ``init`` ``.text.init``, which says
        nothing about the time it is used.
        """
        base, _, own = section.name[1:].partition(".")
        is_own = base in _SPLIT and (section.index, own) in self._homes
        return f".{base}" if is_own else section.name

    @cached_property
    def symbol_starts(self) -> dict[int, list[int]]:
        """Map a section's index to the sorted offsets at which named things start in it."""
        result: dict[int, set[int]] = {}
        for symbol in self.symbols:
            if symbol.type not in (STT_SECTION, STT_FILE):
                result.setdefault(symbol.shndx, set()).add(symbol.value)
        return {index: sorted(offsets) for index, offsets in result.items()}

    @cached_property
    def rela_by_target(self) -> dict[int, Section]:
        """Map a section's index to the SHT_RELA section that changes it."""
        result: dict[int, Section] = {}
        for section in self.sections:
            if section.type == SHT_RELA:
                if section.info in result:
                    raise ElfFormatError(
                        f"{self.name}: two relocation sections for section {section.info}; "
                        "link each object on its own"
                    )
                result[section.info] = section
        return result

    def relocs(self, section: Section) -> tuple[Reloc, ...]:
        """Return the relocations that change one section, in file order.

        Raises:
            ElfFormatError: The relocation section is damaged.
        """
        rela = self.rela_by_target.get(section.index)
        if rela is None:
            return ()
        if rela.size_bytes % RELA_SIZE_BYTES:
            raise ElfFormatError(f"{self.name}({rela.name}): its size is no multiple of 24")
        count = len(self.symbols)
        result = []
        for offset, info, addend in RELA.iter_unpack(rela.data):
            if info >> 32 >= count:
                raise ElfFormatError(
                    f"{self.name}({section.name}+{offset:#x}): the relocation names symbol "
                    f"{info >> 32} of {count}"
                )
            result.append(Reloc(offset, info & 0xFFFFFFFF, info >> 32, addend))
        return tuple(result)


def _text(table: bytes, offset: int, subject: str) -> str:
    end = table.find(b"\0", offset)
    if end < 0:
        raise ElfFormatError(f"{subject}: a name lies outside its string table")
    return table[offset:end].decode("utf-8", "surrogateescape")


def read_elf(data: bytes, name: str) -> ElfFile:
    """Take an ELF64 little-endian file apart; messages call it ``name``.

    Raises:
        ElfFormatError: Not ELF64 little-endian, or cut short.
    """
    if len(data) < EHDR_SIZE_BYTES or data[:4] != b"\x7fELF":
        raise ElfFormatError(f"{name}: not an ELF file; give an object, a payload or xen-syms")
    if data[4:7] != b"\x02\x01\x01":
        raise ElfFormatError(f"{name}: not a 64-bit little-endian ELF file of version 1")
    _, kind, machine, *_, phoff, shoff, _, _, _, phnum, shentsize, shnum, shstrndx = (
        EHDR.unpack_from(data)
    )
    if shentsize != SHDR_SIZE_BYTES or shoff + shnum * SHDR_SIZE_BYTES > len(data):
        raise ElfFormatError(f"{name}: its section headers lie outside the file; is it cut short?")
    if shstrndx >= shnum:
        raise ElfFormatError(f"{name}: it has no section names")
    return ElfFile(
        name=name,
        data=data,
        type=kind,
        machine=machine,
        phoff=phoff,
        phnum=phnum,
        sections=_read_sections(data, name, shoff, shnum, shstrndx),
    )


def _read_sections(
    data: bytes, name: str, shoff: int, shnum: int, shstrndx: int
) -> tuple[Section, ...]:
    headers = [SHDR.unpack_from(data, shoff + i * SHDR_SIZE_BYTES) for i in range(shnum)]
    names = data[headers[shstrndx][4] : headers[shstrndx][4] + headers[shstrndx][5]]
    sections = []
    for index, header in enumerate(headers):
        sh_name, sh_type, flags, addr, offset, size, link, info, align, entsize = header
        has_bytes = sh_type not in (SHT_NULL, SHT_NOBITS)
        content = data[offset : offset + size] if has_bytes else b""
        if has_bytes and len(content) != size:
            raise ElfFormatError(f"{name}: section {index} lies outside the file")
        sections.append(
            Section(
                index=index,
                name=_text(names, sh_name, f"{name}: section {index}"),
                type=sh_type,
                flags=flags,
                addr_virt=addr,
                offset_file=offset,
                size_bytes=size,
                link=link,
                info=info,
                align_bytes=align,
                entry_size_bytes=entsize,
                data=content,
            )
        )
    return tuple(sections)
