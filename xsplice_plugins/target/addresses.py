# SPDX-License-Identifier: Apache-2.0
"""Where an address goes that code takes: read through, or kept by somebody.

The way of the address is followed through registers, through named stack slots and into functions
of the same object. An address is *kept* where it is stored, passed to code that is not followed,
returned or compared with another: from there it may be found again at any later time. What is not
understood counts as kept.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.target.machine import PUSHED, STACK, Effect, Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xsplice_plugins.elf.types import Reloc, Section
    from xsplice_plugins.target.references import References, Target

#: Functions of Xen that read what they are given and keep no pointer to it.
#: Source: xen/include/xen/{lib,string,spinlock,bitmap,kexec}.h, xen/include/asm/{uaccess,
#: guest_access,hvm/emulate}.h and their definitions.
_READER = re.compile(
    r"v?printk|panic|guest_printk|debugtrace_printk|v?sn?c?n?printf|str(n?case)?n?cmp|strn?len"
    r"|memcmp|strl(cpy|cat)|str(spn|pbrk)|simple_strtou?ll?|bitmap_scn(list)?printf"
    r"|(__|unsafe_)?copy_(to|from)_(user|guest)(_pv|_hvm|_ll)?"
    r"|_(spin|read|write)_(un|try)?lock(_irq|_irqsave|_irqrestore|_cb|_recursive)?"
    r"|hvm_dump_emulation_state|vmcoreinfo_append_str|_spin_is_locked|(__)?find_(first|next)_(zero_)?bit|__bitmap_\w+"
)
#: Those that return one of the pointers they are given.
_PASSING = re.compile(r"mem(cpy|move|set|chr|chr_inv)|str(r?chr|str|sep)")
#: Those that never return. Source: xen/include/xen/{lib,shutdown}.h.
_ENDING = re.compile(r"panic|machine_(halt|restart)")
_RETURN_THUNK = "__x86_return_thunk"
_THUNK = re.compile(r"__x86_indirect_thunk_(\w+)")

Place = tuple[int, int]  #: section, offset
_Todo = list[tuple[Place, frozenset[str]]]  #: instructions, and what holds the address before
_STEPS_MAX = 5000  #: instructions of one function
_DEPTH_MAX = 40  #: functions that call each other
UNKNOWN = "goes where nobody can follow it in"
COMPARED, RETURNED = "is compared in", "is returned by"


class Kept(NamedTuple):
    """What keeps an address."""

    verb: str  #: "is passed to", "is stored in", "is returned by", ...
    name: str  #: the callee, the variable, the function; "" if it is not known
    function: str  #: in which it happens


class AddressFlow:
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
        self._outside = outside
        self._references = references
        self._file = references.file
        self._registers = references.profile.machine.registers
        self._is_own = is_own
        self._blocks: dict[Place, dict[int, Effect]] = {}
        self._targets: dict[int, dict[int, Target]] = {}
        self._names: dict[Place, str] = {}
        self._starts: dict[str, Place] = {}
        self._ends: dict[Place, int] = {}  #: end of a function -> where the lowest such one starts
        for symbol in self._file.symbols:
            if symbol.type == STT_FUNC and symbol.shndx:
                self._names.setdefault((symbol.shndx, symbol.value), symbol.name)
                self._starts.setdefault(symbol.decorated, (symbol.shndx, symbol.value))
                end = (symbol.shndx, symbol.value + symbol.size_bytes)
                self._ends[end] = min(symbol.value, self._ends.get(end, symbol.value))
        self._summaries: dict[tuple[Place, frozenset[str], bool], tuple[frozenset[Kept], bool]] = {}
        self._depth = 0
        self._is_pointer = False  #: what is followed are pointers that come from loading
        self._filled: set[Place] = set()  #: places of own data that the address was stored in

    def seeds(self) -> Iterator[tuple[Section, Reloc, Target]]:
        """Return the relocations of the object's code, with what they refer to."""
        for section in self._file.sections:
            if section.is_exec and section.is_alloc:
                for reloc in self._file.relocs(section):
                    yield section, reloc, self.targets(section)[reloc.offset]

    def targets(self, section: Section) -> dict[int, Target]:
        """Return what the relocations of a section refer to, by their offsets."""
        if section.index not in self._targets:
            self._targets[section.index] = {
                reloc.offset: self._references.target_of(section, reloc)
                for reloc in self._file.relocs(section)
            }
        return self._targets[section.index]

    def function_at(self, place: Place) -> str:
        """Return the name of the function around a place; "" if none has one."""
        names = [
            s.name
            for s in self._file.symbols
            if s.shndx == place[0] and s.value <= place[1] < s.value + max(s.size_bytes, 1)
        ]
        return next((name for name in names if name), "")

    def is_branch(self, field: Place) -> bool:
        """Tell whether a relocated field is the target of a call or jump."""
        effect = self._around(*field)
        return effect is not None and effect.target is not None

    def take_filled(self) -> set[Place]:
        """Return, and forget, the own places that what was followed was stored in."""
        filled, self._filled = self._filled, set()
        return filled

    def follow(self, fields: Iterable[Place], *, is_pointer: bool = False) -> set[Kept]:
        """Return what keeps the address of one thing.

        Args:
            fields: The relocated fields of code that refer to the thing.
            is_pointer: What is asked for are the pointers that the thing holds: they come from
                loading there.
        """
        self._is_pointer = is_pointer
        starts: dict[Place, frozenset[str]] = {}
        kept: set[Kept] = set()
        for field in fields:
            effect = self._around(*field)
            function = self.function_at(field)
            if effect is None:
                kept.add(Kept(UNKNOWN, function, function))
            elif effect.target is not None:
                continue  # a call or a jump
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
        self._is_pointer = False
        starts: dict[Place, frozenset[str]] = {}
        for place in places:
            effect = self._around(*place)
            if effect is not None and effect.flow is Flow.CALL:
                starts[place[0], effect.start] = frozenset({self._registers.result})
        return self._walk(starts)

    def answer(self, name: str, passed: frozenset[str], *, is_pointer: bool) -> tuple[bool, bool]:
        """Tell whether a function keeps what it is passed, and whether it returns it."""
        self._is_pointer = is_pointer
        start = self._starts.get(name)
        if start is None or PUSHED in passed:
            return True, False
        kept, is_returned = self._summary(start, passed)
        return any(row.verb != COMPARED for row in kept), is_returned

    def _summary(self, start: Place, passed: frozenset[str]) -> tuple[frozenset[Kept], bool]:
        """Return what a function keeps of what it is passed, and whether it returns it."""
        key = (start, passed, self._is_pointer)
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
            if (effect := self._at(at)) is not None
        ]
        while todo:
            if len(known) > _STEPS_MAX:
                return kept | {Kept(UNKNOWN, *[self.function_at(todo[0][0])] * 2)}
            place, held = todo.pop()
            if not held or held <= known.get(place, frozenset()):
                continue
            held = known[place] = held | known.get(place, frozenset())
            effect = self._at(place)
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
        if effect.flow not in (Flow.NEXT, Flow.BRANCH):
            return held
        if effect.compares:
            if values and (effect.values - held or (effect.loads and effect.slot not in held)):
                kept.add(Kept(COMPARED, self.function_at(place), self.function_at(place)))
            return held
        if effect.takes and effect.slot:
            return after | effect.writes if _slots(held) else after
        if values and effect.stores:
            if effect.slot:
                return after | {effect.slot}
            row = self._stored(place, effect, self.function_at(place))
            if not (effect.through & held and not self._is_pointer) and row.verb:
                kept.add(row)
            return after | (effect.writes & held)
        if effect.loads and not values:
            is_given = effect.slot in held or (effect.slot == STACK and _slots(held))
            is_through = self._is_pointer and effect.wide and not effect.through.isdisjoint(held)
            is_given = is_given or is_through
            return after | effect.writes if is_given else after
        is_distance = effect.subtracts and len(values) > 1
        return after | effect.writes if values and not is_distance else after

    def _stored(self, place: Place, effect: Effect, function: str) -> Kept:
        """Return where an instruction stores; without a verb if that is the object's own."""
        target = self.targets(self._file.sections[place[0]]).get(effect.displacement_at)
        if target is None:
            return Kept("is stored through a pointer in", function, function)
        if target.section_index is None:
            return Kept("is stored in", target.symbol.name, function)
        there = (target.section_index, target.offset)
        if self._is_own(there):
            self._filled.add(there)
            return Kept("", "", function)
        name = self.function_at(there) or self._file.sections[there[0]].name
        return Kept("is stored in", name, function)

    def _next(self, place: Place, effect: Effect, held: frozenset[str], kept: set[Kept]) -> _Todo:
        section = place[0]
        following = (section, effect.end)
        is_trap = effect.flow is Flow.LEAVE and not (effect.returns or effect.jumps)
        if effect.flow is Flow.NEXT or (is_trap and self._references.goes_on(*place)):
            return [(following, held)]
        if effect.returns:
            return self._return(place, held, kept)
        name, there = self._branch(place, effect)
        if effect.flow is Flow.BRANCH:
            rows = [(following, held)]
            if there is None:
                self._call(place, name, held, kept)
                return rows
            return [*rows, (there, held)]
        if effect.flow is Flow.JUMP:
            if there is not None:
                return [(there, held)]
            if name == _RETURN_THUNK:
                return self._return(place, held, kept)
            if _THUNK.fullmatch(name):
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
        if self._registers.result in held:
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
        registers = self._registers
        passed = held & {*registers.arguments, PUSHED}
        rest = held - registers.scratch - {PUSHED}
        if there is not None:
            name = self._names.get(there, "")
            if not (_READER.fullmatch(name) or _PASSING.fullmatch(name)):
                rows, is_returned = self._summary(there, passed - {PUSHED})
                kept |= rows
                rest = rest | {registers.result} if is_returned else rest
                return [] if self._is_last(place, following) else [(following, rest)]
        if self._call(place, name, held, kept):
            rest |= {registers.result}
        is_last = _ENDING.fullmatch(name) or self._is_last(place, following)
        return [] if is_last else [(following, rest)]

    def _is_last(self, place: Place, following: Place) -> bool:
        """Tell whether a function ends behind a call, which then does not return."""
        return self._ends.get(following, place[1] + 1) <= place[1] and not any(
            start <= place[1] and following[1] < end[1]
            for end, start in self._ends.items()
            if end[0] == place[0]
        )

    def _call(self, place: Place, name: str, held: frozenset[str], kept: set[Kept]) -> bool:
        """Note a call out of the object; tell whether it returns what it is passed."""
        passed = held & {*self._registers.arguments, PUSHED}
        if not passed or _READER.fullmatch(name):
            return False
        if _PASSING.fullmatch(name):
            return True
        if self._outside is not None:
            is_kept, is_returned = self._outside().answer(name, passed, is_pointer=self._is_pointer)
            if not is_kept:
                return is_returned
        is_pointer = not name or _THUNK.fullmatch(name)
        callee = "a function pointer" if is_pointer else name
        kept.add(Kept("is passed to", callee, self.function_at(place)))
        return False

    def _branch(self, place: Place, effect: Effect) -> tuple[str, Place | None]:
        """Return (name, None) of what a branch leads to outside the object, or ("", place)."""
        targets = self.targets(self._file.sections[place[0]])
        if effect.target is None:
            return "", None
        for at in range(effect.start, effect.end):
            target = targets.get(at)
            if target is not None:
                if target.section_index is None:
                    name = target.symbol.name  # a payload's own, if it replaces that function
                    return name, self._starts.get(name)
                return "", (target.section_index, target.offset)
        return "", (place[0], effect.target)

    def _anywhere(self, place: Place, held: frozenset[str], kept: set[Kept]) -> _Todo:
        """Go on behind a jump to what a register holds: in this function, or in another."""
        self._call(place, "", held, kept)
        return [((place[0], start), held) for start in self._block(*place)]

    # ---------------------------------------------------------------- code

    def _bounds(self, section: int, offset: int) -> Place:
        starts = self._file.symbol_starts.get(section, [])
        i = bisect_right(starts, offset)
        end = starts[i] if i < len(starts) else self._file.sections[section].size_bytes
        return (starts[i - 1] if i else 0), end

    def _block(self, section: int, offset: int) -> dict[int, Effect]:
        start, end = self._bounds(section, offset)
        if (section, start) not in self._blocks:
            rows = self._references.effects(section, start, end)
            self._blocks[section, start] = {row.start: row for row in rows}
        return self._blocks[section, start]

    def _at(self, place: Place) -> Effect | None:
        if not 0 <= place[1] < self._file.sections[place[0]].size_bytes:
            return None
        return self._block(*place).get(place[1])

    def _around(self, section: int, offset: int) -> Effect | None:
        rows = self._block(section, offset).values()
        return next((row for row in rows if row.start <= offset < row.end), None)


def _slots(held: frozenset[str]) -> bool:
    """Tell whether a place on the stack holds the address."""
    return any(name.startswith(STACK) for name in held)
