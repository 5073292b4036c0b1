# SPDX-License-Identifier: Apache-2.0
"""Functions as streams of instructions, compared by what each instruction does.

Only functions whose bytes or relocations differ come here. Jumps within the function count by the
number of the instruction they reach, so that code that merely moved is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Edge, Kind
from xsplice_plugins.elf.types import EM_X86_64

if TYPE_CHECKING:
    from collections.abc import Hashable

    from xsplice_plugins.diff.compare import Canon
    from xsplice_plugins.diff.normalise import Parts

Key = tuple["Hashable", ...]

_LINE_MAX = 65535
_CALL_WINDOW = 24  #: instructions between a line number's load and the call that takes it
_SOURCE_SUFFIXES = (b".c\0", b".h\0", b".S\0")


class LineMove(NamedTuple):
    """An immediate that may be a source line number."""

    old: int
    new: int
    is_proved: bool  #: it goes to a call together with the file's name


class Step(NamedTuple):
    """One instruction."""

    piece: int  #: number of the part it lies in
    offset: int  #: bytes from the start of the piece
    size_bytes: int
    jump: tuple[int, int] | None  #: (piece, offset) it jumps to within the object, else None
    code: Hashable  #: opcode of a jump, bytes of anything else
    edges: tuple[Edge, ...]
    immediate: int | None  #: value of a plain 32-bit ``mov``'s immediate
    is_call: bool
    is_goto: bool  #: an unconditional jump


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDifference:
    """Where two streams part.

    ``lines`` is not empty if every difference may be a source line number.
    """

    before: Step | None
    after: Step | None
    lines: tuple[LineMove, ...] = ()


def steps(parts: Parts, function: int) -> list[Step]:
    """Return a function's instructions, its cold pieces behind its main part."""
    result: list[Step] = []
    for piece in parts.pieces[function]:
        if parts.file.machine == EM_X86_64:
            result += _steps_x86(parts, piece)
        else:
            result += _steps_words(parts, piece)
    return result


def places(parts: Parts, function: int) -> dict[tuple[int, int], int]:
    """Map each place (piece, offset) in a function to the ordinal of its instruction."""
    return _places(steps(parts, function))


def _places(stream: list[Step]) -> dict[tuple[int, int], int]:
    result = {(step.piece, step.offset): i for i, step in enumerate(stream)}
    for i, step in enumerate(stream):  # the end of a piece is a place too
        result.setdefault((step.piece, step.offset + step.size_bytes), i + 1)
    return result


def _steps_x86(parts: Parts, number: int) -> list[Step]:
    import iced_x86  # noqa: PLC0415  (0.02 s that most runs do not need)

    part = parts.all[number]
    data = parts.content(part)
    edges = parts.edges(part)
    flow = iced_x86.FlowControl
    branches = (flow.UNCONDITIONAL_BRANCH, flow.CONDITIONAL_BRANCH, flow.CALL)
    calls = (flow.CALL, flow.INDIRECT_CALL)
    sequential, goto = flow.NEXT, flow.UNCONDITIONAL_BRANCH
    move = iced_x86.Mnemonic.MOV
    kinds = iced_x86.OpKind
    result: list[Step] = []
    next_edge = 0
    for instruction in iced_x86.Decoder(64, data, ip=part.offset):
        at = instruction.ip - part.offset
        end = at + instruction.len
        first = next_edge
        while next_edge < len(edges) and edges[next_edge].offset < end:
            next_edge += 1
        own = tuple(e._replace(offset=e.offset - at) for e in edges[first:next_edge])
        control = instruction.flow_control
        jump = None
        code: Hashable = data[at:end]
        immediate = None
        if control != sequential:
            if control in branches:
                if not own:
                    jump = _inside(parts, part.section, instruction.near_branch_target)
                elif len(own) == 1 and _is_own(parts, number, own[0]):
                    jump = (own[0].part, own[0].at)
                if jump is not None:
                    code, own = instruction.mnemonic, ()
        elif not own:
            if instruction.is_ip_rel_memory_operand:
                target = _inside(parts, part.section, instruction.ip_rel_memory_address)
                own = (Edge(0, 0, target[0], target[1], ""),)
                code = instruction.code
            elif instruction.mnemonic == move and instruction.op_count == 2:
                kind = instruction.op1_kind
                if kind in (kinds.IMMEDIATE32, kinds.IMMEDIATE32TO64):
                    immediate = instruction.immediate(1) & 0xFFFFFFFF
        result.append(
            Step(
                number, at, end - at, jump, code, own, immediate, control in calls, control == goto
            )
        )
    return result


def _steps_words(parts: Parts, number: int) -> list[Step]:
    """Cut arm64 code into words; direct jumps without relocation get their target."""
    part = parts.all[number]
    data = parts.content(part)
    edges = {e.offset: e for e in parts.edges(part)}
    result = []
    for at in range(0, part.size_bytes - 3, 4):
        word = int.from_bytes(data[at : at + 4], "little")
        edge = edges.get(at)
        jump = None
        code: Hashable = word
        own: tuple[Edge, ...] = () if edge is None else (edge._replace(offset=0),)
        distance, opcode = _branch_arm64(word)
        if edge is None and distance is not None:
            jump = _inside(parts, part.section, part.offset + at + distance)
            code = opcode
        elif edge is not None and distance is not None and _is_own(parts, number, edge):
            jump, code, own = (edge.part, edge.at), opcode, ()
        is_call = word >> 26 == 0b100101 or word & 0xFFFFFC1F == 0xD63F0000
        immediate = None
        if word >> 23 == 0b010100101:  # movz w, #imm16
            immediate = word >> 5 & 0xFFFF
        result.append(
            Step(number, at, 4, jump, code, own, immediate, is_call, word >> 26 == 0b000101)
        )
    return result


def _branch_arm64(word: int) -> tuple[int | None, int]:
    """Return a branch's distance in bytes and its opcode bits.

    Source: Arm ARM C4.1.66, branches: B, BL, B.cond, CBZ, CBNZ, TBZ, TBNZ, ADR.
    """
    if word >> 26 & 0x1F == 0b00101:
        return _signed(word & 0x3FFFFFF, 26) * 4, word & ~0x3FFFFFF
    if word >> 24 == 0b01010100 or word >> 25 & 0x3F == 0b011010:
        return _signed(word >> 5 & 0x7FFFF, 19) * 4, word & ~(0x7FFFF << 5)
    if word >> 25 & 0x3F == 0b011011:
        return _signed(word >> 5 & 0x3FFF, 14) * 4, word & ~(0x3FFF << 5)
    if word >> 24 & 0x9F == 0b00010000:
        immediate = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
        return _signed(immediate, 21), word & ~(0x7FFFF << 5 | 3 << 29)
    return None, word


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _is_own(parts: Parts, number: int, edge: Edge) -> bool:
    """Tell whether a relocation of a piece refers to the same function."""
    return edge.part != EXTERNAL and parts.owner.get(edge.part) == parts.owner.get(number)


def _inside(parts: Parts, section: int, offset: int) -> tuple[int, int]:
    return parts.find(section, offset)


def difference(canon: Canon, old: int, new: int) -> StreamDifference | None:
    """Compare two functions as streams.

    Returns:
        None if they mean the same; otherwise the first difference, and whether line numbers are
        the only one.
    """
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


def _key(canon: Canon, is_new: bool, step: Step, places: dict[tuple[int, int], int]) -> Key:
    if step.jump is not None:
        ordinal = places.get(step.jump)
        if ordinal is not None:
            return ("jump", step.code, ordinal)
        target = Edge(0, 0, step.jump[0], step.jump[1], "")
        return ("jump", step.code, canon.edge(is_new, target))
    if not step.edges:
        return ("code", step.code)
    return (
        "code",
        step.code,
        tuple(
            (e.offset, e.type, ("instruction", places[e.part, e.at]))
            if (e.part, e.at) in places
            else (e.offset, e.type, canon.edge(is_new, e))
            for e in step.edges
        ),
    )


def _first_difference(
    before: list[Step], after: list[Step], keys_old: list[Key], keys_new: list[Key]
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
    before: list[Step],
    after: list[Step],
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
        if not _differ_in_number(a, b) or a.immediate is None or b.immediate is None:
            return ()
        is_proved = _passes_file_name(parts, after, ordinals, i)
        moves.append(LineMove(a.immediate, b.immediate, is_proved))
    return tuple(moves)


def _differ_in_number(a: Step, b: Step) -> bool:
    """Tell whether two instructions are one ``mov`` of two plausible line numbers."""
    if a.immediate is None or b.immediate is None or a.size_bytes != b.size_bytes:
        return False
    if not (0 < a.immediate <= _LINE_MAX and 0 < b.immediate <= _LINE_MAX):
        return False
    if isinstance(a.code, bytes) and isinstance(b.code, bytes):
        return a.code[:-4] == b.code[:-4]
    assert isinstance(a.code, int), "arm64 code is words"
    assert isinstance(b.code, int), "arm64 code is words"
    return a.code & ~(0xFFFF << 5) == b.code & ~(0xFFFF << 5)


def _passes_file_name(
    parts: Parts, stream: list[Step], ordinals: dict[tuple[int, int], int], i: int
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


def _is_file_name(parts: Parts, edge: Edge) -> bool:
    if edge.part == EXTERNAL:
        return False
    part = parts.all[edge.part]
    if part.name in parts.profile.file_name_data:
        return True
    if part.kind is not Kind.STRING:
        return False
    text = parts.content(part)
    return text.endswith(_SOURCE_SUFFIXES) and b" " not in text
