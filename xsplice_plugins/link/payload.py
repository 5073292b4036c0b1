# SPDX-License-Identifier: Apache-2.0
"""Make one payload from all deltas of a fix: a pure function of its inputs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Payload, PayloadRecord, Severity, findings_about
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHF_ALLOC, SHT_NOBITS, SHT_NOTE, SHT_PROGBITS
from xsplice_plugins.elf.writer import OutSection, write_object
from xsplice_plugins.errors import LinkError, NoFunctionalChangeError
from xsplice_plugins.link.again import check_current
from xsplice_plugins.link.branches import check_branches
from xsplice_plugins.link.check import check_payload
from xsplice_plugins.link.early import untested
from xsplice_plugins.link.escapes import code_of, escapes
from xsplice_plugins.link.funcs import find_bodies, make_records, replaced_names
from xsplice_plugins.link.image import BUILD_ID_SIZE_BYTES, derive_build_id, write_note
from xsplice_plugins.link.landing import check_landing
from xsplice_plugins.link.moved import settle_moved
from xsplice_plugins.link.names import read_names
from xsplice_plugins.link.physical import physical
from xsplice_plugins.link.placement import Draft, place_extents, read_sources
from xsplice_plugins.link.relocs import link_relocs, section_key
from xsplice_plugins.link.results import without_result
from xsplice_plugins.link.running import Running
from xsplice_plugins.link.sealed import sealed_stores
from xsplice_plugins.link.sections import TEXT, check_tables, snippets_kind
from xsplice_plugins.link.symbols import find_entries, make_symbols
from xsplice_plugins.link.variables import new_variables
from xsplice_plugins.releases import is_known, parse_release
from xsplice_plugins.target.abi import (
    BUILD_ID_SECTION,
    DEPENDS_SECTION,
    FUNCS_SECTION,
    HOOK_PREFIX,
    MODINFO_SECTION,
    POINTER_SIZE_BYTES,
    SINGLE_HOOKS,
    XEN_DEPENDS_SECTION,
)

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Delta, Finding
    from xsplice_plugins.elf.writer import OutReloc, OutSymbol
    from xsplice_plugins.link.funcs import Records
    from xsplice_plugins.link.image import XenImage
    from xsplice_plugins.link.placement import Placement, Source
    from xsplice_plugins.plugins.spec import Config
    from xsplice_plugins.target.abi import Abi

LINKER = "linker"  #: the check's name in what is said of a payload's own addresses


def link_payload(
    name: str,
    deltas: tuple[Delta, ...],
    objects: tuple[bytes, ...],
    image: bytes,
    config: Config,
) -> Payload:
    """Make one payload of what changed (``deltas``, each with its new object) on ``xen-syms``.

    Returns:
        The unsigned payload; the same input gives the same bytes.

    Raises:
        LinkError: The deltas cannot become a payload of this release on this image.
        NoFunctionalChangeError: They bring something new, and nothing that would use it.
        RefusedError: The hypervisor cannot run it: what is called through a pointer lacks the
            landing pad, for one.
        ElfError: An input cannot be read, or a relocation not be made.
    """
    names = read_names(image, config)
    abi, xen_id = names.abi, names.image.build_id
    _check_name(name, abi.facts.name_size_bytes - 1)
    sources = tuple(settle_moved(row, names) for row in read_sources(deltas, objects, abi))
    for source in sources:
        check_current(source, names)
    placement = place_extents(sources, abi)
    check_tables({key: bytes(draft.data) for key, draft in placement.drafts.items()}, abi)
    check_branches(placement, abi)
    bodies = find_bodies(placement)
    wholes = tuple(body for body in bodies if body.is_whole)
    names = replace(names, replaced=replaced_names(wholes))
    _complete_alternatives(placement, abi)
    links = link_relocs(placement, find_entries(placement, wholes), names)
    hooks = _check_hooks(placement, links.relocs)
    records = make_records(placement, bodies, names)
    _check_effect(name, sources, records, hooks, abi)
    undefined = tuple(sorted({*links.undefined, *records.undefined}))
    depends = names.beneath[-1].build_id if names.beneath else xen_id
    sections = _sections(name, placement, records, links.relocs, abi)
    sections += _identity_sections(depends, xen_id, abi)
    referred = {reloc.symbol for section in sections for reloc in section.relocs}
    named = tuple(s.name for s in sections if section_key(s.name) in referred)
    symbols, symbol_notes = make_symbols(placement, wholes, names, named, undefined)
    data, build_id = _write(sections, symbols, abi.machine.number)
    if len(data) > abi.facts.file_size_max:
        raise LinkError(
            f"{name}: the payload has {len(data)} bytes, the hypervisor takes "
            f"{abi.facts.file_size_max}; split the fix"
        )
    check_payload(data, abi)
    check_landing(name, data, names.image, abi)
    new = tuple(item for source in placement.sources for item in source.delta.new)
    # Addresses in code are followed on x86_64 alone.
    running = Running(read_elf(data, "payload"), abi.profile) if abi.machine.endbr else None
    silent = cache(lambda: without_result(objects))
    record = PayloadRecord(
        name=name,
        release=config.release,
        machine=abi.machine.number,
        build_id=build_id.hex(),
        depends=depends.hex(),
        xen_depends=xen_id.hex(),
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        functions=records.functions,
        new=new,
        hooks=hooks,
        references=undefined,
        notes=_notes(sections, records, hooks, abi) + links.notes + symbol_notes,
        findings=_kept(name, escapes(data, names.image, abi, silent), len(new))
        + (_looked_at(name, running, records, names.image, abi) if running else ()),
        variables=new_variables(running) if running else (),
    )
    return Payload(data=data, record=record)


def _looked_at(
    name: str, running: Running, records: Records, image: XenImage, abi: Abi
) -> tuple[Finding, ...]:
    """Say what the payload's code does with memory that it must not do."""
    references = cache(lambda: code_of(image, abi))
    stores = sealed_stores(running, records.functions, image, references)
    early = untested(running, references)
    cut = ("its code is too long to be followed",) if running.carried.is_cut else ()
    texts = ((Duty.LOADER, (*early, *stores)), (Duty.DATA, (*physical(running), *cut)))
    return tuple(
        finding
        for duty, rows in texts
        for finding in findings_about(duty, LINKER, Severity.UNCHECKED, name, rows)
    )


def _kept(name: str, texts: tuple[str, ...], count: int) -> tuple[Finding, ...]:
    """Say which addresses of the payload's own stay behind, or that none does."""
    if texts:
        return findings_about(Duty.DATA, LINKER, Severity.UNCHECKED, name, texts)
    text = f"after unload nothing keeps an address of its own ({count} new functions and data)"
    return findings_about(Duty.DATA, LINKER, Severity.HELD, name, (text,))


def _check_hooks(placement: Placement, relocs: dict[str, tuple[OutReloc, ...]]) -> tuple[str, ...]:
    """Check slot by slot the hook sections that the fix's author wrote.

    Returns:
        Names of the hook sections, sorted.

    Source: xen/include/xen/livepatch_payload.h; `prepare_payload` of xen/common/livepatch.c.

    Raises:
        LinkError: Two hooks where one may be, a slot that calls nothing or leaves the payload.
    """
    hooks = tuple(sorted(name for name in placement.drafts if name.startswith(HOOK_PREFIX)))
    for name in hooks:
        size = placement.drafts[name].size_bytes
        owners = ", ".join(
            source.elf.name
            for source, pieces in zip(placement.sources, placement.pieces, strict=True)
            if any(piece.kind.name == name for piece in pieces)
        )
        if name.removeprefix(HOOK_PREFIX) in SINGLE_HOOKS and size != POINTER_SIZE_BYTES:
            raise LinkError(
                f"{owners}({name}): {size // POINTER_SIZE_BYTES} hooks where the hypervisor takes "
                "one; call one from the other"
            )
        slots = {reloc.offset: reloc for reloc in relocs[name]}
        wanted = set(range(0, size, POINTER_SIZE_BYTES))
        if size % POINTER_SIZE_BYTES or set(slots) != wanted:
            raise LinkError(
                f"{owners}({name}): a slot is no pointer to a function; use Xen's "
                "LIVEPATCH_*_HOOK macros"
            )
        for offset, reloc in sorted(slots.items()):
            if reloc.symbol != section_key(TEXT):
                raise LinkError(
                    f"{owners}({name}+{offset:#x}): the hook is no function of the payload; "
                    "write one in the fix"
                )
    return hooks


def _check_effect(
    name: str, sources: tuple[Source, ...], records: Records, hooks: tuple[str, ...], abi: Abi
) -> None:
    """Refuse a payload that would change nothing: the hypervisor does so too (-EINVAL)."""
    if records.functions or (hooks and abi.is_v2):
        return
    if hooks:
        raise LinkError(
            f"{name}: nothing to patch: no function is replaced and Xen {abi.facts.release} takes "
            "no payload of hooks alone; change a function of the running hypervisor"
        )
    new = sorted({f"`{item.symbol}`" for row in sources for item in row.delta.new if item.symbol})
    unused = f", and no code that runs uses what is new ({', '.join(new[:3])})" if new else ""
    raise NoFunctionalChangeError(
        f"{name}: no functional change: nothing to patch: no function is replaced{unused}; "
        "nothing needs a live patch"
    )


def _check_name(name: str, most: int) -> None:
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 0 < size <= most or any(ord(c) < 0x20 for c in name):
        raise LinkError(f"{name!r}: no name for a payload; use 1 to {most} printable characters")


def _complete_alternatives(placement: Placement, abi: Abi) -> None:
    """Give alternatives a section of snippets even if all replacements are empty.

    Since 4.17.4 a payload with ``.altinstructions`` and no ``.altinstr_replacement`` is refused,
    and releases before 4.14.5 skip empty sections.
    """
    for row in [abi.profile.table(name) for name in placement.drafts]:
        if row is not None and row.snippets and row.snippets not in placement.drafts:
            draft = Draft(kind=snippets_kind(row.snippets), align_bytes=4)
            draft.data += abi.machine.code_filler * 4
            draft.size_bytes = len(draft.data)
            placement.drafts[row.snippets] = draft


def _sections(
    name: str,
    placement: Placement,
    records: Records,
    relocs: dict[str, tuple[OutReloc, ...]],
    abi: Abi,
) -> tuple[OutSection, ...]:
    result = [
        OutSection(
            name=section_name,
            type=draft.kind.type,
            flags=draft.kind.flags,
            align_bytes=draft.align_bytes,
            data=b"" if draft.kind.type == SHT_NOBITS else bytes(draft.data),
            size_bytes=draft.size_bytes,
            relocs=relocs.get(section_name, ()),
        )
        for section_name, draft in placement.drafts.items()
        if section_name != MODINFO_SECTION
    ]
    for section in result:
        if section.size_bytes > abi.facts.file_size_max:
            raise LinkError(
                f"{name}({section.name}): {section.size_bytes} bytes, the hypervisor takes "
                f"{abi.facts.file_size_max}; allocate the memory at run time"
            )
    result += records.sections
    if abi.is_v2:
        own = placement.drafts.get(MODINFO_SECTION)
        text = b"name=" + name.encode("utf-8", "surrogateescape") + b"\0"
        text += bytes(own.data) if own is not None else b""
        if text[-1:] != b"\0":
            raise LinkError(f"{name}({MODINFO_SECTION}): its last entry has no NUL; add one")
        result.append(
            OutSection(
                name=MODINFO_SECTION,
                type=SHT_PROGBITS,
                flags=SHF_ALLOC,
                align_bytes=1,
                data=text,
            )
        )
    return tuple(result)


def _identity_sections(depends: bytes, xen: bytes, abi: Abi) -> tuple[OutSection, ...]:
    rows = [
        (BUILD_ID_SECTION, SHT_NOTE, bytes(BUILD_ID_SIZE_BYTES)),
        (DEPENDS_SECTION, SHT_PROGBITS, depends),
    ]
    if abi.is_v2:
        rows.append((XEN_DEPENDS_SECTION, SHT_PROGBITS, xen))
    return tuple(
        OutSection(name=name, type=kind, flags=SHF_ALLOC, align_bytes=4, data=write_note(build_id))
        for name, kind, build_id in rows
    )


def _write(
    sections: tuple[OutSection, ...], symbols: tuple[OutSymbol, ...], machine: int
) -> tuple[bytes, bytes]:
    """Write the payload with a build-id that its own content gives."""
    blank = write_object(sections, symbols, machine=machine)
    build_id = derive_build_id(blank)
    place = read_elf(blank, "payload").section_by_name[BUILD_ID_SECTION]
    start, end = place.offset_file, place.offset_file + place.size_bytes
    return blank[:start] + write_note(build_id) + blank[end:], build_id


def _notes(
    sections: tuple[OutSection, ...], records: Records, hooks: tuple[str, ...], abi: Abi
) -> tuple[str, ...]:
    result = [] if is_known(parse_release(abi.facts.release)) else [f"facts: {abi.facts.origin}"]
    result += [
        f"`{function.name}`: "
        + (f"only {len(function.expect) // 2} bytes" if function.expect else "no bytes")
        + f" are expected at its old address ({function.expect_note})"
        for function in records.functions
        if function.expect_note and abi.has_expectations
    ]
    writable = [s.name for s in sections if s.flags & 1 and s.name != FUNCS_SECTION]
    if writable:
        result.append(
            f"it brings writable data ({', '.join(writable)}): after a revert it must be "
            "unloaded and loaded again before it can be applied again"
        )
    if f"{HOOK_PREFIX}load" in hooks or f"{HOOK_PREFIX}unload" in hooks:
        result.append("load and unload hooks run at each apply and revert, not at load and unload")
    return tuple(result)
