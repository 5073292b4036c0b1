# SPDX-License-Identifier: Apache-2.0
"""Variables that a payload brings: from which functions on they are set, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import NewVariable

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

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
    others = {n: at for n, at in running.code.starts.items() if n not in roots and at not in hooks}
    read = {n: _uses(running, {at}, is_write=False) for n, at in roots.items()}
    written = {n: _uses(running, {at}, is_write=True) for n, at in roots.items()}
    rows = {
        at: NewVariable(name=symbol.name, writers=_names(written, at), readers=_names(read, at))
        for at, symbol in running.data.items()
        if running.elf.sections[at[0]].is_write and at not in known
    }
    rows = {at: row for at, row in rows.items() if row.readers}
    if not all(row.writers for row in rows.values()):
        late = {n: _uses(running, {at}, is_write=True) for n, at in others.items()}
        rows = {
            at: row if row.writers else replace(row, idle=_names(late, at))
            for at, row in rows.items()
        }
    return tuple(sorted(rows.values(), key=lambda row: row.name))


def _names(uses: Mapping[str, set[Hashable]], place: Place) -> tuple[str, ...]:
    return tuple(sorted(name for name, found in uses.items() if place in found))


def _uses(running: Running, starts: set[Place], *, is_write: bool) -> set[Hashable]:
    """Return what is written from some functions on, or read; an address that leaves is both."""
    carried = running.carried
    found: set[Hashable] = set()
    for row in carried.walk(starts):
        found |= carried.handed(row)
        if is_write or row.effect.loads:
            found |= carried.stored(row) if is_write else carried.names(row)
    return found
