# SPDX-License-Identifier: Apache-2.0
"""Of which files each part of an image was compiled, and how, as debug information tells.

A compiler lists the files that a compile unit's code and declarations come from. It lists none of
which nothing is left: one that gave macros alone, or functions that were folded away.
"""

from __future__ import annotations

import io
import posixpath
from collections import Counter
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from xsplice_plugins.elf.debuginfo import AT_NAME, AT_PRODUCER, debug_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xsplice_plugins.elf.reader import ElfFile

_INCLUDE = "include"


class Made(Struct, frozen=True, kw_only=True):
    """What one compile unit was made of."""

    name: str  #: its own source, as the compiler was told
    files: tuple[str, ...]  #: all others but headers of an include folder, below its own folder


class CompiledUnits:
    """The compile units of an image. One without debug information has none."""

    def __init__(self, image: ElfFile) -> None:
        """Ask this image."""
        self.are_told = ".debug_info" in image.section_by_name
        self._image = image
        self._made: dict[int, Made] = {}

    def at(self, addr: int) -> Made | None:
        """Return what the code at an address was made of; ``None`` where nobody knows."""
        try:
            place = self._ranges.cu_offset_at_addr(addr) if self._ranges is not None else None
            return self._read(self._dwarf.get_CU_at(place)) if place is not None else None
        except Exception:  # noqa: BLE001  pyelftools meets damage with errors of every kind
            return None

    def named(self, source: str) -> list[Made]:
        """Return the units of a source, by as much of its path as both sides know."""
        try:
            return [self._read(unit) for name, unit in self._all if is_same_file(name, source)]
        except Exception:  # noqa: BLE001  as above
            return []

    @cached_property
    def _dwarf(self) -> Any:
        from elftools.elf.elffile import ELFFile  # noqa: PLC0415  (0.16 s)

        return ELFFile(io.BytesIO(self._image.data)).get_dwarf_info()

    @cached_property
    def _ranges(self) -> Any:
        return self._dwarf.get_aranges() if self.are_told else None

    @cached_property
    def _all(self) -> list[tuple[str, Any]]:
        units = self._dwarf.iter_CUs() if self.are_told else ()
        return [(_text(unit.get_top_DIE(), "DW_AT_name"), unit) for unit in units]

    def _read(self, unit: Any) -> Made:
        place = unit.cu_offset
        if place not in self._made:
            top, program = unit.get_top_DIE(), self._dwarf.line_program_for_CU(unit)
            name, folder = (_text(top, key) for key in ("DW_AT_name", "DW_AT_comp_dir"))
            own = _below(folder, name)
            files = {_below(folder, path) for path in _paths(program)} if program else set()
            kept = {path for path in files if path != own and not _is_included(path)}
            self._made[place] = Made(name=own, files=tuple(sorted(kept)))
        return self._made[place]


def compiled_otherwise(
    objects: Iterable[ElfFile], image: ElfFile
) -> Iterator[tuple[str, str, str, str]]:
    """Compare how objects and an image's units of the same sources were compiled.

    An option may change nothing of the code that is there, and something of what a fix brings
    (``-funsigned-char``).

    Args:
        objects: As they were built again.
        image: The one that was shipped.

    Yields:
        An object's name, what is otherwise, the options that it has alone, and those that the
        image's has alone.
    """
    theirs: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for name, words in _made_by(image):
        theirs.setdefault(posixpath.basename(name), []).append((name, words))
    for file in objects:
        for name, words in _made_by(file):
            rows = theirs.get(posixpath.basename(name), ())
            others = [there for source, there in rows if is_same_file(source, name)]
            if others and words not in others:
                ours, other = Counter(words), Counter(others[0])
                mine, more = (" ".join(row.elements()) for row in (ours - other, other - ours))
                empty = "nothing more" if mine or more else "another order"
                yield file.name, "how it is compiled", mine or empty, more or empty


def _made_by(file: ElfFile) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give each unit's source, and its compiler with the options that reach code."""
    for entries, _ in debug_units(file, are_tops_enough=True):
        values = entries[0].values
        words = str(values.get(AT_PRODUCER, "")).split()
        yield str(values.get(AT_NAME, "")), tuple(w for w in words if not w.startswith("-g"))


def _paths(program: Any) -> Iterator[str]:
    """Give the files that a line table lists."""
    folders = [row.decode("utf-8", "replace") for row in program["include_directory"]]
    if program["version"] < 5:  # of DWARF
        folders.insert(0, "")
    for row in program["file_entry"]:
        yield posixpath.join(folders[row.dir_index], row.name.decode("utf-8", "replace"))


def is_same_file(one: str, other: str) -> bool:
    """Tell whether two paths end alike, as far as the shorter one goes."""
    parts = [_known_parts(path) for path in (one, other)]
    count = min(map(len, parts))
    return count > 0 and parts[0][-count:] == parts[1][-count:]


def _known_parts(path: str) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part not in {"/", ".", ".."}]


def _text(die: Any, key: str) -> str:
    found = die.attributes.get(key)
    return found.value.decode("utf-8", "replace") if found is not None else ""


def _below(folder: str, path: str) -> str:
    """Return a path as it is called from the folder where the compiler ran."""
    return posixpath.normpath(posixpath.join(folder, path)).removeprefix(folder.rstrip("/") + "/")


def _is_included(path: str) -> bool:
    """Tell whether it is what any file may include by name, or what the compiler brings."""
    if not path.endswith(".h"):
        return path.startswith("<")  # as clang calls what it knows itself
    return _INCLUDE in PurePosixPath(path).parts
