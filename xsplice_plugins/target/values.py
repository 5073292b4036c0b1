# SPDX-License-Identifier: Apache-2.0
"""What registers hold for sure, on every path that leads to an instruction.

The counterpart of `addresses`, which tells where an address may go: here a value is exactly known,
or a value of its own that equals no other.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.target.calls import RETURN_THUNK
from xsplice_plugins.target.machine import STACK, Effect, Flow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.target.code import Code, Place
    from xsplice_plugins.target.references import Target

_FLAGS = "flags"
JOINED = "join"  #: part of the base of a value that differs between the ways to an instruction
_STEPS_MAX = 20000
POINTER_BYTES = 8


class Loaded(NamedTuple):
    """What memory holds at a place."""

    base: Hashable
    offset: int
    size_bytes: int
    at: Place  #: the instruction that loads it


class Value(NamedTuple):
    """A number or an address.

    ``base`` is a section's index for an own address, a name for one of the image, ``None`` for a
    number, a `Loaded` for what was read from memory, and anything else for what is not known.
    """

    base: Hashable
    offset: int

    @property
    def is_known(self) -> bool:
        """Tell whether it is a number or the address of something that has a name or place."""
        return self.base is None or isinstance(self.base, (int, str))


class Test(NamedTuple):
    """Two values that were compared."""

    left: Value
    right: Value


State = dict[str, Hashable]


class Step(NamedTuple):
    """An instruction with what holds before it."""

    place: Place
    effect: Effect
    state: State
    next: tuple[Place, ...]  #: a branch: first where it goes to, then the following one
    callee: str  #: the name of what it calls or jumps to out of the payload
    inner: Place | None  #: the own function that it calls
    leaves: bool  #: it returns, or nobody knows where it goes

    def value(self, register: str) -> Value:
        """Return what a register holds before the instruction."""
        value = self.state.get(register)
        return value if isinstance(value, Value) else Value(("before", register), 0)


class ValueFlow:
    """The values of one object's code."""

    def __init__(self, code: Code) -> None:
        """Ask ``code`` for instructions and what they refer to."""
        self._code = code
        self._registers = code.registers
        self._known: dict[tuple[Place, frozenset[tuple[str, Value]]], dict[Place, Step]] = {}

    def steps(self, start: Place, given: Mapping[str, Value] | None = None) -> dict[Place, Step]:
        """Return all instructions that run from a place on, calls left out.

        Args:
            start: Where a function starts.
            given: What registers hold there.

        Returns:
            Steps by place; empty if there are too many.
        """
        key = (start, frozenset((given or {}).items()))
        if key not in self._known:
            self._known[key] = self._run(start, dict(given or {}))
        return self._known[key]

    def _run(self, start: Place, given: State) -> dict[Place, Step]:
        before: dict[Place, State] = {start: given}
        steps: dict[Place, Step] = {}
        todo = [start]
        count = 0
        while todo:
            place = todo.pop()
            count += 1
            effect = self._code.at(place)
            if count > _STEPS_MAX:
                return {}
            if effect is None:
                steps[place] = Step(place, _nothing(place), {}, (), "", None, leaves=True)
                continue
            step = steps[place] = self._step(place, effect, before[place])
            after = self._after(step)
            for following in step.next:
                joined = _join(following, before.get(following), after)
                if joined != before.get(following):
                    before[following] = joined
                    todo.append(following)
        return steps

    def _step(self, place: Place, effect: Effect, state: State) -> Step:
        following = (place[0], effect.end)
        name, there = "", None
        if effect.target is not None and effect.flow is not Flow.NEXT:
            name, there = self._code.branch(place, effect)
        if effect.flow is Flow.NEXT or self._code.resumes(place, effect):
            return Step(place, effect, state, (following,), "", None, leaves=False)
        if effect.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            return Step(place, effect, state, (following,), name, there, leaves=False)
        if effect.flow is Flow.BRANCH:
            rows = (there, following) if there is not None else (following,)
            return Step(place, effect, state, rows, name, None, leaves=there is None)
        if effect.flow is Flow.JUMP and there is not None:
            return Step(place, effect, state, (there,), "", None, leaves=False)
        is_trap = effect.flow is Flow.LEAVE and not (effect.returns or effect.jumps)
        name = "" if name == RETURN_THUNK else name
        return Step(place, effect, state, (), name, None, leaves=not is_trap)

    def spot(self, step: Step) -> Value | None:
        """Return the place in memory that an instruction reads or writes; None if it has none."""
        effect, place = step.effect, step.place
        if not effect.memory_bytes and not effect.takes:
            return None
        target = self._code.target_at(place[0], effect.displacement_at)
        if target is not None:
            if effect.through - {effect.base} or effect.base != self._registers.counter:
                return None
            return _address(target)
        if effect.slot.startswith(STACK) or effect.base in ("", self._registers.counter):
            return None
        base = step.value(effect.base)
        return Value(base.base, base.offset + effect.displacement)

    def stored(self, step: Step) -> Value | None:
        """Return the pointer that a plain store or a swap writes; None for other instructions."""
        effect = step.effect
        is_plain = effect.moves and effect.stores
        if not (is_plain or effect.swaps) or effect.memory_bytes != POINTER_BYTES:
            return None
        constant = self._constant(step)
        if constant is not None:
            return constant
        return step.value(next(iter(effect.values))) if len(effect.values) == 1 else None

    def _constant(self, step: Step) -> Value | None:
        effect, section = step.effect, step.place[0]
        for at in range(effect.start, effect.end):
            target = self._code.target_at(section, at)
            if target is not None and at != effect.displacement_at:
                return _address(target)
        return Value(None, effect.number) if effect.number is not None else None

    def _after(self, step: Step) -> State:
        effect, place = step.effect, step.place
        state = dict(step.state)
        if effect.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            for register in self._registers.scratch:
                state[register] = Value(("set", place, register), 0)
            state.pop(_FLAGS, None)
            return state
        if not effect.keeps_flags:
            state.pop(_FLAGS, None)
        if effect.compares:
            test = self._test(step)
            if test is not None:
                state[_FLAGS] = test
            return state
        written = self._written(step)
        for register in effect.writes:
            state[register] = Value(("set", place, register), 0)
        if written is not None and len(effect.writes) == 1:
            state[next(iter(effect.writes))] = written
        return state

    def _written(self, step: Step) -> Value | None:
        effect = step.effect
        if effect.stores:
            return None
        if effect.takes:
            return self.spot(step)
        if effect.adds and len(effect.values) == 1:
            constant = self._constant(step)
            if constant is None or constant.base is not None:
                return constant  # arm64: the lower part of an address
            value = step.value(next(iter(effect.values)))
            return Value(value.base, value.offset + constant.offset)
        if not effect.moves:
            return None
        if effect.loads:
            return self._loaded(step)
        constant = self._constant(step)
        if constant is not None:
            return constant
        return step.value(next(iter(effect.values))) if len(effect.values) == 1 else None

    def _loaded(self, step: Step) -> Value | None:
        spot = self.spot(step)
        if spot is None:
            return None
        size_bytes = step.effect.memory_bytes
        return Value(Loaded(spot.base, spot.offset, size_bytes, step.place), 0)

    def _test(self, step: Step) -> Test | None:
        effect = step.effect
        values = [step.value(register) for register in effect.values]
        if effect.loads:
            loaded = self._loaded(step)
            values += [loaded] if loaded is not None else []
        constant = self._constant(step)
        values += [constant] if constant is not None else []
        if effect.both:  # `test`: of one register with itself
            return Test(values[0], Value(None, 0)) if len(values) == 1 else None
        return Test(*values) if len(values) == 2 else None


def test_of(step: Step) -> Test | None:
    """Return what was compared before a branch that asks for equality; None if that is unknown."""
    test = step.state.get(_FLAGS)
    return test if isinstance(test, Test) and step.effect.equal is not None else None


def _address(target: Target) -> Value:
    index, offset, symbol = target
    return Value(symbol.name if index is None else index, offset)


def _join(place: Place, known: State | None, new: State) -> State:
    if known is None:
        return new
    result: State = {}
    for register in known.keys() | new.keys():
        if known.get(register) == new.get(register):
            result[register] = known[register]
        elif register != _FLAGS:
            result[register] = Value((JOINED, place, register), 0)
    return result


def _nothing(place: Place) -> Effect:
    return Effect(start=place[1], end=place[1], flow=Flow.UNKNOWN)
