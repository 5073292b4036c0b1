# SPDX-License-Identifier: Apache-2.0
"""The code of one object: its functions, its instructions, and what their fields refer to."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.target.detours import Detours
from xsplice_plugins.target.machine import Effect, Flow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.types import Reloc, Section
    from xsplice_plugins.target.references import References, Target

Place = tuple[int, int]  #: section, offset


class Code:
    """The instructions of one object by their places. What it finds once it keeps."""

    def __init__(self, references: References) -> None:
        """Read the code of the object that ``references`` describes."""
        self._references = references
        self.file = references.file
        self.registers = references.profile.machine.registers
        self._blocks: dict[Place, dict[int, Effect]] = {}
        self._targets: dict[int, dict[int, Target]] = {}
        self.names: dict[Place, str] = {}  #: of functions
        self.starts: dict[str, Place] = {}
        self.ends: dict[Place, int] = {}  #: end of a function -> where the lowest such one starts
        for symbol in self.file.symbols:
            if symbol.type == STT_FUNC and symbol.shndx:
                self.names.setdefault((symbol.shndx, symbol.value), symbol.name)
                self.starts.setdefault(symbol.decorated, (symbol.shndx, symbol.value))
                end = (symbol.shndx, symbol.value + symbol.size_bytes)
                self.ends[end] = min(symbol.value, self.ends.get(end, symbol.value))

    def seeds(self) -> Iterator[tuple[Section, Reloc, Target]]:
        """Return the relocations of the object's code, with what they refer to."""
        for section in self.file.sections:
            if section.is_exec and section.is_alloc:
                for reloc in self.file.relocs(section):
                    yield section, reloc, self.targets(section)[reloc.offset]

    def instructions(self) -> Iterator[tuple[int, Effect]]:
        """Return all instructions of the object, with their sections."""
        for section in self.file.sections:
            end = 0
            while section.is_exec and section.is_alloc and end < section.size_bytes:
                for effect in self.block(section.index, end).values():
                    yield section.index, effect
                end = self.bounds(section.index, end)[1]

    def targets(self, section: Section) -> dict[int, Target]:
        """Return what the relocations of a section refer to, by their offsets."""
        if section.index not in self._targets:
            self._targets[section.index] = {
                reloc.offset: self._references.target_of(section, reloc)
                for reloc in self.file.relocs(section)
            }
        return self._targets[section.index]

    def target_at(self, section: int, offset: int) -> Target | None:
        """Return what the relocation at a place refers to; None if there is none."""
        return self.targets(self.file.sections[section]).get(offset)

    @cached_property
    def detours(self) -> Detours:
        """Return what may run in the place of instructions."""
        return Detours(self._references, self.targets)

    def following(self, place: Place, effect: Effect) -> Place:
        """Return where code goes on behind an instruction that does not branch."""
        end = (place[0], effect.end)
        return self.detours.behind.get(end, end)

    def resumes(self, place: Place, effect: Effect) -> bool:
        """Tell whether an instruction is a trap behind which code goes on."""
        is_trap = effect.flow is Flow.LEAVE and not (effect.returns or effect.jumps)
        return is_trap and self._references.goes_on(*place)

    def start_of(self, place: Place) -> Place:
        """Return where the code around a place starts."""
        return place[0], self.bounds(*place)[0]

    def function_at(self, place: Place) -> str:
        """Return the name of the function around a place, or for which it runs; "" if none."""
        place = self.detours.owner_of(place)
        names = [
            s.name
            for s in self.file.symbols
            if s.shndx == place[0] and s.value <= place[1] < s.value + max(s.size_bytes, 1)
        ]
        return next((name for name in names if name), "")

    def is_branch(self, field: Place) -> bool:
        """Tell whether a relocated field is the target of a call or jump."""
        effect = self.around(*field)
        return effect is not None and effect.target is not None

    def branch(self, place: Place, effect: Effect) -> tuple[str, Place | None]:
        """Return (name, None) of what a branch leads to outside the object, or ("", place)."""
        targets = self.targets(self.file.sections[place[0]])
        if effect.target is None:
            return "", None
        for at in range(effect.start, effect.end):
            target = targets.get(at)
            if target is not None:
                if target.section_index is None:
                    name = target.symbol.name  # a payload's own, if it replaces that function
                    return name, self.starts.get(name)
                return "", (target.section_index, target.offset)
        return "", (place[0], effect.target)

    def calls_of(self, name: str) -> list[Place]:
        """Return the places of the object's calls to one of its functions."""
        start = self.starts.get(name)
        rows = ((index, effect.start) for index, effect in self.instructions())
        return [
            place
            for place in (rows if start is not None else ())
            if (effect := self.at(place)) is not None
            and effect.flow is Flow.CALL
            and self.branch(place, effect)[1] == start
        ]

    def is_last(self, place: Place, following: Place) -> bool:
        """Tell whether a function ends behind a call, which then does not return."""
        return self.ends.get(following, place[1] + 1) <= place[1] and not any(
            start <= place[1] and following[1] < end[1]
            for end, start in self.ends.items()
            if end[0] == place[0]
        )

    def bounds(self, section: int, offset: int) -> tuple[int, int]:
        """Return where the code around a place starts and ends, as symbols tell."""
        starts = self.file.symbol_starts.get(section, [])
        i = bisect_right(starts, offset)
        end = starts[i] if i < len(starts) else self.file.sections[section].size_bytes
        return (starts[i - 1] if i else 0), end

    def block(self, section: int, offset: int) -> dict[int, Effect]:
        """Return the instructions of the code around a place."""
        start, end = self.bounds(section, offset)
        if (section, start) not in self._blocks:
            rows = self._references.effects(section, start, end)
            self._blocks[section, start] = {row.start: row for row in rows}
        return self._blocks[section, start]

    def at(self, place: Place) -> Effect | None:
        """Return what the instruction at a place does; None if none starts there."""
        if not 0 <= place[1] < self.file.sections[place[0]].size_bytes:
            return None
        return self.block(*place).get(place[1])

    def around(self, section: int, offset: int) -> Effect | None:
        """Return the instruction that a place lies in; None if there is none."""
        rows = self.block(section, offset).values()
        return next((row for row in rows if row.start <= offset < row.end), None)
