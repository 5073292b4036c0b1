# SPDX-License-Identifier: Apache-2.0
"""Global names that stand for one thing on one side, and for several on the other.

Objects that the fix does not reach ask for things by name, and the image keeps what it has there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.diff.boot import is_boot_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.normalise import ObjectParts


def names_alike(canon: Canon) -> Iterator[tuple[str, str]]:
    """Give each name that becomes another one of what has a name already, or is one no more.

    Args:
        canon: Both objects under their pairing.

    Returns:
        Name and what is wrong, sorted by name; of what runs at boot alone none.
    """
    old, new = _globals(canon.old), _globals(canon.new)
    for name in sorted(old.keys() & new.keys()):
        before, after = canon.old.all[old[name]], canon.new.all[new[name]]
        pair = canon.pairing.new_of.get(before.number)
        if pair == after.number or (is_boot_only(before) and is_boot_only(after)):
            continue
        if before.name != after.name:
            other = before.name if after.name == name else after.name
            text = f"`{name}` and `{other}` are names of one thing on one side alone"
            yield name, text


def _globals(parts: ObjectParts) -> dict[str, int]:
    """Map the names that other objects ask for to their parts."""
    return {
        symbol.name: part.number
        for part in parts.all
        for symbol in (part.symbol, *parts.aliases.get(part.number, ()))
        if symbol is not None and not symbol.is_local and symbol.value == part.offset
    }
