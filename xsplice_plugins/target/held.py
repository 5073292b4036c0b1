# SPDX-License-Identifier: Apache-2.0
"""What holds the address that is followed, registers and places in memory, and what keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.frames import POINTER_BYTES, Cell, distances
from xsplice_plugins.target.machine import PUSHED, STACK, Effect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.target.frames import Cells
    from xsplice_plugins.target.machine import Registers

#: Before a register's name: what it leads to holds the address, or leads on to where it is held.
TO = "*"
#: Before a register's name: nothing has read what it holds since it was written.
UNREAD = "+"
Held = frozenset["str | Cell"]

UNKNOWN = "goes where nobody can follow it in"
TO_PROCESSOR = "is given to the processor in"
COMPARED, RETURNED = "is compared in", "is returned by"
PASSED, STORED = "is passed to", "is stored in"
FILLED = "is stored in own data"  #: which is the place ``at``


class Kept(NamedTuple):
    """What keeps an address."""

    verb: str  #: "is passed to", "is stored in", "is returned by", ...
    name: str  #: the callee, the variable, the function; "" if it is not known
    function: str  #: in which it happens
    at: tuple[int, ...] = ()  #: place of the instruction that stores or calls
    is_way: bool = False  #: what is returned leads to where memory holds the address
    passed: Held = frozenset()  #: a call: the arguments that are the address, or lead to it
    #: returned in the second register: where it is no second word of a result, what is left there
    is_second: bool = False
    is_left: bool = False  #: it may be left there: the function used it before


def ways(registers: Iterable[str]) -> Held:
    """Return the names under which registers lead to where the address is held."""
    return frozenset(TO + name for name in registers)


def both(registers: Iterable[str]) -> Held:
    """Return the names of registers as what holds the address, and as what leads there."""
    return frozenset(registers) | ways(registers)


def cells(held: Held) -> Cells:
    """Return the places in memory."""
    return frozenset(row for row in held if isinstance(row, Cell))


def register_of(row: str | Cell) -> str:
    """Return the register, or the base, that something is named after."""
    return row.base if isinstance(row, Cell) else row.removeprefix(TO)


def marked(held: Held, effect: Effect, second: str) -> Held:
    """Note whether a register was read since what it holds was written."""
    if second in effect.writes and not effect.swaps and effect.slot != PUSHED:
        is_unread = bool(held & both({second}))
    else:
        is_unread = UNREAD + second in held and not _uses(effect, second)
    return held - {UNREAD + second} | ({UNREAD + second} if is_unread else set())


def _uses(effect: Effect, register: str) -> bool:
    """Tell whether an instruction reads a register for anything but that register's next value."""
    is_read = register in effect.values | effect.through
    return is_read and (register not in effect.writes or effect.swaps)


def returned_by(function: str, held: Held, registers: Registers) -> set[Kept]:
    """Return what a function gives back where it ends: a result of one word or two."""
    rows = {
        Kept(RETURNED, function, function, is_way=is_way, is_second=name == registers.second)
        for name in (registers.result, registers.second)
        for is_way in (False, True)
        if is_way * TO + name in held
    }
    is_left = UNREAD + registers.second not in held
    return {row._replace(is_left=row.is_second and is_left) for row in rows}


def settled(
    kept: set[Kept], steps: Iterable[tuple[Effect | None, Held]], registers: Registers
) -> set[Kept]:
    """Tell what may only be left in the register of a second word: what is used on some way.

    Compilers compute an address before a branch, of which one side uses it.
    """
    second = registers.second
    if not any(row.is_second and not row.is_left for row in kept) or not any(
        effect is not None and _uses(effect, second) and held & both({second})
        for effect, held in steps
    ):
        return kept
    return {row._replace(is_left=True) if row.is_second else row for row in kept}


def renamed(held: Held, old: str, new: str) -> Held:
    """Return what one register holds and leads to, as of another register."""
    return frozenset(
        row._replace(base=new) if isinstance(row, Cell) else row.replace(old, new)
        for row in held
        if register_of(row) == old
    )


def reaches(held: Held, leads: Cells) -> bool:
    """Tell whether a pointer leads to what surrounds a place that holds the address."""
    return any(True for cell in cells(held) for _ in distances(cell, leads))


def is_within(cell: Cell, leads: Cells) -> bool:
    """Tell whether a place is part of what begins where a pointer leads."""
    return any(d is None or d > -POINTER_BYTES for d in distances(cell, leads))


def is_read(cell: Cell, spots: Cells, effect: Effect) -> bool:
    """Tell whether an instruction loads what a place holds, or a part of it."""
    is_wide = effect.wide or effect.slot == PUSHED
    return any(d is not None or is_wide for d in distances(cell, spots))


def filled(spots: Cells, most_bytes: int, *, is_way: bool) -> Cells:
    """Return the places on the stack that hold what is stored there."""
    return frozenset(
        Cell(STACK, None if spot.offset is None else spot.offset + more, is_way)
        for spot in spots
        for more in range(0, most_bytes, POINTER_BYTES)
        if spot.base == STACK
    )
