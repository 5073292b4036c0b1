# SPDX-License-Identifier: Apache-2.0
"""Source lines of instructions, from ``.debug_line`` where the compiler wrote it.

Own code on purpose: pyelftools applies no relocations to sections of relocatable objects as fast
as one function's rows are found here, and reading one table needs a hundred lines.

Source: DWARF 5 section 6.2 (line number information); versions 2 to 5 are read.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

from xsplice_plugins.elf.types import SHN_LORESERVE
from xsplice_plugins.errors import DiffError

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

_FORM_UDATA = 0x0F
_FORM_STRING = 0x08
_FORM_LINE_STRP = 0x1F
_FORM_STRP = 0x0E
_FORM_DATA16 = 0x1E
_FORM_DATA2 = 0x05
_FORM_DATA1 = 0x0B
_FORM_BLOCK = 0x09
_CONTENT_PATH = 1


@dataclass(frozen=True, kw_only=True)
class LineTable:
    """Rows (offset, ``file.c:123``) per section index, sorted by offset."""

    rows: dict[int, list[tuple[int, str]]] = field(default_factory=dict)

    def line_of(self, section: int, offset: int) -> str:
        """Return the line of an instruction as ``file.c:123``, or "" if it is not known."""
        rows = self.rows.get(section, [])
        i = bisect_right(rows, offset, key=itemgetter(0)) - 1
        return rows[i][1] if i >= 0 else ""


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


def line_table(file: ElfFile) -> LineTable:
    """Return the line table of an object; empty if it has no debug information.

    Raises:
        DiffError: It is damaged.
    """
    return _line_table(file.data, file.name)


@lru_cache(maxsize=8)
def _line_table(data: bytes, name: str) -> LineTable:
    from xsplice_plugins.elf.reader import read_elf  # noqa: PLC0415  the cache's key is the bytes

    file = read_elf(data, name)
    section = file.section_by_name.get(".debug_line")
    if section is None:
        return LineTable()
    targets: dict[int, tuple[int, int]] = {}
    body = bytearray(section.data)
    for reloc in file.relocs(section):
        symbol = file.symbols[reloc.symbol]
        if 0 < symbol.shndx < SHN_LORESERVE:
            value = symbol.value + reloc.addend
            targets[reloc.offset] = (symbol.shndx, value)
            if not file.sections[symbol.shndx].is_alloc:  # offsets into .debug_line_str
                body[reloc.offset : reloc.offset + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    strings = {
        _FORM_LINE_STRP: file.section_by_name.get(".debug_line_str"),
        _FORM_STRP: file.section_by_name.get(".debug_str"),
    }
    texts = {form: s.data for form, s in strings.items() if s is not None}
    table = LineTable()
    reader = Cursor(bytes(body))
    try:
        while reader.at < len(body):
            _unit(reader, targets, texts, table)
    except (IndexError, KeyError, ValueError) as error:
        raise DiffError(f"{name}: its line table is damaged; compile the object again") from error
    for rows in table.rows.values():
        rows.sort(key=itemgetter(0))  # of several at one place the last counts
    return table


def _unit(
    reader: Cursor,
    targets: dict[int, tuple[int, int]],
    texts: dict[int, bytes],
    table: LineTable,
) -> None:
    length = reader.number(4)
    end = reader.at + length
    version = reader.number(2)
    if version >= 5:
        reader.at += 2  # sizes of addresses and of segment selectors
    program = reader.number(4) + reader.at
    minimum = reader.number(1)
    if version >= 4:
        reader.at += 1  # operations per instruction: VLIW only
    reader.at += 1  # default of is_stmt
    base = reader.number(1)
    base = base - 256 if base > 127 else base
    spread = reader.number(1)
    opcode_base = reader.number(1)
    lengths = [reader.number(1) for _ in range(opcode_base - 1)]
    if version >= 5:
        _entries(reader, texts)
        files = _entries(reader, texts)
    else:
        while reader.data[reader.at]:
            reader.text()
        reader.at += 1
        files = [""]
        while reader.data[reader.at]:
            files.append(reader.text())
            reader.uleb()
            reader.uleb()
            reader.uleb()
        reader.at += 1
    reader.at = program
    header = (minimum, base, spread, opcode_base, lengths)
    _program(reader, end, header, files, targets, table)
    reader.at = end


def _entries(reader: Cursor, texts: dict[int, bytes]) -> list[str]:
    formats = [(reader.uleb(), reader.uleb()) for _ in range(reader.number(1))]
    result = []
    for _ in range(reader.uleb()):
        name = ""
        for content, form in formats:
            value = _form(reader, form, texts)
            if content == _CONTENT_PATH:
                name = value
        result.append(name)
    return result


def _form(reader: Cursor, form: int, texts: dict[int, bytes]) -> str:
    if form == _FORM_STRING:
        return reader.text()
    if form in (_FORM_LINE_STRP, _FORM_STRP):
        return Cursor(texts[form], reader.number(4)).text()
    if form == _FORM_UDATA:
        reader.uleb()
    elif form == _FORM_BLOCK:
        reader.at += reader.uleb()
    else:
        reader.at += {_FORM_DATA1: 1, _FORM_DATA2: 2, _FORM_DATA16: 16}[form]
    return ""


def _program(
    reader: Cursor,
    end: int,
    header: tuple[int, int, int, int, list[int]],
    files: list[str],
    targets: dict[int, tuple[int, int]],
    table: LineTable,
) -> None:
    minimum, base, spread, opcode_base, lengths = header
    section, address, file, line = 0, 0, 1, 1
    while reader.at < end:
        opcode = reader.number(1)
        is_row = False
        if opcode >= opcode_base:
            step = opcode - opcode_base
            address += step // spread * minimum
            line += base + step % spread
            is_row = True
        elif opcode == 0:
            size = reader.uleb()
            following = reader.at + size
            extended = reader.number(1)
            if extended == 1:  # end of sequence
                table.rows.setdefault(section, []).append((address, ""))
                section, address, file, line = 0, 0, 1, 1
            elif extended == 2:  # set address
                section, address = targets.get(reader.at, (0, 0))
            reader.at = following
        elif opcode == 1:
            is_row = True
        elif opcode == 2:
            address += reader.uleb() * minimum
        elif opcode == 3:
            line += reader.sleb()
        elif opcode == 4:
            file = reader.uleb()
        elif opcode == 8:
            address += (255 - opcode_base) // spread * minimum
        elif opcode == 9:
            address += reader.number(2)
        else:
            for _ in range(lengths[opcode - 1]):
                reader.uleb()
        if is_row:
            name = files[file] if file < len(files) else ""
            table.rows.setdefault(section, []).append((address, f"{name}:{line}"))
