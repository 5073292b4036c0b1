# SPDX-License-Identifier: Apache-2.0
"""Whether debug information describes types: a table of contents tells, without reading it all.

``.debug_info`` may be there and describe none: compiled with ``-g1`` it has functions and lines
alone, with ``-gsplit-dwarf`` the rest lies in another file. ``dwz`` moves what files share into
units of its own, which the readers here do not follow.

Source: DWARF 5 section 7.5.3 (abbreviations), 3.1.1 (DW_AT_producer).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import (
    AT_PRODUCER,
    RECORDS,
    TAG_ENUM,
    TAG_POINTER,
    TAG_TYPEDEF,
    Cursor,
    debug_units,
)
from xsplice_plugins.elf.packed import unpacked
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.reader import ElfFile

_TAG_BASE, _TAG_PARTIAL, _TAG_IMPORTED = 0x24, 0x3C, 0x3D
_TYPES = {*RECORDS, TAG_ENUM, TAG_TYPEDEF, TAG_POINTER, _TAG_BASE}
_IMPLICIT = 0x21
#: How a compiler calls debug information that may hold types; that of an assembler has none.
_FULL = re.compile(r"(?:^| )-g(?:gdb|dwarf\S*)?[23]?(?: |$)|^GNU AS")
_SLIM = re.compile(r" -g(?:[01]|gdb[01]|line-tables-only|mlt|split-dwarf)(?: |$)")


def has_types(file: ElfFile) -> bool:
    """Tell whether an object has debug information to compare types by.

    One that uses no type at all has, if its compiler says that it would have described them.
    """
    if ".debug_info" not in file.section_by_name:
        return False
    try:
        tags = set(_tags(unpacked(file, ".debug_abbrev")))
        if _TAG_PARTIAL in tags or _TAG_IMPORTED in tags:
            return False
        if not tags.isdisjoint(_TYPES):
            return True
        producers = list(_producers(file))
        return bool(producers) and all(map(_is_full, producers))
    except (DiffError, IndexError, KeyError):
        return False


def _tags(data: bytes) -> Iterator[int]:
    """Give the tags of all tables of abbreviations, which lie one behind the other."""
    cursor = Cursor(data)
    while cursor.at < len(data):
        if not cursor.uleb():
            continue  # the end of a table
        yield cursor.uleb()
        cursor.at += 1  # has it children
        while True:
            attribute, form = cursor.uleb(), cursor.uleb()
            if form == _IMPLICIT:
                cursor.sleb()
            if not attribute and not form:
                break


def _producers(file: ElfFile) -> Iterator[str]:
    for entries, _ in debug_units(file, are_tops_enough=True):
        yield str(entries[0].values.get(AT_PRODUCER, ""))


def _is_full(producer: str) -> bool:
    return _FULL.search(producer) is not None and _SLIM.search(producer) is None
