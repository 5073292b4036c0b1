# SPDX-License-Identifier: Apache-2.0
"""What registers may hold of variables: their addresses, and words that were loaded from them.

All code that runs from some functions on is walked once, into functions of the same object too.
What may be held adds up where ways meet; what has been settled (tested or set) must be so on each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.calls import ENDING, RETURN_THUNK, THUNK
from xsplice_plugins.target.machine import CALLS, PUSHED, Flow

if TYPE_CHECKING:
    from xsplice_plugins.target.code import Code, Place
    from xsplice_plugins.target.machine import Effect

_STEPS_MAX = 200_000
#: Returns the variable that an instruction refers to, if it does.
Variable = Callable[["Place", "Effect"], Hashable | None]


def _no_variable(_place: Place, _effect: Effect) -> None:
    """Find no variable."""


class Carry(NamedTuple):
    """Something of a variable."""

    variable: Hashable
    is_address: bool  #: its address; else a word that it held
    is_summand: bool = False  #: the word was added to another value


Held = frozenset[Carry]
_NOTHING: Held = frozenset()
_GIVEN = "given"  #: the variable that stands for an argument


class State(NamedTuple):
    """What holds before an instruction."""

    held: Mapping[str, Held]  #: by register
    settled: frozenset[Hashable]  #: variables that were tested or set on each way

    def of(self, registers: Iterable[str], *, is_address: bool) -> set[Hashable]:
        """Return the variables of which registers hold the address, or else a word."""
        rows = (carry for name in registers for carry in self.held.get(name, ()))
        return {row.variable for row in rows if row.is_address is is_address}


class At(NamedTuple):
    """One instruction on the way."""

    place: Place
    effect: Effect
    state: State
    name: str  #: of what it calls or jumps to out of the object
    inner: Place | None  #: where it calls or jumps to in the object


class Carried:
    """The walks through the code of one object."""

    def __init__(
        self,
        code: Code,
        memory: Variable,
        constant: Variable = _no_variable,
        *,
        is_local: bool = False,
        is_narrow: bool = False,
    ) -> None:
        """Walk through ``code``.

        ``memory`` finds what an instruction's memory operand is part of, ``constant`` what its
        constant is the address of. ``is_local``: other functions than those where a walk starts
        are not entered; ``is_narrow``: nor are those that get nothing of a variable.
        """
        self.code = code
        self.is_cut = False  #: a walk was too long
        self._memory, self._constant, self._is_local = memory, constant, is_local
        self._is_narrow = is_narrow
        self._registers = code.registers
        self._walks: dict[tuple[tuple[Place, ...], str], dict[Place, State]] = {}
        self._sets: dict[Place, frozenset[Hashable]] = {}

    def follows(self, start: Place, argument: str) -> bool:
        """Tell whether a function uses an argument as an address, and does not test it before."""
        return any(
            _GIVEN in self.used(row) - row.state.settled for row in self.walk([start], argument)
        )

    def walk(self, starts: Iterable[Place], given: str = "") -> Iterator[At]:
        """Return each instruction that runs from some functions on, with what holds before.

        ``given``: the argument that is asked for, if any.
        """
        for place, state in self._states(tuple(sorted(set(starts))), given).items():
            effect = self.code.at(place)
            if effect is not None:
                yield At(place, effect, state, *self._goal(place, effect))

    def names(self, row: At) -> set[Hashable]:
        """Return the variables in whose memory an instruction reads or writes."""
        direct = self._memory(row.place, row.effect)
        found = row.state.of(row.effect.through, is_address=True)
        return found if direct is None else found | {direct}

    def stored(self, row: At) -> set[Hashable]:
        """Return the variables that an instruction writes."""
        effect = row.effect
        is_elsewhere = effect.flow is not Flow.NEXT or PUSHED in effect.writes
        if not effect.stores or is_elsewhere:
            return set()
        if effect.copies:
            return row.state.of(effect.copies[1:], is_address=True)
        return self.names(row)

    def filled(self, row: At) -> set[Hashable]:
        """Return the variables that an instruction sets to something, or whose address leaves."""
        is_cleared = row.effect.moves and row.effect.number == 0
        return self.handed(row) | (set() if is_cleared else self.stored(row))

    def used(self, row: At) -> set[Hashable]:
        """Return the variables of which an instruction uses a word as an address."""
        effect, state = row.effect, row.state
        names = frozenset() if effect.takes else effect.through - {effect.scaled}
        if self._registers.stack in names:
            names = frozenset()
        # Beside an address, what the other register holds is a number.
        names = frozenset(n for n in names if not state.of(names - {n}, is_address=True))
        if effect.flow is Flow.INDIRECT_CALL or effect.jumps:
            names |= effect.values
        thunk = THUNK.fullmatch(row.name)
        if thunk is not None:
            names |= {thunk[1].upper()}
        words = {carry for name in names for carry in state.held.get(name, ())}
        found = {row.variable for row in words if not (row.is_address or row.is_summand)}
        is_open = effect.flow is Flow.INDIRECT_CALL or effect.jumps
        return found | (self.names(row) if is_open and effect.loads else set())

    def handed(self, row: At) -> set[Hashable]:
        """Return the variables whose addresses leave: to other code, or into memory."""
        effect, state = row.effect, row.state
        if effect.returns or row.name == RETURN_THUNK:
            return state.of((self._registers.result,), is_address=True)
        if effect.flow in CALLS or effect.jumps or row.name:
            return state.of(self._registers.arguments, is_address=True) if not row.inner else set()
        if not effect.stores:
            return set()
        constant = self._constant(row.place, effect)
        found = set() if constant is None else {constant}
        return found | state.of(effect.values, is_address=True)

    # ------------------------------------------------------------- the walk

    def _states(self, starts: tuple[Place, ...], given: str) -> dict[Place, State]:
        if (starts, given) in self._walks:
            return self._walks[starts, given]
        held = {given: frozenset({Carry(_GIVEN, is_address=False)})} if given else {}
        before = dict.fromkeys(starts, State(held, frozenset()))
        todo = list(starts)
        count = 0
        while todo and count < _STEPS_MAX:
            count += 1
            place = todo.pop()
            effect = self.code.at(place)
            if effect is None:
                continue
            row = At(place, effect, before[place], *self._goal(place, effect))
            for there, state in self._next(row):
                joined = _join(before.get(there), state)
                if joined != before.get(there):
                    before[there] = joined
                    todo.append(there)
        self.is_cut |= bool(todo)
        self._walks[starts, given] = before
        return before

    def _goal(self, place: Place, effect: Effect) -> tuple[str, Place | None]:
        is_flow = effect.target is not None and effect.flow is not Flow.NEXT
        return self.code.branch(place, effect) if is_flow else ("", None)

    def _next(self, row: At) -> Iterator[tuple[Place, State]]:
        code, effect = self.code, row.effect
        for there in code.detours.beside.get(row.place, ()):
            yield there, row.state
        following = code.following(row.place, effect)
        after = self._after(row)
        if effect.flow in CALLS:
            passed = self._passed(row.state)
            if row.inner is not None and self._is_entered(passed):
                yield row.inner, passed
            if row.inner is not None and not (self._is_local or self._is_narrow):
                after = after._replace(settled=after.settled | self._set_by(row.inner))
            if not (ENDING.fullmatch(row.name) or code.is_last(row.place, following)):
                yield following, after
        elif effect.flow in (Flow.BRANCH, Flow.JUMP):
            if row.inner is not None and (self._is_entered(after) or not self._is_other(row)):
                yield row.inner, after
            if effect.flow is Flow.BRANCH:
                yield following, after
        elif effect.flow is Flow.NEXT or code.resumes(row.place, effect):
            yield following, after
        elif effect.jumps:  # by a table: to anywhere in this function
            for start in code.block(*row.place):
                yield (row.place[0], start), after

    def _is_entered(self, passed: State) -> bool:
        return not self._is_local and (bool(passed.held) or not self._is_narrow)

    def _is_other(self, row: At) -> bool:
        """Tell whether a branch leads to the start of another function, and not of its part."""
        name = self.code.names.get(row.inner or row.place, "")
        own = self.code.names.get(self.code.start_of(row.place), "").partition(".cold")[0]
        return bool(name) and name.partition(".cold")[0] != own

    def _passed(self, state: State) -> State:
        names = self._registers.arguments
        return state._replace(held={n: state.held[n] for n in names if n in state.held})

    def _set_by(self, start: Place) -> frozenset[Hashable]:
        """Return what a function of the object may set."""
        if start not in self._sets:
            self._sets[start] = frozenset()  # what a recursion sees
            rows = [self.filled(row) for row in self.walk([start])]
            self._sets[start] = frozenset().union(*rows)
        return self._sets[start]

    def _after(self, row: At) -> State:
        effect, state = row.effect, row.state
        settled = state.settled
        if effect.compares or effect.equal is not None:
            settled |= state.of(effect.values, is_address=False) | self.names(row)
        settled |= self.filled(row)
        gone = effect.writes | (self._registers.scratch if effect.flow in CALLS else frozenset())
        if not gone or effect.compares:
            return State(state.held, settled)
        held = {name: rows for name, rows in state.held.items() if name not in gone}
        written = self._written(row) if effect.flow is Flow.NEXT else _NOTHING
        return State(held | (dict.fromkeys(effect.writes, written) if written else {}), settled)

    def _written(self, row: At) -> Held:
        """Return what an instruction puts into the registers that it writes."""
        effect, state = row.effect, row.state
        carries = effect.moves or effect.takes or effect.adds or effect.picks
        kept = effect.values if carries else effect.values & effect.writes
        if effect.stores or not (carries or effect.subtracts):
            return _NOTHING
        found = {carry for name in kept for carry in state.held.get(name, ())}
        direct = self._memory(row.place, effect)
        if effect.takes:
            found |= {Carry(direct, is_address=True)} if direct is not None else set()
        elif effect.loads and effect.wide:
            found |= {Carry(v, is_address=False, is_summand=effect.adds) for v in self.names(row)}
        constant = self._constant(row.place, effect)
        if constant is not None:
            found.add(Carry(constant, is_address=True))
        is_sum = len(effect.values) > 1 and (effect.adds or effect.takes)
        if is_sum and (effect.scaled or any(carry.is_address for carry in found)):
            return frozenset(carry._replace(is_summand=not carry.is_address) for carry in found)
        return frozenset(found)


def _join(known: State | None, new: State) -> State:
    if known is None:
        return new
    held = dict(known.held)
    for name, rows in new.held.items():
        held[name] = held.get(name, _NOTHING) | rows
    return State(held, known.settled & new.settled)
