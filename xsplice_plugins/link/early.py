# SPDX-License-Identifier: Apache-2.0
"""Pointers of a payload that only hooks after the apply set: its functions run before that.

Other CPUs enter a replaced function as soon as the apply is done, and where memory is out such a
hook sets nothing. Only the plain case is found: a variable of one word that is zero at first, and
that a function reads and uses as an address without asking whether it is NULL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.link.takeback import hooks_of
from xsplice_plugins.target.abi import FUNCS_SECTION, POINTER_SIZE_BYTES
from xsplice_plugins.target.code import Code
from xsplice_plugins.target.machine import CALLS, Flow
from xsplice_plugins.target.references import References

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.elf.types import Section
    from xsplice_plugins.target.abi import Abi
    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.machine import Effect

_BEFORE = frozenset({"load", "preapply", "apply"})  #: run before the functions do
_WHEN = "postapply"


def untested(data: bytes, abi: Abi) -> tuple[str, ...]:
    """Say where a function uses a pointer that only a hook after the apply sets, untested.

    Args:
        data: The written payload.
        abi: The format and machine that it is for; on x86_64 alone code is read.

    Returns:
        Sentences for people, sorted.
    """
    elf = read_elf(data, "payload")
    if not abi.machine.endbr or f".livepatch.hooks.{_WHEN}" not in elf.section_by_name:
        return ()
    return _Payload(Code(References(elf, abi.profile))).sentences()


class _Payload:
    def __init__(self, code: Code) -> None:
        self._code = code
        pointers = [
            (
                section.name,
                [
                    (row.section_index, row.offset)
                    for row in (code.targets(section).values() if not section.is_exec else ())
                    if row.section_index is not None
                ],
            )
            for section in code.file.sections
            if section.name != FUNCS_SECTION
        ]
        self._kinds: dict[Place, set[str]] = {}
        for kind, places in hooks_of(pointers).items():
            for place in places:
                self._kinds.setdefault(place, set()).add(kind)
        held = {place for _, places in pointers for place in places}
        self._variables: dict[Place, str] = {
            (symbol.shndx, symbol.value): symbol.name
            for symbol in code.file.symbols
            if symbol.size_bytes == POINTER_SIZE_BYTES
            and 0 < symbol.shndx < len(code.file.sections)
            and (symbol.shndx, symbol.value) not in held
            and self._is_zero(code.file.sections[symbol.shndx], symbol.value)
        }

    def _is_zero(self, section: Section, offset: int) -> bool:
        """Tell whether a word can be written, and is zero when the payload is loaded."""
        is_set = any(section.data[offset : offset + POINTER_SIZE_BYTES])
        return section.is_write and not is_set and offset not in self._code.targets(section)

    def sentences(self) -> tuple[str, ...]:
        late = self._late()
        found = set()
        for start, name in self._code.names.items():
            if start in self._kinds:
                continue
            found |= {
                f"`{name}` uses {self._variables[place]} as an address without a test for NULL, "
                "and only a postapply hook sets it: other CPUs run the function before that, and "
                "where memory is out it stays NULL"
                for place in self._used(start)
                if place in late
            }
        return tuple(sorted(found))

    def _late(self) -> set[Place]:
        """Return the variables that hooks alone change, none of them before the functions run."""
        writers: dict[Place, set[str]] = {}
        for start in self._code.names:
            kinds = self._kinds.get(start, {"function"})
            for effect in self._rows(start):
                place = self._variable(start, effect)
                if place is not None and (effect.stores or effect.takes):
                    writers.setdefault(place, set()).update({"function"} if effect.takes else kinds)
        return {
            place
            for place, kinds in writers.items()
            if _WHEN in kinds and not kinds & {"function", *_BEFORE}
        }

    def _used(self, start: Place) -> set[Place]:
        """Return the variables that a function uses as addresses, and asks nothing about before."""
        held: dict[str, Place] = {}
        asked: set[Place] = set()
        found: set[Place] = set()
        for effect in self._rows(start):
            place = self._variable(start, effect)
            if effect.compares or effect.equal is not None:
                asked |= {held[name] for name in effect.values if name in held}
                asked |= {place} if place is not None else set()
            if not effect.takes:
                found |= {held[name] for name in effect.through if name in held} - asked
            source = next((held[name] for name in effect.values if name in held), None)
            gone = self._code.registers.scratch if effect.flow in CALLS else frozenset()
            held = {k: v for k, v in held.items() if k not in effect.writes | gone}
            taken = place if effect.loads else source
            if effect.moves and taken is not None and not effect.stores:
                held |= dict.fromkeys(effect.writes, taken)
            if effect.flow is Flow.LEAVE:
                held = {}
        return found

    def _rows(self, start: Place) -> Iterator[Effect]:
        yield from self._code.block(*start).values()

    def _variable(self, start: Place, effect: Effect) -> Place | None:
        if effect.displacement_at < 0:
            return None
        target = self._code.target_at(start[0], effect.displacement_at)
        place = (target.section_index or 0, target.offset) if target is not None else None
        return place if place in self._variables else None
