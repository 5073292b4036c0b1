# SPDX-License-Identifier: Apache-2.0
"""Calls through the object's own constant tables of functions: who may be called there."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from xsplice_plugins.target.calls import THUNK
from xsplice_plugins.target.frames import POINTER_BYTES
from xsplice_plugins.target.machine import CALLS, Effect, Flow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.code import Code, Place
    from xsplice_plugins.target.references import Target

_DEPTH_MAX = 16  #: registers that get their value from others
_EXCEPTIONS = ".ex_table"

Callee = tuple[str, "Place | None"]  #: (name, None) outside the object, or ("", place)
Callees = frozenset[Callee]
_Sources = frozenset["int | Callee"]  #: sections of constants, and functions that code names
_NOBODY: Callees = frozenset()


def _is_constant(section: Section) -> bool:
    """Tell whether a section holds what is loaded and never written."""
    return section.is_alloc and not section.is_write and not section.is_exec


class Tables:
    """Finds calls whose target comes from a constant of the object on each way."""

    def __init__(self, code: Code) -> None:
        """Ask ``code`` for instructions."""
        self._code = code
        self._known: dict[Place, Callees] = {}

    def callees(self, place: Place) -> Callees:
        """Return whom an indirect call or jump may lead to; empty if that is not known.

        A compiler may put an index before the table, so all functions that constants of the
        table's section name are meant.
        """
        if place not in self._known:
            self._known[place] = self._functions(self._sources(place))
        return self._known[place]

    def _sources(self, place: Place) -> _Sources:
        """Return where the target of an indirect branch surely comes from."""
        code, effect = self._code, self._code.at(place)
        if effect is None or not self._has_tables:
            return frozenset()
        thunk = THUNK.fullmatch(code.branch(place, effect)[0])
        if thunk is None and effect.flow is not Flow.INDIRECT_CALL and not effect.jumps:
            return frozenset()
        before = self._before(place)
        if before is None:
            return frozenset()
        values = _Values(code, before)
        if thunk is None and effect.loads and effect.through:
            return values.table(place, effect, 0) or frozenset()
        registers = effect.values - {code.registers.stack}
        registers = registers if thunk is None else frozenset({thunk[1].upper()})
        row = values.loaded(next(iter(registers)), place, 0) if len(registers) == 1 else None
        return row or frozenset()

    def _functions(self, sources: _Sources) -> Callees:
        found: set[Callee] = set()
        for source in sources:
            if isinstance(source, int):
                section = self._code.file.sections[source]
                rows = (_callee(self._code, t) for t in self._code.targets(section).values())
                found |= {row for row in rows if row is not None}
            else:
                found.add(source)
        is_plain = all(there is None or there in self._code.names for _, there in found)
        return frozenset(found) if is_plain else _NOBODY

    def _before(self, asked: Place) -> dict[Place, list[Place]] | None:
        """Return the instructions before each around one; None if others may lead there too."""
        code, start = self._code, self._code.start_of(asked)
        before: dict[Place, list[Place]] = {start: []}
        todo = [] if start in self._entered else [start]
        while todo:
            place = todo.pop()
            effect = code.at(place)
            if effect is None or code.start_of(place) != start:
                continue
            name, there = code.branch(place, effect)
            is_thunk = effect.flow is Flow.JUMP and THUNK.fullmatch(name) is not None
            if effect.flow is Flow.UNKNOWN or (place != asked and (is_thunk or effect.jumps)):
                return None  # it may lead to a label
            ahead = []
            if effect.flow not in (Flow.JUMP, Flow.LEAVE) or code.resumes(place, effect):
                ahead.append((place[0], effect.end))
            if there is not None and effect.flow in (Flow.BRANCH, Flow.JUMP):
                ahead.append(there)
            todo += [at for at in ahead if at not in before]
            for at in ahead:
                before.setdefault(at, []).append(place)
        return before if asked in before else None

    @cached_property
    def _has_tables(self) -> bool:
        """Tell whether constants of the object hold addresses at all."""
        code = self._code
        return any(code.targets(row) for row in code.file.sections if _is_constant(row))

    @cached_property
    def _entered(self) -> set[Place]:
        """Return where functions start that are led into the middle of otherwise than by a jump."""
        code = self._code
        found: set[Place] = set()
        for index, effect in code.instructions():
            place = (index, effect.start)
            _, there = code.branch(place, effect)
            if there is not None and there != (home := code.start_of(there)):
                is_within = home == code.start_of(place) and effect.flow not in CALLS
                found |= set() if is_within else {home}
        for section in code.file.sections:
            if section.name.startswith(_EXCEPTIONS):
                for target in code.targets(section).values():
                    if target.section_index is not None:
                        found.add(code.start_of((target.section_index, target.offset)))
        return found


class _Values:
    """Where registers of one function get their values."""

    def __init__(self, code: Code, before: dict[Place, list[Place]]) -> None:
        self._code, self._before = code, before

    def loaded(self, register: str, place: Place, depth: int) -> _Sources | None:
        """Return where the function that a register holds surely comes from."""
        found: _Sources = frozenset()
        for at in self._written(register, place, depth):
            effect = self._code.at(at) if at is not None else None
            row: _Sources | None = None
            if at is not None and effect is not None and effect.takes:
                target = self._code.target_at(at[0], effect.displacement_at)
                callee = _callee(self._code, target) if target is not None else None
                row = frozenset({callee}) if callee is not None else None
            elif at is not None and effect is not None and effect.moves:
                if effect.loads:
                    is_whole = effect.memory_bytes == POINTER_BYTES
                    row = self.table(at, effect, depth) if is_whole else None
                elif len(effect.values) == 1:
                    row = self.loaded(next(iter(effect.values)), at, depth + 1)
            if row is None:
                return None
            found |= row
        return found

    def table(self, place: Place, effect: Effect, depth: int) -> _Sources | None:
        """Return the sections of constants that a memory operand surely lies in."""
        there = self._constant(self._code.target_at(place[0], effect.displacement_at))
        if there is not None:
            return there
        registers = sorted(effect.values if effect.takes else effect.through)
        return self._first(registers, place, depth)

    def _first(self, registers: Iterable[str], place: Place, depth: int) -> _Sources | None:
        rows = (self._leads(register, place, depth + 1) for register in registers)
        return next((row for row in rows if row is not None), None)

    def _leads(self, register: str, place: Place, depth: int) -> _Sources | None:
        """Return the sections of constants that a register surely leads into."""
        found: _Sources = frozenset()
        for at in self._written(register, place, depth):
            effect = self._code.at(at) if at is not None else None
            row: _Sources | None = None
            if at is not None and effect is not None:
                if effect.takes:
                    row = self.table(at, effect, depth)
                elif not effect.loads and (effect.adds or (effect.moves and effect.values)):
                    row = self._first(sorted(effect.values), at, depth)
            if row is None:
                return None
            found |= row
        return found

    def _constant(self, target: Target | None) -> _Sources | None:
        if target is None or target.section_index is None:
            return None
        is_there = _is_constant(self._code.file.sections[target.section_index])
        return frozenset({target.section_index}) if is_there else None

    def _written(self, register: str, place: Place, depth: int) -> list[Place | None]:
        """Return where a register was last written, on each way; None for one that is not known."""
        code, before, start = self._code, self._before, self._code.start_of(place)
        if depth > _DEPTH_MAX:
            return [None]
        found: set[Place | None] = set()
        todo, seen = [place], {place}
        while todo:
            here = todo.pop()
            if here == start or not before.get(here):
                found.add(None)
            for at in before.get(here, ()):
                effect = code.at(at)
                assert effect is not None, "it has a next one"
                if effect.flow in CALLS and register in code.registers.scratch:
                    found.add(None)
                elif register in effect.writes:
                    found.add(at)
                elif at not in seen:
                    seen.add(at)
                    todo.append(at)
        return sorted(found, key=lambda at: at or (-1, -1))


def _callee(code: Code, target: Target) -> Callee | None:
    """Return the function that an address leads to, if it may be one."""
    if target.section_index is None:
        name = target.symbol.name  # a payload's own, if it replaces that function
        return name, code.starts.get(name)
    is_code = code.file.sections[target.section_index].is_exec
    return ("", (target.section_index, target.offset)) if is_code else None
