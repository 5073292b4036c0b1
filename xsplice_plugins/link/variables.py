# SPDX-License-Identifier: Apache-2.0
"""Variables that a payload brings: from which functions on they are set, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import NewVariable

if TYPE_CHECKING:
    from collections.abc import Hashable

    from xsplice_plugins.link.running import Running
    from xsplice_plugins.target.code import Place


def new_variables(running: Running) -> tuple[NewVariable, ...]:
    """Return the payload's variables that functions read, and no hook sets.

    Args:
        running: The payload's code.

    Returns:
        Those of which code alone holds the address, sorted by name.
    """
    names = {place: name for name, place in running.code.starts.items()}
    hooks = {place for places in running.hooks.values() for place in places}
    known = running.lies_in_data() | _uses(running, hooks, is_write=True)
    roots = {names[place]: place for place in running.roots if place in names}
    written = {n: _uses(running, {at}, is_write=True) for n, at in roots.items()}
    read = {n: _uses(running, {at}, is_write=False) for n, at in roots.items()}
    return tuple(
        NewVariable(
            name=running.data[place].name,
            writers=tuple(sorted(name for name in roots if place in written[name])),
            readers=readers,
        )
        for place in sorted(running.data, key=lambda at: running.data[at].name)
        if running.elf.sections[place[0]].is_write and place not in known
        if (readers := tuple(sorted(name for name in roots if place in read[name])))
    )


def _uses(running: Running, starts: set[Place], *, is_write: bool) -> set[Hashable]:
    """Return what is written from some functions on, or read; an address that leaves is both."""
    carried = running.carried
    found: set[Hashable] = set()
    for row in carried.walk(starts):
        found |= carried.handed(row)
        if is_write or row.effect.loads:
            found |= carried.stored(row) if is_write else carried.names(row)
    return found
