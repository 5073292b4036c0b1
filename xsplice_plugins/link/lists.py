# SPDX-License-Identifier: Apache-2.0
"""Stores that make a node part of a list, or take it out.

Source: `list_add` and `list_del` of xen/include/xen/list.h: next, then prev.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.values import POINTER_BYTES, Loaded, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.values import Step, ValueFlow


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
