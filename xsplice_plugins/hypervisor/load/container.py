# SPDX-License-Identifier: Apache-2.0
"""The payload's ELF container, checked in Xen's order.

Every check of Xen's is one gate here, first match wins. This is not a
general ELF reader: what Xen does not look at is not looked at, and the order of the errors is the
point. Source: ``livepatch_elf_load`` of xen/common/livepatch_elf.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.arches import ARM32, X86_64, Arch
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, EOPNOTSUPP, Hazard, XenRefusal

SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_RELA = 4
SHT_NOBITS = 8
SHT_REL = 9
SHF_WRITE = 1
SHF_ALLOC = 2
SHF_EXECINSTR = 4
SHF_MERGE = 0x10

PAYLOAD_BYTES_MAX = 2 << 20
SECTIONS_MAX = 1024

STEP_HEADER = "header"
STEP_SECTIONS = "sections"
STEP_NAMES = "section-names"
STEP_SYMTAB = "symbol-names"


class PayloadSection(Struct, kw_only=True):
    """One section header; ``addr_load`` is filled in when it is placed."""

    index: int  #: place in the section table
    name: str  #: the section's name
    sh_name: int
    sh_type: int
    flags: int
    addr: int
    offset_file: int
    size_bytes: int
    link: int
    info: int
    addralign: int
    entsize: int
    data: bytes  #: its bytes in the file, empty for NOBITS
    addr_load: int | None = None  #: hypervisor virtual address, None while unplaced or ignored

    @property
    def is_alloc(self) -> bool:
        """Whether the section is meant to be in memory."""
        return bool(self.flags & SHF_ALLOC)

    @property
    def is_exec(self) -> bool:
        """Whether it holds code."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def is_write(self) -> bool:
        """Whether it is writable."""
        return bool(self.flags & SHF_WRITE)


class PayloadSymbol(Struct, kw_only=True):
    """One symbol; ``value`` becomes an address when it is resolved."""

    name: str
    value: int
    size_bytes: int
    shndx: int
    is_ignored: bool = False  #: its section has no address, so nothing may refer to it


class PayloadElf(Struct, kw_only=True):
    """A payload whose container passed."""

    arch: Arch
    sections: list[PayloadSection]  #: index 0 is a placeholder that Xen never looks at
    symbols: list[PayloadSymbol]  #: index 0 is a placeholder as well
    symtab_index: int  #: of the symbol table's section

    def find(self, name: str) -> PayloadSection | None:
        """Give the first section with a name; later ones of that name are never consulted."""
        return next((section for section in self.sections[1:] if section.name == name), None)


class _Header(NamedTuple):
    """The file's header, field by field."""

    ident: bytes
    e_type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


def _is_foreign(header: _Header, arch: Arch) -> bool:
    """Whether the architecture's own test fails; only x86 looks at the byte order."""
    if header.machine != arch.machine or header.ident[4] != (2 if arch.is_64bit else 1):
        return True
    if arch == X86_64:
        return header.ident[5] != 1
    return arch == ARM32 and header.flags & 0xFF000000 != 0x05000000


def _header_gates(header: _Header, arch: Arch, size: int) -> Iterator[tuple[bool, int, str]]:
    """Yield (rejects, errno, reason) in the order of ``livepatch_header_check``."""
    ident = header.ident
    yield ident[:4] != b"\x7fELF", EINVAL, "the magic is not ELF's"
    yield (
        header.version != 1
        or ident[6] != 1
        or ident[8] != 0
        or ident[7] not in {0, 9}
        or header.e_type != 1
        or header.phnum != 0,
        EOPNOTSUPP,
        "version, ABI, type or program headers are not a relocatable file's",
    )
    yield _is_foreign(header, arch), EOPNOTSUPP, f"not an {arch.name} file"
    yield header.shstrndx == 0, EINVAL, "no section name table"
    yield header.shnum >= SECTIONS_MAX, EOPNOTSUPP, f"{header.shnum} sections, limit 1023"
    yield header.shstrndx >= header.shnum, EINVAL, "the section name table is past the last section"
    yield header.shoff >= size, EINVAL, "the section table is past the end of the file"
    entry = 64 if arch.is_64bit else 40
    yield header.shentsize < entry, EINVAL, "section headers are too short"
    # A generator stops at the first gate that rejects, so the division is safe.
    yield (
        (size - header.shoff) // header.shentsize < header.shnum,
        EINVAL,
        "the section table runs past the end of the file",
    )


def _read_sections(data: bytes, header: _Header, arch: Arch) -> list[PayloadSection]:
    layout = "<IIQQQQIIQQ" if arch.is_64bit else "<IIIIIIIIII"
    sections = []
    for index in range(header.shnum):
        fields = struct.unpack_from(layout, data, header.shoff + index * header.shentsize)
        name, kind, flags, addr, offset, size, link, info, align, entsize = fields
        body = b"" if kind == SHT_NOBITS else data[offset : offset + size]
        sections.append(
            PayloadSection(
                index=index,
                name="",
                sh_name=name,
                sh_type=kind,
                flags=flags,
                addr=addr,
                offset_file=offset,
                size_bytes=size,
                link=link,
                info=info,
                addralign=align,
                entsize=entsize,
                data=body,
            )
        )
    return sections


def _is_skipped_or_corrupt(section: PayloadSection) -> bool:
    """Whether nobody reads a section whose size wraps: its relocations are refused by their size.

    Seen on a real Xen 4.17.5: "Section relative header is corrupted".
    """
    is_table = section.sh_type in {SHT_RELA, SHT_REL} and not section.is_alloc
    return is_table and section.entsize > 0 and section.size_bytes % section.entsize > 0


def _check_section(section: PayloadSection, *, size: int, arch: Arch, release: Release) -> None:
    """The gates of ``elf_resolve_sections`` for one section."""
    subject = f"section {section.index}"
    header_bytes = 64 if arch.is_64bit else 52
    if section.offset_file < header_bytes:
        raise XenRefusal(EINVAL, STEP_SECTIONS, f"{subject} starts inside the ELF header")
    if section.sh_type != SHT_NOBITS:
        end = section.offset_file + section.size_bytes
        if section.offset_file > size or (end & arch.mask) > size:
            raise XenRefusal(EINVAL, STEP_SECTIONS, f"{subject} runs past the end of the file")
        if end > arch.mask and not _is_skipped_or_corrupt(section):
            raise Hazard(STEP_SECTIONS, f"{subject}: offset plus size wraps, Xen reads wild memory")
    align = section.addralign
    if release.checks_alignment:
        if align & (align - 1):
            raise XenRefusal(EOPNOTSUPP, STEP_SECTIONS, f"{subject}: alignment {align}")
        if align and section.addr % align:
            raise XenRefusal(EINVAL, STEP_SECTIONS, f"{subject}: address is not aligned")
    if (
        release.has_hooks_basic
        and section.flags & (SHF_WRITE | SHF_ALLOC)
        and section.sh_type == SHT_NOBITS
        and section.size_bytes > PAYLOAD_BYTES_MAX
    ):
        raise XenRefusal(EINVAL, STEP_SECTIONS, f"{subject}: {section.size_bytes} bytes of .bss")


def _check_sections(
    sections: list[PayloadSection], *, size: int, arch: Arch, release: Release
) -> int:
    """Check every section in file order and give the symbol table's index."""
    symtab = 0
    for section in sections[1:]:
        _check_section(section, size=size, arch=arch, release=release)
        if section.sh_type == SHT_SYMTAB:
            if symtab:
                raise XenRefusal(EOPNOTSUPP, STEP_SECTIONS, "two symbol tables")
            symtab = section.index
            if section.link >= len(sections):
                raise XenRefusal(EINVAL, STEP_SECTIONS, "the symbol table's strings are nowhere")
    if not symtab:
        raise XenRefusal(EINVAL, STEP_SECTIONS, "no symbol table")
    table = sections[symtab]
    entry = 24 if arch.is_64bit else 16
    if not table.size_bytes or table.entsize < entry or table.size_bytes % table.entsize:
        raise XenRefusal(EINVAL, STEP_SECTIONS, "the symbol table has a wrong entry size")
    if table.link == 0:
        raise Hazard(STEP_SECTIONS, "the symbol table links to section 0: NULL dereference")
    if not _is_string_table(sections[table.link]):
        raise XenRefusal(EINVAL, STEP_SECTIONS, "the symbol table's strings are not a string table")
    return symtab


def _is_string_table(section: PayloadSection) -> bool:
    data = section.data
    return section.sh_type == SHT_STRTAB and bool(data) and data[0] == 0 and data[-1] == 0


def _text_at(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode("latin-1")


def _is_denied(name: str, arch: Arch, release: Release) -> bool:
    """Whether arm32 forbids the name: Thumb code is not for the hypervisor."""
    if arch != ARM32 or not release.has_hooks_basic:
        return False
    return name.startswith("$t") and name[2:3] in {"", "."}


def _read_symbols(
    sections: list[PayloadSection], symtab: int, arch: Arch, release: Release
) -> list[PayloadSymbol]:
    table = sections[symtab]
    strings = sections[table.link].data
    symbols = [PayloadSymbol(name="", value=0, size_bytes=0, shndx=0)]
    for offset in range(table.entsize, table.size_bytes, table.entsize):
        if arch.is_64bit:
            st_name, _, _, shndx, value, size = struct.unpack_from("<IBBHQQ", table.data, offset)
        else:
            st_name, value, size, _, _, shndx = struct.unpack_from("<IIIBBH", table.data, offset)
        if st_name >= len(strings):
            number = offset // table.entsize
            raise XenRefusal(EINVAL, STEP_SYMTAB, f"symbol {number}: its name is past the strings")
        name = _text_at(strings, st_name)
        if _is_denied(name, arch, release):
            raise XenRefusal(EINVAL, STEP_SYMTAB, f"symbol {name} may not be in a payload")
        symbols.append(PayloadSymbol(name=name, value=value, size_bytes=size, shndx=shndx))
    return symbols


def read_container(data: bytes, *, arch: Arch, release: Release) -> PayloadElf:
    """Check a payload's container and read it.

    Args:
        data: the whole file; offsets in it are file offsets.
        arch: the running hypervisor's.
        release: the running hypervisor's.

    Returns:
        Sections and symbols, nothing placed yet.

    Raises:
        XenRefusal: a gate rejects.
        Hazard: Xen would read outside the file.
    """
    if len(data) < (64 if arch.is_64bit else 52):
        raise XenRefusal(EINVAL, STEP_HEADER, f"{len(data)} bytes are no ELF header")
    layout = "<16sHHI3QI6H" if arch.is_64bit else "<16sHHI3II6H"
    header = _Header._make(struct.unpack_from(layout, data))
    for is_rejected, errno, reason in _header_gates(header, arch, len(data)):
        if is_rejected:
            raise XenRefusal(errno, STEP_HEADER, reason)
    sections = _read_sections(data, header, arch)
    symtab = _check_sections(sections, size=len(data), arch=arch, release=release)
    names = sections[header.shstrndx]
    if not _is_string_table(names):
        raise XenRefusal(EINVAL, STEP_NAMES, "the section names are not a string table")
    for section in sections[1:]:
        if section.sh_name >= len(names.data):
            raise XenRefusal(EINVAL, STEP_NAMES, f"section {section.index}: its name is nowhere")
        section.name = _text_at(names.data, section.sh_name)
    symbols = _read_symbols(sections, symtab, arch, release)
    return PayloadElf(arch=arch, sections=sections, symbols=symbols, symtab_index=symtab)
