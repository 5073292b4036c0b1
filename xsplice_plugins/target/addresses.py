# SPDX-License-Identifier: Apache-2.0
"""Where an address goes that code takes: read through, or kept by somebody.

The way of the address is followed through registers, through the stack and into functions of the
same object, which may get it, or a pointer to where memory holds it. An address is *kept* where it
is stored, passed to code that is not followed, returned or compared with another: from there it may
be found again at any later time. What is not understood counts as kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.target.calls import (
    CALLBACKS,
    COPYING,
    ENDING,
    FORMATTING,
    PASSING,
    READER,
    RETURN_THUNK,
    THUNK,
)
from xsplice_plugins.target.code import Code, Place
from xsplice_plugins.target.frames import (
    POINTER_BYTES,
    Cell,
    Frames,
    distances,
    overlaps,
    size_bytes,
)
from xsplice_plugins.target.held import (
    COMPARED,
    FILLED,
    PASSED,
    RETURNED,
    STORED,
    TO,
    TO_PROCESSOR,
    UNKNOWN,
    UNREAD,
    Held,
    Kept,
    both,
    cells,
    filled,
    is_read,
    is_within,
    marked,
    reaches,
    register_of,
    returned_by,
    settled,
    ways,
)
from xsplice_plugins.target.machine import PUSHED, STACK, Effect, Flow
from xsplice_plugins.target.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xsplice_plugins.target.references import References
    from xsplice_plugins.target.tables import Callee

_Todo = list[tuple[Place, Held]]  #: instructions, and what holds the address before
_Question = tuple[Place, Held, bool]
_ARGUMENT_BYTES_MAX = 128  #: of arguments on the stack
_TEXT_ARGUMENT = 2  #: the first argument of `snprintf` that may be written
_STEPS_MAX = 5000  #: instructions of one function
_DEPTH_MAX = 40  #: functions that call each other


class AddressFlow(Code):
    """The code of one object, as far as addresses travel in it."""

    def __init__(
        self,
        references: References,
        is_own: Callable[[Place], bool] = lambda _place: False,
        outside: Callable[[], AddressFlow] | None = None,
    ) -> None:
        """Follow addresses through what ``references`` describes.

        ``is_own`` tells of a place of the object whether it is data that goes with it; ``outside``
        follows into what the object refers to by name.
        """
        super().__init__(references)
        self._outside, self._is_own = outside, is_own
        self.frames, self._tables = Frames(self), Tables(self)
        self._summaries: dict[_Question, tuple[frozenset[Kept], Held]] = {}
        self._depth, self._is_code = 0, False  #: what is followed is the address of a function

    def follow(
        self, fields: Iterable[Place], *, is_pointer: bool = False, is_code: bool = False
    ) -> set[Kept]:
        """Return what keeps the address of one thing.

        Args:
            fields: The relocated fields of code that refer to the thing.
            is_pointer: What is asked for are the pointers that the thing holds: they come from
                loading there.
            is_code: The thing is a function; nobody reads it as a text.
        """
        self._is_code = is_code
        starts: dict[Place, Held] = {}
        kept: set[Kept] = set()
        for field in fields:
            effect = self.around(*field)
            if effect is None:
                kept.add(self._here(UNKNOWN, field))
            elif effect.target is not None:
                continue  # a call or a jump
            elif effect.system and is_pointer:
                kept.add(self._here(TO_PROCESSOR, (field[0], effect.start)))
            elif field[1] == effect.displacement_at and not effect.takes:
                if is_pointer and effect.loads and effect.wide and effect.flow is Flow.NEXT:
                    starts[field[0], effect.start] = both(effect.writes)
            elif field[1] != effect.displacement_at and effect.stores:
                kept.add(self._stored((field[0], effect.start), effect))
            else:
                held: Held = frozenset(effect.writes)
                starts[field[0], effect.start] = both(effect.writes) if is_pointer else held
        return kept | self._walk(starts)

    def after_calls(
        self, places: Iterable[Place], *, is_way: bool, is_second: bool = False
    ) -> set[Kept]:
        """Return what keeps the value that the calls return whose fields are given.

        ``is_way``: what they return leads to where memory holds the address.
        ``is_second``: it is the second word of a result.
        """
        self._is_code = False
        result = frozenset({self.registers.second if is_second else self.registers.result})
        starts: dict[Place, Held] = {}
        for place in places:
            effect = self.around(*place)
            if effect is not None and effect.flow is Flow.CALL:
                starts[place[0], effect.start] = both(result) if is_way else result
        return self._walk(starts)

    def answer(self, name: str, passed: Held) -> tuple[bool, Held]:
        """Tell whether a function keeps what it is passed, and what of it it returns."""
        self._is_code = False
        if (start := self.starts.get(name)) is None or PUSHED in passed:
            return True, frozenset()
        kept, returned = self._summary(start, passed)
        return any(row.verb != COMPARED for row in kept), returned

    def handed_to(self, function: Place | str, passed: Held, *, is_code: bool) -> set[Kept]:
        """Return what keeps an address that a function is given, of this object or by its name.

        Args:
            function: Where it starts, or its name.
            passed: The arguments that are the address, or lead to it.
            is_code: It is the address of a function.
        """
        self._is_code = is_code
        if not isinstance(function, str):
            return set(self._summary(function, passed)[0])
        is_read = self._outside is not None and not self._outside().answer(function, passed)[0]
        return set() if is_read else {Kept(PASSED, function, "")}

    def _summary(self, start: Place, passed: Held) -> tuple[frozenset[Kept], Held]:
        """Return what a function keeps of what it is passed, and what of it it returns."""
        key = (start, passed, self._is_code)
        if key not in self._summaries:
            name = self.function_at(start)
            results = (self.registers.result, self.registers.second)
            self._summaries[key] = (frozenset(), both(results))  # what a recursion sees
            if self._depth >= _DEPTH_MAX:
                return frozenset({Kept(UNKNOWN, name, name)}), frozenset()
            self._depth += 1
            rows = self._walk({}, [(start, passed)])
            self._depth -= 1
            kept = frozenset(row for row in rows if row.verb != RETURNED)
            names = {row.is_way * TO + results[row.is_second] for row in rows - kept}
            if any(row.is_second and not row.is_left for row in rows):
                names.add(UNREAD + self.registers.second)
            self._summaries[key] = (kept, frozenset(names))
        return self._summaries[key]

    # ------------------------------------------------------------- the way

    def _walk(self, starts: dict[Place, Held], todo: _Todo | None = None) -> set[Kept]:
        kept, known = set[Kept](), dict[Place, Held]()
        todo = todo or [
            (self.following(at, effect), marked(held, effect, self.registers.second))
            for at, held in starts.items()
            if (effect := self.at(at)) is not None
        ]
        while todo:
            if len(known) > _STEPS_MAX:
                return kept | {self._here(UNKNOWN, todo[0][0])}
            place, held = todo.pop()
            if not held or held <= known.get(place, frozenset()):
                continue
            held = known[place] = held | known.get(place, frozenset())
            todo += [(there, held) for there in self.detours.beside.get(place, ())]
            effect, frame = self.at(place), self.frames.before(place)
            if effect is None or (frame.is_lost and cells(held)):
                kept.add(self._here(UNKNOWN, place))
                continue
            after = self._pass(place, effect, held, kept) | starts.get(place, frozenset())
            todo += self._next(place, effect, marked(after, effect, self.registers.second), kept)
        return settled(kept, ((self.at(at), row) for at, row in known.items()), self.registers)

    def _pass(self, place: Place, effect: Effect, held: Held, kept: set[Kept]) -> Held:
        """Return what holds the address after an instruction that is no branch."""
        frame = self.frames.before(place)
        spots = frame.operand(effect)
        given = {cell for cell in cells(held) if overlaps(cell, spots, size_bytes(effect))}
        values = effect.values & held
        if effect.system and (values or held & both(effect.through) or given):
            kept.add(self._here(TO_PROCESSOR, place))
        if effect.flow not in (Flow.NEXT, Flow.BRANCH):
            return held
        if effect.compares:
            if values and (effect.values - held or (effect.loads and not given)):
                kept.add(self._here(COMPARED, place))
            return held
        after = held - effect.writes - ways(effect.writes)
        if effect.copies:
            return after | self._copied(place, effect, held, kept)
        is_way = not held.isdisjoint(ways(effect.values))
        leading = {n for n in effect.values if TO + n in held or reaches(held, frame.leads(n))}
        if effect.stores and (values or leading):
            after |= held & both(effect.writes)
            if values or is_way:
                after |= filled(spots, size_bytes(effect), is_way=is_way)
                after |= {PUSHED} if effect.slot == PUSHED else set()
            if all(spot.base == STACK for spot in spots):
                return after
            is_inside = bool(effect.through & held) and not is_way
            if not (values or is_way):
                leads = frozenset().union(*(frame.leads(name) for name in leading))
                is_inside = {spot.base for spot in spots} <= {c.base for c in leads} - {""}
            if not is_inside:
                kept.add(self._stored(place, effect))
            return after
        if effect.loads and not values:
            is_through = effect.wide and not held.isdisjoint(ways(effect.through))
            is_pushed = effect.slot == PUSHED and PUSHED in held
            deep = is_through or any(cell.deep for cell in given)
            if is_pushed or is_through or any(is_read(c, spots, effect) for c in given):
                return after | (both(effect.writes) if deep else effect.writes)
            return after
        if effect.subtracts and len(values) > 1:
            return after  # a distance
        after |= effect.writes if values else set()
        return after | (ways(effect.writes) if is_way else set())

    def _copied(self, place: Place, effect: Effect, held: Held, kept: set[Kept]) -> Held:
        """Return what holds the address where an instruction copies memory; note where it goes."""
        frame, (source, to) = self.frames.before(place), effect.copies
        rows = {c for c in cells(held) if is_within(c, frame.sum_of({source}))}
        if not rows and TO + source not in held:
            return frozenset()
        deep = TO + source in held or any(cell.deep for cell in rows)
        goals = frame.sum_of({to})
        if any(goal.base != STACK for goal in goals):
            kept.add(self._here("is copied through a pointer in", place))
        return frozenset(Cell(STACK, None, deep) for goal in goals if goal.base == STACK)

    def _here(self, verb: str, place: Place) -> Kept:
        function = self.function_at(place)
        return Kept(verb, function, function, place)

    def _stored(self, place: Place, effect: Effect) -> Kept:
        """Return where an instruction stores."""
        target = self.target_at(place[0], effect.displacement_at)
        if target is None:
            return self._here("is stored through a pointer in", place)
        function = self.function_at(place)
        if target.section_index is None:
            return Kept(STORED, target.symbol.name, function, place)
        there = (target.section_index, target.offset)
        if self._is_own(there):
            return Kept(FILLED, "", function, there)
        name = self.function_at(there) or self.file.sections[there[0]].name
        return Kept(STORED, name, function, place)

    def _next(self, place: Place, effect: Effect, held: Held, kept: set[Kept]) -> _Todo:
        following = self.following(place, effect)
        if effect.flow is Flow.NEXT or self.resumes(place, effect):
            return [(following, held)]
        if effect.returns:
            return self._return(place, held, kept)
        name, there = self.branch(place, effect)
        if effect.flow is Flow.BRANCH:
            rows = [(following, held)]
            if there is not None and not self.frames.is_other(place, there):
                return [*rows, (there, held)]
            self._returns(place, self._called(place, (name, there), held, kept), kept)
            return rows
        if effect.flow is Flow.JUMP:
            if there is not None and not self.frames.is_other(place, there):
                return [(there, held)]
            if name == RETURN_THUNK:
                return self._return(place, held, kept)
            if THUNK.fullmatch(name):
                return self._anywhere(place, held, kept)
            self._returns(place, self._called(place, (name, there), held, kept), kept)
            return []
        if effect.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            returned = self._called(place, (name, there), held, kept)
            if ENDING.fullmatch(name) or self.is_last(place, following):
                return []
            spoiled = self.frames.spoiled(there)
            rest = held - both(spoiled) - {PUSHED, *(UNREAD + name for name in spoiled)}
            return [(following, rest | returned)]
        if effect.jumps:
            return self._anywhere(place, held, kept)
        if effect.flow is Flow.UNKNOWN:
            kept.add(self._here(UNKNOWN, place))
        return []

    def _return(self, place: Place, held: Held, kept: set[Kept]) -> _Todo:
        for name in (self.registers.result, self.registers.second):
            leads = self.frames.before(place).leads(name)
            if reaches(held, frozenset(cell for cell in leads if cell.base != STACK)):
                held |= {TO + name}
        self._returns(place, held, kept)
        return []

    def _returns(self, place: Place, held: Held, kept: set[Kept]) -> None:
        """Note what a function returns."""
        kept |= returned_by(self.function_at(place), held, self.registers)

    def _called(self, place: Place, callee: Callee, held: Held, kept: set[Kept]) -> Held:
        """Note what a callee keeps; return what holds the address behind the call only."""
        callees = self._tables.callees(place) or {callee}
        return frozenset().union(*(self._enter(place, row, held, kept) for row in callees))

    def _enter(self, place: Place, callee: Callee, held: Held, kept: set[Kept]) -> Held:
        name, there = callee
        if there is not None:
            name = self.names.get(there, "")
            if not (READER.fullmatch(name) or PASSING.fullmatch(name)):
                rows, returned = self._summary(there, self._passed(place, held) - {PUSHED})
                kept |= rows
                return returned
        return self._call(place, name, held, kept)

    def _passed(self, place: Place, held: Held) -> Held:
        """Return what holds the address when the function begins that is called at a place."""
        frame, registers = self.frames.before(place), self.registers
        names = frozenset(registers.arguments)
        result = set(held & (both(names) | {PUSHED}))
        places = {at._replace(deep=True) for at, leads in frame.pointers() if reaches(held, leads)}
        places |= cells(held)
        for name in registers.arguments:
            leads = frame.leads(name)
            for cell in places:
                result |= {Cell(name, d, cell.deep) for d in distances(cell, leads)}
        for cell in places:
            for distance in distances(cell, frame.leads(registers.stack)):
                if distance is not None and 0 <= distance < _ARGUMENT_BYTES_MAX:
                    result.add(Cell(STACK, distance + POINTER_BYTES, cell.deep))
        return frozenset(result)

    def _call(self, place: Place, name: str, held: Held, kept: set[Kept]) -> Held:
        """Note a call out of the object; return what holds the address behind it only."""
        frame, arguments = self.frames.before(place), self.registers.arguments
        passed = frozenset(row for row in self._passed(place, held) if register_of(row) != STACK)
        copied: Held = frozenset()
        if COPYING.fullmatch(name) and (
            TO + arguments[1] in held
            or any(is_within(cell, frame.leads(arguments[1])) for cell in cells(held))
        ):
            goals = frame.leads(arguments[0])
            if not PASSING.fullmatch(name) or any(goal.base != STACK for goal in goals):
                kept.add(Kept("is copied by", name, self.function_at(place), place))
            copied = frozenset({Cell(STACK, None, deep=True)})
        is_text = any(register_of(row) not in arguments[:_TEXT_ARGUMENT] for row in passed)
        if self._is_code and is_text and FORMATTING.fullmatch(name):
            kept.add(Kept("is written as text by", name, self.function_at(place), place))
        if not passed or READER.fullmatch(name):
            return frozenset()
        if PASSING.fullmatch(name):
            first, result = arguments[0], self.registers.result
            copied |= {result} if first in passed else set()
            return copied | ({TO + result} if TO + first in passed else set())
        if self._outside is not None and name not in CALLBACKS:
            is_kept, returned = self._outside().answer(name, passed)
            if not is_kept:
                return returned
        is_pointer = not name or THUNK.fullmatch(name)
        callee = "a function pointer" if is_pointer else name
        kept.add(Kept(PASSED, callee, self.function_at(place), place, passed=passed))
        return frozenset()

    def _anywhere(self, place: Place, held: Held, kept: set[Kept]) -> _Todo:
        """Go on behind a jump to what a register holds: in this function, or in another."""
        if self._tables.callees(place):
            self._returns(place, self._called(place, ("", None), held, kept), kept)
            return []
        self._call(place, "", held, kept)
        return [((place[0], start), held) for start in self.block(*place)]
