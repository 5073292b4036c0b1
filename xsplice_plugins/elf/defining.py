# SPDX-License-Identifier: Apache-2.0
"""Which compile units define a function or variable, as debug information tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import (
    AT_LOCATION,
    AT_LOW_PC,
    AT_NAME,
    AT_RANGES,
    TAG_SUBPROGRAM,
    TAG_VARIABLE,
    DebugInfo,
    debug_units,
    origin_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from xsplice_plugins.elf.reader import ElfFile

_PLACES = {AT_LOW_PC, AT_RANGES, AT_LOCATION}


def units_defining(image: ElfFile, names: Collection[str]) -> dict[str, frozenset[str]]:
    """Return the source files that define some names at file scope.

    Args:
        image: One without debug information names none.
        names: Of functions and variables.

    Returns:
        By name, as the compiler calls the files; what nothing is known of is not there.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    found: dict[str, set[str]] = {}
    for entries, place_of in debug_units(image) if names else ():
        info = DebugInfo(entries=entries, place_of=place_of)
        for number, entry in enumerate(entries):
            if entry.parent or entry.tag not in (TAG_SUBPROGRAM, TAG_VARIABLE):
                continue
            if _PLACES.isdisjoint(entry.values):
                continue
            name = str(entries[origin_of(info, number)].values.get(AT_NAME, ""))
            if name in names:
                found.setdefault(name, set()).add(str(entries[0].values.get(AT_NAME, "")))
    return {name: frozenset(files) for name, files in found.items()}
