# SPDX-License-Identifier: Apache-2.0
"""Stores that make a node part of a list or take it out, and tests that it is in none.

Source: `list_add`, `list_del` and `list_empty` of xen/include/xen/list.h: next, then prev.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.values import POINTER_BYTES, Loaded, Value, test_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.values import Step, ValueFlow

Steps = dict["Place", "Step"]
Edge = tuple["Place", "Place"]


class Asked(NamedTuple):
    """A pointer, or less, that memory holds, and what it is compared with."""

    field: Value
    size_bytes: int
    other: Value


class Link(NamedTuple):
    """One of the two neighbours of a node that are led to it, or past it."""

    side: int  #: 0: the next one's `prev`; 1: the previous one's `next`
    node: Value


def inserted(values: ValueFlow, step: Step | None, steps: Mapping[Place, Step]) -> Link | None:
    """Return which half of `list_add` a store of an own address is; None if it is none.

    Args:
        values: What registers hold.
        step: The store.
        steps: The function around it.
    """
    if step is None:
        return None
    there, node = values.spot(step), values.stored(step)
    if there is None or node is None or not isinstance(node.base, int):
        return None
    for other in steps.values():
        value, at = values.stored(other), values.spot(other)
        if value is None or at is None or at.base != node.base:
            continue
        distance = at.offset - node.offset
        if distance in (0, POINTER_BYTES):
            field = value._replace(offset=value.offset + POINTER_BYTES - distance)
            if field == there:
                return Link(int(distance == POINTER_BYTES), node)
    return None


def unlinked(spot: Value, value: Value) -> Link | None:
    """Return which half of `list_del` a store is; None if it is none."""
    at, other = spot.base, value.base
    if not isinstance(at, Loaded) or not isinstance(other, Loaded) or value.offset:
        return None
    if at.base != other.base or not isinstance(at.base, int):
        return None
    if spot.offset == POINTER_BYTES and other.offset == at.offset + POINTER_BYTES:
        return Link(0, Value(at.base, at.offset))
    if spot.offset == 0 and at.offset == other.offset + POINTER_BYTES:
        return Link(1, Value(other.base, other.offset))
    return None


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
    return Asked(field, loaded.base.size_bytes, other)


def is_alone(row: Asked, node: Value, *, is_equal: bool) -> bool:
    """Tell whether a comparison shows that a node is in no list."""
    is_pointer = row.size_bytes == POINTER_BYTES and row.field == node
    return is_pointer and is_equal and row.other in (Value(None, 0), node)


def is_guarded(steps: Steps, start: Place, place: Place, node: Value) -> bool:
    """Tell whether an instruction of a function only runs where its node was in no list."""
    shut: set[Edge] = set()
    for step in steps.values():
        row = asked(step)
        if row is not None and is_alone(row, node, is_equal=True) and len(step.next) > 1:
            shut.add((step.place, step.next[0 if step.effect.equal else 1]))
    return place not in reached(steps, [start], shut)


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
