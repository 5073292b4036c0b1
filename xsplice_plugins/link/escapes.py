# SPDX-License-Identifier: Apache-2.0
"""Addresses of the payload's own code and data that its code hands out: timers, handlers, lists.

What only the payload defines is gone once it is unloaded. Whoever still holds its address then
uses freed memory. Such a hand-over is said, unless a hook of the payload takes it back.
"""

from __future__ import annotations

from copy import copy
from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC, STT_OBJECT
from xsplice_plugins.link.sections import STRINGS
from xsplice_plugins.link.takeback import TakeBack, hooks_of
from xsplice_plugins.target.abi import FUNCS_SECTION, HOOK_PREFIX, NEW_ADDR_OFFSET
from xsplice_plugins.target.addresses import COMPARED, RETURNED, AddressFlow, Kept
from xsplice_plugins.target.references import References, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.link.image import XenImage
    from xsplice_plugins.target.abi import Abi
    from xsplice_plugins.target.code import Place

_TEXT_MAX = 40  #: characters of a text that a message shows
_NO_HOLDER = "nobody"  #: what a lock's note says that nobody holds; else ``__func__``


class Thing(NamedTuple):
    """Something that only the payload defines, or one beneath it."""

    place: Place  #: of its first byte
    name: str  #: "" for what has none
    text: str | None  #: its content, where it is a text

    @property
    def title(self) -> str:
        """Return how messages call it."""
        if self.name:
            kind = "new" if self.place[0] else "a payload beneath's"
            return f"{kind} `{self.name.rpartition('#')[2]}`"
        if self.text is None:
            return "new data without a name"
        shown = self.text[:_TEXT_MAX] + ("..." if len(self.text) > _TEXT_MAX else "")
        return f"the text {shown!r}"


def _beneath(target: Target) -> Thing:
    """Return what a payload beneath defines: it goes with that one."""
    return Thing((0, target.symbol.number), target.symbol.name, None)


def escapes(data: bytes, image: XenImage, abi: Abi) -> tuple[str, ...]:
    """Say which addresses of its own a payload hands out and does not take back.

    Args:
        data: The written, unsigned payload.
        image: The hypervisor, whose functions are followed when they are called.
        abi: The format and machine that it is for.

    Returns:
        Sentences for people, sorted; empty if nothing can dangle once it is unloaded.
    """
    return _Payload(read_elf(data, "payload"), image, abi).sentences()


def _code_of(image: XenImage, abi: Abi) -> References:
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


class _Payload:
    def __init__(self, elf: ElfFile, image: XenImage, abi: Abi) -> None:
        self.elf = elf
        self.abi = abi
        outside = cache(lambda: AddressFlow(_code_of(image, abi)))
        self.flow = AddressFlow(References(elf, abi.profile), self._is_data, outside)
        self.image = image
        self.takeback = TakeBack(self.flow, hooks_of(self._pointers()))
        self.symbols = sorted(
            (s for s in elf.symbols if s.type in (STT_FUNC, STT_OBJECT) and s.shndx and s.name),
            key=lambda s: (s.shndx, s.value),
        )
        self.fields: dict[Thing, set[Place]] = {}  #: code that refers to it
        self.calls: dict[Place, set[Place]] = {}  #: function -> fields of calls to it
        self.held: dict[Thing, set[Thing]] = {}  #: data -> what its pointers lead to
        self._read()

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

    def _is_content(self, index: int) -> bool:
        section = self.elf.sections[index]
        is_special = section.name.startswith((HOOK_PREFIX, FUNCS_SECTION))
        is_table = self.abi.profile.table(section.name) is not None
        return section.is_alloc and not is_special and not is_table

    def _read(self) -> None:
        for section, reloc, target in self.flow.seeds():
            field = (section.index, reloc.offset)
            if target.section_index is None:
                if self._is_beneath(target) and not self.flow.is_branch(field):
                    self.fields.setdefault(_beneath(target), set()).add(field)
                continue
            if not self._is_content(target.section_index):
                continue
            place = (target.section_index, target.offset)
            if self.flow.is_branch(field):
                self.calls.setdefault(place, set()).add(field)
            else:
                self.fields.setdefault(self._thing(place), set()).add(field)
        for section in self.elf.sections:
            if section.is_exec or not self._is_content(section.index):
                continue
            for offset, target in self.flow.targets(section).items():
                index = target.section_index
                owner = self._thing((section.index, offset))
                if index is None and self._is_beneath(target):
                    self.held.setdefault(owner, set()).add(_beneath(target))
                if index is not None and self._is_content(index):
                    thing = self._thing((index, target.offset))
                    is_label = self.elf.sections[index].is_exec and thing.place[1] != target.offset
                    if is_label:  # it is a table of jumps
                        self.fields.pop(owner, None)
                    elif owner != thing:
                        self.held.setdefault(owner, set()).add(thing)

    def _is_beneath(self, target: Target) -> bool:
        """Tell whether a name is neither the payload's nor the image's."""
        name = target.symbol.name
        return not target.symbol.shndx and bool(name) and name not in self.image.symbols

    def _thing(self, place: Place) -> Thing:
        index, offset = place
        for symbol in self.symbols:
            end = symbol.value + max(symbol.size_bytes, 1)
            if (
                symbol.shndx == index
                and symbol.value <= offset <= end
                and (offset < end or symbol.type == STT_OBJECT)
            ):
                return Thing((index, symbol.value), symbol.name, None)
        section = self.elf.sections[index]
        content = section.data
        if section.is_write or section.is_exec or not 0 <= offset < len(content):
            return Thing((index, offset), "", None)
        start = content.rfind(b"\0", 0, offset) + 1
        raw = content[start : content.find(b"\0", offset)]
        text = raw.decode("latin-1")
        is_text = all(c.isprintable() or c in "\n\t\r\x01" for c in text)
        is_text = is_text and bool(text or section.name == STRINGS)
        return Thing((index, start if is_text else offset), "", text if is_text else None)

    # -------------------------------------------------------------- verdict

    def sentences(self) -> tuple[str, ...]:
        found: dict[Thing, set[Kept]] = {}
        for thing, fields in self.fields.items():
            is_code = self.elf.sections[thing.place[0]].is_exec
            found[thing] = self.flow.follow(fields, is_code=is_code)
            for place in self.flow.take_filled():
                self.held.setdefault(self._thing(place), set()).add(thing)
        for owner, things in self.held.items():
            kept = self.flow.follow(self.fields.get(owner, ()), is_pointer=True)
            for thing in things:
                found.setdefault(thing, set()).update(kept)
        result = set()
        for thing, kept in found.items():
            rows = self._with_callers(kept)
            result |= {self._sentence(thing, row) for row in rows if self._dangles(thing, row)}
        return tuple(sorted(result))

    def _with_callers(self, kept: set[Kept]) -> set[Kept]:
        """Follow what functions of the payload return to their callers within it."""
        result, todo = set(kept), list(kept)
        seen: set[tuple[str, bool]] = set()
        while todo:
            row = todo.pop()
            if row.verb != RETURNED or (row.name, row.is_way) in seen:
                continue
            seen.add((row.name, row.is_way))
            start = next(((s.shndx, s.value) for s in self.symbols if s.name == row.name), None)
            calls = self.calls.get(start, set()) if start else set()
            more = self.flow.after_calls(calls, is_way=row.is_way)
            todo += more - result
            result |= more
        return result

    def _dangles(self, thing: Thing, row: Kept) -> bool:
        if row.verb == COMPARED:
            return False
        is_text = thing.text is not None or thing.name.startswith("__func__")
        if row.verb == RETURNED:
            # Functions that return text, as those of xen/common/version.c, return it to readers.
            return not is_text and row.name in (self._replaced() | self._handed())
        # xen/arch/x86/mm/mm-locks.h notes who holds a lock, and reads it only while it is held.
        is_lock_note = row.verb.startswith("is stored through") and not thing.name
        if is_lock_note and thing.text in self._holders:
            return False
        return not self.takeback.undoes(row)

    @cached_property
    def _holders(self) -> set[str]:
        """Return the texts that the notes of locks hold."""
        rows = (*self.image.elf.symbols, *self.elf.symbols)
        return {_NO_HOLDER} | {s.name.rpartition("#")[2] for s in rows if s.type == STT_FUNC}

    def _replaced(self) -> set[str]:
        """Return the names of the functions that stand for ones of the image."""
        funcs = self.elf.section_by_name.get(FUNCS_SECTION)
        size = self.abi.facts.record_size_bytes
        return {
            self.flow.function_at((target.section_index, target.offset))
            for offset, target in (self.flow.targets(funcs) if funcs is not None else {}).items()
            if offset % size == NEW_ADDR_OFFSET and target.section_index is not None
        }

    def _handed(self) -> set[str]:
        """Return the names of the functions whose address something holds: anybody may call."""
        things = (*self.fields, *(thing for held in self.held.values() for thing in held))
        return {thing.name for thing in things if self.elf.sections[thing.place[0]].is_exec}

    def _sentence(self, thing: Thing, row: Kept) -> str:
        name = row.name.rpartition("#")[2]
        where = row.function.rpartition("#")[2]
        name = name if " " in name else f"`{name}`"
        place = "" if row.function == row.name or not where else f" in `{where}`"
        return (
            f"address of {thing.title} {row.verb} {name}{place}: after unload it would dangle, "
            "unless a hook takes it back"
        )
