# SPDX-License-Identifier: Apache-2.0
"""What ``.debug_info`` tells: layouts of structures, and which function absorbed which.

Read only where the object has it, and only once something changed. Own walker on purpose: it
skips what the differ does not ask for and needs a tenth of pyelftools' time (issue 4's limits).

Source: DWARF 5 sections 7.5.3 (abbreviations) and 7.5.6 (forms); versions 4 and 5 are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.diff.lines import Cursor
from xsplice_plugins.elf.types import SHN_LORESERVE
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

_TAG_MEMBER, _TAG_STRUCT, _TAG_UNION = 0x0D, 0x13, 0x17
_TAG_INLINED, _TAG_SUBPROGRAM, _TAG_BLOCK = 0x1D, 0x2E, 0x0B
_AT_NAME, _AT_BYTE_SIZE, _AT_LOW_PC, _AT_ORIGIN = 0x03, 0x0B, 0x11, 0x31
_AT_MEMBER_LOCATION, _AT_BIT_OFFSET, _AT_RANGES = 0x38, 0x6B, 0x55
_AT_SPECIFICATION, _AT_TYPE, _AT_STR_OFFSETS_BASE = 0x47, 0x49, 0x72
_TAG_POINTER, _TAG_CONST, _TAG_ENUM = 0x0F, 0x26, 0x04
_WANTED = frozenset(
    {
        _AT_NAME, _AT_BYTE_SIZE, _AT_LOW_PC, _AT_ORIGIN, _AT_MEMBER_LOCATION, _AT_BIT_OFFSET,
        _AT_RANGES, _AT_SPECIFICATION, _AT_TYPE,
        _AT_STR_OFFSETS_BASE,
    }
)  # fmt: skip

_FIXED = {
    0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x10: 4, 0x11: 1, 0x12: 2, 0x13: 4,
    0x14: 8, 0x17: 4, 0x19: 0, 0x1E: 16, 0x20: 8, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4,
}  # fmt: skip
_ULEB = frozenset({0x0F, 0x15, 0x1B, 0x22, 0x23})
_STRX = {0x1A: 0, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4}  #: clang's: number of an offset, its size
_STR_OFFSETS = 0x1A
_STR_OFFSETS_HEADER_BYTES = 8
_STRING, _STRP, _LINE_STRP, _SDATA, _IMPLICIT = 0x08, 0x0E, 0x1F, 0x0D, 0x21
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}
_LEB_BLOCKS = frozenset({0x09, 0x18})
_NESTING_MAX = 64

Value = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Size and members of a structure: (name, offset in bits)."""

    size_bytes: int
    members: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class DebugInfo:
    """What the debug information of one object says."""

    layouts: dict[str, Layout] = field(default_factory=dict)
    types: dict[tuple[str, str], str] = field(default_factory=dict)  #: (structure, member): C type
    inlined: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Entry:
    tag: int
    values: dict[int, Value]
    parent: int  #: number in the list of entries, -1 at the top


def debug_info(file: ElfFile) -> DebugInfo:
    """Return what an object's debug information says; nothing if it has none.

    Raises:
        DiffError: It uses a form that is not known.
    """
    return _debug_info(file.data, file.name)


@lru_cache(maxsize=8)
def _debug_info(data: bytes, name: str) -> DebugInfo:
    from xsplice_plugins.elf.reader import read_elf  # noqa: PLC0415  the cache's key is the bytes

    file = read_elf(data, name)
    if ".debug_info" not in file.section_by_name or ".debug_abbrev" not in file.section_by_name:
        return DebugInfo()
    info = _relocated(file, ".debug_info")
    abbreviations = file.section_by_name[".debug_abbrev"].data
    texts = {
        form: file.section_by_name[section].data
        for form, section in ((_STRP, ".debug_str"), (_LINE_STRP, ".debug_line_str"))
        if section in file.section_by_name
    }
    if ".debug_str_offsets" in file.section_by_name:
        texts[_STR_OFFSETS] = _relocated(file, ".debug_str_offsets")
    entries: list[_Entry] = []
    place_of: dict[int, int] = {}
    cursor = Cursor(info)
    try:
        while cursor.at < len(info):
            _read_unit(cursor, abbreviations, texts, entries, place_of, name)
    except (IndexError, KeyError, ValueError) as error:
        raise DiffError(
            f"{name}: its debug information is damaged; compile the object again"
        ) from error
    return DebugInfo(
        layouts=_layouts(entries),
        types=_member_types(entries, place_of),
        inlined=_inlined(entries, place_of),
    )


def _relocated(file: ElfFile, section_name: str) -> bytes:
    section = file.section_by_name[section_name]
    body = bytearray(section.data)
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
        tag = cursor.uleb()
        has_children = bool(cursor.number(1))
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
    entries: list[_Entry],
    place_of: dict[int, int],
    name: str,
) -> None:
    start = cursor.at
    length = cursor.number(4)
    end = cursor.at + length
    version = cursor.number(2)
    if version >= 5:
        cursor.at += 2  # unit type, size of addresses
        table = _read_abbreviations(abbreviations, cursor.number(4))
    else:
        table = _read_abbreviations(abbreviations, cursor.number(4))
        cursor.at += 1
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
            value = constant if form == _IMPLICIT else _value(cursor, form, texts, start, name)
            if attribute in _WANTED:
                if form in _STRX:
                    at = base + 4 * _number(value)
                    value = Cursor(texts[_STRP], Cursor(texts[_STR_OFFSETS], at).number(4)).text()
                values[attribute] = value
        base = _number(values.get(_AT_STR_OFFSETS_BASE, base))
        place_of[place] = len(entries)
        entries.append(_Entry(tag=tag, values=values, parent=parents[-1]))
        if has_children:
            parents.append(len(entries) - 1)
    cursor.at = end


def _value(cursor: Cursor, form: int, texts: dict[int, bytes], unit: int, name: str) -> Value:
    if form in _FIXED:
        value = cursor.number(_FIXED[form])
        return value + unit if form in (0x11, 0x12, 0x13, 0x14) else value
    if form in (_STRP, _LINE_STRP):
        return Cursor(texts[form], cursor.number(4)).text()
    if form in _ULEB or form == _STR_OFFSETS:
        return cursor.uleb()
    if form in _STRX:
        return cursor.number(_STRX[form])
    if form == _SDATA:
        return cursor.sleb()
    if form == _STRING:
        return cursor.text()
    if form in _BLOCKS:
        cursor.at += cursor.number(_BLOCKS[form])
        return 0
    if form in _LEB_BLOCKS:
        size = cursor.uleb()
        cursor.at += size
        return 0
    raise DiffError(
        f"{name}: its debug information uses form {form:#x}, which is not known; "
        "compile with -gdwarf-4 or without -g"
    )


def _layouts(entries: list[_Entry]) -> dict[str, Layout]:
    members: dict[int, list[tuple[str, int]]] = {}
    for entry in entries:
        if entry.tag == _TAG_MEMBER:
            values = entry.values
            bits = _number(values.get(_AT_BIT_OFFSET, 0))
            bits += 8 * _number(values.get(_AT_MEMBER_LOCATION, 0))
            name = str(values.get(_AT_NAME, "(unnamed)"))
            members.setdefault(entry.parent, []).append((name, bits))
    result = {}
    for number, entry in enumerate(entries):
        if entry.tag not in (_TAG_STRUCT, _TAG_UNION) or _AT_BYTE_SIZE not in entry.values:
            continue
        if _AT_NAME not in entry.values or _within_function(entries, entry):
            continue
        result[_type_name(entry)] = Layout(
            size_bytes=_number(entry.values[_AT_BYTE_SIZE]),
            members=tuple(members.get(number, ())),
        )
    return result


def _type_name(entry: _Entry) -> str:
    words = {_TAG_STRUCT: "struct ", _TAG_UNION: "union ", _TAG_ENUM: "enum "}
    return f"{words.get(entry.tag, '')}{entry.values[_AT_NAME]}"


def _member_types(entries: list[_Entry], place_of: dict[int, int]) -> dict[tuple[str, str], str]:
    """Return the C type of each member whose type can be written in front of its name."""
    result = {}
    for entry in entries:
        if entry.tag != _TAG_MEMBER or entry.parent < 0 or _AT_NAME not in entry.values:
            continue
        owner = entries[entry.parent]
        text = _type_text(entries, place_of, entry)
        if text and owner.tag in (_TAG_STRUCT, _TAG_UNION) and _AT_NAME in owner.values:
            result[_type_name(owner), str(entry.values[_AT_NAME])] = text
    return result


def _type_text(entries: list[_Entry], place_of: dict[int, int], entry: _Entry) -> str:
    """Return how C writes an entry's type, or "" if it has no plain form (arrays, functions)."""
    suffix = ""
    for _ in range(_NESTING_MAX):
        number = place_of.get(_number(entry.values.get(_AT_TYPE, -1)))
        if number is None:
            return f"void{suffix}" if suffix.startswith(" *") else ""
        entry = entries[number]
        if entry.tag == _TAG_POINTER:
            suffix = f"{suffix}*" if suffix else " *"
        elif entry.tag == _TAG_CONST:
            return ""
        elif _AT_NAME in entry.values:
            return f"{_type_name(entry)}{suffix}"
        else:
            return ""
    return ""


def _within_function(entries: list[_Entry], entry: _Entry) -> bool:
    at = entry.parent
    for _ in range(_NESTING_MAX):
        if at < 0:
            return False
        if entries[at].tag in (_TAG_SUBPROGRAM, _TAG_BLOCK):
            return True
        at = entries[at].parent
    return False


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _inlined(entries: list[_Entry], place_of: dict[int, int]) -> dict[str, frozenset[str]]:
    def name_of(entry: _Entry) -> str:
        for _ in range(_NESTING_MAX):
            if _AT_NAME in entry.values:
                return str(entry.values[_AT_NAME])
            origin = entry.values.get(_AT_ORIGIN, entry.values.get(_AT_SPECIFICATION))
            number = place_of.get(_number(origin)) if origin is not None else None
            if number is None:
                return ""
            entry = entries[number]
        return ""

    result: dict[str, set[str]] = {}
    for entry in entries:
        if entry.tag != _TAG_INLINED:
            continue
        at = entry.parent
        while at >= 0 and entries[at].tag != _TAG_SUBPROGRAM:
            at = entries[at].parent
        if at >= 0 and (_AT_LOW_PC in entries[at].values or _AT_RANGES in entries[at].values):
            result.setdefault(name_of(entries[at]), set()).add(name_of(entry))
    return {name: frozenset(names - {""}) for name, names in result.items() if name}


def layout_difference(name: str, old: Layout, new: Layout) -> str:
    """Say how a structure's layout changed, naming the first field concerned; "" if it did not."""
    if old == new:
        return ""
    before, after = dict(old.members), dict(new.members)
    for member, bits in new.members:
        if member not in before:
            return f"`{name}` got a new field `{member}` at byte {bits // 8}"
        if before[member] != bits:
            was = before[member] // 8
            return f"field `{member}` of `{name}` moved from byte {was} to byte {bits // 8}"
    for member, _ in old.members:
        if member not in after:
            return f"`{name}` lost its field `{member}`"
    if old.size_bytes != new.size_bytes:
        return f"`{name}` had {old.size_bytes} bytes and would have {new.size_bytes}"
    return f"the fields of `{name}` changed their order"
