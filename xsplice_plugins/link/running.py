# SPDX-License-Identifier: Apache-2.0
"""When the functions of a payload run: on hosts as they run, or only in hooks of a kind."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import STT_OBJECT
from xsplice_plugins.link.takeback import hooks_of
from xsplice_plugins.target.abi import HOOK_PREFIX
from xsplice_plugins.target.carried import Carried
from xsplice_plugins.target.code import Code
from xsplice_plugins.target.references import References

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Section, Symbol
    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.machine import Effect
    from xsplice_plugins.target.references import Target
    from xsplice_plugins.target.sections import Profile

#: Hooks that run before the functions do.
BEFORE = frozenset({"load", "preapply", "apply"})


class Running:
    """The code of one payload, and what its instructions refer to.

    A variable is a `Place` if it is the payload's own, else the name that the image has.
    """

    def __init__(self, elf: ElfFile, profile: Profile) -> None:
        """Read the payload ``elf``, of the machine of ``profile``."""
        self.elf, self._profile = elf, profile
        self.code = Code(References(elf, profile))
        self.carried = Carried(self.code, self._memory, self._constant)
        pointers = [(section.name, list(self._pointers(section))) for section in elf.sections]
        self.hooks = hooks_of(pointers)
        self.data: dict[Place, Symbol] = {
            (s.shndx, s.value): s
            for s in elf.symbols
            if s.type == STT_OBJECT and s.name and self._is_own(s.shndx)
        }
        self._places = sorted(self.data)
        self.roots = frozenset(self._roots())  #: entered by others than hooks

    def title(self, place: Place) -> str:
        """Return how messages call the function or variable at a place."""
        symbol = self.data.get(place)
        name = symbol.name if symbol is not None else self.code.function_at(place)
        return f"`{name.rpartition('#')[2].partition('.')[0]}`" if name else "what has no name"

    def lies_in_data(self) -> set[Hashable]:
        """Return the own variables whose addresses data of the payload hold."""
        return {
            self._own(target.section_index, target.offset)
            for section in self.elf.sections
            if not section.is_exec and section.is_alloc
            for target in self.code.targets(section).values()
            if target.section_index is not None
        }

    def _is_own(self, index: int) -> bool:
        return 0 < index < len(self.elf.sections) and self.elf.sections[index].is_alloc

    def _pointers(self, section: Section) -> Iterator[Place]:
        rows = self.code.targets(section).values() if not section.is_exec else ()
        for row in rows:
            if row.section_index is not None:
                yield row.section_index, row.offset

    def _roots(self) -> Iterator[Place]:
        """Return the functions that stand for others, and those whose address something holds."""
        for section in self.elf.sections:
            name = section.name
            is_table = self._profile.table(name) is not None or name.startswith(HOOK_PREFIX)
            if section.is_alloc and not is_table:
                yield from (place for place in self._pointers(section) if self._starts(place))
        for section, reloc, target in self.code.seeds():
            place = (target.section_index or 0, target.offset)
            if self._starts(place) and not self.code.is_branch((section.index, reloc.offset)):
                yield place

    def _starts(self, place: Place) -> bool:
        return place in self.code.names and self.elf.sections[place[0]].is_exec

    def _memory(self, place: Place, effect: Effect) -> Hashable | None:
        return self._named(self.code.target_at(place[0], effect.displacement_at))

    def _constant(self, place: Place, effect: Effect) -> Hashable | None:
        if effect.target is not None or effect.takes:
            return None
        for at in range(effect.start, effect.end):
            target = self.code.target_at(place[0], at)
            if target is not None and at != effect.displacement_at:
                return self._named(target)
        return None

    def _named(self, target: Target | None) -> Hashable | None:
        if target is None:
            return None
        if target.section_index is None:
            return target.symbol.name
        return self._own(target.section_index, target.offset)

    def _own(self, index: int, offset: int) -> Place:
        at = bisect_right(self._places, (index, offset))
        place = self._places[at - 1] if at else (0, 0)
        symbol = self.data.get(place)
        is_part = symbol is not None and offset < place[1] + max(symbol.size_bytes, 1)
        return place if is_part and place[0] == index else (index, offset)
