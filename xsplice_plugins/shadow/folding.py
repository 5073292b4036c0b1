# SPDX-License-Identifier: Apache-2.0
"""What else has a first value in itself: the compiler puts constants in place of reads.

Into code, and into tables that it makes of code (of a `switch`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins import capture
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC, STT_OBJECT
from xsplice_plugins.shadow.asking import asking

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc, Section, Symbol
    from xsplice_plugins.kbuild.tree import XenTree

_RELATIVE = {2, 4}  #: R_X86_64_PC32 and _PLT32: they count from the field's end
_FIELD_BYTES = 4
_UNWINDING = ".eh_frame"
_Content = dict[str, tuple[bytes, tuple[object, ...]]]  #: by section


def folded_into(
    tree: XenTree,
    one: Mapping[str, str],
    other: Mapping[str, str],
    own: Collection[str],
    work: Path,
) -> set[str]:
    """Compile two texts that differ in first values alone, and say what else differs.

    Args:
        tree: The built tree; it is only read.
        one: What differs from it, by path.
        other: The same with other first values.
        own: Functions and variables that may differ, and what sections of their own hold.
        work: A folder of one's own.

    Returns:
        Names of functions, or of sections of data; empty if nothing has such a value in itself.

    Raises:
        CaptureError: One of them does not compile.
    """
    sides = [_compiled(tree, texts, work) for texts in (one, other)]
    found: set[str] = set()
    for path in sides[0].keys() | sides[1].keys():
        codes = [_content(side[path], own) if path in side else {} for side in sides]
        found |= {
            name.removeprefix(".text.")
            for name in codes[0].keys() | codes[1].keys()
            if codes[0].get(name) != codes[1].get(name)
        }
    return found


def _compiled(tree: XenTree, texts: Mapping[str, str], work: Path) -> dict[str, ElfFile]:
    made = {}
    with asking(tree, texts, work) as (copy, jobs):
        for job in jobs:
            out = work / "asked.o"
            capture.compile_object(job, copy, out)
            made[job.object_path] = read_elf(out.read_bytes(), job.object_path)
    return made


def _content(elf: ElfFile, own: Collection[str]) -> _Content:
    """Return what is loaded of an object, but for texts, which are compared where they are used."""
    symbols: dict[int, list[Symbol]] = {}
    for symbol in elf.symbols:
        if symbol.type in (STT_FUNC, STT_OBJECT):
            symbols.setdefault(symbol.shndx, []).append(symbol)
    found: _Content = {}
    for section in elf.sections:
        rows = symbols.get(section.index, [])
        left = [row for row in rows if row.name in own]
        is_told = section.is_alloc and not section.is_strings
        # Unwinding follows code; a section of its own may be there on one side alone.
        if is_told and not section.name.startswith(_UNWINDING) and not (rows and left == rows):
            found[section.name] = _without(elf, section, left)
    return found


def _without(
    elf: ElfFile, section: Section, left: Iterable[Symbol]
) -> tuple[bytes, tuple[object, ...]]:
    """Return a section's bytes and what its fields lead to, without some symbols' own."""
    data, relocs = bytearray(section.data), list(elf.relocs(section))
    for symbol in left:
        start, end = symbol.value, symbol.value + symbol.size_bytes
        if data:  # not of what is all zero
            data[start:end] = bytes(end - start)
        relocs = [row for row in relocs if not start <= row.offset < end]
    return bytes(data), tuple(_targets(elf, relocs))


def _targets(elf: ElfFile, relocs: Iterable[Reloc]) -> Iterator[object]:
    """Give what fields lead to; of a text its content, for others may come to lie before it."""
    for reloc in relocs:
        symbol = elf.symbols[reloc.symbol]
        home = elf.sections[symbol.shndx] if symbol.shndx < len(elf.sections) else None
        name = symbol.name or (home.name if home is not None else "")
        if home is not None and home.is_strings:
            start = symbol.value + reloc.addend + (_FIELD_BYTES if reloc.type in _RELATIVE else 0)
            yield reloc.offset, reloc.type, home.data[start:].split(b"\0")[0]
        else:
            yield reloc.offset, reloc.type, name, reloc.addend
