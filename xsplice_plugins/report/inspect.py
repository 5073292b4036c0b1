# SPDX-License-Identifier: Apache-2.0
"""Say what a payload holds, whoever built it: read from the file alone."""

from __future__ import annotations

import hashlib
import struct

from msgspec import Struct

from xsplice_plugins.artefacts import (
    SCHEMA,
    Duty,
    PayloadRecord,
    Severity,
    findings_about,
    plain,
)
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHN_UNDEF, Section
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.target import abi
from xsplice_plugins.target.funcs import Record, read_funcs

_MAGIC = b"~Module signature appended~\n"

#: What nobody can know of a payload without a record.
UNRECORDED = "no record lies beside the payload, so nobody knows what it was made from"


class Description(Struct, frozen=True, kw_only=True):
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

    Raises:
        ElfFormatError: Not an ELF object, or one without anything of live patching.
    """
    file = read_elf(data, name)
    sections = file.section_by_name
    if not any(s.startswith(".livepatch.") for s in sections):
        raise ElfFormatError(f"{name}: no section of live patching; is it a payload?")
    modinfo = sections[abi.MODINFO_SECTION].data if abi.MODINFO_SECTION in sections else b""
    is_signed = data.endswith(_MAGIC)
    size = int.from_bytes(data[-len(_MAGIC) - 4 : -len(_MAGIC)], "big")
    return Description(
        name=plain(name),
        size_bytes=len(data),
        machine=file.machine,
        build_id=_note(sections.get(abi.BUILD_ID_SECTION)),
        depends=_note(sections.get(abi.DEPENDS_SECTION)),
        xen_depends=_note(sections.get(abi.XEN_DEPENDS_SECTION)),
        modinfo=tuple(t.decode("utf-8", "backslashreplace") for t in modinfo.split(b"\0") if t),
        functions=read_funcs(file),
        hooks=tuple(sorted(plain(s) for s in sections if s.startswith(abi.HOOK_PREFIX))),
        sections=tuple(
            (plain(s.name), s.size_bytes, "A" + "W" * s.is_write + "X" * s.is_exec)
            for s in file.sections
            if s.is_alloc
        ),
        undefined=tuple(
            sorted({plain(s.name) for s in file.symbols[1:] if s.shndx == SHN_UNDEF and s.name})
        ),
        signature=f"appended CMS signature of {size} bytes" if is_signed else "none that is known",
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
    note = "built by another tool"
    try:
        described = describe(data, name)
    except ElfFormatError as error:
        described, note = None, str(error)
    called = plain(name.removesuffix(".livepatch"))
    return PayloadRecord(
        name=called,
        release=release,
        machine=described.machine if described else 0,
        build_id=described.build_id if described else "",
        depends=described.depends if described else "",
        xen_depends=described.xen_depends if described else "",
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        functions=(),
        new=(),
        hooks=described.hooks if described else (),
        references=described.undefined if described else (),
        notes=(note,),
        findings=findings_about(Duty.BASE, "record", Severity.UNCHECKED, called, (UNRECORDED,)),
    )


def _note(section: Section | None) -> str:
    """Return the identifier of a build-id note in hex, or "" if there is none."""
    if section is None or len(section.data) < 16:
        return ""
    name_size, size = struct.unpack_from("<II", section.data)
    start = 12 + (name_size + 3 & ~3)
    return section.data[start : start + size].hex()


def print_description(d: Description) -> None:
    """Print a description for a person."""
    from rich.console import Console  # noqa: PLC0415  0.1 s that machines need not pay
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    out = Console(highlight=False, soft_wrap=True)  # colours only where a person looks on
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
