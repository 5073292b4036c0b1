# SPDX-License-Identifier: Apache-2.0
"""What ``.debug_info`` tells: types, and which function absorbed which.

Read only where the object has it, and only once something changed. Own walker on purpose: it
skips what the differ does not ask for and needs a tenth of pyelftools' time.

Source: DWARF 5 sections 7.5.3 (abbreviations) and 7.5.6 (forms); versions 4 and 5 are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.elf.packed import unpacked
from xsplice_plugins.elf.types import SHN_LORESERVE
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xsplice_plugins.elf.reader import ElfFile

TAG_MEMBER, TAG_STRUCT, TAG_UNION = 0x0D, 0x13, 0x17
TAG_INLINED, TAG_SUBPROGRAM, TAG_BLOCK = 0x1D, 0x2E, 0x0B
AT_NAME, AT_BYTE_SIZE, AT_LOW_PC, AT_ORIGIN = 0x03, 0x0B, 0x11, 0x31
AT_MEMBER_LOCATION, AT_BIT_OFFSET, AT_RANGES = 0x38, 0x6B, 0x55
AT_SPECIFICATION, AT_TYPE, AT_STR_OFFSETS_BASE = 0x47, 0x49, 0x72
AT_OLD_BIT_OFFSET, AT_BIT_SIZE, AT_UPPER_BOUND, AT_COUNT = 0x0C, 0x0D, 0x2F, 0x37
TAG_POINTER, TAG_CONST, TAG_ENUM, TAG_TYPEDEF, TAG_VOLATILE = 0x0F, 0x26, 0x04, 0x16, 0x35
TAG_ARRAY, TAG_SUBRANGE, TAG_FUNCTION_TYPE = 0x01, 0x21, 0x15
TAG_ENUMERATOR, TAG_VARIABLE, TAG_PARAMETER, TAG_MORE_PARAMETERS = 0x28, 0x34, 0x05, 0x18
AT_LOCATION, AT_CONST_VALUE, AT_PRODUCER, AT_EXTERNAL, AT_INLINE = 0x02, 0x1C, 0x25, 0x3F, 0x20
RECORDS = (TAG_STRUCT, TAG_UNION)
_WANTED = frozenset(
    {
        AT_NAME, AT_BYTE_SIZE, AT_LOW_PC, AT_ORIGIN, AT_MEMBER_LOCATION, AT_BIT_OFFSET,
        AT_RANGES, AT_SPECIFICATION, AT_TYPE, AT_OLD_BIT_OFFSET, AT_BIT_SIZE,
        AT_UPPER_BOUND, AT_COUNT, AT_STR_OFFSETS_BASE, AT_LOCATION, AT_CONST_VALUE,
        AT_PRODUCER, AT_EXTERNAL, AT_INLINE,
    }
)  # fmt: skip

_FIXED = {
    0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x10: 4, 0x11: 1, 0x12: 2, 0x13: 4,
    0x14: 8, 0x17: 4, 0x19: 0, 0x1E: 16, 0x20: 8, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4,
}  # fmt: skip
_ULEB = frozenset({0x0F, 0x15, 0x1B, 0x22, 0x23})
_IN_UNIT = frozenset({0x11, 0x12, 0x13, 0x14, 0x15})  #: places, counted from the unit's start
_STRX = {0x1A: 0, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4}  #: clang's: number of an offset, its size
_STR_OFFSETS, _STR_OFFSETS_HEADER_BYTES = 0x1A, 8
_STRING, _STRP, _LINE_STRP, _SDATA, _IMPLICIT = 0x08, 0x0E, 0x1F, 0x0D, 0x21
_BLOCKS, _LEB_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}, frozenset({0x09, 0x18})
#: Operations that begin the place of what has an address of its own: DW_OP_addr, its indexed forms.
_ADDRESSES = frozenset({0x03, 0xA1, 0xFB})
NESTING_MAX = 64

Value = int | str
Unit = tuple[list["DebugEntry"], dict[int, int]]  #: entries, and the number of each by its place


class Cursor:
    """Bytes of a debug section with its relocations already applied, read in order."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        """Start reading at an offset."""
        self.data = data
        self.at = at

    def number(self, size: int) -> int:
        """Read a little-endian number of that many bytes."""
        value = int.from_bytes(self.data[self.at : self.at + size], "little")
        self.at += size
        return value

    def uleb(self) -> int:
        """Read an unsigned LEB128 number."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def sleb(self) -> int:
        """Read a signed LEB128 number."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - (1 << shift) if byte & 0x40 else value

    def text(self) -> str:
        """Read a text up to its NUL."""
        end = self.data.index(b"\0", self.at)
        value = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return value


class DebugEntry(Struct, kw_only=True):
    """One debugging information entry."""

    tag: int
    values: dict[int, Value]
    parent: int  #: number in the list of entries, -1 at the top


@dataclass(frozen=True, kw_only=True)
class DebugInfo:
    """What the debug information of one object says."""

    entries: list[DebugEntry] = field(default_factory=list)
    place_of: dict[int, int] = field(default_factory=dict)  #: place in the section: number

    types: dict[tuple[str, str], str] = field(default_factory=dict)  #: (structure, member): C type
    inlined: dict[str, frozenset[str]] = field(default_factory=dict)


def debug_info(file: ElfFile) -> DebugInfo:
    """Return what an object's debug information says; nothing if it has none.

    Raises:
        DiffError: It uses a form that is not known.
    """
    return _debug_info(file.data, file.name)


@lru_cache(maxsize=8)
def _debug_info(data: bytes, name: str) -> DebugInfo:
    from xsplice_plugins.elf.reader import read_elf  # noqa: PLC0415  the cache's key is the bytes

    entries: list[DebugEntry] = []
    place_of: dict[int, int] = {}
    for _ in debug_units(read_elf(data, name), lambda: (entries, place_of)):
        pass
    return DebugInfo(
        entries=entries,
        place_of=place_of,
        types=_member_types(entries, place_of),
        inlined=_inlined(entries, place_of),
    )


def debug_units(
    file: ElfFile, room: Callable[[], Unit] = lambda: ([], {}), *, are_tops_enough: bool = False
) -> Iterator[Unit]:
    """Give what each compiled file left in an object or an image, one after the other.

    Args:
        file: One without debug information gives nothing.
        room: Where each is put: entries, and the number of each by its place.
        are_tops_enough: Read the first entry of each alone, which says what was compiled, and how.

    Raises:
        DiffError: A form is not known, or something is damaged.
    """
    if ".debug_info" not in file.section_by_name or ".debug_abbrev" not in file.section_by_name:
        return
    info = _relocated(file, ".debug_info")
    abbreviations = unpacked(file, ".debug_abbrev")
    texts = {
        form: unpacked(file, section)
        for form, section in ((_STRP, ".debug_str"), (_LINE_STRP, ".debug_line_str"))
        if section in file.section_by_name
    }
    if ".debug_str_offsets" in file.section_by_name:
        texts[_STR_OFFSETS] = _relocated(file, ".debug_str_offsets")
    cursor = Cursor(info)
    while cursor.at < len(info):
        unit = room()
        try:
            _read_unit(cursor, abbreviations, texts, unit, file.name, are_tops_enough)
        except (IndexError, KeyError, ValueError) as error:
            raise DiffError(
                f"{file.name}: its debug information is damaged; compile the object again"
            ) from error
        yield unit


def _relocated(file: ElfFile, section_name: str) -> bytes:
    section = file.section_by_name[section_name]
    body = bytearray(unpacked(file, section_name))
    for reloc in file.relocs(section):
        symbol = file.symbols[reloc.symbol]
        if 0 < symbol.shndx < SHN_LORESERVE and not file.sections[symbol.shndx].is_alloc:
            value = (symbol.value + reloc.addend) & 0xFFFFFFFF
            body[reloc.offset : reloc.offset + 4] = value.to_bytes(4, "little")
    return bytes(body)


Abbreviation = tuple[int, bool, list[tuple[int, int, int]]]


def _read_abbreviations(data: bytes, at: int) -> dict[int, Abbreviation]:
    cursor = Cursor(data, at)
    result: dict[int, Abbreviation] = {}
    while code := cursor.uleb():
        tag, has_children = cursor.uleb(), bool(cursor.number(1))
        attributes = []
        while True:
            attribute, form = cursor.uleb(), cursor.uleb()
            constant = cursor.sleb() if form == _IMPLICIT else 0
            if not attribute and not form:
                break
            attributes.append((attribute, form, constant))
        result[code] = (tag, has_children, attributes)
    return result


def _read_unit(
    cursor: Cursor,
    abbreviations: bytes,
    texts: dict[int, bytes],
    unit: Unit,
    name: str,
    is_top_enough: bool,
) -> None:
    entries, place_of = unit
    start = cursor.at
    end = cursor.number(4) + cursor.at
    version = cursor.number(2)
    if version >= 5:
        cursor.at += 2  # unit type, size of addresses
    table = _read_abbreviations(abbreviations, cursor.number(4))
    cursor.at += version < 5
    parents = [-1]
    base = _STR_OFFSETS_HEADER_BYTES
    while cursor.at < end:
        place = cursor.at
        code = cursor.uleb()
        if code == 0:
            parents.pop()
            if not parents:
                break
            continue
        tag, has_children, attributes = table[code]
        values: dict[int, Value] = {}
        for attribute, form, constant in attributes:
            at = cursor.at
            value = constant if form == _IMPLICIT else _value(cursor, form, texts, start, name)
            if attribute in _WANTED:
                if attribute == AT_LOCATION:
                    value = int(_is_address(cursor.data, at, form))
                if form in _STRX:
                    at = base + 4 * number_of(value)
                    value = Cursor(texts[_STRP], Cursor(texts[_STR_OFFSETS], at).number(4)).text()
                values[attribute] = value
        base = number_of(values.get(AT_STR_OFFSETS_BASE, base))
        place_of[place] = len(entries)
        entries.append(DebugEntry(tag=tag, values=values, parent=parents[-1]))
        if is_top_enough:
            break
        if has_children:
            parents.append(len(entries) - 1)
    cursor.at = end


def _value(cursor: Cursor, form: int, texts: dict[int, bytes], unit: int, name: str) -> Value:
    if form in _FIXED:
        return cursor.number(_FIXED[form]) + (unit if form in _IN_UNIT else 0)
    if form in (_STRP, _LINE_STRP):
        return Cursor(texts[form], cursor.number(4)).text()
    if form in _ULEB or form == _STR_OFFSETS:
        return cursor.uleb() + (unit if form in _IN_UNIT else 0)
    if form in _STRX:
        return cursor.number(_STRX[form])
    if form == _SDATA:
        return cursor.sleb()
    if form == _STRING:
        return cursor.text()
    if form in _BLOCKS or form in _LEB_BLOCKS:
        size = cursor.number(_BLOCKS[form]) if form in _BLOCKS else cursor.uleb()
        cursor.at += size
        return 0
    raise DiffError(
        f"{name}: its debug information uses form {form:#x}, which is not known; "
        "compile with -gdwarf-4 or without -g"
    )


def _is_address(data: bytes, at: int, form: int) -> bool:
    """Tell whether a place is an address of its own, no register, list or place in the stack."""
    cursor = Cursor(data, at)
    if form in _BLOCKS:
        cursor.at += _BLOCKS[form]
    elif form not in _LEB_BLOCKS or not cursor.uleb():
        return False
    return data[cursor.at] in _ADDRESSES


def type_name(entry: DebugEntry) -> str:
    """Return a structure's or another type's name as C spells it."""
    words = {TAG_STRUCT: "struct ", TAG_UNION: "union ", TAG_ENUM: "enum "}
    return f"{words.get(entry.tag, '')}{entry.values[AT_NAME]}"


def _member_types(
    entries: list[DebugEntry], place_of: dict[int, int]
) -> dict[tuple[str, str], str]:
    """Return the C type of each member whose type can be written in front of its name."""
    result = {}
    for entry in entries:
        if entry.tag != TAG_MEMBER or entry.parent < 0 or AT_NAME not in entry.values:
            continue
        owner = entries[entry.parent]
        text = _type_text(entries, place_of, entry)
        if text and owner.tag in (TAG_STRUCT, TAG_UNION) and AT_NAME in owner.values:
            result[type_name(owner), str(entry.values[AT_NAME])] = text
    return result


def _type_text(entries: list[DebugEntry], place_of: dict[int, int], entry: DebugEntry) -> str:
    """Return how C writes an entry's type, or "" if it has no plain form (arrays, functions)."""
    suffix = ""
    for _ in range(NESTING_MAX):
        number = place_of.get(number_of(entry.values.get(AT_TYPE, -1)))
        if number is None:
            return f"void{suffix}" if suffix.startswith(" *") else ""
        entry = entries[number]
        if entry.tag == TAG_POINTER:
            suffix = f"{suffix}*" if suffix else " *"
        elif entry.tag == TAG_CONST:
            return ""
        elif AT_NAME in entry.values:
            return f"{type_name(entry)}{suffix}"
        else:
            return ""
    return ""


def origin_of(info: DebugInfo, number: int) -> int:
    """Return the entry that a copy or a definition was first declared with, or the entry itself."""
    for _ in range(NESTING_MAX):
        values = info.entries[number].values
        other = values.get(AT_ORIGIN, values.get(AT_SPECIFICATION))
        place = info.place_of.get(number_of(other)) if other is not None else None
        if place is None:
            break
        number = place
    return number


def function_around(info: DebugInfo, number: int) -> str:
    """Return the function that an entry lies in, as its source calls it; "" at file scope."""
    at = info.entries[number].parent
    while at >= 0 and info.entries[at].tag not in (TAG_SUBPROGRAM, TAG_INLINED):
        at = info.entries[at].parent
    if at < 0:
        return ""
    return str(info.entries[origin_of(info, at)].values.get(AT_NAME, "(nameless)"))


def within_function(entries: list[DebugEntry], entry: DebugEntry) -> bool:
    """Tell whether a type is known in one function only."""
    at = entry.parent
    for _ in range(NESTING_MAX):
        if at < 0:
            return False
        if entries[at].tag in (TAG_SUBPROGRAM, TAG_BLOCK):
            return True
        at = entries[at].parent
    return False


def number_of(value: Value) -> int:
    """Return a value that is a number; 0 for any other."""
    return value if isinstance(value, int) else 0


def _inlined(entries: list[DebugEntry], place_of: dict[int, int]) -> dict[str, frozenset[str]]:
    def name_of(entry: DebugEntry) -> str:
        for _ in range(NESTING_MAX):
            if AT_NAME in entry.values:
                return str(entry.values[AT_NAME])
            origin = entry.values.get(AT_ORIGIN, entry.values.get(AT_SPECIFICATION))
            number = place_of.get(number_of(origin)) if origin is not None else None
            if number is None:
                return ""
            entry = entries[number]
        return ""

    result: dict[str, set[str]] = {}
    for entry in entries:
        if entry.tag != TAG_INLINED:
            continue
        at = entry.parent
        while at >= 0 and entries[at].tag != TAG_SUBPROGRAM:
            at = entries[at].parent
        if at >= 0 and (AT_LOW_PC in entries[at].values or AT_RANGES in entries[at].values):
            result.setdefault(name_of(entries[at]), set()).add(name_of(entry))
    return {name: frozenset(names - {""}) for name, names in result.items() if name}
