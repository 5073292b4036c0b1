# SPDX-License-Identifier: Apache-2.0
"""Do two types of different objects' debug information mean the same memory?"""

from __future__ import annotations

import io
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from xsplice_plugins.handmade.prototypes import QUALIFIERS, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEPTH_MAX = 64  #: structures in structures, tables of tables ...
_POINTER_BYTES = 8
_NUMBERS = ("DW_TAG_base_type", "DW_TAG_enumeration_type")
_RECORDS = ("DW_TAG_structure_type", "DW_TAG_union_type")
_DECLARED = ("DW_TAG_variable", "DW_TAG_subprogram")

Die = Any  #: pyelftools carries no types


class DebugSide:
    """The debug information of one object."""

    def __init__(self, data: bytes, *, own: str = "") -> None:
        """Open an object; ``own`` is the file's name where it is a hand-written one."""
        from elftools.elf.elffile import ELFFile  # noqa: PLC0415  (0.16 s)

        file = ELFFile(io.BytesIO(data))
        self.info = file.get_dwarf_info() if file.has_dwarf_info() else None
        self.own = own
        self._files: dict[int, list[tuple[str, str]]] = {}

    @cached_property
    def declared(self) -> list[Die]:
        """All variables and functions, in the order of the file."""
        if self.info is None:
            return []
        return [
            die
            for unit in self.info.iter_CUs()
            for die in unit.iter_DIEs()
            if die.tag in _DECLARED and ("DW_AT_name" in die.attributes or _origin(die) is not die)
        ]

    def externs(self) -> Iterator[tuple[str, Die]]:
        """Yield what is declared and not defined, with its name in the symbol table."""
        for die in self.declared:
            if "DW_AT_declaration" in die.attributes and "DW_AT_external" in die.attributes:
                yield text_of(die, "DW_AT_linkage_name") or text_of(die, "DW_AT_name"), die

    def defined(self, name: str) -> Die | None:
        """Return the one thing of that name that the object defines; ``None`` if unclear."""
        wanted = {name, name.partition(".")[0]}
        found = [
            die
            for die in self.declared
            if "DW_AT_declaration" not in die.attributes
            and (
                "DW_AT_location" in die.attributes
                or die.tag == "DW_TAG_subprogram"
                or "DW_AT_specification" in die.attributes
            )
            and wanted
            & {text_of(_origin(die), key) for key in ("DW_AT_name", "DW_AT_linkage_name")}
        ]
        return _typed(found[0]) if len(found) == 1 else None

    def is_own(self, die: Die) -> bool:
        """Tell whether a declaration is the hand-written file's, and no header's of the tree."""
        if not self.own or "DW_AT_decl_file" not in die.attributes:
            return False
        folder, name = self._file(die.cu, die.attributes["DW_AT_decl_file"].value)
        # What the author wrote lies in the folder that the compiler was told to call `/`.
        return name == self.own or folder == "/" or name.startswith("/")

    def _file(self, unit: Die, number: int) -> tuple[str, str]:
        if unit.cu_offset not in self._files:
            assert self.info is not None, "there is an entry"
            program = self.info.line_program_for_CU(unit)
            is_new = program["version"] >= 5  # of DWARF
            folders = [
                text.decode("utf-8", "surrogateescape") for text in program["include_directory"]
            ]
            folders = folders if is_new else ["", *folders]
            rows = [
                (folders[row.dir_index], row.name.decode("utf-8", "surrogateescape"))
                for row in program["file_entry"]
            ]
            self._files[unit.cu_offset] = rows if is_new else [("", ""), *rows]
        return self._files[unit.cu_offset][number]


def _origin(die: Die) -> Die:
    if "DW_AT_specification" in die.attributes:
        return die.get_DIE_from_attribute("DW_AT_specification")
    return die


def _typed(die: Die) -> Die:
    return die if "DW_AT_type" in die.attributes else _origin(die)


def bare_type(die: Die) -> Die | None:
    """Return the type of an entry without typedefs and qualifiers; ``None`` for ``void``."""
    while die is not None:
        if "DW_AT_type" not in die.attributes:
            return None
        die = die.get_DIE_from_attribute("DW_AT_type")
        if die.tag != "DW_TAG_typedef" and die.tag not in QUALIFIERS:
            return die
    return None


def size_bytes(kind: Die | None) -> int:
    """Return a type's size in bytes; 0 if it is not complete."""
    if kind is None:
        return 0
    if kind.tag == "DW_TAG_array_type":
        count = _count(kind)
        return size_bytes(bare_type(kind)) * count
    if "DW_AT_byte_size" in kind.attributes:
        return int(kind.attributes["DW_AT_byte_size"].value)
    return _POINTER_BYTES if kind.tag == "DW_TAG_pointer_type" else 0


def _count(array: Die) -> int:
    """Return the number of elements, over all dimensions; 0 if not told."""
    total = 1
    for child in array.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            bound, count = (
                child.attributes.get(key) for key in ("DW_AT_upper_bound", "DW_AT_count")
            )
            if count is not None and isinstance(count.value, int):
                total *= count.value
            elif bound is not None and isinstance(bound.value, int) and "ref" not in bound.form:
                total *= bound.value + 1
            else:
                total = 0
    return total


def _is_bytes(kind: Die | None) -> bool:
    """Tell whether a type is raw memory: nothing, or a number of one byte."""
    return kind is None or (kind.tag in _NUMBERS and size_bytes(kind) == 1)


class Comparison:
    """Compares types of a hand-written file with those of the tree's own objects."""

    def __init__(self, side: DebugSide) -> None:
        """Compare what ``side``, the hand-written one, declares."""
        self.side = side
        self._seen: set[tuple[int, int]] = set()

    def agree(self, ours: Die | None, theirs: Die | None, depth: int = 0) -> bool:
        """Tell whether both are the same memory: kind of number and sign do not count."""
        if ours is None or theirs is None or depth > _DEPTH_MAX:
            return ours is theirs or depth > _DEPTH_MAX
        if ours.tag == "DW_TAG_array_type":
            inner = bare_type(ours)
            if theirs.tag != "DW_TAG_array_type":
                return _is_bytes(inner)
            counts = {_count(ours), _count(theirs)} - {0}
            return _is_bytes(inner) or (
                len(counts) < 2 and self.agree(inner, bare_type(theirs), depth + 1)
            )
        if ours.tag in _NUMBERS or theirs.tag in _NUMBERS:
            plain = (*_NUMBERS, "DW_TAG_pointer_type")
            return (
                ours.tag in plain and theirs.tag in plain and size_bytes(ours) == size_bytes(theirs)
            )
        if ours.tag != theirs.tag:
            return False
        if ours.tag == "DW_TAG_pointer_type":
            inner, other = bare_type(ours), bare_type(theirs)
            return _is_bytes(inner) or other is None or self.agree(inner, other, depth + 1)
        if ours.tag in _RECORDS:
            return self._same_record(ours, theirs, depth)
        return True  # functions: calls through such a pointer are the author's word

    def _same_record(self, ours: Die, theirs: Die, depth: int) -> bool:
        if text_of(ours, "DW_AT_name") != text_of(theirs, "DW_AT_name"):
            return False
        sizes = {size_bytes(ours), size_bytes(theirs)} - {0}
        if len(sizes) > 1:
            return False
        key = (ours.offset, theirs.offset)
        is_header = text_of(ours, "DW_AT_name") and not self.side.is_own(ours)
        if key in self._seen or is_header or not sizes or not size_bytes(ours):
            return True  # what the tree's own headers say is right
        if not size_bytes(theirs):
            return True
        self._seen.add(key)
        return all(
            mine is not None
            and other is not None
            and _place(mine) == _place(other)
            and self.agree(bare_type(mine), bare_type(other), depth + 1)
            for mine, other in zip_longest(_members(ours), _members(theirs))
        )


def _members(record: Die) -> list[Die]:
    return [child for child in record.iter_children() if child.tag == "DW_TAG_member"]


def _place(member: Die) -> tuple[str, object, object, object]:
    keys = ("DW_AT_data_member_location", "DW_AT_data_bit_offset", "DW_AT_bit_size")
    first, second, third = (
        member.attributes[key].value if key in member.attributes else 0 for key in keys
    )
    return text_of(member, "DW_AT_name"), first, second, third
