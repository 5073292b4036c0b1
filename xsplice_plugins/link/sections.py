# SPDX-License-Identifier: Apache-2.0
"""Which section of the payload a byte range of an object goes to.

Sections are merged by kind: a handful in all, whatever the number of functions and objects, so
that the limit of 1023 is out of reach and a person can read ``readelf -S``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    ALT_REPLACEMENT_SECTION,
    ALT_SECTION,
    FUNCS_SECTION,
    HOOK_PREFIX,
    MODINFO_SECTION,
    PAGE_SIZE_BYTES,
)

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.abi import Abi

TEXT = ".text"
DATA = ".data"
BSS = ".bss"
RODATA = ".rodata"
STRINGS = ".rodata.str"
EX_TABLE = ".ex_table"
ALT_CALL_SITES = ".alt_call_sites"
BUG_FRAMES = ".bug_frames."

#: Sections whose content the running hypervisor never looks at again, or never knew.
_REFUSED = (
    (".init", "it is used at boot only; a payload comes too late"),
    (".exit", "it is never used by a hypervisor"),
    (".data.percpu", "a new per-CPU variable has no place in the running hypervisor"),
    (".bss.percpu", "a new per-CPU variable has no place in the running hypervisor"),
    (".data.schedulers", "the hypervisor reads this table at boot only"),
    (".data.vpci", "the hypervisor knows its own table only"),
    (".data.param", "the hypervisor knows its own table only"),
    (".ctors", "constructors run at boot only"),
    (FUNCS_SECTION, "the linker writes the function records itself"),
    (".discard", "it is thrown away in every link"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One section of the payload, as to be filled."""

    name: str
    flags: int
    type: int = SHT_PROGBITS
    is_packed: bool = False  #: a table: entries follow each other without padding
    is_text: bool = False  #: strings of which equal ones are kept once


_RX = SHF_ALLOC | SHF_EXECINSTR
_PLAIN = {
    TEXT: Kind(name=TEXT, flags=_RX),
    ALT_REPLACEMENT_SECTION: Kind(name=ALT_REPLACEMENT_SECTION, flags=_RX, is_packed=True),
    DATA: Kind(name=DATA, flags=SHF_ALLOC | SHF_WRITE),
    BSS: Kind(name=BSS, flags=SHF_ALLOC | SHF_WRITE, type=SHT_NOBITS),
    RODATA: Kind(name=RODATA, flags=SHF_ALLOC),
    STRINGS: Kind(name=STRINGS, flags=SHF_ALLOC, is_text=True),
}
#: Order in the file; hook sections come after these, in order of their names.
ORDER = (
    *_PLAIN,
    EX_TABLE,
    *(f"{BUG_FRAMES}{i}" for i in range(4)),
    ALT_SECTION,
    ALT_CALL_SITES,
    MODINFO_SECTION,
)


def kind_of(section: Section, subject: str, abi: Abi) -> Kind:
    """Tell where the content of an object's section goes.

    Args:
        section: A section of the object.
        subject: How messages call object and section.
        abi: Format of the payload.

    Raises:
        LinkError: The section cannot be part of a payload.
    """
    for prefix, reason in _REFUSED:
        if section.name == prefix or section.name.startswith(prefix + "."):
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


def _special(name: str, subject: str, abi: Abi) -> Kind | None:
    if name.startswith(HOOK_PREFIX):
        if name.removeprefix(HOOK_PREFIX) not in abi.hooks:
            raise LinkError(
                f"{subject}: Xen {abi.release} has no such hook; it has "
                f"{', '.join(abi.hooks) or 'none'}"
            )
        return Kind(name=name, flags=SHF_ALLOC, is_packed=True)
    if name.startswith(".livepatch."):
        raise LinkError(f"{subject}: no section that a fix may bring; remove it from the source")
    if name.startswith(BUG_FRAMES):
        if name not in {f"{BUG_FRAMES}{i}" for i in range(abi.bug_frame_kinds)}:
            raise LinkError(f"{subject}: Xen {abi.release} knows no such bug frames")
        return Kind(name=name, flags=SHF_ALLOC, is_packed=True)
    if name == ".ex_table.pre":
        raise LinkError(f"{subject}: the hypervisor looks for .ex_table only; patch no entry code")
    is_known = {
        EX_TABLE: abi.machine.has_ex_table,
        ALT_SECTION: True,
        ALT_CALL_SITES: abi.has_alt_call_sites,
        MODINFO_SECTION: abi.has_modinfo,
    }
    if name in is_known:
        if not is_known[name]:
            raise LinkError(
                f"{subject}: Xen {abi.release} on {abi.machine.name} takes no such section"
            )
        return Kind(name=name, flags=SHF_ALLOC, is_packed=True)
    return _PLAIN.get(name) if name == ALT_REPLACEMENT_SECTION else None


def check_tables(sizes: dict[str, int], abi: Abi) -> None:
    """See to it that tables hold whole entries.

    Args:
        sizes: Size in bytes of each of the payload's sections.
        abi: Format of the payload.

    Raises:
        LinkError: A table's size is no multiple of its entries'.
    """
    entries = {ALT_SECTION: abi.alt_entry_size_bytes, EX_TABLE: 8, ALT_CALL_SITES: 4}
    for name, size in sizes.items():
        entry = entries.get(name, 1)
        if name.startswith(BUG_FRAMES):
            entry = abi.bug_frame_size_bytes
        if size % entry:
            raise LinkError(
                f"{name}: {size} bytes taken, which is no multiple of its {entry}-byte entries; "
                "run the diff stage again"
            )


def kind_of_name(name: str) -> Kind:
    """Return one of the payload's own sections, as to be filled."""
    return _PLAIN[name]
