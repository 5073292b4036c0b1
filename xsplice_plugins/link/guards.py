# SPDX-License-Identifier: Apache-2.0
"""What code only does where a test says so: a node is in no list, a field holds something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.calls import THUNK
from xsplice_plugins.target.machine import CALLS, Flow
from xsplice_plugins.target.values import JOINED, POINTER_BYTES, Loaded, Value, test_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.machine import Registers
    from xsplice_plugins.target.values import Step

#: Source: `status` of struct timer, xen/include/xen/timer.h; 0: it was never set up.
_TIMER_STATUS, _STATUS_BYTES = 0x2A, 1

Steps = dict["Place", "Step"]
Edge = tuple["Place", "Place"]


class Asked(NamedTuple):
    """A pointer, or less, that memory holds, and what it is compared with."""

    field: Value
    size_bytes: int
    other: Value
    at: Place  #: the instruction that loads it


def asked(step: Step) -> Asked | None:
    """Return what memory holds that a branch asks for, and what else; None if that is unknown."""
    test = test_of(step)
    if test is None:
        return None
    loaded, other = (test.left, test.right)
    if not isinstance(loaded.base, Loaded):
        loaded, other = other, loaded
    if not isinstance(loaded.base, Loaded) or loaded.offset:
        return None
    field = Value(loaded.base.base, loaded.base.offset)
    return Asked(field, loaded.base.size_bytes, other, loaded.base.at)


def is_alone(row: Asked, node: Value, *, is_equal: bool) -> bool:
    """Tell whether a comparison shows that a node is in no list."""
    is_pointer = row.size_bytes == POINTER_BYTES and row.field == node
    return is_pointer and is_equal and row.other in (Value(None, 0), node)


def is_unset(row: Asked, timer: Value, *, is_equal: bool) -> bool:
    """Tell whether a comparison shows that a timer was never set up."""
    status = timer._replace(offset=timer.offset + _TIMER_STATUS)
    is_status = row.size_bytes == _STATUS_BYTES and row.field == status
    return is_status and is_equal and row.other == Value(None, 0)


def is_guarded(steps: Steps, start: Place, place: Place, node: Value) -> bool:
    """Tell whether an instruction of a function only runs where a node was in no list.

    Source: `list_empty` of xen/include/xen/list.h.
    """
    shut: set[Edge] = set()
    for step in steps.values():
        row = asked(step)
        if row is not None and is_alone(row, node, is_equal=True) and len(step.next) > 1:
            shut.add((step.place, step.next[0 if step.effect.equal else 1]))
    return place not in reached(steps, [start], shut)


def is_other(steps: Steps, place: Place, field: Value, own: Value, registers: Registers) -> bool:
    """Tell whether what an instruction loads is only used where it is not a certain address.

    Args:
        steps: The function around it.
        place: The instruction.
        field: What it loads.
        own: The address.
        registers: The machine's.
    """
    shut: set[Edge] = set()
    for step in steps.values():
        row = asked(step)
        if row is not None and row[:3] == (field, POINTER_BYTES, own) and row.at == place:
            shut.add((step.place, step.next[1 if step.effect.equal else 0]))
    unsure = reached(steps, steps[place].next, shut) if shut else set(steps)
    return not any(_may_use(steps[at], place, registers) for at in unsure)


def _may_use(step: Step, place: Place, registers: Registers) -> bool:
    """Tell whether an instruction may use what another one has loaded, but for comparing it."""
    effect = step.effect
    used = effect.values | effect.through
    if step.callee or step.inner or effect.flow in CALLS or effect.jumps:
        used = used.union(registers.arguments)
    if step.leaves:
        used |= {registers.result}
    bases = [step.value(name).base for name in used if not effect.compares]
    return any(
        base.at == place if isinstance(base, Loaded) else isinstance(base, tuple) and JOINED in base
        for base in bases
    )


def behind(steps: Steps, place: Place) -> set[Place]:
    """Return what may run after an instruction, in the same function."""
    return reached(steps, steps[place].next)


def reached(steps: Steps, starts: Iterable[Place], shut: Iterable[Edge] = ()) -> set[Place]:
    """Return what may run from some places on, if nobody takes the ways that are shut."""
    seen: set[Place] = set()
    todo = list(starts)
    while todo:
        place = todo.pop()
        if place not in seen and place in steps:
            seen.add(place)
            todo += [after for after in steps[place].next if (place, after) not in shut]
    return seen


def is_open(step: Step) -> bool:
    """Tell whether nobody knows whom an instruction calls."""
    return step.effect.flow is Flow.INDIRECT_CALL or THUNK.fullmatch(step.callee) is not None
