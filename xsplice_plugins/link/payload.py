# SPDX-License-Identifier: Apache-2.0
"""Make one payload from all deltas of a fix: a pure function of its inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Payload, PayloadRecord
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHF_ALLOC, SHT_NOBITS, SHT_NOTE, SHT_PROGBITS
from xsplice_plugins.elf.writer import OutSection, write_object
from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.branches import check_branches
from xsplice_plugins.link.check import check_payload
from xsplice_plugins.link.funcs import find_bodies, make_records, replaced_names
from xsplice_plugins.link.hooks import check_hooks
from xsplice_plugins.link.image import read_image
from xsplice_plugins.link.names import Names, read_beneath
from xsplice_plugins.link.notes import BUILD_ID_SIZE_BYTES, derive_build_id, write_note
from xsplice_plugins.link.placement import Draft, place_extents, read_sources
from xsplice_plugins.link.relocs import link_relocs, section_key
from xsplice_plugins.link.sections import check_tables, kind_of_name
from xsplice_plugins.link.symbols import find_entries, make_symbols
from xsplice_plugins.target.abi import (
    ALT_REPLACEMENT_SECTION,
    ALT_SECTION,
    BUILD_ID_SECTION,
    DEPENDS_SECTION,
    FUNCS_SECTION,
    HOOK_PREFIX,
    MODINFO_SECTION,
    SIZE_MAX,
    XEN_DEPENDS_SECTION,
    Abi,
    abi_of,
)

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Delta
    from xsplice_plugins.elf.writer import OutReloc, OutSymbol
    from xsplice_plugins.link.funcs import Records
    from xsplice_plugins.link.image import Image
    from xsplice_plugins.link.names import Beneath
    from xsplice_plugins.link.placement import Layout

_NAME_MAX = 127  #: XEN_LIVEPATCH_NAME_SIZE less the NUL


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """Everything the linker gets."""

    name: str  #: of the fix
    deltas: tuple[Delta, ...]
    objects: tuple[bytes, ...]  #: the new object of each delta
    image: bytes  #: ``xen-syms``
    release: str
    beneath: bytes | None = None  #: an earlier payload that the new one stacks on
    beneath_name: str = ""


def link_payload(request: LinkRequest) -> Payload:
    """Make one payload.

    Returns:
        The unsigned payload; the same request gives the same bytes.

    Raises:
        LinkError: The deltas cannot become a payload of this release on this image.
        ElfError: An input cannot be read, or a relocation not be made.
    """
    _check_name(request.name)
    elf = read_elf(request.image, "xen-syms")
    abi = abi_of(request.release, elf.machine)
    image = read_image(elf, alt_entry_size_bytes=abi.alt_entry_size_bytes)
    beneath = _read_beneath(request, image, abi)
    layout = place_extents(read_sources(request.deltas, request.objects, elf.machine), abi)
    check_tables({name: draft.size_bytes for name, draft in layout.drafts.items()}, abi)
    check_branches(layout)
    bodies = find_bodies(layout)
    wholes = tuple(body for body in bodies if body.is_whole)
    names = Names(image=image, beneath=beneath, replaced=replaced_names(wholes))
    _complete_alternatives(layout, abi)
    links = link_relocs(layout, find_entries(layout, wholes), names, abi)
    hooks = check_hooks(layout, links.relocs)
    records = make_records(layout, bodies, names, abi)
    _check_effect(request.name, records, hooks, abi)
    undefined = tuple(sorted({*links.undefined, *records.undefined}))
    depends = beneath.build_id if beneath is not None else image.build_id
    sections = _sections(request.name, layout, records, links.relocs, abi)
    sections += _identity_sections(depends, image.build_id, abi)
    referred = {reloc.symbol for section in sections for reloc in section.relocs}
    named = tuple(s.name for s in sections if section_key(s.name) in referred)
    symbols, symbol_notes = make_symbols(layout, wholes, names, named, undefined)
    data, build_id = _write(sections, symbols, elf.machine)
    if len(data) > SIZE_MAX:
        raise LinkError(
            f"{request.name}: the payload has {len(data)} bytes, the hypervisor takes {SIZE_MAX}; "
            "split the fix"
        )
    check_payload(data, abi)
    record = PayloadRecord(
        name=request.name,
        release=request.release,
        machine=elf.machine,
        build_id=build_id.hex(),
        depends=depends.hex(),
        xen_depends=image.build_id.hex(),
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        functions=records.functions,
        new=tuple(item for source in layout.sources for item in source.delta.new),
        hooks=hooks,
        references=undefined,
        notes=_notes(sections, records, hooks, abi) + links.notes + symbol_notes,
    )
    return Payload(data=data, record=record)


def _read_beneath(request: LinkRequest, image: Image, abi: Abi) -> Beneath | None:
    if request.beneath is None:
        return None
    beneath = read_beneath(request.beneath, request.beneath_name, abi)
    if abi.has_xen_depends and beneath.xen_depends != image.build_id:
        raise LinkError(
            f"{request.beneath_name}: made for the hypervisor {beneath.xen_depends.hex()}, "
            f"not for {image.build_id.hex()}; give a payload of this build"
        )
    return beneath


def _check_effect(name: str, records: Records, hooks: tuple[str, ...], abi: Abi) -> None:
    """Refuse a payload that would change nothing: the hypervisor does so too (-EINVAL)."""
    if records.functions or (hooks and not abi.is_funcs_required):
        return
    reason = f" and Xen {abi.release} takes no payload of hooks alone" if hooks else ""
    raise LinkError(
        f"{name}: nothing to patch: no function is replaced{reason}; "
        "change a function of the running hypervisor"
    )


def _check_name(name: str) -> None:
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 0 < size <= _NAME_MAX or any(ord(c) < 0x20 for c in name):
        raise LinkError(
            f"{name!r}: no name for a payload; use 1 to {_NAME_MAX} printable characters"
        )


def _complete_alternatives(layout: Layout, abi: Abi) -> None:
    """Give alternatives a replacement section even if all replacements are empty.

    Since 4.17.4 a payload with ``.altinstructions`` and no ``.altinstr_replacement`` is refused,
    and releases before 4.14.5 skip empty sections.
    """
    if ALT_SECTION in layout.drafts and ALT_REPLACEMENT_SECTION not in layout.drafts:
        filler = abi.machine.code_filler * 4
        draft = Draft(kind=kind_of_name(ALT_REPLACEMENT_SECTION), align_bytes=4)
        draft.data += filler
        draft.size_bytes = len(filler)
        layout.drafts[ALT_REPLACEMENT_SECTION] = draft


def _sections(
    name: str,
    layout: Layout,
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
        for section_name, draft in layout.drafts.items()
        if section_name != MODINFO_SECTION
    ]
    for section in result:
        if section.size_bytes > SIZE_MAX:
            raise LinkError(
                f"{name}({section.name}): {section.size_bytes} bytes, the hypervisor takes "
                f"{SIZE_MAX}; allocate the memory at run time"
            )
    result += records.sections
    if abi.has_modinfo:
        own = layout.drafts.get(MODINFO_SECTION)
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
    if abi.has_xen_depends:
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
    result = [
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
