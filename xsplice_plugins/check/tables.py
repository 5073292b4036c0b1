# SPDX-License-Identifier: Apache-2.0
"""Special sections: tables that a linker script gathers, whose entries speak of code.

Sources, in Xen's tree: arch/x86/xen.lds.S and arch/arm/xen.lds.S (names and bounds),
include/xen/bug.h, arch/*/include/asm/{bug,alternative}.h (members).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from xsplice_plugins.artefacts import Facts

#: Pieces of code that entries point at; each belongs to the entry.
SNIPPETS = frozenset({".altinstr_replacement", ".fixup"})


class Layout(NamedTuple):
    """How one kind of entry looks. Its first member is a 32-bit distance to its code."""

    size_bytes: int
    owner_bits: int = 32  #: of the first member; above them a line number
    snippet_length_at: int | None = None  #: offset of a byte: length of the snippet
    is_from_start: bool = False  #: all distances count from the start of the entry

    def owner_offset(self, number: int) -> int:
        """Take the line number out of a first member or its addend."""
        half = 1 << (self.owner_bits - 1)
        return (number + half) % (2 * half) - half


#: The image's symbols around each table; in turn, the first that exists counts.
_BOUNDS = {
    ".ex_table": (("__start___ex_table",), "__stop___ex_table"),
    ".ex_table.pre": (("__start___pre_ex_table",), "__stop___pre_ex_table"),
    ".trampoline_rel": (("__trampoline_rel_start",), "__trampoline_rel_stop"),
    ".trampoline_seg": (("__trampoline_seg_start",), "__trampoline_seg_stop"),
    ".altinstructions": (("__alt_instructions",), "__alt_instructions_end"),
    ".alt_call_sites": (("__alt_call_sites_start",), "__alt_call_sites_end"),
}
_FRAMES = re.compile(r"\.bug_frames\.(\d+)")
_FRAME_KINDS = 8  #: more than any release has


def layouts(facts: Facts) -> dict[str, tuple[Layout, ...]]:
    """Return how each table's entries may look in a build; for bug frames there are two ways.

    Args:
        facts: What the build's headers define.
    """
    alt = facts.alternative
    found = {
        ".altinstructions": (Layout(alt.size_bytes, 32, alt.replacement_length),),
        ".bug_frames": tuple(
            Layout(size, facts.bug_displacement_bits or 32, is_from_start=True)
            for size in (facts.bug_frame_size_bytes, facts.bug_message_frame_size_bytes)
        ),
        ".ex_table": (Layout(facts.ex_entry_size_bytes),),
        ".ex_table.pre": (Layout(facts.ex_entry_size_bytes),),
        ".alt_call_sites": (Layout(facts.alt_call_entry_size_bytes),),
    }
    return {name: rows for name, rows in found.items() if rows[0].size_bytes}


def layout_of(sizes: Mapping[str, tuple[Layout, ...]], section: str) -> tuple[Layout, ...]:
    """Return the layouts of a section's entries; none if it is no table."""
    return sizes.get(".bug_frames" if _FRAMES.fullmatch(section) else section, ())


def bounds(section: str) -> tuple[tuple[str, ...], str]:
    """Return the image's symbols around a table: ways to name its start, and its end."""
    if match := _FRAMES.fullmatch(section):
        number = int(match[1])
        before = f"__stop_bug_frames_{number - 1}" if number else "__start_bug_frames"
        return (f"__start_bug_frames_{number}", before), f"__stop_bug_frames_{number}"
    return _BOUNDS.get(section, ((), ""))


def known_tables() -> list[str]:
    """Return the names of the tables that an image may have."""
    return [*_BOUNDS, *(f".bug_frames.{number}" for number in range(_FRAME_KINDS))]
