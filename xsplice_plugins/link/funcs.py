# SPDX-License-Identifier: Apache-2.0
"""The function records: what is replaced by what, and which bytes must stand there before.

A record names its old function (``name``) and leaves ``old_addr`` zero, so that the hypervisor
looks the address up. An address from ``xen-syms`` would be wrong in ``xen.efi``, which has the same
build-id and is linked on its own; a relocation against an undefined symbol does the same look-up
with one symbol more, and would put two symbols of one name into the file. Names that the table
holds twice are refused before (`names.Names.require`), so the look-up cannot go astray.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.artefacts import ReplacedFunction
from xsplice_plugins.elf.types import SHF_ALLOC, SHF_WRITE, SHT_PROGBITS
from xsplice_plugins.elf.writer import OutReloc, OutSection
from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.places import PatchedRange, find_old_range, refuse_overlap
from xsplice_plugins.link.relocs import section_key, undefined_key
from xsplice_plugins.link.sections import TEXT
from xsplice_plugins.target.abi import (
    EXPECT_OFFSET,
    FUNCS_SECTION,
    NAME_OFFSET,
    NEW_ADDR_OFFSET,
    OLD_ADDR_OFFSET,
    STRINGS_SECTION,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.artefacts import ChangedFunction, NoppedRange
    from xsplice_plugins.elf.types import Symbol
    from xsplice_plugins.link.image import XenImage
    from xsplice_plugins.link.names import Names, OldFunction
    from xsplice_plugins.link.placement import Placement
    from xsplice_plugins.target.abi import Abi

_COMMON = struct.Struct("<QQQIIB")  #: name, new_addr, old_addr, new_size, old_size, version
_SIZE32_MAX = (1 << 32) - 1


class NewBody(Struct, frozen=True, kw_only=True):
    """A changed function's new body."""

    changed: ChangedFunction
    source: int  #: number of the object
    symbol: Symbol  #: in the new object
    place: int  #: in the payload's ``.text``

    @property
    def is_whole(self) -> bool:
        """Tell whether it takes a function's place from the first byte on."""
        return self.changed.place is None or not self.changed.place.offset


class _Entry(Struct, frozen=True, kw_only=True):
    """One record to be written."""

    asked: ChangedFunction | NoppedRange
    body: NewBody | None  #: ``None``: NOPs
    size_new_bytes: int
    subject: str
    object_path: str


#: Bytes that must stand at the old address, and why they are fewer than they could be, or "".
Expected = tuple[bytes, str]


class Records(Struct, frozen=True, kw_only=True):
    """The function records with all that belongs to them."""

    sections: tuple[OutSection, ...]
    functions: tuple[ReplacedFunction, ...]
    undefined: tuple[str, ...] = ()  #: names that the hypervisor resolves


def find_bodies(placement: Placement) -> tuple[NewBody, ...]:
    """Find the new body of each changed function.

    Raises:
        LinkError: The object has no such function, or its delta does not take it.
    """
    result = []
    for number, source in enumerate(placement.sources):
        by_name: dict[str, list[Symbol]] = {}
        for symbol in source.elf.symbols:
            if 0 < symbol.shndx < len(source.elf.sections):
                by_name.setdefault(symbol.name, []).append(symbol)
        for changed in source.delta.changed:
            found = [
                symbol
                for symbol in by_name.get(changed.symbol, [])
                if source.elf.sections[symbol.shndx].name == changed.section
            ]
            if len(found) != 1:
                raise LinkError(
                    f"{source.elf.name}({changed.section}): it has {len(found)} functions "
                    f"`{changed.symbol}`; run the diff stage again"
                )
            symbol = found[0]
            spot = placement.locate(number, symbol.shndx, symbol.value, symbol)
            if spot is None or spot.section != TEXT or not _is_whole(placement, number, symbol):
                raise LinkError(
                    f"{source.elf.name}({changed.section}): the delta says that "
                    f"`{changed.symbol}` changed but does not take its code; "
                    "run the diff stage again"
                )
            result.append(NewBody(changed=changed, source=number, symbol=symbol, place=spot.offset))
    return tuple(sorted(result, key=lambda body: body.place))


def _is_whole(placement: Placement, number: int, symbol: Symbol) -> bool:
    """Tell whether one extent takes a function from its first to its last byte."""
    return symbol.size_bytes > 0 and any(
        piece.section == symbol.shndx
        and piece.start <= symbol.value
        and symbol.value + symbol.size_bytes <= piece.end
        for piece in placement.pieces[number]
    )


def replaced_names(bodies: tuple[NewBody, ...]) -> tuple[str, ...]:
    """Return the image's names of the replaced functions and of their split-off parts."""
    result = []
    for body in bodies:
        name = body.changed.name
        result.append(name)
        scope = name.rpartition("#")[0] or body.symbol.file
        for piece in body.changed.pieces:
            result += [piece, f"{scope}#{piece}"]
        result.append(f"{name}.cold")
    return tuple(dict.fromkeys(result))


def make_records(placement: Placement, bodies: tuple[NewBody, ...], names: Names) -> Records:
    """Write ``.livepatch.funcs`` and the names it points to.

    Raises:
        LinkError: An old function is unknown, too small, out of reach, freed after boot, or
            overlaps another one; or the release does not know such a record.
    """
    strings = bytearray()
    data = bytearray()
    relocs: list[OutReloc] = []
    functions = []
    ranges = []
    undefined = set()
    abi = names.abi
    for entry in _entries(placement, bodies):
        asked, place, addr = entry.asked, entry.asked.place, 0
        old = find_old_range(names, asked.name, place, entry.subject)
        ranges.append(_patched_range(old, entry, names.image, abi))
        expect, note = _expectation(old, entry, names)
        places = [(NAME_OFFSET, section_key(STRINGS_SECTION), len(strings))]
        if entry.body is not None:
            places.append((NEW_ADDR_OFFSET, section_key(TEXT), entry.body.place))
        if place is not None:
            addr = place.addr_virt
            if place.symbol:
                undefined.add(place.symbol)
                places.append((OLD_ADDR_OFFSET, undefined_key(place.symbol), place.offset))
        kind, start = abi.machine.absolute_type, len(data)
        relocs += [
            OutReloc(offset=start + field, type=kind, symbol=key, addend=addend)
            for field, key, addend in places
        ]
        strings += old.name.encode("utf-8", "surrogateescape") + b"\0"
        data += _record(abi, addr, entry.size_new_bytes, old.size_bytes, expect)
        functions.append(
            ReplacedFunction(
                name=old.name,
                addr_old_virt=old.addr_virt,
                size_old_bytes=old.size_bytes,
                size_new_bytes=entry.size_new_bytes,
                section_new=TEXT if entry.body is not None else "",
                expect=expect.hex(),
                expect_note=note,
                reason=asked.reason,
                object_path=entry.object_path,
            )
        )
    if not functions:
        return Records(sections=(), functions=())
    refuse_overlap(ranges)
    return Records(
        sections=_sections(bytes(data), bytes(strings), tuple(relocs), abi),
        functions=tuple(functions),
        undefined=tuple(sorted(undefined)),
    )


def _entries(placement: Placement, bodies: tuple[NewBody, ...]) -> Iterator[_Entry]:
    for body in bodies:
        source = placement.sources[body.source]
        yield _Entry(
            asked=body.changed,
            body=body,
            size_new_bytes=body.symbol.size_bytes,
            subject=f"{source.elf.name}({body.changed.section})",
            object_path=source.delta.object_path,
        )
    for source in placement.sources:
        for nopped in source.delta.nopped:
            yield _Entry(
                asked=nopped,
                body=None,
                size_new_bytes=nopped.size_bytes,
                subject=source.elf.name,
                object_path=source.delta.object_path,
            )


def _sections(
    data: bytes, strings: bytes, relocs: tuple[OutReloc, ...], abi: Abi
) -> tuple[OutSection, ...]:
    flags = SHF_ALLOC | (SHF_WRITE if abi.is_funcs_writable else 0)
    rows = ((FUNCS_SECTION, flags, 8, data, relocs), (STRINGS_SECTION, SHF_ALLOC, 1, strings, ()))
    return tuple(
        OutSection(
            name=name, type=SHT_PROGBITS, flags=flag, align_bytes=align, data=body, relocs=own
        )
        for name, flag, align, body, own in rows
    )


def _patched_range(old: OldFunction, entry: _Entry, image: XenImage, abi: Abi) -> PatchedRange:
    """Check that the jump or the NOPs fit, and say which bytes two records may not share."""
    if entry.body is None:
        _check_nops(old, entry, image, abi)
        size = entry.size_new_bytes
    else:
        _check_size_and_distance(old, entry.subject, image, abi)
        # Two names of one whole function are a fault even where the jumps would not meet.
        size = old.size_bytes if entry.body.is_whole else abi.facts.jump_size_bytes
    return PatchedRange(old.name, old.addr_virt, size, entry.subject)


def _check_nops(old: OldFunction, entry: _Entry, image: XenImage, abi: Abi) -> None:
    if not abi.has_nops:
        raise LinkError(
            f"{entry.subject}: Xen {abi.facts.release} cannot turn `{old.name}` into NOPs; "
            "replace the function"
        )
    kept = _landing_pad_bytes(old, image, abi) if abi.is_endbr_aware else 0
    most = min(abi.facts.saved_length_max, old.size_bytes)
    if not kept < entry.size_new_bytes <= most:
        raise LinkError(
            f"{entry.subject}: `{old.name}`: {entry.size_new_bytes} bytes cannot become NOPs; "
            f"{kept + 1} to {most} can, in one record"
        )


def _landing_pad_bytes(old: OldFunction, image: XenImage, abi: Abi) -> int:
    """Return the length of the landing pad that a function of the image starts with."""
    endbr = abi.machine.endbr
    return len(endbr) if endbr and image.read(old.addr_virt, len(endbr)) == endbr else 0


def _expectation(old: OldFunction, entry: _Entry, names: Names) -> Expected:
    """Return what the record's author asked for, or what the image surely holds."""
    abi, asked = names.abi, entry.asked.expect
    if asked is None:
        return _promised(old, names)
    data = bytes.fromhex(asked)
    if data and not abi.has_expectations:
        raise LinkError(
            f"{entry.subject}: Xen {abi.facts.release} has no expectations; "
            f"remove that of `{old.name}`"
        )
    most = min(abi.facts.expect_length_max, old.size_bytes)
    if len(data) > most:
        raise LinkError(
            f"{entry.subject}: {len(data)} bytes are expected at `{old.name}`; the hypervisor "
            f"compares {most} at most"
        )
    return data, "" if data else "left off by the author"


def _record(abi: Abi, addr_old: int, size_new: int, size_old: int, expect: bytes) -> bytes:
    assert size_new <= _SIZE32_MAX
    assert size_old <= _SIZE32_MAX
    common = _COMMON.pack(0, 0, addr_old, size_new, size_old, abi.facts.record_version)
    record = bytearray(common.ljust(abi.facts.record_size_bytes, b"\0"))
    if expect:
        # Bit 0 `enabled`, bits 1 to 5 `len`, bits 6 and 7 reserved.
        record[EXPECT_OFFSET] = 1 | len(expect) << 1
        record[EXPECT_OFFSET + 1 : EXPECT_OFFSET + 1 + len(expect)] = expect
    return bytes(record)


def _check_size_and_distance(old: OldFunction, subject: str, image: XenImage, abi: Abi) -> None:
    needed = abi.facts.jump_size_bytes
    needed += _landing_pad_bytes(old, image, abi) if abi.is_endbr_aware else 0
    if old.size_bytes < needed:
        raise LinkError(
            f"{subject}: `{old.name}` is {old.size_bytes} bytes long and the jump to its "
            f"replacement needs {needed}; replace its callers instead"
        )
    # Where a payload will lie is known only on the host: close behind the image.
    if old.addr_virt and image.addr_end_virt - old.addr_virt >= abi.machine.jump_range_bytes:
        raise LinkError(
            f"{subject}: `{old.name}` lies farther than {abi.machine.jump_range_bytes:#x} bytes "
            "from where payloads are loaded; it cannot be replaced"
        )


def _promised(old: OldFunction, names: Names) -> Expected:
    """Return the bytes that memory surely holds at an old function's address.

    Up to 31 bytes; cut before the first one that boot or an earlier payload may have changed.
    """
    image, abi = names.image, names.abi
    if not abi.has_expectations:
        return b"", f"Xen {abi.facts.release} has no expectations"
    if not old.addr_virt:
        return b"", old.note
    for below in names.beneath:
        if old.name.partition("+")[0] in {name.partition("+")[0] for name in below.replaced}:
            return b"", f"{below.name} replaces it already"
    end, reason = old.addr_virt + min(abi.facts.expect_length_max, old.size_bytes), ""
    endbr = abi.machine.endbr
    for rewrite in image.rewrites:
        if rewrite.addr_virt >= end:
            break
        if rewrite.addr_virt + rewrite.size_bytes > old.addr_virt and rewrite.size_bytes:
            if rewrite.is_endbr and image.read(rewrite.addr_virt, len(endbr)) != endbr:
                continue
            end, reason = max(rewrite.addr_virt, old.addr_virt), rewrite.reason
    kept = end - old.addr_virt
    note = f"{reason} at +{kept:#x} may be rewritten at boot" if reason else ""
    return image.read(old.addr_virt, kept), note
