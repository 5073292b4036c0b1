# SPDX-License-Identifier: Apache-2.0
"""Turn the relocations inside the taken extents into relocations of the payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import EM_X86_64, SHN_ABS, SHN_UNDEF, STB_WEAK
from xsplice_plugins.elf.writer import OutReloc
from xsplice_plugins.errors import LinkError, RelocationError
from xsplice_plugins.link.sections import BUG_FRAMES, DATA, RODATA, TEXT
from xsplice_plugins.target.abi import ALT_REPLACEMENT_SECTION, ALT_SECTION, SIZE_MAX
from xsplice_plugins.target.references import target_of

if TYPE_CHECKING:
    from xsplice_plugins.elf.types import Reloc, Section, Symbol
    from xsplice_plugins.link.names import Names
    from xsplice_plugins.link.placement import Layout, Piece, Source
    from xsplice_plugins.target.abi import Abi

_ALT_REPL_FIELD = 4  #: of ``repl_offset`` in an alternative's record
_ALT_REPL_LENGTH = 11  #: of ``repl_len``, in records of 12 and of 14 bytes
_BUG_REACH_BYTES = 1 << 23  #: xen/arch/x86/include/asm/bug.h: BUG_DISP_WIDTH is 24
_ADDEND_LIMIT = 1 << 63
_WIDE_NAMES = ("_64", "ABS64", "PREL64")

#: ``call *disp32(%rip)`` and ``jmp *disp32(%rip)``.
_INDIRECT_BRANCHES = frozenset({b"\xff\x15", b"\xff\x25"})
#: Sections in which the address of a replaced function means the function, not its new body.
_CODE_AND_DATA = frozenset({TEXT, DATA, RODATA, ALT_REPLACEMENT_SECTION})


def section_key(name: str) -> str:
    """Return the key of a payload section's symbol."""
    return f"section:{name}"


def undefined_key(name: str) -> str:
    """Return the key of a symbol that the hypervisor resolves."""
    return f"undefined:{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Starts of functions and data that other objects, or the image's symbol, may name.

    ``replaced`` maps (object, section, offset) of each new body to the image's name.
    ``exported`` maps each global the payload brings to (object, section, offset).
    """

    replaced: dict[tuple[int, int, int], str]
    exported: dict[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Relocations of each payload section, and what they need from the hypervisor."""

    relocs: dict[str, tuple[OutReloc, ...]]
    undefined: tuple[str, ...]  #: sorted
    notes: tuple[str, ...]


class _Site(NamedTuple):
    """The field that a relocation changes."""

    where: str  #: how messages call it
    section: str  #: of the payload
    is_called_through: bool  #: the target is a pointer that a call or jump reads


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    layout: Layout
    entries: Entries
    names: Names
    abi: Abi
    notes: set[str]


def link_relocs(layout: Layout, entries: Entries, names: Names, abi: Abi) -> Links:
    """Make the payload's relocations.

    Raises:
        LinkError: A target that is neither taken nor in the image, a name nobody resolves.
        RelocationError: A type that the hypervisor does not apply, a field out of bounds.
    """
    context = _Context(layout=layout, entries=entries, names=names, abi=abi, notes=set())
    relocs: dict[str, list[OutReloc]] = {name: [] for name in layout.drafts}
    undefined: set[str] = set()
    for number, source in enumerate(layout.sources):
        for section, pieces in _by_section(source, layout.pieces[number]):
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
    name = abi.machine.relocation_types.get(reloc.type)
    if name is None:
        known = abi.machine.relocation_names.get(reloc.type, f"relocation type {reloc.type}")
        raise RelocationError(
            f"{where}: {known} is not applied by Xen's loader; compile the object as Xen does "
            "(-fpic, hidden visibility, no GOT)"
        )
    width = 8 if name.endswith(_WIDE_NAMES) else 4
    if reloc.offset + width > piece.end:
        raise RelocationError(
            f"{where}: the relocated field crosses the end of its range; run the diff stage again"
        )


def _target(
    context: _Context, number: int, section: Section, piece: Piece, reloc: Reloc
) -> tuple[str, str, int]:
    """Return (name for the hypervisor or "", key of the symbol, addend)."""
    layout = context.layout
    source = layout.sources[number]
    opcode = section.data[max(0, reloc.offset - 2) : reloc.offset]
    site = _Site(
        source.where(section, reloc.offset),
        piece.kind.name,
        section.is_exec and opcode in _INDIRECT_BRANCHES,
    )
    where = site.where
    if _is_empty_replacement(section, piece, reloc, context.abi):
        return "", section_key(ALT_REPLACEMENT_SECTION), 0
    target = target_of(source.elf, section, reloc)
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
    if replaced is not None and site.section in _CODE_AND_DATA:
        # Also what binds late: pointers stay valid after a revert and equal to those the image
        # holds, and a later payload's replacement is found.
        return _named(context, site, replaced, bias)
    spot = layout.locate(number, target.section_index, target.offset, symbol)
    if spot is None:
        there = source.where(source.elf.sections[target.section_index], target.offset)
        raise LinkError(
            f"{where}: it refers to {there}{f' (`{symbol.name}`)' if symbol.name else ''}, which "
            "the payload neither takes nor finds in the image; run the diff stage again"
        )
    if spot.reference is not None:
        return _named(context, site, spot.reference.target, spot.offset + bias)
    return "", section_key(spot.section), spot.offset + bias


def _undefined(
    context: _Context, site: _Site, symbol: Symbol, reloc: Reloc
) -> tuple[str, str, int]:
    name = symbol.name
    home = context.entries.exported.get(name)
    if home is None or (home in context.entries.replaced and site.section in _CODE_AND_DATA):
        known = context.names.image.symbols.get(name)
        if known is None and symbol.bind == STB_WEAK:
            raise LinkError(
                f"{site.where}: `{name}` is weak and undefined, which Xen refuses; "
                "define it or remove the reference"
            )
        return _named(context, site, name, reloc.addend)
    number, section, offset = home
    symbols = context.layout.sources[number].elf.symbols
    spot = context.layout.locate(number, section, offset, symbols[0])
    assert spot is not None, "exported symbols lie in extents"
    return "", section_key(spot.section), spot.offset + reloc.addend


def _named(context: _Context, site: _Site, name: str, addend: int) -> tuple[str, str, int]:
    """Refer to the hypervisor's symbol."""
    note = context.names.require(name, site.where, is_called_through=site.is_called_through)
    if note:
        context.notes.add(note)
    if site.section.startswith(BUG_FRAMES) and context.abi.machine.number == EM_X86_64:
        _check_bug_reach(context, site.where, name)
    return name, undefined_key(name), addend


def _check_bug_reach(context: _Context, where: str, name: str) -> None:
    """See to it that a bug frame's 24-bit displacement can reach from payload to image."""
    image = context.names.image
    found = image.symbols.get(name)
    distance = image.addr_end_virt + SIZE_MAX - found.addr_virt if found is not None else 0
    if found is None or distance >= _BUG_REACH_BYTES:
        raise LinkError(
            f"{where}: a bug frame cannot reach `{name}` from a payload; take the string or "
            "function it names into the payload"
        )
    context.notes.add(
        f"a bug frame refers to `{name}` of the image: it works while the payload lies within "
        "8 MiB of it, that is while few and small payloads are loaded"
    )


def _is_empty_replacement(section: Section, piece: Piece, reloc: Reloc, abi: Abi) -> bool:
    """Tell whether this is the pointer of an alternative to no bytes at all.

    Such a pointer stands wherever the assembler happened to be, often in the replacement of a
    function that the payload does not take.
    """
    if section.name != ALT_SECTION:
        return False
    entry = (reloc.offset - piece.start) % abi.alt_entry_size_bytes
    length_at = reloc.offset - entry + _ALT_REPL_LENGTH
    return entry == _ALT_REPL_FIELD and section.data[length_at : length_at + 1] == b"\0"
