# SPDX-License-Identifier: Apache-2.0
"""Places on the stack that hold an address, and registers that lead to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.target.machine import STACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.target.machine import Effect

_BACK_MAX = 64  #: instructions
_OPERAND_BYTES = 9  #: up to the address in what `lidt` reads: a limit of two bytes before it


def has_slots(held: frozenset[str]) -> bool:
    """Tell whether a place on the stack holds the address."""
    return any(name.startswith(STACK) for name in held)


def reads_slot(slot: str, held: frozenset[str]) -> bool:
    """Tell whether what an instruction reads at a slot holds the address."""
    return bool(slot) and any(_is_above(name, slot, _OPERAND_BYTES) for name in held)


def leads_to_slot(
    rows: Mapping[int, Effect], at: int, register: str, stack: str, held: frozenset[str]
) -> bool:
    """Tell whether an argument is the address of what begins below a slot that is held.

    The compiler may compute that address before it fills the slot.

    Args:
        rows: The instructions of a function by their places.
        at: The place of a call.
        register: The argument.
        stack: The name of the stack pointer.
        held: What holds the address that is followed.
    """
    if not has_slots(held):
        return False
    for place in sorted((place for place in rows if place < at), reverse=True)[:_BACK_MAX]:
        row = rows[place]
        if register not in row.writes:
            continue
        slot = row.slot if row.takes else ""
        if row.moves and row.values == {stack}:
            slot = f"{STACK}+0"
        if slot:
            return any(_is_above(name, slot) for name in held)
        if not (row.moves and len(row.values) == 1):
            return False
        register = next(iter(row.values))
    return False


def _is_above(name: str, slot: str, most_bytes: int | None = None) -> bool:
    if not (name.startswith(STACK) and slot.startswith(STACK)):
        return name == slot
    below, above = slot.removeprefix(STACK), name.removeprefix(STACK)
    if not (below and above):
        return True
    distance = int(above) - int(below)
    return distance >= 0 and (most_bytes is None or distance <= most_bytes)
