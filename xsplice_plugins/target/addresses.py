# SPDX-License-Identifier: Apache-2.0
"""Where an address goes that code takes: read through, or kept by somebody.

The way of the address is followed through registers, through named stack slots and into functions
of the same object. An address is *kept* where it is stored, passed to code that is not followed,
returned or compared with another: from there it may be found again at any later time. What is not
understood counts as kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.calls import (
    COPYING,
    ENDING,
    FORMATTING,
    PASSING,
    READER,
    RETURN_THUNK,
    THUNK,
)
from xsplice_plugins.target.code import Code, Place
from xsplice_plugins.target.machine import PUSHED, STACK, Effect, Flow
from xsplice_plugins.target.slots import has_slots, leads_to_slot, reads_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xsplice_plugins.target.references import References

_Todo = list[tuple[Place, frozenset[str]]]  #: instructions, and what holds the address before
_Question = tuple[Place, frozenset[str], bool, bool]
_STEPS_MAX = 5000  #: instructions of one function
_DEPTH_MAX = 40  #: functions that call each other
UNKNOWN = "goes where nobody can follow it in"
TO_PROCESSOR = "is given to the processor in"
COMPARED, RETURNED = "is compared in", "is returned by"


class Kept(NamedTuple):
    """What keeps an address."""

    verb: str  #: "is passed to", "is stored in", "is returned by", ...
    name: str  #: the callee, the variable, the function; "" if it is not known
    function: str  #: in which it happens
    at: tuple[int, ...] = ()  #: place of the instruction that stores or calls


class AddressFlow(Code):
    """The code of one object, as far as addresses travel in it."""

    def __init__(
        self,
        references: References,
        is_own: Callable[[Place], bool] = lambda _place: False,
        outside: Callable[[], AddressFlow] | None = None,
    ) -> None:
        """Follow addresses through what ``references`` describes.

        ``is_own`` tells of a place of the object whether storing there keeps nothing; ``outside``
        follows into what the object refers to by name.
        """
        super().__init__(references)
        self._outside = outside
        self._is_own = is_own
        self._summaries: dict[_Question, tuple[frozenset[Kept], bool]] = {}
        self._depth = 0
        self._is_code = False  #: what is followed is the address of a function
        self._is_pointer = False  #: what is followed are pointers that come from loading
        self._filled: set[Place] = set()  #: places of own data that the address was stored in

    def take_filled(self) -> set[Place]:
        """Return, and forget, the own places that what was followed was stored in."""
        filled, self._filled = self._filled, set()
        return filled

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
        self._is_pointer, self._is_code = is_pointer, is_code
        starts: dict[Place, frozenset[str]] = {}
        kept: set[Kept] = set()
        for field in fields:
            effect = self.around(*field)
            function = self.function_at(field)
            if effect is None:
                kept.add(Kept(UNKNOWN, function, function))
            elif effect.target is not None:
                continue  # a call or a jump
            elif effect.system and is_pointer:
                kept.add(Kept(TO_PROCESSOR, function, function, (field[0], effect.start)))
            elif field[1] == effect.displacement_at and not effect.takes:
                if is_pointer and effect.loads and effect.wide and effect.flow is Flow.NEXT:
                    starts[field[0], effect.start] = effect.writes
            elif field[1] != effect.displacement_at and effect.stores:
                kept.add(self._stored((field[0], effect.start), effect, function))
            else:
                starts[field[0], effect.start] = effect.writes
        return kept | self._walk(starts)

    def after_calls(self, places: Iterable[Place]) -> set[Kept]:
        """Return what keeps the value that the calls return whose fields are given."""
        self._is_pointer = self._is_code = False
        starts: dict[Place, frozenset[str]] = {}
        for place in places:
            effect = self.around(*place)
            if effect is not None and effect.flow is Flow.CALL:
                starts[place[0], effect.start] = frozenset({self.registers.result})
        return self._walk(starts)

    def answer(self, name: str, passed: frozenset[str], *, is_pointer: bool) -> tuple[bool, bool]:
        """Tell whether a function keeps what it is passed, and whether it returns it."""
        self._is_pointer, self._is_code = is_pointer, False
        start = self.starts.get(name)
        if start is None or PUSHED in passed:
            return True, False
        kept, is_returned = self._summary(start, passed)
        return any(row.verb != COMPARED for row in kept), is_returned

    def _summary(self, start: Place, passed: frozenset[str]) -> tuple[frozenset[Kept], bool]:
        """Return what a function keeps of what it is passed, and whether it returns it."""
        key = (start, passed, self._is_pointer, self._is_code)
        if key not in self._summaries:
            name = self.function_at(start)
            self._summaries[key] = (frozenset(), True)  # what a recursion sees
            if self._depth >= _DEPTH_MAX:
                return frozenset({Kept(UNKNOWN, name, name)}), False
            self._depth += 1
            rows = self._walk({}, [(start, passed)])
            self._depth -= 1
            kept = frozenset(row for row in rows if row.verb != RETURNED)
            self._summaries[key] = (kept, len(kept) != len(rows))
        return self._summaries[key]

    # ------------------------------------------------------------- the way

    def _walk(self, starts: dict[Place, frozenset[str]], todo: _Todo | None = None) -> set[Kept]:
        kept: set[Kept] = set()
        known: dict[Place, frozenset[str]] = {}
        todo = todo or [
            ((at[0], effect.end), held)
            for at, held in starts.items()
            if (effect := self.at(at)) is not None
        ]
        while todo:
            if len(known) > _STEPS_MAX:
                function = self.function_at(todo[0][0])
                return kept | {Kept(UNKNOWN, function, function)}
            place, held = todo.pop()
            if not held or held <= known.get(place, frozenset()):
                continue
            held = known[place] = held | known.get(place, frozenset())
            effect = self.at(place)
            if effect is None:
                kept.add(Kept(UNKNOWN, self.function_at(place), self.function_at(place)))
                continue
            after = self._pass(place, effect, held, kept) | starts.get(place, frozenset())
            todo += self._next(place, effect, after, kept)
        return kept

    def _pass(
        self, place: Place, effect: Effect, held: frozenset[str], kept: set[Kept]
    ) -> frozenset[str]:
        """Return what holds the address after an instruction that is no branch."""
        values = effect.values & held
        after = held - effect.writes
        is_read = values or effect.through & held or reads_slot(effect.slot, held)
        if effect.system and is_read:
            function = self.function_at(place)
            kept.add(Kept(TO_PROCESSOR, function, function, place))
        if effect.flow not in (Flow.NEXT, Flow.BRANCH):
            return held
        if effect.compares:
            if values and (effect.values - held or (effect.loads and effect.slot not in held)):
                kept.add(Kept(COMPARED, self.function_at(place), self.function_at(place)))
            return held
        if effect.takes and effect.slot:
            return after | effect.writes if has_slots(held) else after
        if values and effect.stores:
            if effect.slot:
                return after | {effect.slot}
            row = self._stored(place, effect, self.function_at(place))
            if not (effect.through & held and not self._is_pointer) and row.verb:
                kept.add(row)
            return after | (effect.writes & held)
        if effect.loads and not values:
            is_given = effect.slot in held or (effect.slot == STACK and has_slots(held))
            is_through = self._is_pointer and effect.wide and not effect.through.isdisjoint(held)
            is_given = is_given or is_through
            return after | effect.writes if is_given else after
        is_distance = effect.subtracts and len(values) > 1
        return after | effect.writes if values and not is_distance else after

    def _stored(self, place: Place, effect: Effect, function: str) -> Kept:
        """Return where an instruction stores; without a verb if that is the object's own."""
        target = self.targets(self.file.sections[place[0]]).get(effect.displacement_at)
        if target is None:
            return Kept("is stored through a pointer in", function, function, place)
        if target.section_index is None:
            return Kept("is stored in", target.symbol.name, function, place)
        there = (target.section_index, target.offset)
        if self._is_own(there):
            self._filled.add(there)
            return Kept("", "", function)
        name = self.function_at(there) or self.file.sections[there[0]].name
        return Kept("is stored in", name, function, place)

    def _next(self, place: Place, effect: Effect, held: frozenset[str], kept: set[Kept]) -> _Todo:
        section = place[0]
        following = (section, effect.end)
        if effect.flow is Flow.NEXT or self.resumes(place, effect):
            return [(following, held)]
        if effect.returns:
            return self._return(place, held, kept)
        name, there = self.branch(place, effect)
        if effect.flow is Flow.BRANCH:
            rows = [(following, held)]
            if there is None:
                self._call(place, name, held, kept)
                return rows
            return [*rows, (there, held)]
        if effect.flow is Flow.JUMP:
            if there is not None:
                return [(there, held)]
            if name == RETURN_THUNK:
                return self._return(place, held, kept)
            if THUNK.fullmatch(name):
                return self._anywhere(place, held, kept)
            self._call(place, name, held, kept)
            return []
        if effect.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            return self._called(following, place, name, there, held, kept)
        if effect.jumps:
            return self._anywhere(place, held, kept)
        if effect.flow is Flow.UNKNOWN:
            kept.add(Kept(UNKNOWN, self.function_at(place), self.function_at(place)))
        return []

    def _return(self, place: Place, held: frozenset[str], kept: set[Kept]) -> _Todo:
        if self.registers.result in held:
            function = self.function_at(place)
            kept.add(Kept(RETURNED, function, function))
        return []

    def _called(
        self,
        following: Place,
        place: Place,
        name: str,
        there: Place | None,
        held: frozenset[str],
        kept: set[Kept],
    ) -> _Todo:
        registers = self.registers
        held |= self._pointers(place, held)
        passed = held & {*registers.arguments, PUSHED}
        rest = held - registers.scratch - {PUSHED}
        if there is not None:
            name = self.names.get(there, "")
            if not (READER.fullmatch(name) or PASSING.fullmatch(name)):
                rows, is_returned = self._summary(there, passed - {PUSHED})
                kept |= rows
                rest = rest | {registers.result} if is_returned else rest
                return [] if self._is_last(place, following) else [(following, rest)]
        if self._call(place, name, held, kept):
            rest |= {registers.result}
        is_last = ENDING.fullmatch(name) or self._is_last(place, following)
        return [] if is_last else [(following, rest)]

    def _pointers(self, place: Place, held: frozenset[str]) -> frozenset[str]:
        """Return the arguments of a call that lead to where the stack holds the address."""
        if not has_slots(held):
            return frozenset()
        rows, stack = self.block(*place), self.registers.stack
        arguments = self.registers.arguments
        return frozenset(r for r in arguments if leads_to_slot(rows, place[1], r, stack, held))

    def _is_last(self, place: Place, following: Place) -> bool:
        """Tell whether a function ends behind a call, which then does not return."""
        return self.ends.get(following, place[1] + 1) <= place[1] and not any(
            start <= place[1] and following[1] < end[1]
            for end, start in self.ends.items()
            if end[0] == place[0]
        )

    def _call(self, place: Place, name: str, held: frozenset[str], kept: set[Kept]) -> bool:
        """Note a call out of the object; tell whether it returns what it is passed."""
        passed = held & {*self.registers.arguments, PUSHED}
        is_source = self.registers.arguments[1] in held
        is_memory = self._is_pointer or has_slots(held)
        if is_source and is_memory and COPYING.fullmatch(name):
            kept.add(Kept("is copied by", name, self.function_at(place), place))
        if passed and self._is_code and FORMATTING.fullmatch(name):
            kept.add(Kept("is written as text by", name, self.function_at(place), place))
        if not passed or READER.fullmatch(name):
            return False
        if PASSING.fullmatch(name):
            return True
        if self._outside is not None:
            is_kept, is_returned = self._outside().answer(name, passed, is_pointer=self._is_pointer)
            if not is_kept:
                return is_returned
        is_pointer = not name or THUNK.fullmatch(name)
        callee = "a function pointer" if is_pointer else name
        kept.add(Kept("is passed to", callee, self.function_at(place), place))
        return False

    def _anywhere(self, place: Place, held: frozenset[str], kept: set[Kept]) -> _Todo:
        """Go on behind a jump to what a register holds: in this function, or in another."""
        self._call(place, "", held, kept)
        return [((place[0], start), held) for start in self.block(*place)]
