# SPDX-License-Identifier: Apache-2.0
"""A second opinion on which functions differ, from objdump's text alone.

It knows nothing of meaning: it holds the text of each function, with names for numbers, against
the other side's. It is right only for edits that keep every line number.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_PLACE = re.compile(r"^\s*[0-9a-f]+:\t")
_CONSTANT = re.compile(r"\.LC(\d+)")
_GUESS = re.compile(r"(?:<[^>]*>|# .*?)(?=\tR_X86)")
_OWN_DATA = re.compile(r"-?0x[0-9a-f]+\(%rip\)(?=.*# <)")
_TABLE = re.compile(r"\.rodata\.[\w.]+")
_SUFFIX = re.compile(r"\.(?:cold|isra|constprop|part)\b(?:\.\d+)?|\.\d+\b")


def functions(path: Path) -> dict[str, list[str]]:
    """Return the text of each function of an object, cold parts joined to their parents."""
    constants, tables = _constants(path), _tables(path)
    command = ["objdump", "-drw", "--no-show-raw-insn", "--no-addresses", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result: dict[str, list[str]] = {}
    current: list[str] = []
    for row in text.splitlines():
        line = row.replace(".text.unlikely.", ".text.")
        head = re.match(r"^<(.+)>:$", line) or _HEAD.match(line)
        if head:
            current = result.setdefault(_SUFFIX.sub("", head[1]), [])
        elif line.strip() and not line.startswith("Disassembly"):
            plain = _PLACE.sub("", line)
            if "R_X86_64_" in plain:  # what objdump guesses in front of it means nothing
                plain = _GUESS.sub("", plain)
            plain = _OWN_DATA.sub("(%rip)", plain)
            plain = _CONSTANT.sub(lambda m: constants.get(m[0], m[0]), plain)
            plain = _TABLE.sub(lambda m: tables.get(m[0], m[0]), plain)
            current.append(_SUFFIX.sub("", plain))
    for lines in result.values():
        while lines and lines[-1].split()[0].startswith("nop"):
            lines.pop()  # what fills the room in front of the next function
    return result


def _tables(path: Path) -> dict[str, str]:
    """Map the section of each read-only table to its content."""
    from xsplice_plugins.elf.reader import read_elf  # noqa: PLC0415  the reader, not the differ

    file = read_elf(path.read_bytes(), path.name)
    return {
        s.name: f"{_SUFFIX.sub('', s.name)}={s.data.hex()}"
        for s in file.sections
        if s.name.startswith(".rodata.") and not s.is_strings
    }


def _constants(path: Path) -> dict[str, str]:
    """Map each ``.LC`` symbol to the text it stands for."""
    from xsplice_plugins.elf.reader import read_elf  # noqa: PLC0415  the reader, not the differ

    file = read_elf(path.read_bytes(), path.name)
    result = {}
    for symbol in file.symbols:
        if symbol.name.startswith(".LC") and 0 < symbol.shndx < len(file.sections):
            section = file.sections[symbol.shndx]
            width = 0 if section.is_strings else section.entry_size_bytes
            end = symbol.value + width if width else section.data.find(b"\0", symbol.value)
            result[symbol.name] = repr(section.data[symbol.value : end])
    return result


def differing(before: Path, after: Path) -> set[str]:
    """Return the functions whose text differs, is new or is gone."""
    old, new = functions(before), functions(after)
    names = {name for name in old.keys() | new.keys() if not name.startswith(".")}
    return {name for name in names if old.get(name) != new.get(name)}
