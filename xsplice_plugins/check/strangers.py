# SPDX-License-Identifier: Apache-2.0
"""What of an image no object accounts for: then it was linked from more, or from others.

Asked of the symbols of functions and data, and of code without symbols. Texts and constants that
the linker merges have no place of their own; what fields say of them is compared where they lead.
Some have a name all the same (clang merges constant tables): the name leads to equal bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from xsplice_plugins.check.memory import Area, Image
from xsplice_plugins.check.objects import ObjectFile
from xsplice_plugins.elf.types import SHF_EXECINSTR, SHN_LORESERVE, STT_FUNC, STT_OBJECT

_GAP_BYTES = 64  #: the largest alignment of code; what is shorter fills up
#: What assembler and linker fill up with: zeros, x86's nop and int3; Arm's nop.
_FILLING, _ARM_NOP = b"\0\x90\xcc", bytes.fromhex("1f2003d5")
#: Tables that the build makes of the image itself, after its objects were linked once.
#: Source: xen/tools/symbols.c.
_GENERATED = {
    f"symbols_{end}"
    for end in (
        "addresses", "offsets", "sorted_offsets", "num_syms", "num_addrs", "num_names", "names",
        "token_table", "token_index", "markers",
    )
}  # fmt: skip


def strangers(image: Image, spans: list[tuple[int, int]]) -> Iterator[str]:
    """Name the functions, data and code of an image that lie in no section of its objects.

    Args:
        image: The linked hypervisor.
        spans: Start and end address of each section that was found in it, sorted.
    """
    spans = sorted((*spans, *image.linkers))
    starts = [start for start, _ in spans]
    for name, symbols in image.homes.items():
        for symbol in symbols:
            if symbol.type not in (STT_FUNC, STT_OBJECT) or symbol.shndx >= SHN_LORESERVE:
                continue
            place = bisect_right(starts, symbol.value) - 1
            is_known = place >= 0 and symbol.value < spans[place][1]
            if symbol.size_bytes and not is_known and name not in _GENERATED:
                yield name
    for area in image.areas:
        if area.flags & SHF_EXECINSTR:
            yield from _gaps(area, spans[max(bisect_right(starts, area.start) - 1, 0) :])


def named_pieces(image: Image, obj: ObjectFile) -> Iterator[tuple[int, int]]:
    """Give start and end address of merged texts and constants that the image has by name.

    Args:
        image: The linked hypervisor.
        obj: One of its objects.
    """
    for section, symbols in obj.named.items():
        if not obj.is_merged(section) or not obj.elf.sections[section].is_alloc:
            continue
        for symbol in symbols:
            want = obj.content(section, symbol.value, symbol.value + symbol.size_bytes)
            for home in image.homes.get(symbol.decorated, ()):
                if want and image.read(home.value, len(want)) == want:
                    yield home.value, home.value + len(want)


def _gaps(area: Area, spans: list[tuple[int, int]]) -> Iterator[str]:
    """Name the stretches of code that no section fills."""
    at = area.start
    for start, end in [*spans, (area.end, area.end)]:
        gap = area.data[at - area.start : min(start, area.end) - area.start]
        if len(gap) >= _GAP_BYTES and gap.replace(_ARM_NOP, b"").strip(_FILLING):
            yield f"{len(gap)} bytes of {area.name} at {at:#x}"
        at = max(at, end)
        if at >= area.end:
            return
