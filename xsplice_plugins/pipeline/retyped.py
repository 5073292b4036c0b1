# SPDX-License-Identifier: Apache-2.0
"""New code of a fix, and the types that a matched base's shipped image has otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Finding, Severity
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.layouts import compilers_of
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.retyped import known_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xsplice_plugins.artefacts import BaseMatch
    from xsplice_plugins.check.results import NewObject
    from xsplice_plugins.elf.reader import ElfFile

#: What names each type through which code reaches a member. clang leaves out those of variables
#: that the file only declares.
_WHOLE = "GNU C"
_NOBODY = (
    "its code is new, and nobody has compared the types that it knows with the shipped image; "
    "give an image and objects with debug information of gcc (CONFIG_DEBUG_INFO, not `-g1`, and "
    "not yet processed by dwz), and add the base again"
)


def retyped_findings(
    check: str, base: BaseMatch | None, objects: Iterable[NewObject]
) -> Iterator[Finding]:
    """Name objects with new code that may use something otherwise than the hypervisor does.

    Debug information names each structure that code reaches into, and each variable and
    enumeration that it uses, whatever the instructions look like. So the objects that know one
    which is otherwise are asked about, and no others.

    Args:
        check: The check's name in findings.
        base: How the base compares with its image; ``None`` if nothing is known.
        objects: Both sides of every object that differs; without a baseline all is new.

    Yields:
        One finding, not checked, for each object.
    """
    if base is None or not base.is_matched:
        return
    is_otherwise = bool(base.differs or base.absent or base.strangers or base.inlined)
    otherwise = {name: rest for name, *rest in base.otherwise or ()}
    if not otherwise and not (base.otherwise is None and is_otherwise):
        return
    for row, _, new in changed_sides(objects):
        names = known_by(new).keys()
        compilers = compilers_of(new)
        is_whole = bool(compilers) and all(name.startswith(_WHOLE) for name in compilers)
        known = sorted(names & otherwise.keys())
        if base.otherwise is None or not names or not has_types(new) or not (known or is_whole):
            yield _finding(check, row.path, _NOBODY)
            continue
        if row.path in otherwise:
            _, here, there = otherwise[row.path]
            text = (
                f"of what it is compiled with, the tree's has {here} and the shipped one {there}: "
            )
            text += (
                "new code may come out otherwise; give the vendor's compiler and options, and add "
            )
            text += "the "
            yield _finding(check, row.path, text + "base again")
        if known:
            what, here, there = otherwise[known[0]]
            more = f" (and {', '.join(known[1:])})" if known[1:] else ""
            text = f"its new code may use {known[0]}{more}, which is otherwise in the shipped "
            text += f"image: {what} is {here} by the headers, and {there} there; add the base "
            text += "again with the sources, or the headers, of the shipped image"
            yield _finding(check, row.path, text)


def changed_sides(
    objects: Iterable[NewObject],
) -> Iterator[tuple[NewObject, ElfFile | None, ElfFile]]:
    """Give the objects whose code or data a fix changes, more than its lines.

    Args:
        objects: Both sides of every object that differs.

    Yields:
        Each with both of its sides; ``None`` where it has no baseline.
    """
    for row in objects:
        new = read_elf(row.new if row.neutral is None else row.neutral, row.path)
        old = read_elf(row.baseline, row.path) if row.baseline is not None else None
        if old is None or _content(new) != _content(old):
            yield row, old, new


def _content(elf: ElfFile) -> list[tuple[str, bytes, list[tuple[int, int, str, int]]]]:
    """Return what of an object is loaded, and what its fields lead to."""
    return [
        (
            section.name,
            section.data or bytes(section.size_bytes),
            [
                (row.offset, row.type, _target(elf, row.symbol), row.addend)
                for row in elf.relocs(section)
            ],
        )
        for section in elf.sections
        if section.is_alloc
    ]


def _target(elf: ElfFile, number: int) -> str:
    symbol = elf.symbols[number]
    is_named = symbol.name or not 0 < symbol.shndx < len(elf.sections)
    return symbol.name if is_named else elf.sections[symbol.shndx].name


def _finding(check: str, subject: str, text: str) -> Finding:
    return Finding(
        check=check,
        severity=Severity.UNCHECKED,
        subject=subject,
        text=f"{subject}: {text}",
        obligation=Duty.LAYOUT,
    )
