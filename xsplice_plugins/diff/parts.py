# SPDX-License-Identifier: Apache-2.0
"""The parts an object is taken apart into, and what ties them together."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from xsplice_plugins.elf.types import STB_LOCAL, STT_FUNC, STT_OBJECT

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from xsplice_plugins.elf.types import Reloc, Section, Symbol
    from xsplice_plugins.target.sections import SectionClass, SpecialSection

Key = tuple["Hashable", ...]  #: what two sides are compared by

OLD = False  #: the side of the baseline
NEW = True  #: the side of the new object
EXTERNAL = -1  #: part number of a target outside the object

_CLONE = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv)\b.*$")
_NUMBER = re.compile(r"\.\d+")


class PartKind(StrEnum):
    """What a part is."""

    FUNCTION = "function"
    DATA = "data"
    STRING = "string"
    CONSTANT = "constant"
    ANONYMOUS = "anonymous data"
    ENTRY = "table entry"
    SNIPPET = "code snippet"


class Part(Struct, frozen=True, kw_only=True):
    """A byte range of one section that stands for one thing.

    ``offset`` counts from the start of the section. ObjectParts are numbered per object.
    """

    number: int
    kind: PartKind
    section: int
    section_name: str
    section_class: SectionClass
    offset: int
    size_bytes: int
    name: str  #: plain symbol name, "" for anonymous content
    symbol: Symbol | None = None

    @property
    def stated_size_bytes(self) -> int:
        """Return the size the symbol table states; code of a subsection may follow it."""
        return (self.symbol.size_bytes if self.symbol else 0) or self.size_bytes

    @property
    def is_local(self) -> bool:
        """Tell whether other objects cannot name this part."""
        return self.symbol is None or self.symbol.is_local

    @property
    def decorated(self) -> str:
        """Return the name as the image's symbol table spells it."""
        if self.symbol is None:
            return f"{self.section_name}+{self.offset:#x}"
        return self.symbol.decorated


class Edge(NamedTuple):
    """A relocation seen from the part it lies in."""

    offset: int  #: bytes from the start of the part
    type: int
    part: int  #: number of the part it refers to, or EXTERNAL
    at: int  #: bytes from the start of that part, or from the external symbol
    name: str  #: the external symbol's name, else ""


class Entry(NamedTuple):
    """A table's entry with what it says of its owner."""

    part: int
    row: SpecialSection
    piece: int  #: number of the part its owner field points into
    at: int  #: bytes from the start of that part
    snippet: int  #: number of the snippet part, or EXTERNAL
    line: int  #: source line, 0 if the table has none


def masked(name: str) -> str:
    """Return a name without the numbers the compiler appended.

    gcc's ``rover.0`` is ``rover.#``; clang's ``f.rover`` and ``f.rover.1`` are ``f.rover.#``, for
    clang gives the number to the second variable of a name only.
    """
    return f"{_NUMBER.sub('', name)}.#" if is_compiler_named(name) else name


def source_name(name: str) -> str:
    """Return the name the source has: without clone suffixes and numbers."""
    return _NUMBER.sub("", _CLONE.sub("", name))


def is_compiler_named(name: str) -> bool:
    """Tell whether the compiler chose part of the name, so that equal names prove nothing."""
    return "." in name


def string_bounds(data: bytes, offset: int, width: int) -> tuple[int, int]:
    """Return start and end (terminator included) of the string that holds an offset."""
    zero = bytes(width)
    start = offset - offset % width
    while start > 0 and data[start - width : start] != zero:
        before = data.rfind(zero, 0, start)
        start = 0 if before < 0 else before + width if width == 1 else start - width
    end = offset - offset % width
    while end < len(data) and data[end : end + width] != zero:
        end = data.find(zero, end) if width == 1 else end + width
        if end < 0:
            return start, len(data)
    return start, min(end + width, len(data))


def primary_first(
    symbol: Symbol, common: Collection[str] = ()
) -> tuple[int, bool, bool, bool, int, str]:
    """Sort the symbols of a section by place; of several at one place the first leads.

    It is a sized one, that both sides have (``common``), that is global.
    """
    is_sized = symbol.type in (STT_FUNC, STT_OBJECT) and symbol.size_bytes > 0
    is_common, is_local = symbol.name in common, symbol.bind == STB_LOCAL
    return (symbol.value, not is_sized, not is_common, is_local, -symbol.size_bytes, symbol.name)


def entry_line(section: Section, part: Part, row: SpecialSection, relocs: tuple[Reloc, ...]) -> int:
    """Return the source line that a table's entry holds, 0 if it holds none."""
    if row.displacement_bits:
        bits = 31 - row.displacement_bits  # of the line, above each of two displacements
        words = {r.offset - part.offset: r.addend >> row.displacement_bits for r in relocs}
        low = (1 << bits) - 1
        return (words.get(0, 0) & low) << bits | words.get(4, 0) & low
    if row.line_field is None:
        return 0
    at = part.offset + row.line_field
    return int.from_bytes(section.data[at : at + 2], "little")
