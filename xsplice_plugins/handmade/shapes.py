# SPDX-License-Identifier: Apache-2.0
"""Do two types of different objects' debug information mean the same memory?"""

from __future__ import annotations

import io
import posixpath
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from xsplice_plugins.handmade.compiling import OWN_FOLDER
from xsplice_plugins.handmade.prototypes import QUALIFIERS, TAGGED, spell, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEPTH_MAX = 64  #: structures in structures, tables of tables ...
_POINTER_BYTES = 8
_ENUM = "DW_TAG_enumeration_type"
_NUMBERS = ("DW_TAG_base_type", _ENUM)
_RECORDS = ("DW_TAG_structure_type", "DW_TAG_union_type")
_DECLARED = ("DW_TAG_variable", "DW_TAG_subprogram")
#: In bytes, bits, bits from the other end, bits, and bytes of what a bit-field is part of.
_PLACES = (
    "DW_AT_data_member_location",
    "DW_AT_data_bit_offset",
    "DW_AT_bit_offset",
    "DW_AT_bit_size",
    "DW_AT_byte_size",
)
_NAMED = (*TAGGED, "DW_TAG_typedef")

_COMPILERS = re.compile(r"/(?:gcc|clang|llvm)[^/]*/")  #: folders of their own headers

Die = Any  #: pyelftools carries no types


class DebugSide:
    """The debug information of one object."""

    def __init__(
        self, data: bytes, *, is_hand_written: bool = False, foreign: tuple[str, ...] = ()
    ) -> None:
        """Open an object.

        Args:
            data: Its bytes.
            is_hand_written: Whether it is a hand-written file's.
            foreign: How absolute paths of headers begin that its author did not write.
        """
        from elftools.elf.elffile import ELFFile  # noqa: PLC0415  (0.16 s)

        file = ELFFile(io.BytesIO(data))
        self.info = file.get_dwarf_info() if file.has_dwarf_info() else None
        self.is_hand_written, self.foreign = is_hand_written, foreign
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

    @cached_property
    def types(self) -> dict[tuple[bool, str], list[Die]]:
        """All complete types by whether they are a ``typedef``, and their names.

        Of an object of the tree, those within functions are left out: they take long to read.
        """
        found: dict[tuple[bool, str], list[Die]] = {}
        for unit in self.info.iter_CUs() if self.info is not None else ():
            top = unit.get_top_DIE()
            for die in unit.iter_DIEs() if self.is_hand_written else top.iter_children():
                if (
                    die.tag in _NAMED
                    and "DW_AT_name" in die.attributes
                    and "DW_AT_declaration" not in die.attributes
                ):
                    key = (die.tag == "DW_TAG_typedef", text_of(die, "DW_AT_name"))
                    found.setdefault(key, []).append(die)
        return found

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
        """Tell whether a declaration is the author's own, and no header's of the tree."""
        if not self.is_hand_written or "DW_AT_decl_file" not in die.attributes:
            return False
        path = self._path(die)
        if posixpath.dirname(path) == OWN_FOLDER:
            return True
        is_foreign = not path.startswith("/") or _COMPILERS.search(path) is not None
        return not (is_foreign or path.startswith(self.foreign))

    def place(self, die: Die) -> str:
        """Return file and line of a declaration, as an author calls the file."""
        path = self._path(die).removeprefix(f"{OWN_FOLDER}/")
        return f"{path}:{die.attributes['DW_AT_decl_line'].value}"

    def _path(self, die: Die) -> str:
        folder, name = self._file(die.cu, die.attributes["DW_AT_decl_file"].value)
        return posixpath.normpath(posixpath.join(folder, name))

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


def _is_raw(kind: Die | None) -> bool:
    """Tell whether a type is a table of bytes, as what fills up a structure."""
    return kind is not None and kind.tag == "DW_TAG_array_type" and _is_bytes(bare_type(kind))


class Comparison:
    """Compares types of a hand-written file with those of the tree's own objects."""

    def __init__(self, side: DebugSide) -> None:
        """Compare what ``side``, the hand-written one, declares."""
        self.side = side
        self.difference = ""  #: the first one that was found: the structure, the member, both
        self._seen: set[tuple[int, int]] = set()

    def agree(self, ours: Die | None, theirs: Die | None, depth: int = 0) -> bool:
        """Tell whether both are the same memory: kind of number and sign do not count."""
        if ours is None or theirs is None or depth > _DEPTH_MAX:
            return ours is theirs or depth > _DEPTH_MAX
        if ours.tag == "DW_TAG_array_type":
            inner = bare_type(ours)
            if theirs.tag != "DW_TAG_array_type":
                return _is_bytes(inner)
            other = bare_type(theirs)
            if _is_bytes(inner) and not _is_bytes(other):
                return True
            counts = {_count(ours), _count(theirs)} - {0}
            return len(counts) < 2 and self.agree(inner, other, depth + 1)
        if ours.tag in _NUMBERS or theirs.tag in _NUMBERS:
            plain = (*_NUMBERS, "DW_TAG_pointer_type")
            is_same = (
                ours.tag in plain and theirs.tag in plain and size_bytes(ours) == size_bytes(theirs)
            )
            return is_same and self._same_constants(ours, theirs)
        if ours.tag != theirs.tag:
            return False
        if ours.tag == "DW_TAG_pointer_type":
            inner, other = bare_type(ours), bare_type(theirs)
            return _is_bytes(inner) or other is None or self.agree(inner, other, depth + 1)
        if ours.tag in _RECORDS:
            return self._same_record(ours, theirs, depth)
        return True  # functions: calls through such a pointer are the author's word

    def _is_differing(self, kind: Die, text: str) -> bool:
        """Note a difference; the first is the innermost."""
        self.difference = self.difference or f"{title_of(kind)}: {text}"
        return False

    def _same_constants(self, ours: Die, theirs: Die) -> bool:
        is_own = ours.tag == theirs.tag == _ENUM and self.side.is_own(ours)
        known = _constants(theirs) if is_own else {}
        for name, value in _constants(ours).items() if is_own else ():
            if name not in known:
                return self._is_differing(ours, f"Xen's has no `{name}`")
            if known[name] != value:
                return self._is_differing(ours, f"`{name}` is {value}, in Xen {known[name]}")
        return True

    def _same_record(self, ours: Die, theirs: Die, depth: int) -> bool:
        if text_of(ours, "DW_AT_name") not in ("", text_of(theirs, "DW_AT_name")):
            return False
        key = (ours.offset, theirs.offset)
        is_header = text_of(ours, "DW_AT_name") and not self.side.is_own(ours)
        sizes = size_bytes(ours), size_bytes(theirs)
        if key in self._seen or not all(sizes):
            return True
        if is_header:  # what the tree's own headers say is right
            return sizes[0] == sizes[1]
        self._seen.add(key)
        known = dict(_members(theirs, 0))
        for name, mine in _members(ours, 0):
            other = known.get(name)
            kind = bare_type(mine.die)
            if other is None:
                if not _is_raw(kind):
                    return self._is_differing(
                        ours,
                        f"Xen's has no member `{name}`; what a copy leaves out may be `char x[N]`",
                    )
            elif (mine.at_bits, mine.width_bits) != (other.at_bits, other.width_bits):
                return self._is_differing(ours, f"`{name}` is at {mine}, in Xen at {other}")
            elif not mine.width_bits and not self.agree(kind, bare_type(other.die), depth + 1):
                texts = spell(mine.die, 0), spell(other.die, 0)
                return self._is_differing(ours, f"`{name}` is `{texts[0]}`, in Xen `{texts[1]}`")
        if sizes[0] != sizes[1]:
            return self._is_differing(ours, f"it has {sizes[0]} bytes, in Xen {sizes[1]}")
        return True


class _Member(NamedTuple):
    """Where a member lies."""

    at_bits: int
    width_bits: int  #: of a bit-field; 0 for others
    die: Die

    def __str__(self) -> str:
        whole, rest = divmod(self.at_bits, 8)
        if not self.width_bits:
            return str(whole)
        return f"{whole} (bit {rest}, {self.width_bits} bits)"


def _members(record: Die, start_bits: int) -> Iterator[tuple[str, _Member]]:
    """Yield the members with a name, those of parts without a name too."""
    for child in record.iter_children():
        if child.tag != "DW_TAG_member":
            continue
        at, bits, old, width, held = (_number(child, key) for key in _PLACES)
        at_bits = start_bits + at * 8 + bits
        if "DW_AT_bit_offset" in child.attributes:  # before DWARF 4, from the other end
            at_bits += (held or size_bytes(bare_type(child))) * 8 - old - width
        name, kind = text_of(child, "DW_AT_name"), bare_type(child)
        if name:
            yield name, _Member(at_bits, width, child)
        elif kind is not None:
            yield from _members(kind, at_bits)


def _number(die: Die, key: str) -> int:
    value = die.attributes[key].value if key in die.attributes else 0
    if isinstance(value, int):
        return value
    # An expression of DWARF 2, DW_OP_plus_uconst and a ULEB128.
    return sum((byte & 0x7F) << 7 * number for number, byte in enumerate(value[1:]))


def _constants(enumeration: Die) -> dict[str, int]:
    return {
        text_of(child, "DW_AT_name"): int(child.attributes["DW_AT_const_value"].value)
        for child in enumeration.iter_children()
        if child.tag == "DW_TAG_enumerator"
    }


def title_of(kind: Die) -> str:
    """Return how messages call a type: ``struct``, ``union``, ``enum`` or nothing, and its name."""
    name = text_of(kind, "DW_AT_name")
    word = TAGGED.get(kind.tag, "")
    return f"`{f'{word} {name}'.strip()}`" if name else f"a {word} without a name"
