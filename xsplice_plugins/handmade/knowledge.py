# SPDX-License-Identifier: Apache-2.0
"""What a compiler that sees a function and its callers knows of both, beyond the ABI.

A caller keeps values over the call in registers that its callee leaves alone (gcc's ``-fipa-ra``),
or in spite of memory that any other function might change. A static function takes it that its
arguments are those of the callers that are there. A replacement and a caller that were written by
hand keep to none of that. Compiled once more without such knowledge, the code comes out otherwise.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Likeness, object_and_name
from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHF_EXECINSTR, STT_FUNC, STT_SECTION
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.handmade.compiling import recorded_job
from xsplice_plugins.kbuild.records import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xsplice_plugins.capture.reads import Reads
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.elf.types import Reloc, Symbol
    from xsplice_plugins.handmade.originals import Originals

#: Options of gcc against what callers know of a function, and what it knows of them.
_OF_CALLEES = ("-fno-ipa-ra", "-fno-ipa-modref")
_OF_CALLERS = ("-fno-ipa-vrp", "-fno-ipa-bit-cp")
_UNKNOWN = re.compile(r"(?:unrecognized|unknown|unsupported)[^\n]*-fno-ipa-[\w-]+")

_Bodies = dict[str, tuple[bytes, tuple[tuple[int, int, str, int], ...]]]


class Knowledge:
    """Looks at the objects of one tree, each once."""

    def __init__(self, originals: Originals, reads: Reads) -> None:
        """Ask ``originals`` for objects; ``reads`` gets the files that are read for that."""
        self._originals, self._reads = originals, reads
        self._compared: dict[tuple[str, tuple[str, ...]], tuple[ElfFile, set[str]] | str] = {}

    def doubts(self, replaced: Iterable[str], used: Iterable[str]) -> Iterator[str]:
        """Say of which functions a compiler knew what a hand-written file does not keep to.

        Args:
            replaced: Decorated names of what the file replaces.
            used: The same of the statics of Xen that it calls.
        """
        for name in replaced:
            path, found = self._asked(name, _OF_CALLEES)
            plain = name.rpartition("#")[2]
            if others := self._otherwise(path):
                yield (
                    f"the shipped image has `{others[0]}` otherwise than the tree, or alone: it "
                    f"may call `{plain}` ({path}), and keep values in registers that this leaves "
                    "alone (-fipa-ra); build the base of the vendor's own sources"
                )
            if isinstance(found, str):
                if found:
                    yield f"what the callers of `{name}` know of it was not looked at: {found}"
            elif rows := sorted(found[1] & _reaching(found[0], plain)):
                yield (
                    f"`{rows[0]}` ({path}) knows which registers `{plain}` leaves alone, and keeps "
                    "values there over the call (-fipa-ra), or what memory it changes; a "
                    "replacement may do otherwise; give a patch of the sources instead, with which "
                    "callers are compiled again"
                )
        for name in used:
            path, found = self._asked(name, _OF_CALLERS)
            plain = name.rpartition("#")[2]
            if not isinstance(found, str) and plain in found[1]:
                yield (
                    f"`{plain}` ({path}) was compiled with what its callers give it (-fipa-vrp), "
                    "and a new caller may give it other values; bring a copy of it, or give a "
                    "patch of the sources"
                )

    def _otherwise(self, path: str) -> list[str]:
        """Return what of an object, or of nobody knows which, a matched base's image has."""
        base = self._originals.tree.base
        if base is None or base.likeness is not Likeness.MATCHED or not path:
            return []
        rows = object_and_name((*base.differs, *base.absent))
        return [*(name for owner, name in sorted(rows) if owner == path), *base.strangers]

    def _asked(
        self, name: str, options: tuple[str, ...]
    ) -> tuple[str, tuple[ElfFile, set[str]] | str]:
        path = self._originals.object_of(name)
        key = (path, options)
        if path and key not in self._compared:
            self._compared[key] = self._compare(path, options)
        return path, self._compared.get(key, "")

    def _compare(self, path: str, options: tuple[str, ...]) -> tuple[ElfFile, set[str]] | str:
        """Return an object of the tree, and its functions that come out otherwise with options.

        A text says why not; an empty one, that there is nothing to know.
        """
        tree = self._originals.tree
        record = read_record(str(tree.build_root), path)
        if record is None:
            return f"the tree has no recorded command of {path}"
        if not record.source.endswith(".c"):
            return ""
        old = read_elf((tree.build_root / path).read_bytes(), path)
        with tempfile.TemporaryDirectory(prefix="xsplice-") as work:
            out = Path(work) / path.rpartition("/")[2]
            try:
                job = recorded_job(tree, record, appended=" ".join(options))
                compile_object(job, tree.root, out, reads=self._reads)
            except CaptureError as error:
                if _UNKNOWN.search(str(error)):  # of an older gcc, or of clang, which knows nothing
                    return self._compare(path, options[:-1]) if options[1:] else ""
                return f"{path} does not compile again ({str(error).partition(chr(10))[0]})"
            before, after = _bodies(old), _bodies(read_elf(out.read_bytes(), path))
        return old, {name for name, body in before.items() if after.get(name) != body}


def _functions(elf: ElfFile) -> list[Symbol]:
    return [
        symbol
        for symbol in elf.symbols
        if symbol.type == STT_FUNC
        and 0 < symbol.shndx < len(elf.sections)
        and elf.sections[symbol.shndx].flags & SHF_EXECINSTR
    ]


def _bodies(elf: ElfFile) -> _Bodies:
    found: _Bodies = {}
    for symbol in _functions(elf):
        section = elf.sections[symbol.shndx]
        end = symbol.value + symbol.size_bytes
        fields = tuple(
            (row.offset - symbol.value, row.type, _target(elf, row), row.addend)
            for row in elf.relocs(section)
            if symbol.value <= row.offset < end
        )
        found[symbol.name] = (section.data[symbol.value : end], fields)
    return found


def _target(elf: ElfFile, row: Reloc) -> str:
    symbol = elf.symbols[row.symbol]
    return elf.sections[symbol.shndx].name if symbol.type == STT_SECTION else symbol.name


def _reaching(elf: ElfFile, name: str) -> set[str]:
    """Return the functions of an object that call one of them, at some distance."""
    callers = _callers(elf)
    found: set[str] = set()
    todo = [name]
    while todo:
        rows = callers.get(todo.pop(), set()) - found
        found |= rows
        todo += rows
    return found


def _callers(elf: ElfFile) -> Mapping[str, set[str]]:
    """Return by function who refers to it; in a section that several share each to all others."""
    functions = _functions(elf)
    inside: dict[int, list[Symbol]] = {}
    for symbol in functions:
        inside.setdefault(symbol.shndx, []).append(symbol)
    found: dict[str, set[str]] = {}
    for index, rows in inside.items():
        for one in rows:
            for other in rows:
                if other.name != one.name:
                    found.setdefault(one.name, set()).add(other.name)
        for row in elf.relocs(elf.sections[index]):
            target = elf.symbols[row.symbol]
            called = inside.get(target.shndx, ()) if target.type == STT_SECTION else (target,)
            for symbol in rows:
                if symbol.value <= row.offset < symbol.value + symbol.size_bytes:
                    for callee in called:
                        found.setdefault(callee.name, set()).add(symbol.name)
    return found
