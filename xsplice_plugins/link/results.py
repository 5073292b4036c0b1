# SPDX-License-Identifier: Apache-2.0
"""Which functions give no result: what is left in the result's register nobody reads then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import AT_NAME, AT_TYPE, TAG_SUBPROGRAM, debug_info, origin_of
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from collections.abc import Iterable


def without_result(objects: Iterable[bytes]) -> frozenset[str]:
    """Return the functions that C calls ``void``, as the objects' debug information has them.

    Args:
        objects: What a payload is made of.

    Returns:
        Their names in C. None of them is a name to which any object gives a result, or by which one
        defines a function that its debug information does not know.
    """
    silent, speaking = set[str](), set[str]()
    for data in objects:
        file = read_elf(data, "object")
        try:
            info = debug_info(file)
        except DiffError:
            return frozenset()
        own = set[str]()
        for number, entry in enumerate(info.entries):
            if entry.tag == TAG_SUBPROGRAM:
                values = info.entries[origin_of(info, number)].values
                is_typed = AT_TYPE in values or AT_TYPE in entry.values
                (speaking if is_typed else own).add(str(values.get(AT_NAME, "")))
        silent |= own
        speaking |= {
            name_in_c(s.name) for s in file.symbols if s.type == STT_FUNC and s.shndx
        } - own
    return frozenset(silent - speaking)


def name_in_c(name: str) -> str:
    """Return a function's name without its file, and without what the compiler made of it."""
    return name.rpartition("#")[2].partition(".")[0]
