# SPDX-License-Identifier: Apache-2.0
"""New code of a fix, and the structures that a matched base's shipped image has otherwise."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Finding, Severity
from xsplice_plugins.elf.layouts import layouts_of
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC, STT_SECTION
from xsplice_plugins.target.machines import machine_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xsplice_plugins.artefacts import BaseMatch
    from xsplice_plugins.check.results import NewObject
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Symbol

#: From the field of a place beside the instruction to the instruction's end, with and without an
#: immediate behind it.
_FIELD_TO_END_BYTES = (0, 4, 5, 6, 8)


def structure_findings(
    check: str, base: BaseMatch | None, objects: Iterable[NewObject]
) -> Iterator[Finding]:
    """Name new code that may find a member elsewhere than the hypervisor has it.

    Args:
        check: The check's name in findings.
        base: How the base compares with its image; ``None`` if nothing is known.
        objects: Both sides of every object that differs.

    Yields:
        One finding, not checked, for each function.
    """
    if base is None or not base.is_matched:
        return
    if base.structures is None:
        if base.differs or base.absent or base.strangers:
            yield from _unknown(check, objects)
        return
    moved = dict(base.structures)
    for row in objects if moved else ():
        new = read_elf(row.new, row.path)
        layouts = layouts_of(new)
        if not layouts:  # of assembler, or without debug information
            yield from _unknown(check, [row])
            continue
        known = sorted(layouts.keys() & moved.keys())
        wrong = {n: f"`{member}` of `{name}`" for name in known for n, member in moved[name]}
        old = read_elf(row.baseline, row.path) if row.baseline else None
        for name, words in _uses(new, old, wrong) if wrong else ():
            text = f"{name}: its new code may use {words}, which the hypervisor has elsewhere than "
            text += "the headers say; get the sources of the shipped image, or leave it alone"
            yield _finding(check, name, text)


def _unknown(check: str, objects: Iterable[NewObject]) -> Iterator[Finding]:
    """Name new code that finds something behind a pointer, where no structure was compared."""
    for row in objects:
        new = read_elf(row.new, row.path)
        old = read_elf(row.baseline, row.path) if row.baseline else None
        for name, words in _uses(new, old, None):
            text = f"{name}: its new code may use a member{words}, and nobody has compared the "
            text += "structures that it knows with the shipped image; give an image and objects "
            text += "with debug information (CONFIG_DEBUG_INFO), and add the base again"
            yield _finding(check, name, text)


def _uses(
    new: ElfFile, old: ElfFile | None, wrong: Mapping[int, str] | None
) -> Iterator[tuple[str, str]]:
    """Give each function with more uses of a wrong number than before, and what that number is.

    ``None`` stands for every distance from a pointer.
    """
    before = {symbol.name: symbol for symbol in _functions(old)} if old else {}
    for symbol in _functions(new):
        own = _code(new, symbol)
        was = before.get(symbol.name)
        if was and old and own == _code(old, was) and _addends(new, symbol) == _addends(old, was):
            continue
        if machine_of(new.machine).numbers is None:
            yield symbol.name, next(iter(wrong.values())) if wrong else ""
            continue
        added = _numbers(new, symbol, is_pointers_only=wrong is None)
        if was and old:
            added -= _numbers(old, was, is_pointers_only=wrong is None)
        if used := sorted(number for number in added if wrong is None or number in wrong):
            words = "" if wrong is None else wrong[used[0]]
            yield symbol.name, f"{words} at {used[0]:#x}"


def _functions(elf: ElfFile) -> Iterator[Symbol]:
    for symbol in elf.symbols:
        if symbol.type == STT_FUNC and 0 < symbol.shndx < len(elf.sections):
            yield symbol


def _code(elf: ElfFile, symbol: Symbol) -> bytes:
    return elf.sections[symbol.shndx].data[symbol.value : symbol.value + symbol.size_bytes]


def _addends(elf: ElfFile, symbol: Symbol) -> list[tuple[str, int]]:
    """Return name and distance of what a function's fields lead to."""
    end = symbol.value + symbol.size_bytes
    return [
        (elf.symbols[row.symbol].name, row.addend)
        for row in elf.relocs(elf.sections[symbol.shndx])
        if symbol.value <= row.offset < end and elf.symbols[row.symbol].type != STT_SECTION
    ]


def _numbers(elf: ElfFile, symbol: Symbol, *, is_pointers_only: bool) -> Counter[int]:
    """Count the numbers of a function's code, and the distances within what it names."""
    count = machine_of(elf.machine).numbers
    found = count(_code(elf, symbol), is_pointers_only=is_pointers_only) if count else Counter()
    for _, addend in _addends(elf, symbol):
        places = {addend + more for more in _FIELD_TO_END_BYTES}
        found.update(places if 0 not in places else ())  # else it is the beginning itself
    return found


def _finding(check: str, subject: str, text: str) -> Finding:
    return Finding(
        check=check,
        severity=Severity.UNCHECKED,
        subject=subject,
        text=text,
        obligation=Duty.LAYOUT,
    )
