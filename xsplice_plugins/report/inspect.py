# SPDX-License-Identifier: Apache-2.0
"""Say what a payload holds, whoever built it: read from the file alone."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from xsplice_plugins.artefacts import SCHEMA, PayloadRecord
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import SHN_UNDEF, Section
from xsplice_plugins.errors import ElfFormatError

FUNCS = ".livepatch.funcs"
_HEAD = struct.Struct("<QQQIIB")  #: name, new, old, new size, old size, version
_RECORD_SIZE_BYTES = {1: 64, 2: 104}  #: Source: docs/loader.md#payload
_EXPECT_OFFSET = 72
_MAGIC = b"~Module signature appended~\n"
_RECORDS_MAX = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry of ``.livepatch.funcs`` as the file has it, before relocation."""

    name: str
    new: str  #: symbol or section+offset of the replacement; "" for a NOP
    old: str  #: symbol or address in the hypervisor; "" if looked up by name
    size_new_bytes: int
    size_old_bytes: int
    version: int
    expect: str  #: hex; "" if there is no expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What ``xsplice inspect`` prints."""

    schema: int = SCHEMA
    name: str
    size_bytes: int
    machine: int
    build_id: str
    depends: str
    xen_depends: str
    modinfo: tuple[str, ...]
    functions: tuple[Record, ...]
    hooks: tuple[str, ...]
    sections: tuple[tuple[str, int, str], ...]  #: name, size in bytes, "AWX" flags
    undefined: tuple[str, ...]
    signature: str  #: what follows the ELF part, in words


def describe(data: bytes, name: str) -> Description:
    """Read a payload.

    Args:
        data: The whole file, signed or not.
        name: How messages shall call it.

    Raises:
        ElfFormatError: Not an ELF object, or one without anything of live patching.
    """
    file = read_elf(data, name)
    sections = file.section_by_name
    if FUNCS not in sections and not any(s.startswith(".livepatch.") for s in sections):
        raise ElfFormatError(f"{name}: no section of live patching; is it a payload?")
    return Description(
        name=name,
        size_bytes=len(data),
        machine=file.machine,
        build_id=_note(sections.get(".note.gnu.build-id")),
        depends=_note(sections.get(".livepatch.depends")),
        xen_depends=_note(sections.get(".livepatch.xen_depends")),
        modinfo=_strings(sections.get(".modinfo")),
        functions=_records(file),
        hooks=tuple(sorted(s for s in sections if s.startswith(".livepatch.hooks."))),
        sections=tuple(
            (s.name, s.size_bytes, "A" + "W" * s.is_write + "X" * s.is_exec)
            for s in file.sections
            if s.is_alloc
        ),
        undefined=tuple(
            sorted({s.name for s in file.symbols[1:] if s.shndx == SHN_UNDEF and s.name})
        ),
        signature=_signature(data),
    )


def foreign_record(data: bytes, name: str, release: str) -> PayloadRecord:
    """Return what can be known of a payload that has no record beside it.

    Args:
        data: The whole file.
        name: Its file name; the payload is called so without the ending.
        release: The release it is judged for.

    Returns:
        The record; of a file that cannot even be read it says so, and the hypervisor's own answer
        is left to the verifiers.
    """
    try:
        described = describe(data, name)
    except ElfFormatError as error:
        return _bare_record(data, name, release, str(error))
    return PayloadRecord(
        name=name.removesuffix(".livepatch"),
        release=release,
        machine=described.machine,
        build_id=described.build_id,
        depends=described.depends,
        xen_depends=described.xen_depends,
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        functions=(),
        new=(),
        hooks=described.hooks,
        references=described.undefined,
        notes=("built by another tool",),
    )


def _bare_record(data: bytes, name: str, release: str, why: str) -> PayloadRecord:
    return PayloadRecord(
        name=name.removesuffix(".livepatch"),
        release=release,
        machine=0,
        build_id="",
        depends="",
        xen_depends="",
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        functions=(),
        new=(),
        hooks=(),
        references=(),
        notes=(why,),
    )


def _note(section: Section | None) -> str:
    """Return the identifier of a build-id note in hex, or "" if there is none."""
    if section is None or len(section.data) < 16:
        return ""
    name_size, size, _kind = struct.unpack_from("<III", section.data)
    start = 12 + (name_size + 3 & ~3)
    return section.data[start : start + size].hex()


def _strings(section: Section | None) -> tuple[str, ...]:
    if section is None:
        return ()
    return tuple(t.decode("utf-8", "replace") for t in section.data.split(b"\0") if t)


def _records(file: ElfFile) -> tuple[Record, ...]:
    section = file.section_by_name.get(FUNCS)
    if section is None or not section.data:
        return ()
    relocs = {r.offset: r for r in file.relocs(section)}
    version = section.data[32] if len(section.data) > 32 else 0
    size = _RECORD_SIZE_BYTES.get(version)
    if size is None or len(section.data) % size or len(section.data) // size > _RECORDS_MAX:
        raise ElfFormatError(
            f"{file.name}({FUNCS}): records of version {version} in {len(section.data)} bytes "
            "are not known; is the payload of a newer release?"
        )

    def target(offset: int, value: int) -> str:
        reloc = relocs.get(offset)
        if reloc is None:
            return hex(value) if value else ""
        symbol = file.symbols[reloc.symbol]
        text = symbol.name or file.sections[symbol.shndx].name
        return text + (f"+{reloc.addend:#x}" if reloc.addend else "")

    def text_at(offset: int) -> str:
        reloc = relocs.get(offset)
        if reloc is None:
            return ""
        symbol = file.symbols[reloc.symbol]
        content = file.sections[symbol.shndx].data
        start = symbol.value + reloc.addend
        return content[start : content.find(b"\0", start)].decode("utf-8", "replace")

    result = []
    for start in range(0, len(section.data), size):
        _name, new, old, size_new, size_old, record_version = _HEAD.unpack_from(section.data, start)
        expect = section.data[start + _EXPECT_OFFSET : start + size] if version == 2 else b"\0"
        length = expect[0] >> 1 & 31
        result.append(
            Record(
                name=text_at(start),
                new=target(start + 8, new),
                old=target(start + 16, old),
                size_new_bytes=size_new,
                size_old_bytes=size_old,
                version=record_version,
                expect=expect[1 : 1 + length].hex() if expect[0] & 1 else "",
            )
        )
    return tuple(result)


def _signature(data: bytes) -> str:
    if data.endswith(_MAGIC):
        size = int.from_bytes(data[-len(_MAGIC) - 4 : -len(_MAGIC)], "big")
        return f"appended CMS signature of {size} bytes"
    return "none that is known"


def print_description(description: Description) -> None:
    """Print a description for a person."""
    from rich.markup import escape  # noqa: PLC0415  0.1 s that machines need not pay
    from rich.table import Table  # noqa: PLC0415

    from xsplice_plugins.report.summary import console  # noqa: PLC0415

    out = console()
    d = description
    out.print(f"[bold]{escape(d.name)}[/]: {d.size_bytes} bytes, signature: {d.signature}")
    for label, text in (
        ("build-id", d.build_id),
        ("depends on", d.depends),
        ("for the Xen", d.xen_depends),
        ("modinfo", "; ".join(d.modinfo)),
        ("hooks", ", ".join(d.hooks)),
        ("resolved by Xen", ", ".join(d.undefined)),
    ):
        if text:
            out.print(f"  {label}: {escape(text)}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for column in ("replaces", "old", "new", "bytes", "expects"):
        table.add_column(column, overflow="fold")
    for record in d.functions:
        table.add_row(
            escape(record.name or record.old),
            escape(record.old or "by name"),
            escape(record.new or "NOP"),
            f"{record.size_old_bytes} -> {record.size_new_bytes}",
            record.expect or "-",
        )
    if d.functions:
        out.print(table)
    out.print("  " + ", ".join(f"{escape(n)} {size} {flags}" for n, size, flags in d.sections))
