# SPDX-License-Identifier: Apache-2.0
"""Functions as streams of instructions, compared by what each instruction does.

Only functions whose bytes or relocations differ come here. Jumps within the function count by the
number of the instruction they reach, so that code that merely moved is equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Edge, Key, PartKind
from xsplice_plugins.target.machine import CALLS, DIRECT, Flow

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.normalise import ObjectParts


class NumberMove(NamedTuple):
    """A plain constant in an instruction that is equal but for it."""

    at: int  #: ordinal of the instruction
    old: int
    new: int


class StreamStep(NamedTuple):
    """One instruction."""

    piece: int  #: number of the part it lies in
    offset: int  #: bytes from the start of the piece
    size_bytes: int
    jump: tuple[int, int] | None  #: (piece, offset) it jumps to within the object, else None
    code: Hashable  #: what a jump or an operand without relocation does, bytes of anything else
    operation: Hashable  #: `code` without `immediate`
    edges: tuple[Edge, ...]
    immediate: int | None  #: its plain constant, where no relocation changes it
    is_call: bool
    is_goto: bool  #: an unconditional jump


class StreamDifference(Struct, frozen=True, kw_only=True):
    """Where two streams part; ``numbers`` is not empty if they differ in nothing but those."""

    before: StreamStep | None
    after: StreamStep | None
    numbers: tuple[NumberMove, ...] = ()


def steps(parts: ObjectParts, function: int) -> list[StreamStep]:
    """Return a function's instructions, its cold pieces behind its main part."""
    return [step for piece in parts.pieces[function] for step in _steps(parts, piece)]


def places(parts: ObjectParts, function: int) -> dict[tuple[int, int], int]:
    """Map each place (piece, offset) in a function to the ordinal of its instruction."""
    return _places(steps(parts, function))


def _places(stream: list[StreamStep]) -> dict[tuple[int, int], int]:
    result = {(step.piece, step.offset): i for i, step in enumerate(stream)}
    for i, step in enumerate(stream):  # the end of a piece is a place too
        result.setdefault((step.piece, step.offset + step.size_bytes), i + 1)
    return result


def _steps(parts: ObjectParts, number: int) -> Iterator[StreamStep]:
    part = parts.all[number]
    data = parts.content(part)
    edges = parts.edges(part)
    next_edge = 0
    end = part.offset + part.size_bytes
    for row in parts.references.instructions(part.section, part.offset, end):
        at, first = row.start - part.offset, next_edge
        while next_edge < len(edges) and edges[next_edge].offset < row.end - part.offset:
            next_edge += 1
        own = tuple(e._replace(offset=e.offset - at) for e in edges[first:next_edge])
        code: Hashable = data[at : row.end - part.offset]
        is_plain = all(row.target is not None and e.offset == row.field - row.start for e in own)
        immediate, jump = row.immediate if is_plain else None, None
        if row.flow in DIRECT and row.target is not None:
            if not own:
                jump = parts.find(part.section, row.target)
            elif len(own) == 1 and _is_own(parts, number, own[0]):
                jump = (own[0].part, own[0].at)
            if jump is not None:
                code, own = row.operation, ()
        elif row.target is not None and not own:
            place = parts.find(part.section, row.target)
            code, own = (row.operation, immediate), (Edge(0, 0, *place, ""),)
        yield StreamStep(
            number,
            at,
            row.end - row.start,
            jump,
            code,
            row.operation,
            own,
            immediate,
            row.flow in CALLS,
            row.flow is Flow.JUMP,
        )


def _is_own(parts: ObjectParts, number: int, edge: Edge) -> bool:
    """Tell whether a relocation of a piece refers to the same function."""
    return edge.part != EXTERNAL and parts.owner.get(edge.part) == parts.owner.get(number)


def difference(canon: Canon, old: int, new: int) -> StreamDifference | None:
    """Return where two functions part, read as streams; None if they mean the same."""
    before, after = steps(canon.old, old), steps(canon.new, new)
    places_old, places_new = _places(before), _places(after)
    keys_old = [_key(canon, OLD, step, places_old) for step in before]
    keys_new = [_key(canon, NEW, step, places_new) for step in after]
    if keys_old == keys_new:
        return None
    if len(before) == len(after):
        places = [i for i, key in enumerate(keys_old) if key != keys_new[i]]
        numbers = tuple(
            NumberMove(i, a.immediate, b.immediate)
            for i, a, b in ((i, before[i], after[i]) for i in places)
            if a.immediate is not None and b.immediate is not None
            if a.size_bytes == b.size_bytes
            if _key(canon, OLD, a._replace(code=a.operation), places_old)
            == _key(canon, NEW, b._replace(code=b.operation), places_new)
        )
        if len(numbers) == len(places):
            i = places[0]
            return StreamDifference(before=before[i], after=after[i], numbers=numbers)
    return _first_difference(before, after, keys_old, keys_new)


def texts_apart(canon: Canon, old: int, new: int) -> set[int] | None:
    """Return the instructions that differ, if all of them do in nothing but a text's content.

    Returns:
        Their ordinals; ``None`` if anything else differs.
    """
    before, after = steps(canon.old, old), steps(canon.new, new)
    if len(before) != len(after):
        return None
    places_old, places_new = _places(before), _places(after)
    result = set()
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if _key(canon, OLD, a, places_old) == _key(canon, NEW, b, places_new):
            continue
        plain = (a.jump, b.jump) == (None, None) and a.code == b.code
        if not plain or len(a.edges) != len(b.edges):
            return None
        for c, d in zip(a.edges, b.edges, strict=True):
            kinds = {
                parts.all[e.part].kind if e.part != EXTERNAL else None
                for parts, e in ((canon.old, c), (canon.new, d))
            }
            if kinds != {PartKind.STRING} or (c.offset, c.type) != (d.offset, d.type):
                return None
        result.add(i)
    return result


def _key(canon: Canon, is_new: bool, step: StreamStep, places: dict[tuple[int, int], int]) -> Key:
    if step.jump is not None:
        ordinal = places.get(step.jump)
        if ordinal is not None:
            return ("jump", step.code, ordinal)
        target = Edge(0, 0, step.jump[0], step.jump[1], "")
        return ("jump", step.code, canon.edge(is_new, target))
    if not step.edges:
        return ("code", step.code)
    return ("code", step.code, edge_keys(canon, is_new, step.edges, places))


def edge_keys(
    canon: Canon, is_new: bool, edges: Iterable[Edge], places: dict[tuple[int, int], int]
) -> Key:
    """Return what relocations refer to; ``places`` of the function count as instructions."""
    return tuple(
        (e.offset, e.type, ("instruction", places[e.part, e.at]))
        if (e.part, e.at) in places
        else (e.offset, e.type, canon.edge(is_new, e))
        for e in edges
    )


def _first_difference(
    before: list[StreamStep], after: list[StreamStep], keys_old: list[Key], keys_new: list[Key]
) -> StreamDifference:
    """Return the first difference that is no mere consequence of a later insertion."""
    for is_jump_counted in (False, True):
        for i, (a, b) in enumerate(zip(keys_old, keys_new, strict=False)):
            if a != b and (is_jump_counted or a[:2] != b[:2] or a[0] != "jump"):
                return StreamDifference(before=before[i], after=after[i])
        shorter = min(len(before), len(after))
        if len(before) != len(after):
            return StreamDifference(
                before=before[shorter] if shorter < len(before) else None,
                after=after[shorter] if shorter < len(after) else None,
            )
    raise AssertionError("streams that differ have a first difference")
