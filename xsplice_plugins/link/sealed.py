# SPDX-License-Identifier: Apache-2.0
"""Stores of a payload's functions into memory of the hypervisor that is read-only after boot.

Code and constants are, and variables with the attribute `__ro_after_init`. Hooks are not asked
for: Xen lifts the protection while some of them run, and the model plays them all.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING

from xsplice_plugins.link.image import is_clone
from xsplice_plugins.target.carried import Carried
from xsplice_plugins.target.code import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from xsplice_plugins.artefacts import ReplacedFunction
    from xsplice_plugins.link.image import ImageSymbol, XenImage
    from xsplice_plugins.link.running import Running
    from xsplice_plugins.target.carried import At
    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.machine import Effect
    from xsplice_plugins.target.references import References

#: Functions of Xen that write where their first argument leads.
_WRITING = re.compile(
    r"mem(cpy|move|set)|v?sn?c?n?printf|strl(cpy|cat)|_*bitmap_(fill|clear|copy|and|or|xor|andnot)"
    r"|_*(unsafe_)?copy_from_(user|guest)(_pv|_hvm|_ll)?"
)
#: Sections of a linked hypervisor that nobody may write once it has booted.
_SEALED = re.compile(r"\.(text|rodata|note|data\.(rel\.)?ro(_after_init)?)(\..*)?")
_ENDS = ("__ro_after_init_start", "__ro_after_init_end")


def sealed_stores(
    running: Running,
    functions: tuple[ReplacedFunction, ...],
    image: XenImage,
    references: Callable[[], References],
) -> tuple[str, ...]:
    """Say which functions come to store into memory that is read-only after boot.

    What the old version of the same function stores there as well is no matter of the payload.

    Args:
        running: The payload's code.
        functions: What it replaces.
        image: The hypervisor.
        references: Returns the image's code, which is read only if it is needed.

    Returns:
        Sentences for people, sorted.
    """
    found = {
        (running.code.function_at(row.place), variable)
        for row in running.carried.walk(running.roots)
        for variable in _written(running.carried, row)
        if isinstance(variable, str) and _is_sealed(image, variable)
    }
    if not found:
        return ()
    old = _Old(functions, image, Code(references()))
    called = {row.name for row in running.carried.walk(running.roots) if row.name}
    return tuple(
        sorted(
            f"`{_plain(function)}` writes `{_plain(variable)}`, which is read-only after boot: the "
            "host would fault"
            for function, variable in found
            if image.symbols[variable].addr_virt not in old.stored(_owner(function), called)
        )
    )


def _written(carried: Carried, row: At) -> set[Hashable]:
    """Return the variables that an instruction writes, or a function that it calls."""
    if _WRITING.fullmatch(row.name):
        first = carried.code.registers.arguments[0]
        return row.state.of((first,), is_address=True)
    return carried.stored(row)


def _is_sealed(image: XenImage, name: str) -> bool:
    symbol = image.symbols.get(name)
    if symbol is None or symbol.is_init:
        return False
    start, end = (image.symbols.get(end) for end in _ENDS)
    if (
        start is not None
        and end is not None
        and (start.addr_virt <= symbol.addr_virt < end.addr_virt)
    ):
        return True
    section = image.section_at(symbol.addr_virt)
    return section is not None and _SEALED.fullmatch(section.name) is not None


def _plain(name: str) -> str:
    return name.rpartition("#")[2]


def _owner(name: str) -> str:
    """Return the plain name of a function, or of the one that a copy or a part belongs to.

    A part of a global function is local, and has its file before its name.
    """
    own = _plain(name)
    return own.partition(".")[0] if is_clone(own) else own


class _Old:
    """What the replaced functions stored where they are in the image."""

    def __init__(
        self, functions: tuple[ReplacedFunction, ...], image: XenImage, code: Code
    ) -> None:
        self._functions, self._image, self._code = functions, image, code
        self._carried = Carried(code, self._memory, self._constant, is_local=True)

    @cached_property
    def _data(self) -> list[ImageSymbol]:
        rows = (s for s in self._image.symbols.values() if s.size_bytes and not s.is_function)
        return sorted(rows, key=lambda s: s.addr_virt)

    def stored(self, function: str, called: set[str]) -> set[int]:
        """Return where the old versions of a function stored.

        Args:
            function: Its name.
            called: What the payload calls in the image. Other functions that the old version
                called count as a part of it: the new one may have them inline.

        Returns:
            Addresses of variables.
        """
        starts = [row.addr_old_virt for row in self._functions if _owner(row.name) == function]
        own = [row for addr in starts for row in self._rows(self._place(addr))]
        inner = {row.inner for row in own if row.inner is not None}
        own += [
            row
            for place in inner
            if self._code.names.get(place, "") not in {"", *called}
            for row in self._rows(place)
        ]
        names = {name for row in own for name in _written(self._carried, row)}
        return {addr for addr in names if isinstance(addr, int)}

    def _place(self, addr: int) -> Place | None:
        section = self._image.section_at(addr)
        return (section.index, addr - section.addr_virt) if section is not None else None

    def _rows(self, place: Place | None) -> Iterator[At]:
        if place is not None:
            yield from self._carried.walk([place])

    def _memory(self, place: Place, effect: Effect) -> Hashable | None:
        is_near = effect.base != "" and effect.base == self._code.registers.counter
        if not is_near or effect.displacement_at < 0:
            return None
        return self._variable(self._code.file.sections[place[0]].addr_virt + effect.displacement)

    def _constant(self, _place: Place, effect: Effect) -> Hashable | None:
        is_plain = effect.moves and not (effect.loads or effect.stores)
        return self._variable(effect.number) if is_plain and effect.number else None

    def _variable(self, addr: int) -> int | None:
        addr &= (1 << 64) - 1
        at = bisect_right(self._data, addr, key=lambda s: s.addr_virt)
        symbol = self._data[at - 1] if at else None
        is_there = symbol is not None and addr < symbol.addr_virt + symbol.size_bytes
        return symbol.addr_virt if symbol is not None and is_there else None
