# SPDX-License-Identifier: Apache-2.0
"""Which functions give no result: what is left in the result's register nobody reads then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import AT_NAME, AT_TYPE, TAG_SUBPROGRAM, debug_info, origin_of
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from collections.abc import Iterable


def without_result(objects: Iterable[bytes]) -> frozenset[str]:
    """Return the functions that C calls ``void``, as the objects' debug information has them.

    Args:
        objects: What a payload is made of.

    Returns:
        Their names in C. A name that any object gives a result to is none of them, and of objects
        without debug information there are none.
    """
    silent, speaking = set[str](), set[str]()
    for data in objects:
        try:
            info = debug_info(read_elf(data, "object"))
        except DiffError:
            return frozenset()
        for number, entry in enumerate(info.entries):
            if entry.tag == TAG_SUBPROGRAM:
                values = info.entries[origin_of(info, number)].values
                is_typed = AT_TYPE in values or AT_TYPE in entry.values
                (speaking if is_typed else silent).add(str(values.get(AT_NAME, "")))
    return frozenset(silent - speaking)
