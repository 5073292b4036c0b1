# SPDX-License-Identifier: Apache-2.0
"""Where records patch: whole functions, places inside them, addresses; and no place twice."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.names import OldFunction, find_old_function

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import OldPlace
    from xsplice_plugins.link.image import ImageSymbol, XenImage
    from xsplice_plugins.link.names import Names


class PatchedRange(NamedTuple):
    """Bytes of the image that a record claims."""

    name: str
    addr_virt: int  #: 0 where it is known only after load
    size_bytes: int
    subject: str  #: how messages call the record's origin


def function_at(image: XenImage, addr_virt: int) -> ImageSymbol | None:
    """Return the function that covers an address; of aliases, the first by name."""
    found = [
        symbol
        for symbol in image.symbols.values()
        if symbol.is_function and 0 <= addr_virt - symbol.addr_virt < symbol.size_bytes
    ]
    return min(found, key=lambda symbol: symbol.name, default=None)


def find_old_range(names: Names, name: str, place: OldPlace | None, subject: str) -> OldFunction:
    """Find what a record patches: from the place to the end of the function around it.

    ``place`` is where a hand-written record patches; ``None`` for the whole function.

    Raises:
        LinkError: Unknown, ambiguous, boot-time only, or no part of a function.
    """
    if place is None:
        return find_old_function(names, name, subject)
    if place.symbol:
        base, offset = find_old_function(names, place.symbol, subject), place.offset
    else:
        found = function_at(names.image, place.addr_virt)
        if found is None:
            raise LinkError(
                f"{subject}: {place.addr_virt:#x} lies in no function of {names.image.name}; "
                "name a function and an offset"
            )
        base = find_old_function(names, found.name, subject)
        offset = place.addr_virt - base.addr_virt
    if not 0 <= offset < base.size_bytes:
        raise LinkError(
            f"{subject}: `{base.name}` is {base.size_bytes} bytes long, so offset {offset:#x} "
            "lies outside it; look at its disassembly again"
        )
    return OldFunction(
        name=f"{base.name}+{offset:#x}" if offset else base.name,
        addr_virt=base.addr_virt + offset if base.addr_virt else 0,
        size_bytes=base.size_bytes - offset,
        note=base.note,
    )


def refuse_overlap(ranges: list[PatchedRange]) -> None:
    """Refuse two records for one range: a revert would not restore it."""
    by_name: dict[str, str] = {}
    for row in ranges:
        if row.name in by_name:
            raise LinkError(
                f"{row.subject}: `{row.name}` is replaced twice, also by {by_name[row.name]}; "
                "one of the objects must not define it"
            )
        by_name[row.name] = row.subject
    placed = sorted((row for row in ranges if row.addr_virt), key=lambda row: row[1:])
    for first, second in pairwise(placed):
        if second.addr_virt < first.addr_virt + first.size_bytes:
            raise LinkError(
                f"{second.subject}: `{second.name}` overlaps `{first.name}` in the image (aliases "
                "of one function?); only one of them can be replaced"
            )
