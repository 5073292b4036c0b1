# SPDX-License-Identifier: Apache-2.0
"""Turn the relocations inside the taken extents into relocations of the payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from xsplice_plugins.elf.types import SHN_ABS, SHN_UNDEF, STB_WEAK
from xsplice_plugins.elf.writer import OutReloc
from xsplice_plugins.errors import LinkError, RefusedError, RelocationError
from xsplice_plugins.target.machines import relocation_name

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Reloc, Section, Symbol
    from xsplice_plugins.link.names import Names
    from xsplice_plugins.link.placement import Piece, Placement, Source
    from xsplice_plugins.link.sections import SectionKind
    from xsplice_plugins.target.abi import Abi
    from xsplice_plugins.target.sections import SpecialSection

_ADDEND_LIMIT = 1 << 63


def section_key(name: str) -> str:
    """Return the key of a payload section's symbol."""
    return f"section:{name}"


def undefined_key(name: str) -> str:
    """Return the key of a symbol that the hypervisor resolves."""
    return f"undefined:{name}"


class Entries(Struct, frozen=True, kw_only=True):
    """Starts of functions and data that other objects, or the image's symbol, may name.

    ``replaced`` maps (object, section, offset) of each new body to the image's name.
    ``exported`` maps each global the payload brings to (object, section, offset).
    ``opened`` maps each global that is a local of the image to its name there.
    """

    replaced: dict[tuple[int, int, int], str]
    exported: dict[str, tuple[int, int, int]]
    opened: dict[str, str]


class Links(Struct, frozen=True, kw_only=True):
    """Relocations of each payload section, and what they need from the hypervisor."""

    relocs: dict[str, tuple[OutReloc, ...]]
    undefined: tuple[str, ...]  #: sorted
    notes: tuple[str, ...]


class _Site(NamedTuple):
    """The field that a relocation changes."""

    where: str  #: how messages call it
    kind: SectionKind  #: of the payload's section
    is_called_through: bool  #: the target is a pointer that a call or jump reads


class _Context(Struct, frozen=True, kw_only=True):
    placement: Placement
    entries: Entries
    names: Names
    notes: set[str]


def link_relocs(placement: Placement, entries: Entries, names: Names) -> Links:
    """Make the payload's relocations.

    Raises:
        LinkError: A target that is neither taken nor in the image, a name nobody resolves.
        RelocationError: A type that the hypervisor does not apply, a field out of bounds.
    """
    abi = names.abi
    context = _Context(placement=placement, entries=entries, names=names, notes=set())
    relocs: dict[str, list[OutReloc]] = {name: [] for name in placement.drafts}
    undefined: set[str] = set()
    for number, source in enumerate(placement.sources):
        for section, pieces in _by_section(source, placement.pieces[number]):
            i = 0
            for reloc in sorted(source.elf.relocs(section), key=lambda r: r.offset):
                while i < len(pieces) and pieces[i].end <= reloc.offset:
                    i += 1
                if i == len(pieces):
                    break
                piece = pieces[i]
                if reloc.offset < piece.start or piece.is_shared:
                    continue
                if reloc.type in abi.machine.none_types:
                    continue
                _check_type(source, section, piece, reloc, abi)
                name, symbol, addend = _target(context, number, section, piece, reloc)
                if name:
                    undefined.add(name)
                if not -_ADDEND_LIMIT <= addend < _ADDEND_LIMIT:
                    raise RelocationError(
                        f"{source.where(section, reloc.offset)}: its addend does not fit 64 bits; "
                        "compile the object again"
                    )
                place = piece.place + reloc.offset - piece.start
                relocs[piece.kind.name].append(
                    OutReloc(offset=place, type=reloc.type, symbol=symbol, addend=addend)
                )
    return Links(
        relocs={name: tuple(sorted(rows, key=lambda r: r.offset)) for name, rows in relocs.items()},
        undefined=tuple(sorted(undefined)),
        notes=tuple(sorted(context.notes)),
    )


def _by_section(source: Source, pieces: tuple[Piece, ...]) -> list[tuple[Section, list[Piece]]]:
    result: dict[int, list[Piece]] = {}
    for piece in pieces:
        result.setdefault(piece.section, []).append(piece)
    return [(source.elf.sections[index], rows) for index, rows in result.items()]


def _check_type(source: Source, section: Section, piece: Piece, reloc: Reloc, abi: Abi) -> None:
    where = source.where(section, reloc.offset)
    width = abi.machine.relocation_sizes.get(reloc.type)
    symbol = source.elf.symbols[reloc.symbol]
    if width is None and symbol.shndx == SHN_UNDEF and symbol.bind == STB_WEAK:
        raise RefusedError(_weak_text(where, symbol.name))  # its address is read from a GOT
    if width is None:
        name = relocation_name(abi.machine.number, reloc.type)
        raise RelocationError(
            f"{where}: {name} is not applied by Xen's loader; compile the object as Xen does "
            "(-fpic, hidden visibility, no GOT)"
        )
    if reloc.offset + width > piece.end:
        raise RelocationError(
            f"{where}: the relocated field crosses the end of its range; run the diff stage again"
        )


def _weak_text(where: str, name: str) -> str:
    return (
        f"{where}: `{name}` is weak and undefined, which Xen refuses; define it or remove the "
        "reference, or declare it without `weak` if the hypervisor has it"
    )


def _target(
    context: _Context, number: int, section: Section, piece: Piece, reloc: Reloc
) -> tuple[str, str, int]:
    """Return (name for the hypervisor or "", key of the symbol, addend)."""
    placement = context.placement
    source = placement.sources[number]
    opcode = section.data[max(0, reloc.offset - 2) : reloc.offset]
    site = _Site(
        source.where(section, reloc.offset),
        piece.kind,
        section.is_exec and opcode in context.names.abi.machine.indirect_branches,
    )
    where = site.where
    row = context.names.abi.profile.table(section.name)
    if row is not None and _is_empty_snippet(section, piece, reloc, row):
        return "", section_key(row.snippets), 0
    target = source.references.target_of(section, reloc)
    symbol = target.symbol
    if symbol.shndx == SHN_UNDEF:
        return _undefined(context, site, symbol, reloc)
    if target.section_index is None:
        kind = "an absolute symbol" if symbol.shndx == SHN_ABS else "a common symbol"
        raise LinkError(
            f"{where}: it refers to {kind}, `{symbol.name}`; "
            "compile with -fno-common and give data a definition"
        )
    # What the field adds beyond the place itself: the way to the instruction's end, line numbers.
    bias = symbol.value + reloc.addend - target.offset
    place = (number, target.section_index, target.offset)
    replaced = context.entries.replaced.get(place)
    if replaced is not None and site.kind.holds_code_or_data:
        # Also what binds late: pointers stay valid after a revert and equal to those the image
        # holds, and a later payload's replacement is found.
        return _named(context, site, replaced, bias)
    spot = placement.locate(number, target.section_index, target.offset, symbol)
    if spot is None:
        there = source.where(source.elf.sections[target.section_index], target.offset)
        raise LinkError(
            f"{where}: it refers to {there}{f' (`{symbol.name}`)' if symbol.name else ''}, which "
            "the payload neither takes nor finds in the image; run the diff stage again"
        )
    if spot.reference is not None:
        context.names.require_known(spot.reference.target, where)
        return _named(context, site, spot.reference.target, spot.offset + bias)
    return "", section_key(spot.section), spot.offset + bias


def _undefined(
    context: _Context, site: _Site, symbol: Symbol, reloc: Reloc
) -> tuple[str, str, int]:
    name, entries = symbol.name, context.entries
    home = entries.exported.get(name)
    if home is None or (home in entries.replaced and site.kind.holds_code_or_data):
        known = entries.opened.get(name, name) if home is None else entries.replaced[home]
        if known != name:
            context.names.require_opened(name, known, site.where)
        elif known not in context.names.image.symbols and symbol.bind == STB_WEAK:
            raise RefusedError(_weak_text(site.where, name))
        return _named(context, site, known, reloc.addend)
    number, section, offset = home
    symbols = context.placement.sources[number].elf.symbols
    spot = context.placement.locate(number, section, offset, symbols[0])
    assert spot is not None, "exported symbols lie in extents"
    return "", section_key(spot.section), spot.offset + reloc.addend


def _named(context: _Context, site: _Site, name: str, addend: int) -> tuple[str, str, int]:
    """Refer to the hypervisor's symbol."""
    note = context.names.require(name, site.where, is_called_through=site.is_called_through)
    if note:
        context.notes.add(note)
    row = context.names.abi.profile.table(site.kind.name)
    if row is not None and row.displacement_bits:
        _check_reach(context, site.where, name, 1 << (row.displacement_bits - 1))
    return name, undefined_key(name), addend


def _check_reach(context: _Context, where: str, name: str, reach_bytes: int) -> None:
    """See to it that a bug frame's short displacement can reach from payload to image."""
    image = context.names.image
    found = image.symbols.get(name)
    distance = (
        image.addr_end_virt + context.names.abi.facts.file_size_max - found.addr_virt
        if found is not None
        else 0
    )
    if found is None or distance >= reach_bytes:
        raise LinkError(
            f"{where}: a bug frame cannot reach `{name}` from a payload; take the string or "
            "function it names into the payload"
        )
    context.notes.add(
        f"a bug frame refers to `{name}` of the image: it works while the payload lies within "
        f"{reach_bytes >> 20} MiB of it, that is while few and small payloads are loaded"
    )


def _is_empty_snippet(section: Section, piece: Piece, reloc: Reloc, row: SpecialSection) -> bool:
    """Tell whether this is the pointer of an alternative to no bytes at all.

    Such a pointer stands wherever the assembler happened to be, often in the replacement of a
    function that the payload does not take.
    """
    entry = (reloc.offset - piece.start) % row.entry_size_bytes
    if row.snippet_length_field is None or entry != row.snippet_field:
        return False
    return section.data[reloc.offset - entry + row.snippet_length_field] == 0
