# SPDX-License-Identifier: Apache-2.0
"""Where an image and its objects inlined different functions, though their code may be equal.

A call that was inlined leaves its place in the caller. Where nothing is left of it there, for the
compiler made the same code of it as of what it stands for, the file still names the function.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.elf.debuginfo import (
    AT_INLINE,
    AT_LOW_PC,
    AT_NAME,
    AT_RANGES,
    TAG_INLINED,
    TAG_SUBPROGRAM,
    DebugInfo,
    debug_units,
    origin_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xsplice_plugins.elf.debuginfo import Unit
    from xsplice_plugins.elf.reader import ElfFile


class _Inlined(Struct, frozen=True):
    """What a function, and all of its file, inlined."""

    calls: frozenset[tuple[tuple[str, str], int]]  #: who inlined whom, and how often
    names: frozenset[str]  #: of all that its file inlined


def inlined_otherwise(
    objects: Iterable[tuple[ElfFile, bool]], image: ElfFile
) -> tuple[tuple[str, str], ...]:
    """Compare what the files of objects and of an image inlined, as far as both have a function.

    Files are not paired, for another build calls them otherwise: functions of one name are
    compared together, each with what all of its file inlined.

    Args:
        objects: As they were built again; and whether a linker may leave it out.
        image: The one that was shipped. One without debug information says nothing.

    Returns:
        Path of each object that may be of other sources, and a function of it that inlined
        something else, or one that only one side inlined.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    theirs: dict[str, set[_Inlined]] = {}
    for unit in debug_units(image):
        for name, row in _inlined(unit):
            theirs.setdefault(name, set()).add(row)
    ours: dict[str, list[tuple[_Inlined, str, bool]]] = {}
    for file, is_optional in objects if theirs else ():
        for unit in debug_units(file):
            for name, row in _inlined(unit):
                if name in theirs:
                    ours.setdefault(name, []).append((row, file.name, is_optional))
    found: set[tuple[str, str]] = set()
    for name, rows in ours.items():
        only = [row for row in rows if row[0] not in theirs[name]]
        if theirs[name] <= {row for row, *_ in rows}:
            only = [row for row in only if not row[2]]
        else:
            only = only or rows
        for row, path, _ in only:
            found.update((path, what) for what in _differing(name, row, theirs[name]))
    return tuple(sorted(found))


def _differing(name: str, row: _Inlined, others: set[_Inlined]) -> frozenset[str]:
    """Return what only one of a function's file and the likest other one inlined, else itself."""
    names = min((row.names ^ other.names for other in others), key=len)
    return names or frozenset({name})


def _inlined(unit: Unit) -> Iterator[tuple[str, _Inlined]]:
    """Give each function of a file that has code, with what was inlined."""
    entries, place_of = unit
    info = DebugInfo(entries=entries, place_of=place_of)
    found: dict[str, Counter[tuple[str, str]]] = {}
    owners: dict[int, int] = {}  #: of what lies in a function, the entry of that
    names = set()
    for number, entry in enumerate(entries):
        if entry.tag == TAG_SUBPROGRAM:
            if AT_LOW_PC in entry.values or AT_RANGES in entry.values:
                owners[number] = number
                found.setdefault(_name(info, number), Counter())
            elif AT_INLINE in entry.values:
                names.add(_name(info, number))
        elif entry.parent in owners:
            owner = owners[number] = owners[entry.parent]
            if entry.tag == TAG_INLINED:
                call = (_caller(info, entry.parent), _name(info, number))
                found[_name(info, owner)][call] += 1
    for name, calls in found.items():
        yield name, _Inlined(frozenset(calls.items()), frozenset(names))


def _caller(info: DebugInfo, number: int) -> str:
    """Return the function, inlined or not, that an entry is or lies in."""
    while info.entries[number].tag not in (TAG_INLINED, TAG_SUBPROGRAM):
        number = info.entries[number].parent
    return _name(info, number)


def _name(info: DebugInfo, number: int) -> str:
    return str(info.entries[origin_of(info, number)].values.get(AT_NAME, ""))
