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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import ReplacedFunction
from xsplice_plugins.elf.types import SHF_ALLOC, SHF_WRITE, SHT_PROGBITS
from xsplice_plugins.elf.writer import OutReloc, OutSection
from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.names import record_name
from xsplice_plugins.link.places import PatchedRange, find_old_range, refuse_overlap
from xsplice_plugins.link.relocs import section_key, undefined_key
from xsplice_plugins.link.sections import TEXT
from xsplice_plugins.target.abi import (
    EXPECT_LENGTH_MAX,
    FUNCS_SECTION,
    NOP_LENGTH_MAX,
    STRINGS_SECTION,
)

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import ChangedFunction, OldPlace
    from xsplice_plugins.elf.types import Symbol
    from xsplice_plugins.link.image import Image
    from xsplice_plugins.link.names import Beneath, Names, OldFunction
    from xsplice_plugins.link.placement import Layout
    from xsplice_plugins.target.abi import Abi

_COMMON = struct.Struct("<QQQIIB")  #: name, new_addr, old_addr, new_size, old_size, version
_EXPECT_OFFSET = 72
_NEW_ADDR_OFFSET = 8
_OLD_ADDR_OFFSET = 16
_SIZE32_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBody:
    """A changed function's new body."""

    changed: ChangedFunction
    source: int  #: number of the object
    symbol: Symbol  #: in the new object
    place: int  #: in the payload's ``.text``

    @property
    def is_whole(self) -> bool:
        """Tell whether it takes a function's place from the first byte on."""
        return self.changed.place is None or not self.changed.place.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One record to be written."""

    name: str
    place: OldPlace | None
    body: NewBody | None  #: ``None``: NOPs
    size_new_bytes: int
    expect: str | None
    reason: str
    subject: str
    object_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Bytes that must stand at the old address; empty if none can be promised."""

    data: bytes
    note: str  #: why they are fewer than they could be, or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The function records with all that belongs to them."""

    sections: tuple[OutSection, ...]
    functions: tuple[ReplacedFunction, ...]
    undefined: tuple[str, ...] = ()  #: names that the hypervisor resolves


def find_bodies(layout: Layout) -> tuple[NewBody, ...]:
    """Find the new body of each changed function.

    Raises:
        LinkError: The object has no such function, or its delta does not take it.
    """
    result = []
    for number, source in enumerate(layout.sources):
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
            spot = layout.locate(number, symbol.shndx, symbol.value, symbol)
            if spot is None or spot.section != TEXT or not _is_whole(layout, number, symbol):
                raise LinkError(
                    f"{source.elf.name}({changed.section}): the delta says that "
                    f"`{changed.symbol}` changed but does not take its code; "
                    "run the diff stage again"
                )
            result.append(NewBody(changed=changed, source=number, symbol=symbol, place=spot.offset))
    return tuple(sorted(result, key=lambda body: body.place))


def _is_whole(layout: Layout, number: int, symbol: Symbol) -> bool:
    """Tell whether one extent takes a function from its first to its last byte."""
    return symbol.size_bytes > 0 and any(
        piece.section == symbol.shndx
        and piece.start <= symbol.value
        and symbol.value + symbol.size_bytes <= piece.end
        for piece in layout.pieces[number]
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


def make_records(layout: Layout, bodies: tuple[NewBody, ...], names: Names, abi: Abi) -> Records:
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
    for entry in (*(_of_body(layout, body) for body in bodies), *_of_nops(layout)):
        old = find_old_range(names, entry.name, entry.place, entry.subject)
        ranges.append(_patched_range(old, entry, names.image, abi))
        expect = _expectation(old, entry, names, abi)
        places = [(0, section_key(STRINGS_SECTION), len(strings))]
        if entry.body is not None:
            places.append((_NEW_ADDR_OFFSET, section_key(TEXT), entry.body.place))
        if entry.place is not None and entry.place.symbol:
            undefined.add(entry.place.symbol)
            key = undefined_key(entry.place.symbol)
            places.append((_OLD_ADDR_OFFSET, key, entry.place.offset))
        relocs += [
            OutReloc(
                offset=len(data) + field, type=abi.machine.absolute_type, symbol=key, addend=addend
            )
            for field, key, addend in places
        ]
        strings += record_name(old.name)
        addr = entry.place.addr_virt if entry.place is not None else 0
        data += _record(abi, addr, entry.size_new_bytes, old.size_bytes, expect.data)
        functions.append(
            ReplacedFunction(
                name=old.name,
                addr_old_virt=old.addr_virt,
                size_old_bytes=old.size_bytes,
                size_new_bytes=entry.size_new_bytes,
                section_new=TEXT if entry.body is not None else "",
                expect=expect.data.hex(),
                expect_note=expect.note,
                reason=entry.reason,
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


def _of_body(layout: Layout, body: NewBody) -> _Entry:
    source = layout.sources[body.source]
    return _Entry(
        name=body.changed.name,
        place=body.changed.place,
        body=body,
        size_new_bytes=body.symbol.size_bytes,
        expect=body.changed.expect,
        reason=body.changed.reason,
        subject=f"{source.elf.name}({body.changed.section})",
        object_path=source.delta.object_path,
    )


def _of_nops(layout: Layout) -> list[_Entry]:
    return [
        _Entry(
            name=nopped.name,
            place=nopped.place,
            body=None,
            size_new_bytes=nopped.size_bytes,
            expect=nopped.expect,
            reason=nopped.reason,
            subject=source.elf.name,
            object_path=source.delta.object_path,
        )
        for source in layout.sources
        for nopped in source.delta.nopped
    ]


def _sections(
    data: bytes, strings: bytes, relocs: tuple[OutReloc, ...], abi: Abi
) -> tuple[OutSection, ...]:
    return (
        OutSection(
            name=FUNCS_SECTION,
            type=SHT_PROGBITS,
            flags=SHF_ALLOC | (SHF_WRITE if abi.is_funcs_writable else 0),
            align_bytes=8,
            data=data,
            relocs=relocs,
        ),
        OutSection(
            name=STRINGS_SECTION,
            type=SHT_PROGBITS,
            flags=SHF_ALLOC,
            align_bytes=1,
            data=strings,
        ),
    )


def _patched_range(old: OldFunction, entry: _Entry, image: Image, abi: Abi) -> PatchedRange:
    """Check that the jump or the NOPs fit, and say which bytes two records may not share."""
    if entry.body is None:
        _check_nops(old, entry, image, abi)
        size = entry.size_new_bytes
    else:
        _check_size_and_distance(old, entry.subject, image, abi)
        # Two names of one whole function are a fault even where the jumps would not meet.
        size = old.size_bytes if entry.body.is_whole else abi.machine.jump_size_bytes
    return PatchedRange(old.name, old.addr_virt, size, entry.subject)


def _check_nops(old: OldFunction, entry: _Entry, image: Image, abi: Abi) -> None:
    if not abi.has_nops:
        raise LinkError(
            f"{entry.subject}: Xen {abi.release} cannot turn `{old.name}` into NOPs; "
            "replace the function"
        )
    endbr = abi.machine.endbr if abi.is_endbr_aware else b""
    kept = len(endbr) if endbr and image.read(old.addr_virt, len(endbr)) == endbr else 0
    if not kept < entry.size_new_bytes <= min(NOP_LENGTH_MAX, old.size_bytes):
        raise LinkError(
            f"{entry.subject}: `{old.name}`: {entry.size_new_bytes} bytes cannot become NOPs; "
            f"{kept + 1} to {min(NOP_LENGTH_MAX, old.size_bytes)} can, in one record"
        )


def _expectation(old: OldFunction, entry: _Entry, names: Names, abi: Abi) -> Expectation:
    """Return what the record's author asked for, or what the image surely holds."""
    if entry.expect is None:
        return expectation(old, names.image, names.beneath, abi)
    data = bytes.fromhex(entry.expect)
    if data and not abi.has_expectations:
        raise LinkError(
            f"{entry.subject}: Xen {abi.release} has no expectations; remove that of `{old.name}`"
        )
    if len(data) > min(EXPECT_LENGTH_MAX, old.size_bytes):
        raise LinkError(
            f"{entry.subject}: {len(data)} bytes are expected at `{old.name}`; the hypervisor "
            f"compares {min(EXPECT_LENGTH_MAX, old.size_bytes)} at most"
        )
    return Expectation(data=data, note="" if data else "left off by the author")


def _record(abi: Abi, addr_old: int, size_new: int, size_old: int, expect: bytes) -> bytes:
    assert size_new <= _SIZE32_MAX
    assert size_old <= _SIZE32_MAX
    common = _COMMON.pack(0, 0, addr_old, size_new, size_old, abi.record_version)
    record = bytearray(common.ljust(abi.record_size_bytes, b"\0"))
    if expect:
        # Bit 0 `enabled`, bits 1 to 5 `len`, bits 6 and 7 reserved.
        record[_EXPECT_OFFSET] = 1 | len(expect) << 1
        record[_EXPECT_OFFSET + 1 : _EXPECT_OFFSET + 1 + len(expect)] = expect
    return bytes(record)


def _check_size_and_distance(old: OldFunction, subject: str, image: Image, abi: Abi) -> None:
    needed = abi.machine.jump_size_bytes
    endbr = abi.machine.endbr
    if abi.is_endbr_aware and old.addr_virt and image.read(old.addr_virt, len(endbr)) == endbr:
        needed += len(endbr)
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


def expectation(old: OldFunction, image: Image, beneath: Beneath | None, abi: Abi) -> Expectation:
    """Return the bytes that memory surely holds at an old function's address.

    Args:
        old: The function.
        image: The image it is part of.
        beneath: The payload beneath the new one.
        abi: Format of the payload.

    Returns:
        Up to 31 bytes; cut before the first one that boot or an earlier payload may have changed.
    """
    if not abi.has_expectations:
        return Expectation(data=b"", note=f"Xen {abi.release} has no expectations")
    if not old.is_in_image:
        return Expectation(data=b"", note=old.note)
    if beneath is not None:
        if beneath.depends != beneath.xen_depends:
            return Expectation(
                data=b"", note=f"{beneath.name} stacks on a payload that was not given"
            )
        if old.name.partition("+")[0] in {name.partition("+")[0] for name in beneath.replaced}:
            return Expectation(data=b"", note=f"{beneath.name} replaces it already")
    size = min(EXPECT_LENGTH_MAX, old.size_bytes)
    end, reason = old.addr_virt + size, ""
    for rewrite in image.rewrites:
        if rewrite.addr_virt >= end:
            break
        if rewrite.addr_virt + rewrite.size_bytes > old.addr_virt and rewrite.size_bytes:
            if "ENDBR" in rewrite.reason and not _starts_with_endbr(rewrite.addr_virt, image, abi):
                continue
            end, reason = max(rewrite.addr_virt, old.addr_virt), rewrite.reason
    kept = end - old.addr_virt
    note = f"{reason} at +{kept:#x} may be rewritten at boot" if reason else ""
    return Expectation(data=image.read(old.addr_virt, kept), note=note)


def _starts_with_endbr(addr_virt: int, image: Image, abi: Abi) -> bool:
    endbr = abi.machine.endbr
    return bool(endbr) and image.read(addr_virt, len(endbr)) == endbr
