# SPDX-License-Identifier: Apache-2.0
"""Which section of the payload a byte range of an object goes to.

Sections are merged by kind: a handful in all, whatever the number of functions and objects, so
that the limit of 1023 is out of reach and a person can read ``readelf -S``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.elf.types import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_NULL,
    SHT_PROGBITS,
)
from xsplice_plugins.errors import LinkError
from xsplice_plugins.target.abi import (
    FUNCS_SECTION,
    HOOK_PREFIX,
    MODINFO_SECTION,
)
from xsplice_plugins.target.machine import PAGE_SIZE_BYTES
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.abi import Abi

TEXT = ".text"
DATA = ".data"
BSS = ".bss"
RODATA = ".rodata"
STRINGS = ".rodata.str"

#: Sections whose content the running hypervisor never looks at again, or never knew.
_REFUSED = {
    SectionClass.INIT: "it is used at boot only; a payload comes too late",
    SectionClass.PERCPU: "a new per-CPU variable has no place in the running hypervisor",
    SectionClass.REGISTRY: "the hypervisor knows its own table only",
    SectionClass.IGNORED: "it is thrown away in every link",
}


class SectionKind(Struct, frozen=True, kw_only=True):
    """One section of the payload, as to be filled."""

    name: str
    flags: int
    type: int = SHT_PROGBITS
    is_packed: bool = False  #: a table: entries follow each other without padding
    is_text: bool = False  #: strings of which equal ones are kept once

    @property
    def holds_code_or_data(self) -> bool:
        """Tell whether the address of a function in it means the function, not its place."""
        return not self.is_packed or bool(self.flags & SHF_EXECINSTR)


_RX = SHF_ALLOC | SHF_EXECINSTR
_PLAIN = {
    TEXT: SectionKind(name=TEXT, flags=_RX),
    DATA: SectionKind(name=DATA, flags=SHF_ALLOC | SHF_WRITE),
    BSS: SectionKind(name=BSS, flags=SHF_ALLOC | SHF_WRITE, type=SHT_NOBITS),
    RODATA: SectionKind(name=RODATA, flags=SHF_ALLOC),
    STRINGS: SectionKind(name=STRINGS, flags=SHF_ALLOC, is_text=True),
}


def snippets_kind(name: str) -> SectionKind:
    """Return the kind of a section of snippets that the loader asks for by name."""
    return SectionKind(name=name, flags=_RX, is_packed=True)


def order_of(name: str, abi: Abi) -> tuple[int, int, str]:
    """Sort the payload's sections: code, data, tables in the order of their rows, hooks."""
    if name in abi.profile.snippet_sections:
        return (0, 1, name)
    if name in _PLAIN:
        return (0 if name == TEXT else 1, list(_PLAIN).index(name), name)
    row = abi.profile.table(name)
    if row is not None:
        return (2, abi.profile.tables.index(row), name)
    return (3 if name == MODINFO_SECTION else 4, 0, name)


def kind_of(section: Section, name: str, subject: str, abi: Abi) -> SectionKind:
    """Tell where the content of an object's section goes.

    ``name`` is the section's without the symbol that it was made for (`ElfFile.base_name`).

    Raises:
        LinkError: The section cannot be part of a payload.
    """
    if section.name == FUNCS_SECTION:
        raise LinkError(
            f"{subject}: the linker writes the function records itself; remove it from the source"
        )
    reason = _REFUSED.get(abi.profile.class_of_name(name) or SectionClass.UNKNOWN)
    if reason:
        raise LinkError(f"{subject}: {reason}; change the fix so that it needs no such section")
    if not section.is_alloc:
        raise LinkError(f"{subject}: it is not loaded into memory; no payload can use it")
    if section.is_write and section.is_exec:
        raise LinkError(f"{subject}: it is writable and executable; split code and data")
    if section.type == SHT_NULL or (section.type == SHT_NOBITS and not section.is_write):
        raise LinkError(f"{subject}: it has a size and no content; compile the object again")
    if section.is_strings and section.entry_size_bytes not in (1, 2, 4):
        raise LinkError(f"{subject}: characters of {section.entry_size_bytes} bytes; use 1, 2 or 4")
    if section.align_bytes > PAGE_SIZE_BYTES or section.align_bytes & (section.align_bytes - 1):
        raise LinkError(
            f"{subject}: an alignment of {section.align_bytes} is not honoured in payloads; "
            f"ask for {PAGE_SIZE_BYTES} at most"
        )
    special = _special(section.name, subject, abi)
    if special is not None:
        return special
    if section.is_exec:
        return _PLAIN[TEXT]
    if section.type == SHT_NOBITS:
        return _PLAIN[BSS]
    # Constant once relocated; read-only keeps the payload fit for a second apply.
    if section.is_write and not section.name.startswith(".data.rel.ro"):
        return _PLAIN[DATA]
    return _PLAIN[STRINGS if section.is_strings and section.flags & SHF_MERGE else RODATA]


def _special(name: str, subject: str, abi: Abi) -> SectionKind | None:
    if name.startswith(HOOK_PREFIX):
        if name.removeprefix(HOOK_PREFIX) not in abi.hooks:
            raise LinkError(
                f"{subject}: Xen {abi.facts.release} has no such hook; it has "
                f"{', '.join(abi.hooks) or 'none'}"
            )
        return SectionKind(name=name, flags=SHF_ALLOC, is_packed=True)
    if name.startswith(".livepatch."):
        raise LinkError(f"{subject}: no section that a fix may bring; remove it from the source")
    if name in abi.profile.snippet_sections:
        return snippets_kind(name)
    row = abi.profile.table(name)
    if row is not None and row.refused:
        raise LinkError(f"{subject}: {row.refused}")
    if row is None and name != MODINFO_SECTION:
        return None
    if not (abi.is_v2 if row is None else row.entry_size_bytes):
        where = f"Xen {abi.facts.release} on {abi.machine.name}"
        raise LinkError(f"{subject}: {where} takes no such section")
    return SectionKind(name=name, flags=SHF_ALLOC, is_packed=True)


def check_tables(contents: dict[str, bytes], abi: Abi) -> None:
    """See to it that tables hold whole entries, and ask for CPU features that Xen knows.

    Raises:
        LinkError: A table's size is no multiple of its entries', or a feature's number too large.
    """
    # Lists of releases are too coarse to refuse by: distributions move this number.
    words = abi.facts.feature_words if abi.facts.is_asked else 0
    for name, content in contents.items():
        row = abi.profile.table(name)
        if row is None:
            continue
        if len(content) % row.entry_size_bytes:
            raise LinkError(
                f"{name}: {len(content)} bytes taken, which is no multiple of its "
                f"{row.entry_size_bytes}-byte entries; run the diff stage again"
            )
        if row.feature_field is None or not words:
            continue
        for start in range(row.feature_field, len(content), row.entry_size_bytes):
            feature = int.from_bytes(content[start : start + 2], "little") & 0x7FFF
            if feature >= 32 * words:
                raise LinkError(
                    f"{name}: it asks for CPU feature {feature}, and this Xen has "
                    f"{32 * words}; compile the object with the tree's own headers"
                )
