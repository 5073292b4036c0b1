# SPDX-License-Identifier: Apache-2.0
"""Where registers lead: into the stack frame of a function, or to what its arguments led to.

A place in memory is a `Cell`: a distance from where the stack pointer, or an argument, led when the
function began. Pointers that are kept on the stack are followed too. What is not understood leads
`ELSEWHERE`, or to an unknown distance.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.calls import PASSING, RETURN_THUNK
from xsplice_plugins.target.machine import CALLS, DIRECT, PUSHED, STACK, Effect, Flow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xsplice_plugins.target.code import Code, Place
    from xsplice_plugins.target.machine import Registers

POINTER_BYTES = 8
_PAIR_BYTES = 16  #: the most that an instruction of unknown width moves
_DISTANCES_MAX = 8  #: that one register may have from one base; beyond, it is not known
_STEPS_MAX = 20000
_COLD = ".cold"  #: in the names of parts of functions that compilers put elsewhere


class Cell(NamedTuple):
    """A place in memory."""

    base: str  #: STACK or an argument's register, as they were at the start; "" for elsewhere
    offset: int | None  #: from there; ``None``: not known
    deep: bool = False  #: what it holds leads to more that holds what is asked for


Cells = frozenset[Cell]
ELSEWHERE: Cells = frozenset({Cell("", None)})
State = dict["str | Cell", Cells]  #: registers, and places in memory -> where they lead


def size_bytes(effect: Effect) -> int:
    """Return the most bytes of memory that an instruction reads or writes."""
    return effect.memory_bytes or (POINTER_BYTES if effect.slot == PUSHED else _PAIR_BYTES)


def distances(cell: Cell, spots: Cells) -> Iterator[int | None]:
    """Return how far a place is above each that has its base; ``None``: not known."""
    for spot in spots:
        if spot.base == cell.base and spot.base:
            is_known = cell.offset is not None and spot.offset is not None
            yield cell.offset - spot.offset if is_known else None  # type: ignore[operator]


def overlaps(cell: Cell, spots: Cells, most_bytes: int) -> bool:
    """Tell whether a pointer at a place may share bytes with what begins at one of others."""
    return any(d is None or -POINTER_BYTES < d < most_bytes for d in distances(cell, spots))


class Frame:
    """What is known before one instruction."""

    def __init__(self, state: State, stack: str, *, is_lost: bool = False) -> None:
        """Take what registers and memory lead to; ``is_lost``: nobody knows that."""
        self.state = state
        self.is_lost = is_lost
        self._stack = stack

    def leads(self, register: str) -> Cells:
        """Return where a register leads."""
        return self.state.get(register, ELSEWHERE)

    def operand(self, effect: Effect) -> Cells:
        """Return the places where the memory operand of an instruction may begin."""
        if effect.slot == PUSHED:
            return _shift(self.leads(self._stack), min(effect.stack_bytes or 0, 0))
        if effect.slot.startswith(STACK):
            distance = effect.slot.removeprefix(STACK)
            return _shift(self.leads(self._stack), int(distance) if distance else None)
        if effect.base:
            return _shift(self.leads(effect.base), effect.displacement)
        return self.sum_of(effect.values if effect.takes else effect.through)

    def sum_of(self, registers: Iterable[str]) -> Cells:
        """Return where a sum leads: a register that leads nowhere may be an index."""
        rows = [row for register in registers if (row := self.leads(register)) != ELSEWHERE]
        return _shift(_union(rows), None) if rows else ELSEWHERE

    def pointers(self) -> Iterator[tuple[Cell, Cells]]:
        """Return the places in memory that hold pointers, and where these lead."""
        return ((at, leads) for at, leads in self.state.items() if isinstance(at, Cell))

    def content(self, spots: Cells) -> Cells:
        """Return where the pointers lead that places in memory hold."""
        rows = {at: leads for at, leads in self.pointers() if overlaps(at, spots, POINTER_BYTES)}
        is_sure = len(rows) == 1 and spots == rows.keys()
        return _union([*rows.values(), *(() if is_sure else (ELSEWHERE,))])

    def after(self, effect: Effect) -> State:
        """Return what holds after an instruction that calls nobody."""
        state = dict(self.state)
        if effect.copies:
            source, to = (self.sum_of({name}) for name in effect.copies)
            state.update(zip(effect.copies, (source, to), strict=True))
            _store(state, to, self.content(source), is_sure=False)
            return state
        if effect.stores:
            spots = self.operand(effect)
            is_sure = effect.moves and effect.memory_bytes == POINTER_BYTES
            is_sure = (is_sure or effect.slot == PUSHED) and len(spots) == 1
            held = _union(self.leads(name) for name in effect.values)
            _store(state, spots, held or ELSEWHERE, is_sure=is_sure)
        for register in effect.writes - {PUSHED}:
            state[register] = self._written(effect)
        if effect.stack_bytes is None:
            there = self._written(effect)
            is_known = all(cell.base == STACK for cell in there)
            state[self._stack] = there if is_known else frozenset({Cell(STACK, None)})
        else:
            state[self._stack] = _shift(self.leads(self._stack), effect.stack_bytes)
        return state

    def after_call(self, callee: str, registers: Registers, spoiled: frozenset[str]) -> State:
        """Return what holds after a call, which may have written wherever pointers are."""
        state = {
            at: leads | ELSEWHERE if isinstance(at, Cell) else leads
            for at, leads in self.state.items()
            if at not in spoiled
        }
        if PASSING.fullmatch(callee):
            state[registers.result] = self.sum_of(registers.arguments[:1])
        return state

    def _written(self, effect: Effect) -> Cells:
        values = effect.values - {PUSHED}
        if effect.takes:
            return self.operand(effect)
        if effect.loads:
            if not effect.wide and effect.slot != PUSHED:
                return ELSEWHERE
            held = self.content(self.operand(effect))
            return held | self.sum_of(values) if values else held
        if effect.adds or effect.subtracts:
            number = effect.number
            if number is None or len(values) != 1:
                return self.sum_of(values)
            return _shift(self.leads(next(iter(values))), -number if effect.subtracts else number)
        if effect.moves:
            return self.leads(next(iter(values))) if len(values) == 1 else ELSEWHERE
        if effect.picks:
            return _shift(_union(self.leads(name) for name in values), None)
        return ELSEWHERE


class Frames:
    """The frames of one object's functions, each looked at once."""

    def __init__(self, code: Code) -> None:
        """Ask ``code`` for instructions."""
        self._code = code
        self._registers = code.registers
        self._known: dict[Place, State] = {}
        self._begun: set[Place] = set()
        self._spoiled: dict[Place, frozenset[str]] = {}
        self._homes_of: dict[Place, list[Place]] = {}  #: part -> functions
        self._lost: set[Place] = set()  #: where functions start that are too much

    def before(self, place: Place) -> Frame:
        """Return what is known before an instruction."""
        start = self._code.start_of(self._code.detours.owner_of(place))
        for home in self._homes(start):
            self._run(home)
        if place not in self._known and _COLD in self._code.names.get(start, ""):
            for home in self._jumpers.get(start, set()):
                self._run(home)
        stack, state = self._registers.stack, self._known.get(place)
        return Frame(state or {}, stack, is_lost=state is None or start in self._lost)

    def spoiled(self, there: Place | None) -> frozenset[str]:
        """Return the registers that do not survive a call of a function of the object.

        The compiler knows which ones the function writes, and leaves values in the others.
        """
        scratch = self._registers.scratch
        if there is None:
            return scratch
        start = self._code.start_of(there)
        if start not in self._spoiled:
            self._spoiled[start] = scratch  # what a recursion sees
            result: set[str] = set()
            block = self._code.block(*start)
            for at, row in block.items():
                result |= row.writes
                if row.flow is Flow.INDIRECT_CALL or row.jumps:
                    result |= scratch
                elif row.flow in DIRECT:
                    name, inner = self._code.branch((start[0], at), row)
                    is_inside = inner is not None and inner[0] == start[0] and inner[1] in block
                    if not is_inside and name != RETURN_THUNK:
                        result |= self.spoiled(inner)
            self._spoiled[start] = scratch & result
        return self._spoiled[start]

    def is_other(self, place: Place, there: Place) -> bool:
        """Tell whether a jump to ``there`` begins another function."""
        name = self._code.names.get(there, "")
        return bool(name) and _COLD not in name and there != self._code.start_of(place)

    def _homes(self, start: Place) -> list[Place]:
        """Return where the functions start that may lead to a part of one."""
        name, cold, _ = _plain(self._code.names.get(start, "")).partition(_COLD)
        if not cold:
            return [start]
        if start not in self._homes_of:
            rows = [at for at, other in self._code.names.items() if _plain(other) == name]
            self._homes_of[start] = rows
        return self._homes_of[start]

    @cached_property
    def _jumpers(self) -> dict[Place, set[Place]]:
        """Return part -> where the functions start that jump there, whatever their names."""
        result: dict[Place, set[Place]] = {}
        code = self._code
        for section, effect in code.instructions():
            if effect.flow in (Flow.BRANCH, Flow.JUMP):
                place = (section, effect.start)
                there = code.branch(place, effect)[1]
                if there is not None and _COLD in code.names.get(code.start_of(there), ""):
                    result.setdefault(code.start_of(there), set()).add(code.start_of(place))
        return result

    def _run(self, start: Place) -> None:
        if start in self._begun:
            return
        self._begun.add(start)
        registers, known = self._registers, self._known
        state: State = {name: frozenset({Cell(name, 0)}) for name in registers.arguments}
        known[start] = state | {registers.stack: frozenset({Cell(STACK, 0)})}
        todo, steps = [start], 0
        while todo:
            place = todo.pop()
            effect = self._code.at(place)
            if effect is None:
                continue
            steps += 1
            if steps > _STEPS_MAX:
                self._lost.add(start)
                return
            after, following = self._step(place, effect)
            ways = [(there, after) for there in following]
            ways += [(there, known[place]) for there in self._code.detours.beside.get(place, ())]
            for there, held in ways:
                joined = _join(known.get(there), held)
                if joined != known.get(there):
                    known[there] = joined
                    todo.append(there)

    def _step(self, place: Place, effect: Effect) -> tuple[State, list[Place]]:
        """Return what holds after an instruction, and where the function may go on."""
        code, registers = self._code, self._registers
        frame = Frame(self._known[place], registers.stack)
        following = code.following(place, effect)
        if effect.flow is Flow.NEXT or code.resumes(place, effect):
            return frame.after(effect), [following]
        name, there = code.branch(place, effect)
        if effect.flow in CALLS:
            callee = code.names.get(there, "") if there else name
            return frame.after_call(callee, registers, self.spoiled(there)), [following]
        if effect.flow not in (Flow.BRANCH, Flow.JUMP):
            anywhere = code.block(*place) if effect.jumps else ()
            return frame.state, [(place[0], at) for at in anywhere]
        rows = [following] if effect.flow is Flow.BRANCH else []
        if there is not None and not self.is_other(place, there):
            rows.append(there)
        return frame.state, rows


def _plain(name: str) -> str:
    return name.rpartition("#")[2]


def _union(rows: Iterable[Cells]) -> Cells:
    return frozenset().union(*rows)


def _shift(cells: Cells, distance: int | None) -> Cells:
    return _few(
        frozenset(
            Cell(base, None if offset is None or distance is None else offset + distance)
            for base, offset, _ in cells
        )
    )


def _few(cells: Cells) -> Cells:
    """Forget distances where there are many, or where one is not known."""
    bases = [cell.base for cell in cells]
    vague = {c.base for c in cells if c.offset is None or bases.count(c.base) > _DISTANCES_MAX}
    return frozenset(Cell(c.base, None if c.base in vague else c.offset) for c in cells)


def _store(state: State, spots: Cells, held: Cells, *, is_sure: bool) -> None:
    """Note what places in memory lead to; those elsewhere are nobody's concern."""
    for spot in spots - ELSEWHERE:
        if is_sure and spot.offset is not None:
            state[spot] = held
        elif held != ELSEWHERE or spot in state:
            state[spot] = _few(held | ELSEWHERE | state.get(spot, frozenset()))


def _join(known: State | None, new: State) -> State:
    if known is None:
        return new
    return {
        at: _few(known.get(at, ELSEWHERE) | new.get(at, ELSEWHERE)) for at in known.keys() | new
    }
