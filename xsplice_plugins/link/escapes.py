# SPDX-License-Identifier: Apache-2.0
"""Addresses of the payload's own code and data that its code hands out: timers, handlers, lists.

What only the payload defines is gone once it is unloaded. Whoever still holds its address then
uses freed memory. Such a hand-over is said, unless a hook of the payload takes it back.
"""

from __future__ import annotations

from copy import copy
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.link.results import name_in_c
from xsplice_plugins.link.takeback import TakeBack, hooks_of
from xsplice_plugins.link.things import Thing, Things
from xsplice_plugins.target.addresses import AddressFlow
from xsplice_plugins.target.calls import CALLBACKS, NUMBERS
from xsplice_plugins.target.held import (
    COMPARED,
    FILLED,
    PASSED,
    RETURNED,
    TO,
    UNKNOWN,
    Held,
    Kept,
    both,
    register_of,
    renamed,
)
from xsplice_plugins.target.references import References
from xsplice_plugins.target.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.link.image import XenImage
    from xsplice_plugins.target.abi import Abi
    from xsplice_plugins.target.code import Place

_CALLBACK_ARGUMENTS = 2  #: of which one may be what was handed over with it
_NO_HOLDER = "nobody"  #: what a lock's note says that nobody holds; else ``__func__``
_THROUGH = "is stored through"
_SECOND = "the second word"  #: beside `TO`: of what is returned


class _Way(NamedTuple):
    """Where an address is looked for."""

    kind: str
    what: Any  #: a thing, a field, a function by its place or name
    held: Held = frozenset()  #: the arguments of a function that are the address, or lead there
    is_code: bool = False


def escapes(
    data: bytes,
    image: XenImage,
    abi: Abi,
    silent: Callable[[], frozenset[str]] = frozenset,
) -> tuple[str, ...]:
    """Say which addresses of its own a payload hands out and does not take back.

    Args:
        data: The written, unsigned payload.
        image: The hypervisor, whose functions are followed when they are called.
        abi: The format and machine that it is for.
        silent: Gives the functions of the payload that have no result.

    Returns:
        Sentences for people, sorted; empty if nothing can dangle once it is unloaded.
    """
    return _Payload(read_elf(data, "payload"), image, abi, silent).sentences()


def code_of(image: XenImage, abi: Abi) -> References:
    """Return the image as an object: its symbols count from the start of their sections."""
    code = copy(image.elf)
    starts = {s.index: s.addr_virt for s in image.elf.sections if s.is_exec}
    traps = {
        s.index: {
            at - s.addr_virt: size
            for at, size in image.traps.items()
            if 0 <= at - s.addr_virt < s.size_bytes
        }
        for s in image.elf.sections
        if s.is_exec
    }
    code.__dict__["symbols"] = tuple(
        s._replace(value=s.value - starts[s.shndx]) for s in image.elf.symbols if s.shndx in starts
    )
    code.__dict__["rela_by_target"] = {}
    resumed = [
        (s.index, at - s.addr_virt)
        for s in image.elf.sections
        for at in image.resumed
        if s.is_exec and 0 <= at - s.addr_virt < s.size_bytes
    ]
    return References(code, abi.profile, traps, resumed)


def _function(value: Value | None) -> Iterator[Place | str]:
    """Return the function that a value is the address of, if any; "": nobody knows which one."""
    if value is not None and isinstance(value.base, int):
        yield value.base, value.offset
    elif value is not None and isinstance(value.base, str):
        yield value.base
    elif value is None or value.offset:
        yield ""


class _Payload:
    def __init__(
        self, elf: ElfFile, image: XenImage, abi: Abi, silent: Callable[[], frozenset[str]]
    ) -> None:
        self._silent = silent
        self.elf = elf
        self.image = image
        outside = cache(lambda: AddressFlow(code_of(image, abi)))
        self.flow = AddressFlow(References(elf, abi.profile), self._is_data, outside)
        self.things = Things(elf, image, abi, self.flow)
        self.takeback = TakeBack(self.flow, hooks_of(self._pointers()), self._shared, self._given)
        self.arguments = self.flow.registers.arguments
        self._rows_of: dict[Thing, frozenset[Kept]] = {}
        self._kept_by: dict[_Way, frozenset[Kept]] = {}
        self._givens: dict[Place, dict[str, Value]] = {}

    def _pointers(self) -> Iterator[tuple[str, list[Place]]]:
        for section in self.elf.sections:
            rows = self.flow.targets(section).values() if not section.is_exec else ()
            yield (
                section.name,
                [(r.section_index, r.offset) for r in rows if r.section_index is not None],
            )

    def _is_data(self, place: Place) -> bool:
        section = self.elf.sections[place[0]]
        return section.is_alloc and section.is_write

    # -------------------------------------------------------------- the ways

    def rows(self, thing: Thing) -> frozenset[Kept]:
        """Return what keeps the address of a thing, wherever it is found again."""
        if thing not in self._rows_of:
            held = self.things.held
            is_code = self.elf.sections[thing.place[0]].is_exec
            todo = [_Way("own", thing, is_code=is_code)]
            todo += [_Way("held", owner) for owner in held if thing in held[owner]]
            seen: set[_Way] = set()
            rows: set[Kept] = set()
            while todo:
                way = todo.pop()
                if way not in seen:
                    seen.add(way)
                    new = self._follow(way) - rows
                    rows |= new
                    todo += [more for row in new for more in self._beyond(row, is_code=is_code)]
                if not todo:
                    todo += [way for way in self._found_again(thing, rows) if way not in seen]
            self._rows_of[thing] = frozenset(rows)
        return self._rows_of[thing]

    def _follow(self, way: _Way) -> frozenset[Kept]:
        if way not in self._kept_by:
            self._kept_by[way] = frozenset(self._followed(*way))
        return self._kept_by[way]

    def _followed(self, kind: str, what: Any, held: Held, is_code: bool) -> set[Kept]:
        flow, things = self.flow, self.things
        if kind == "own":
            return flow.follow(things.fields.get(what, ()), is_code=is_code)
        if kind == "held":
            return flow.follow(things.fields.get(what, ()), is_pointer=True)
        if kind == "read":
            return flow.follow([what], is_pointer=True)
        if kind == "returned":
            start = things.start_of(what)
            calls = things.calls.get(start, ()) if start is not None else ()
            return flow.after_calls(calls, is_way=TO in held, is_second=_SECOND in held)
        if kind == "lost":
            return {Kept(UNKNOWN, what, what)}
        return flow.handed_to(what, held, is_code=is_code)

    def _beyond(self, row: Kept, *, is_code: bool) -> Iterator[_Way]:
        """Return the ways that go on where an address is kept."""
        if row.verb == FILLED:
            yield _Way("held", self.things.at((row.at[0], row.at[1])))
        if row.verb == RETURNED:
            marks = ((TO, row.is_way), (_SECOND, row.is_second))
            yield _Way("returned", row.name, frozenset(mark for mark, is_so in marks if is_so))
        for callback, passed in self._callbacks(row) if row.verb == PASSED else ():
            way = _Way("given", callback, passed, is_code)
            yield way if callback else _Way("lost", row.function)

    def _callbacks(self, row: Kept) -> Iterator[tuple[Place | str, Held]]:
        """Return who is called back, and with what of the address; "": nobody knows who it is."""
        if row.name in CALLBACKS:
            function, given, got = CALLBACKS[row.name]
            passed = renamed(row.passed, self.arguments[given], self.arguments[got])
            known = self.takeback.value(row, function)
            for callback in (*_function(known), *self._set_later(row)) if passed else ():
                name = callback if isinstance(callback, str) else ""
                yield self.flow.starts.get(name, callback), passed
        argument = self.takeback.argument_of(row.name)
        thing = self.arguments[argument] if argument >= 0 else ""
        if any(register_of(r) == thing and r != thing for r in row.passed):  # a timer holds it
            passed = both(self.arguments[:_CALLBACK_ARGUMENTS])
            yield from ((function.place, passed) for function in self.things.handed)
            yield from ((name, passed) for name in self.things.borrowed)

    def _set_later(self, row: Kept) -> Iterator[Place]:
        """Return the functions that the payload itself puts into what a call sets up."""
        argument = self.takeback.argument_of(row.name)
        thing = self.takeback.value(row, argument) if argument >= 0 else None
        if thing is None or not isinstance(thing.base, int):
            return
        owner = self.things.at((thing.base, thing.offset))
        for function in self.things.handed:
            rows = self._follow(_Way("own", function, is_code=True))
            filled = {self.things.at((r.at[0], r.at[1])) for r in rows if r.verb == FILLED}
            if owner in filled or function in self.things.held.get(owner, ()):
                yield function.place

    def _found_again(self, thing: Thing, rows: set[Kept]) -> Iterator[_Way]:
        """Return the loads from variables of Xen that hold the address."""
        homes = {
            row: self.takeback.home(row)
            for row in rows
            if row.verb not in (COMPARED, RETURNED, FILLED)
        }
        for home in {home for home in homes.values() if home is not None}:
            writers = [
                row
                for row, other in homes.items()
                if other is None or self.things.meet(home, other)
            ]
            for read in self.things.reads:
                effect = self.flow.around(*read.field)
                if effect is None or not self.things.meet(home, read.spot):
                    continue
                place = (read.field[0], effect.start)
                is_load = read.spot.offset is not None
                if not is_load or not self.takeback.is_sure(place, read.spot, thing.place, writers):
                    yield _Way("read", read.field)

    def _shared(self, start: Place) -> bool:
        things = self.things
        is_known = start in things.calls or start in things.replacing
        return is_known or things.at(start) in things.handed

    def _given(self, start: Place) -> dict[str, Value]:
        """Return the data that a callback gets which is handed over with one datum alone."""
        if start not in self._givens:
            self._givens[start] = {}
            values = set(self._data_of(start))
            if len(values) == 1:
                self._givens[start] = {name: value for name, value in values if value is not None}
        return self._givens[start]

    def _data_of(self, start: Place) -> Iterator[tuple[str, Value | None]]:
        things, thing = self.things, self.things.at(start)
        if start in things.calls or start in things.replacing:
            yield "", None
        if thing not in things.handed or any(thing in held for held in things.held.values()):
            yield "", None
        for row in self.rows(thing) if thing in things.handed else ():
            if row.verb != COMPARED:
                function, given, got = CALLBACKS.get(row.name, (0, 0, 0))
                is_callback = self.takeback.value(row, function) == Value(*start)
                value = self.takeback.value(row, given) if is_callback else None
                yield self.arguments[got], value

    # -------------------------------------------------------------- verdict

    def sentences(self) -> tuple[str, ...]:
        held = self.things.held.values()
        things = {*self.things.fields, *(thing for owned in held for thing in owned)}
        return tuple(
            sorted(
                {
                    self._sentence(thing, row)
                    for thing in things
                    for row in self.rows(thing)
                    if self._dangles(thing, row)
                }
            )
        )

    def _dangles(self, thing: Thing, row: Kept) -> bool:
        if row.verb in (COMPARED, FILLED):
            return False
        is_text = thing.text is not None or thing.name.startswith("__func__")
        if row.verb == RETURNED:
            # Functions that return text, as those of xen/common/version.c, return it to readers.
            is_read = row.name in self._entered and name_in_c(row.name) not in self._silent()
            return is_read and not (is_text or row.is_left)
        if self._is_note(thing, row) or self._is_number(row):
            return False
        return not self.takeback.undoes(row, self.rows(thing))

    def _is_number(self, row: Kept) -> bool:
        """Tell whether a text is only read as a number: nobody asked where that ends."""
        is_read = row.verb == PASSED and NUMBERS.fullmatch(row.name) is not None
        return is_read and self.takeback.value(row, 1) == Value(None, 0)

    def _is_note(self, thing: Thing, row: Kept) -> bool:
        """Tell whether a text notes who holds a lock, which is read only while it is held.

        Source: xen/arch/x86/mm/mm-locks.h. It is ``__func__``: of the function that stores it, or
        of one inlined there; then the payload notes that nobody holds it, too.
        """
        if thing.name or not row.verb.startswith(_THROUGH):
            return False
        function = name_in_c(row.function)
        return thing.text in {_NO_HOLDER, function} or (
            thing.text in self._functions and self._has_notes
        )

    @cached_property
    def _has_notes(self) -> bool:
        return any(
            row.verb.startswith(_THROUGH)
            for thing in self.things.fields
            if thing.text == _NO_HOLDER
            for row in self.rows(thing)
        )

    @cached_property
    def _functions(self) -> set[str]:
        rows = (*self.image.elf.symbols, *self.elf.symbols)
        return {s.name.rpartition("#")[2] for s in rows if s.type == STT_FUNC}

    @cached_property
    def _entered(self) -> set[str]:
        """Return the names of the functions that others than the payload may call."""
        replacing = {self.flow.function_at(place) for place in self.things.replacing}
        return replacing | {thing.name for thing in self.things.handed}

    def _sentence(self, thing: Thing, row: Kept) -> str:
        name = row.name.rpartition("#")[2]
        where = row.function.rpartition("#")[2]
        name = name if " " in name else f"`{name}`"
        place = "" if row.function == row.name or not where else f" in `{where}`"
        return (
            f"address of {thing.title} {row.verb} {name}{place}: after unload it would dangle, "
            "unless a hook takes it back"
        )
