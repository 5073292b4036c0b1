# SPDX-License-Identifier: Apache-2.0
"""On top of other payloads, no read-only data of the image or of one beneath is read that is old.

A payload that changes a table brings a copy, and the name goes on meaning the first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import SHN_LORESERVE, SHN_UNDEF, SHT_NOBITS
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.link.sections import STRINGS
from xsplice_plugins.target.sections import SectionClass, class_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import Reference
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc
    from xsplice_plugins.link.names import Beneath, Names
    from xsplice_plugins.link.placement import Source

_CONSTANT = (SectionClass.READ_ONLY, SectionClass.CONSTANTS)


class _Aim(NamedTuple):
    """What a field of a datum leads to."""

    name: str  #: decorated; "" for a text, or where nobody knows
    distance: int
    text: bytes | None = None


def check_current(source: Source, names: Names) -> None:
    """Refuse a reference to read-only data that has other content where its name leads.

    Args:
        source: One object with what changed in it.
        names: What the image and the payloads beneath have.

    Raises:
        RefusedError: It has, or nobody can tell; the message names the datum.
    """
    elf, profile = source.elf, names.abi.profile
    for row in source.delta.references if names.beneath else ():
        section = elf.sections[row.section]
        if class_of(profile, section, elf.base_name(section)) not in _CONSTANT:
            continue
        known = names.image.symbols.get(row.target)
        below = names.bringer(row.target)
        if known is not None:
            is_same, home = _is_image(source, row, known.addr_virt, names), names.image.name
        elif below is not None:
            is_same, home = _is_payload(source, row, below, names), below.name
        else:
            continue  # nobody has the name: whoever needs it says so
        if not is_same:
            raise RefusedError(
                f"{source.where(section, row.offset)}: it reads `{row.target}`, which {home} has "
                "with another content, as far as can be told: a payload beneath brought that again "
                "under no name; put the record of that payload beside it, so that this one brings "
                "it too, or make one payload that takes its place, with SUPERSEDES"
            )


def _is_image(source: Source, row: Reference, addr_virt: int, names: Names) -> bool:
    image = names.image
    content, fields = _content(source.elf, row.section, row.offset, row.size_bytes)
    have = image.read(addr_virt + row.target_offset, row.size_bytes) or bytes(row.size_bytes)
    if not _same_outside(content, have, fields, names):
        return False
    for at, reloc in fields.items():
        aim = _aim(source.elf, reloc)
        there = int.from_bytes(have[at : at + 8], "little")
        if reloc.type != names.abi.machine.absolute_type:
            return False
        if aim.text is not None:
            if image.read(there, len(aim.text)) != aim.text:
                return False
            continue
        known = image.symbols.get(aim.name)
        if known is None or known.addr_virt + aim.distance != there:
            return False
    return True


def _is_payload(source: Source, row: Reference, below: Beneath, names: Names) -> bool:
    symbol = next(s for s in below.elf.symbols if s.name == row.target and s.shndx != SHN_UNDEF)
    content, fields = _content(source.elf, row.section, row.offset, row.size_bytes)
    start = symbol.value + row.target_offset
    have, others = _content(below.elf, symbol.shndx, start, row.size_bytes)
    return (
        fields.keys() == others.keys()
        and _same_outside(content, have, fields, names)
        and all(
            (aim := _aim(source.elf, reloc)) == _aim(below.elf, others[at])
            and (aim.name or aim.text is not None)
            for at, reloc in fields.items()
        )
    )


def _content(
    elf: ElfFile, index: int, start: int, size_bytes: int
) -> tuple[bytes, dict[int, Reloc]]:
    """Return a datum's bytes, and its fields by their places in it."""
    section, end = elf.sections[index], start + size_bytes
    data = bytes(size_bytes) if section.type == SHT_NOBITS else section.data[start:end]
    rows = elf.relocs(section)
    return data, {reloc.offset - start: reloc for reloc in rows if start <= reloc.offset < end}


def _same_outside(one: bytes, two: bytes, fields: Mapping[int, Reloc], names: Names) -> bool:
    sides = bytearray(one), bytearray(two)
    for at, reloc in fields.items():
        size = names.abi.machine.relocation_sizes.get(reloc.type, 8)
        for side in sides:
            side[at : at + size] = bytes(size)
    return sides[0] == sides[1]


def _aim(elf: ElfFile, reloc: Reloc) -> _Aim:
    """Return what a field leads to: a name with a distance, or a text."""
    symbol, addend = elf.symbols[reloc.symbol], reloc.addend
    if symbol.shndx == SHN_UNDEF or symbol.shndx >= SHN_LORESERVE:
        return _Aim(symbol.name, addend)
    section, at = elf.sections[symbol.shndx], symbol.value + addend
    for other in elf.symbols:
        is_there = other.shndx == symbol.shndx and other.name and not other.name.startswith(".L")
        if is_there and other.value <= at < other.value + max(1, other.size_bytes):
            return _Aim(other.decorated, at - other.value)
    end = section.data.find(b"\0", at)
    is_text = section.name == STRINGS or (section.is_strings and section.entry_size_bytes == 1)
    return _Aim("", 0, section.data[at : end + 1] if is_text and end >= 0 else None)
