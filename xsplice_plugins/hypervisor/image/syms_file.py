# SPDX-License-Identifier: Apache-2.0
"""Reading ``xen-syms``: the linked hypervisor with its symbols, before anything has run.

This is a reader for a file the person trusts. Payloads go through ``container.py``, where the order
of the checks is the point.
"""

import struct

from msgspec import Struct

from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.hypervisor.facts.arches import ARCHES, PAGE_SIZE, Arch

_SHT_SYMTAB = 2
_SHT_NOBITS = 8
_SHF_ALLOC = 2
_STT_FILE = 4
_STT_FUNC = 2
_STT_SECTION = 3
_SHN_RESERVED = 0xFF00
#: Xen lives in one GiB; whatever is larger is damage.
_REGION_BYTES_MAX = 256 << 20

#: Class of memory by section name; whatever is not listed is data.
_CLASSES = (
    ("init", (".init", ".init.")),
    ("text", (".text",)),
    ("rodata", (".rodata", ".note", ".buildid", ".note.", ".rodata.")),
)


class KnownSymbol(Struct, frozen=True, kw_only=True):
    """A name of the hypervisor's own table."""

    name: str  #: ``name``, or ``file.c#name`` for a local
    addr_virt: int  #: where it is
    size_bytes: int  #: as the linker recorded it, 0 where unknown
    is_function: bool  #: whether it names code (STT_FUNC)


class SymsFile(Struct, frozen=True, kw_only=True):
    """The file's memory and names."""

    arch: Arch
    #: (class, address, bytes) in address order, whole pages
    regions: tuple[tuple[str, int, bytes], ...]
    symbols: tuple[KnownSymbol, ...]  #: every symbol of Xen's own table


def _class_of(name: str) -> str:
    for kind, prefixes in _CLASSES:
        if any(name == prefix or name.startswith(prefix) for prefix in prefixes):
            return kind
    return "data"


def _c_string(table: bytes, offset: int) -> str:
    stop = table.find(b"\0", offset)
    return table[offset : stop if stop >= 0 else len(table)].decode("utf-8", "replace")


def _decorated_symbols(symtab: bytes, strtab: bytes, *, is_64bit: bool) -> tuple[KnownSymbol, ...]:
    """Name symbols as xen/tools/symbols does: locals get ``file#`` in front."""
    out = []
    file_name = ""
    layout = "<IBBHQQ" if is_64bit else "<IIIBBH"
    for fields in struct.iter_unpack(layout, symtab):
        if is_64bit:
            st_name, info, _, shndx, value, size = fields
        else:
            st_name, value, size, info, _, shndx = fields
        kind = info & 15
        if kind == _STT_FILE:
            file_name = _c_string(strtab, st_name)
            continue
        if not shndx or shndx >= _SHN_RESERVED or kind == _STT_SECTION:
            continue
        name = _c_string(strtab, st_name)
        if not name or name.startswith("$") or "_compiled." in name:
            continue
        if not info >> 4 and file_name:
            name = f"{file_name}#{name}"
        out.append(
            KnownSymbol(name=name, addr_virt=value, size_bytes=size, is_function=kind == _STT_FUNC)
        )
    return tuple(out)


def _regions(
    data: bytes, headers: list[tuple[int, ...]], names: list[str]
) -> tuple[tuple[str, int, bytes], ...]:
    runs: list[tuple[str, int, bytearray]] = []
    loaded = [
        (header[3], header, _class_of(name))
        for header, name in zip(headers, names, strict=True)
        if header[2] & _SHF_ALLOC and header[5]
    ]
    for addr, header, kind in sorted(loaded, key=lambda entry: entry[0]):
        start = addr & ~(PAGE_SIZE - 1)
        if runs and (runs[-1][0] == kind or start < runs[-1][1] + len(runs[-1][2])):
            # Sections that share a page share its permission; the linker keeps classes apart.
            region, base, blob = runs.pop()
        else:
            region, base, blob = kind, start, bytearray()
        body = b"" if header[1] == _SHT_NOBITS else data[header[4] : header[4] + header[5]]
        end = addr + header[5] - base
        if end > _REGION_BYTES_MAX:
            raise ValueError(f"a region of {end:#x} bytes at {base:#x}")
        blob.extend(bytes(max(0, -(-end // PAGE_SIZE) * PAGE_SIZE - len(blob))))
        blob[addr - base : addr - base + len(body)] = body
        runs.append((region, base, blob))
    return tuple((kind, base, bytes(blob)) for kind, base, blob in runs)


def read_syms_file(data: bytes) -> SymsFile:
    """Read a linked hypervisor.

    Args:
        data: the whole file.

    Raises:
        ElfFormatError: it is not a linked ELF file of a known machine with a symbol table.
    """
    if data[:4] != b"\x7fELF" or len(data) < 64:
        raise ElfFormatError("xen-syms: not an ELF file; give the unstripped hypervisor")
    is_64bit = data[4] == 2
    machine = int.from_bytes(data[18:20], "little")
    arch = next((a for a in ARCHES if a.machine == machine and a.is_64bit == is_64bit), None)
    if arch is None:
        raise ElfFormatError(f"xen-syms: machine {machine} is unknown; use x86_64, arm64 or arm32")
    try:
        return _read(data, arch)
    except (struct.error, IndexError, ValueError, OverflowError) as exc:
        raise ElfFormatError(f"xen-syms: damaged section table ({exc}); rebuild it") from exc


def _read(data: bytes, arch: Arch) -> SymsFile:
    word = "Q" if arch.is_64bit else "I"
    header = struct.unpack_from(f"<16sHHI3{word}I6H", data)
    section = struct.Struct(f"<II4{word}II2{word}")
    shoff, shnum, shstrndx = header[6], header[12], header[13]
    headers = [section.unpack_from(data, shoff + section.size * index) for index in range(shnum)]

    def content(row: tuple[int, ...]) -> bytes:
        return data[row[4] : row[4] + row[5]]

    strings = content(headers[shstrndx])
    names = [_c_string(strings, row[0]) for row in headers]
    symtab = next((row for row in headers if row[1] == _SHT_SYMTAB), None)
    if symtab is None:
        raise ElfFormatError("xen-syms: no symbol table; give the unstripped hypervisor")
    strtab = content(headers[symtab[6]])
    symbols = _decorated_symbols(content(symtab), strtab, is_64bit=arch.is_64bit)
    return SymsFile(arch=arch, regions=_regions(data, headers, names), symbols=symbols)
