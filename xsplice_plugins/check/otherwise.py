# SPDX-License-Identifier: Apache-2.0
"""What an image has otherwise than the objects, because it was not linked from them.

A base that was built again is matched with the image that was shipped, function by function. What
differs there, or has no object, is known by name: a payload that replaces it, calls it or reads it
was made of other sources than the hypervisor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.memory import Image, load_payload
from xsplice_plugins.check.records import read_records
from xsplice_plugins.elf.types import SHN_LORESERVE, SHN_UNDEF

#: What compilers put behind the name of a part that they split off.
_PART = re.compile(r"(?:\.(?:cold|part|constprop|isra)(?:\.\d+)?)+$")


def needed_otherwise(
    image: Image,
    payload: bytes,
    facts: Facts,
    differs: Collection[tuple[str, str]],
    strangers: Collection[str],
) -> Iterator[tuple[str, str]]:
    """Give what a payload needs and the image has otherwise than the tree.

    Args:
        image: The hypervisor.
        payload: The payload, signed or not.
        facts: What the build's headers define.
        differs: Object and name of what differs.
        strangers: Names of what the image holds and no object has.

    Returns:
        Name, and why it is needed.

    Raises:
        ElfFormatError: The payload is none.
        RelocationError: A relocation is of an unknown type.
    """
    loaded = load_payload(payload, "the payload", image)
    spans = [
        (home.value, home.value + max(1, home.size_bytes), name)
        for _, name in sorted(differs)
        for whole in dict.fromkeys((name, *_wholes(image, name)))
        for home in image.homes.get(whole, ())
    ]
    named = [row for row in loaded.elf.symbols if row.shndx == SHN_UNDEF and row.name]
    places: list[tuple[int | None, str]] = [
        (home.value, "uses") for row in named if (home := image.only(row.name))
    ]
    places += [(row.old, "replaces") for row in read_records(loaded, image, facts)]
    for start, end, name in spans:
        deeds = sorted({deed for at, deed in places if at is not None and start <= at < end})
        if deeds:
            yield name, f"the payload {' and '.join(deeds)} it, and the hypervisor has it otherwise"
    for record in read_records(loaded, image, facts):
        if record.name in strangers:
            yield record.name, "the payload replaces it, and it is in no object of the tree"
    for row in loaded.elf.symbols:
        if 0 < row.shndx < SHN_LORESERVE and not row.is_local and row.name in strangers:
            yield row.name, "the payload brings it, and the hypervisor has one that is in no object"


def _wholes(image: Image, name: str) -> list[str]:
    """Return the function that a part was split off from, as the image calls it."""
    whole = _PART.sub("", name)
    names = (whole, whole.rpartition("#")[2]) if whole != name else ()
    return [word for word in names if word in image.homes][:1]
