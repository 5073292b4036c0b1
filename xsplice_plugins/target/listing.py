# SPDX-License-Identifier: Apache-2.0
"""Instructions as text, for people."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.types import STT_FUNC, STT_SECTION
from xsplice_plugins.target.known import NEWEST, known_facts
from xsplice_plugins.target.machines import machine_of
from xsplice_plugins.target.references import References
from xsplice_plugins.target.sections import profile_of

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc


class Line(NamedTuple):
    """One instruction of a listing."""

    offset: int  #: bytes from the start of the function
    text: str
    note: str  #: what its relocations name, or ""


def instruction_text(machine: int, data: bytes, offset: int) -> str:
    """Return one instruction as text: AT&T syntax for x86, the architecture's own for arm64.

    ``offset`` is where it stands, for the targets of jumps.
    """
    for _, text in machine_of(machine).text(data, offset, {}):
        return text
    return f".byte {data.hex(' ')}"


def listing(file: ElfFile, name: str) -> tuple[Line, ...]:
    """Return the instructions of a function; none if the object has no such function."""
    symbol = next((s for s in file.symbols if s.name == name and s.type == STT_FUNC), None)
    if symbol is None or not 0 < symbol.shndx < len(file.sections):
        return ()
    section = file.sections[symbol.shndx]
    end = symbol.value + symbol.size_bytes
    relocs = sorted(r for r in file.relocs(section) if symbol.value <= r.offset < end)
    # Of any release: where a table says that an instruction starts, one does.
    profile = profile_of("xen", known_facts(NEWEST, file.machine))
    rows = References(file, profile).text(symbol.shndx, symbol.value, end)
    notes: dict[int, list[str]] = {}
    for reloc in relocs:
        row = bisect_right(rows, reloc.offset, key=itemgetter(0)) - 1
        notes.setdefault(row, []).append(_reloc_name(file, reloc))
    return tuple(
        Line(at - symbol.value, text, ", ".join(notes.get(row, ())))
        for row, (at, text) in enumerate(rows)
    )


def _reloc_name(file: ElfFile, reloc: Reloc) -> str:
    symbol = file.symbols[reloc.symbol]
    name = symbol.name
    if symbol.type == STT_SECTION and 0 < symbol.shndx < len(file.sections):
        name = file.sections[symbol.shndx].name
    return f"{name}{reloc.addend:+#x}" if reloc.addend else name
