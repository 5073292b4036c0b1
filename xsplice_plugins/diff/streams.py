# SPDX-License-Identifier: Apache-2.0
"""Functions as streams of instructions, compared by what each instruction does.

Only functions whose bytes or relocations differ come here. Jumps within the function count by the
number of the instruction they reach, so that code that merely moved is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Edge, Key, PartKind
from xsplice_plugins.target.machine import CALLS, DIRECT, Flow

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.normalise import ObjectParts

_LINE_MAX = 65535
_CALL_WINDOW = 24  #: instructions between a line number's load and the call that takes it
_SOURCE_SUFFIXES = (b".c\0", b".h\0", b".S\0")


class LineMove(NamedTuple):
    """An immediate that may be a source line number."""

    old: int
    new: int
    is_proved: bool  #: it goes to a call together with the file's name


class StreamStep(NamedTuple):
    """One instruction."""

    piece: int  #: number of the part it lies in
    offset: int  #: bytes from the start of the piece
    size_bytes: int
    jump: tuple[int, int] | None  #: (piece, offset) it jumps to within the object, else None
    code: Hashable  #: what a jump or an operand without relocation does, bytes of anything else
    operation: Hashable  #: `code` without `immediate`
    edges: tuple[Edge, ...]
    immediate: int | None  #: a plain constant that it moves
    is_call: bool
    is_goto: bool  #: an unconditional jump


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDifference:
    """Where two streams part.

    ``lines`` is not empty if every difference may be a source line number.
    """

    before: StreamStep | None
    after: StreamStep | None
    lines: tuple[LineMove, ...] = ()


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
        immediate, jump = None if own else row.immediate, None
        if row.flow in DIRECT and row.target is not None:
            if not own:
                jump = parts.find(part.section, row.target)
            elif len(own) == 1 and _is_own(parts, number, own[0]):
                jump = (own[0].part, own[0].at)
            if jump is not None:
                code, own = row.operation, ()
        elif row.target is not None and not own:
            place = parts.find(part.section, row.target)
            code, own = row.operation, (Edge(0, 0, *place, ""),)
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
        lines = _line_moves(canon, before, after, keys_old, keys_new)
        if lines:
            i = next(i for i, (a, b) in enumerate(zip(keys_old, keys_new, strict=True)) if a != b)
            return StreamDifference(before=before[i], after=after[i], lines=lines)
    return _first_difference(before, after, keys_old, keys_new)


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


def _line_moves(
    canon: Canon,
    before: list[StreamStep],
    after: list[StreamStep],
    keys_old: list[Key],
    keys_new: list[Key],
) -> tuple[LineMove, ...]:
    """Return all differences as line numbers, or nothing if one cannot be one.

    Asked for: a 32-bit ``mov`` of plausible numbers, equal but for them, in a function that
    names its source file. Proved is a number that goes to a call together with that name.
    """
    parts = canon.new
    if not any(_is_file_name(parts, edge) for step in after for edge in step.edges):
        return ()
    ordinals = _places(after)
    moves = []
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if keys_old[i] == keys_new[i]:
            continue
        if a.immediate is None or b.immediate is None or not _differ_in_number(a, b):
            return ()
        is_proved = _passes_file_name(parts, after, ordinals, i)
        moves.append(LineMove(a.immediate, b.immediate, is_proved))
    return tuple(moves)


def _differ_in_number(a: StreamStep, b: StreamStep) -> bool:
    """Tell whether two instructions are one ``mov`` of two plausible line numbers."""
    if a.immediate is None or b.immediate is None or a.size_bytes != b.size_bytes:
        return False
    if not (0 < a.immediate <= _LINE_MAX and 0 < b.immediate <= _LINE_MAX):
        return False
    return a.operation == b.operation


def _passes_file_name(
    parts: ObjectParts, stream: list[StreamStep], ordinals: dict[tuple[int, int], int], i: int
) -> bool:
    """Tell whether a source file's name is loaded on the way to the next call, or just before."""
    start = i
    while start > 0 and not stream[start - 1].is_call and i - start < _CALL_WINDOW:
        start -= 1
    way = list(range(start, i))
    at = i
    while at < len(stream) and len(way) < 2 * _CALL_WINDOW:
        way.append(at)
        step = stream[at]
        if step.is_call:
            break
        # Equal tails of several calls are shared: the line is loaded, then a jump leads there.
        at = ordinals.get(step.jump, at + 1) if step.is_goto and step.jump else at + 1
    return any(_is_file_name(parts, edge) for at in way for edge in stream[at].edges)


def _is_file_name(parts: ObjectParts, edge: Edge) -> bool:
    if edge.part == EXTERNAL:
        return False
    part = parts.all[edge.part]
    if part.name in parts.profile.file_name_data:
        return True
    if part.kind is not PartKind.STRING:
        return False
    text = parts.content(part)
    return text.endswith(_SOURCE_SUFFIXES) and b" " not in text
