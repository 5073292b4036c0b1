# SPDX-License-Identifier: Apache-2.0
"""What code and data that only boot uses do with new things: call them, hand them on, set them.

Boot is over, so nobody does it on a host that runs. A new function that the payload brings is
never called then, and a new variable keeps its first value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.diff.parts import EXTERNAL, Part, PartKind, is_compiler_named
from xsplice_plugins.target.code import Code
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.parts import Edge
    from xsplice_plugins.target.code import Place

#: The records of the command line's parameters: without one, nobody uses what its record names.
#: Source: xen/include/xen/param.h.
_PARAMETERS = ".init.setup"


class Uses(NamedTuple):
    """Decorated names of new things, and names of other objects, sorted."""

    calls: tuple[str, ...] = ()
    hands: tuple[str, ...] = ()  #: whose address it holds, stores or passes
    sets: tuple[str, ...] = ()  #: variables that it stores to, or hands on


class Handed:
    """The uses of one new object. What it finds once it keeps."""

    def __init__(self, canon: Canon, is_boot: Callable[[Part], bool]) -> None:
        """Look into the new side of ``canon``; ``is_boot`` tells parts that boot alone uses."""
        self._canon, self._is_boot = canon, is_boot
        self._parts = canon.new
        self._code = Code(canon.new.references)
        self._users = self._all_users()

    def by(self, number: int) -> Uses:
        """Return what a part of boot does, and new code that it calls.

        What a function stores that only a parameter of the command line calls is left out: whether
        it would have run is for a person to say.
        """
        found: tuple[set[str], set[str], set[str]] = (set(), set(), set())
        todo, seen = [number], {number}
        while todo:
            at = todo.pop()
            for edge, target, kinds in self._edges(at):
                name = edge.name or self._parts.all[target].decorated
                for kind in kinds:
                    found[kind].add(name)
                if kinds == (0,) and target not in {EXTERNAL, *seen} and self._is_lasting(target):
                    seen.add(target)
                    todo.append(target)
        sets = set() if found[2] and self._is_by_parameter(number) else found[2]
        return Uses(*(tuple(sorted(names)) for names in (*found[:2], sets)))

    def left(self) -> set[int]:
        """Return new statics that run-time code would know only by what boot left of them.

        These are data, and functions whose address boot code takes, that nothing but boot code, or
        another one of them, refers to. What is only called, or made by the compiler, is not among
        them.
        """
        parts = self._parts
        rows = {n: users for n, users in self._users.items() if self._is_static(parts.all[n])}
        taken = {
            number
            for number, users in rows.items()
            if parts.all[number].kind is PartKind.DATA
            or any(not self._is_branch(place) for _, place in users)
        }
        found = set(rows)
        while True:
            used = {
                number
                for number in found
                if not all(n in found or self._is_boot(parts.all[n]) for n, _ in rows[number])
            }
            if not used:
                return found & taken
            found -= used

    def _edges(self, number: int) -> Iterator[tuple[Edge, int, tuple[int, ...]]]:
        """Return what a part refers to that is new, or of another object, and what it does."""
        parts = self._parts
        for piece in parts.pieces.get(number, (number,)):
            part = parts.all[piece]
            for edge in parts.edges(part):
                target = parts.owner.get(edge.part, edge.part)
                if target == EXTERNAL or (target != number and self._is_new(target)):
                    yield edge, target, self._kinds(part, edge)

    def _kinds(self, user: Part, edge: Edge) -> tuple[int, ...]:
        if not self._parts.file.sections[user.section].is_exec:
            return () if user.section_name == _PARAMETERS else (1,)
        at = user.offset + edge.offset
        effect = self._code.around(user.section, at)
        if effect is None:
            return (1, 2)
        if self._is_branch((user.section, at)):
            return (0,)
        if effect.displacement_at == at and not effect.takes and (effect.loads or effect.stores):
            return (2,) if effect.stores else ()
        return (1, 2)

    def _all_users(self) -> dict[int, list[tuple[int, Place]]]:
        """Return who refers to each part, and where; branches within a section do not count."""
        parts = self._parts
        users: dict[int, list[tuple[int, Place]]] = {}
        for user in list(parts.all):
            if user.section_class is SectionClass.IGNORED:
                continue
            owner = parts.owner.get(user.number, user.number)
            for edge in parts.edges(user):
                target = parts.owner.get(edge.part, edge.part)
                if target not in (EXTERNAL, owner):
                    place = (user.section, user.offset + edge.offset)
                    users.setdefault(target, []).append((owner, place))
        return users

    def _is_branch(self, place: Place) -> bool:
        is_code = self._parts.file.sections[place[0]].is_exec
        return is_code and self._code.is_branch(place)

    def _is_by_parameter(self, number: int) -> bool:
        """Tell whether a static function runs only if the command line holds a parameter."""
        seen, todo = {number}, [number]
        while todo:
            at = todo.pop()
            part = self._parts.all[at]
            users = {n for n, _ in self._users.get(at, ())} | self._beside(part)
            if not (part.is_local and users):
                return False
            users = {n for n in users if self._parts.all[n].section_name != _PARAMETERS}
            if any(self._parts.all[n].kind is not PartKind.FUNCTION for n in users):
                return False
            todo += users - seen
            seen |= users
        return True

    def _beside(self, part: Part) -> set[int]:
        """Return who branches to a function from the same section, without a relocation."""
        parts, code = self._parts, self._code
        found = set()
        for user in parts.all:
            if user.section != part.section or user.kind is not PartKind.FUNCTION:
                continue
            for start, effect in code.block(user.section, user.offset).items():
                there = code.branch((user.section, start), effect)[1]
                if there == (part.section, part.offset):
                    found.add(parts.owner.get(user.number, user.number))
        return found - {part.number}

    def _is_new(self, number: int) -> bool:
        is_thing = self._parts.all[number].kind in (PartKind.FUNCTION, PartKind.DATA)
        return is_thing and number not in self._canon.pairing.old_of

    def _is_lasting(self, number: int) -> bool:
        return not self._is_boot(self._parts.all[number])

    def _is_static(self, part: Part) -> bool:
        return (
            part.is_local
            and not is_compiler_named(part.name)
            and self._is_new(part.number)
            and self._is_lasting(part.number)
        )
