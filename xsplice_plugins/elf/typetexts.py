# SPDX-License-Identifier: Apache-2.0
"""The types of one object as text, as debug information tells: two that are alike read alike."""

from __future__ import annotations

from xsplice_plugins.elf.debuginfo import (
    AT_BIT_OFFSET,
    AT_BIT_SIZE,
    AT_BYTE_SIZE,
    AT_CONST_VALUE,
    AT_COUNT,
    AT_MEMBER_LOCATION,
    AT_NAME,
    AT_OLD_BIT_OFFSET,
    AT_TYPE,
    AT_UPPER_BOUND,
    NESTING_MAX,
    RECORDS,
    TAG_ARRAY,
    TAG_CONST,
    TAG_ENUM,
    TAG_ENUMERATOR,
    TAG_FUNCTION_TYPE,
    TAG_MEMBER,
    TAG_MORE_PARAMETERS,
    TAG_PARAMETER,
    TAG_POINTER,
    TAG_STRUCT,
    TAG_SUBPROGRAM,
    TAG_SUBRANGE,
    TAG_TYPEDEF,
    TAG_VOLATILE,
    DebugEntry,
    DebugInfo,
    number_of,
    type_name,
    within_function,
)

_PARTS = (TAG_MEMBER, TAG_SUBRANGE, TAG_ENUMERATOR, TAG_PARAMETER, TAG_MORE_PARAMETERS)


class TypeTexts:
    """The types of one object's debug information: texts, sizes, members."""

    def __init__(
        self, entries: list[DebugEntry], place_of: dict[int, int], *, signatures: bool = False
    ) -> None:
        """Take the entries of one object's debug information, and their numbers by place.

        With `signatures` a function's type is what it takes and returns, and what is constant or
        volatile is told.
        """
        self.entries, self.place_of, self.signatures = entries, place_of, signatures
        self.info = DebugInfo(entries=entries, place_of=place_of)
        self.children: dict[int, list[DebugEntry]] = {}
        self.open: set[int] = set()  #: records whose text is being written
        for entry in entries:
            if entry.tag in _PARTS:
                self.children.setdefault(entry.parent, []).append(entry)

    def _short_text(self, number: int, depth: int = 0) -> str:
        """Return how `StructLayout.types` calls a type."""
        return self._qualifiers(number) + self._bare_text(self._bare(number), depth)

    def _qualifiers(self, number: int) -> str:
        """Return what a type is beside its bare one: constant, volatile."""
        found: list[str] = []
        while self.signatures and number >= 0 and len(found) < NESTING_MAX:
            entry = self.entries[number]
            if entry.tag not in (TAG_TYPEDEF, TAG_CONST, TAG_VOLATILE):
                break
            found.append({TAG_CONST: "const ", TAG_VOLATILE: "volatile "}.get(entry.tag, ""))
            number = self.type_of(entry)
        return "".join(sorted(set(found)))

    def _bare_text(self, number: int, depth: int) -> str:
        if number < 0:
            return "void"
        entry = self.entries[number]
        if entry.tag == TAG_POINTER:
            return f"*{self._whole_text(self.type_of(entry), depth + 1)}"
        if entry.tag == TAG_ARRAY:
            element = self._whole_text(self.type_of(entry), depth + 1)
            counts = (self._count(child) for child in self.children.get(number, []))
            return element + "".join(f"[{count}]" for count in counts)
        if AT_NAME in entry.values:
            return type_name(entry)
        if entry.tag == TAG_ENUM:
            return f"enum {'-' if self.is_signed(number) else ''}{self._size_bytes(number)}"
        return "{}" if entry.tag in RECORDS else f"?{entry.tag:x}"

    def is_signed(self, number: int) -> bool:
        """Tell whether an enumeration has a negative constant."""
        values = (child.values for child in self.children.get(number, []))
        return any(number_of(value.get(AT_CONST_VALUE, 0)) < 0 for value in values)

    def variable_text(self, entry: DebugEntry) -> str:
        """Return size and type of a variable, with records that no other place may name told whole.

        A constant is "const": it has content, but no state.
        """
        at = self.type_of(entry)
        for _ in range(NESTING_MAX):
            tag = self.entries[at].tag if at >= 0 else 0
            if tag == TAG_CONST:
                return "const"
            if tag not in (TAG_TYPEDEF, TAG_VOLATILE, TAG_ARRAY):
                break
            at = self.type_of(self.entries[at])
        return self.type_text(entry)

    def inner_text(self, entry: DebugEntry) -> str:
        """Return `type_text` of the one member that fills the structure that an entry holds.

        Memory holds the same bits; what is no such structure has its own text.
        """
        number = self._bare(self.type_of(entry))
        size = self._size_bytes(number)
        for _ in range(NESTING_MAX):
            members = self.children.get(number, [])
            if number < 0 or self.entries[number].tag != TAG_STRUCT or len(members) != 1:
                break
            if AT_BIT_SIZE in members[0].values or self._place(members[0]) != (8 * size, 0):
                break
            number = self._bare(self.type_of(members[0]))
        return f"{size} {self._whole_text(number, 0)}"

    def type_text(self, entry: DebugEntry, depth: int = 0) -> str:
        """Return size and type of what has a type; nameless records are told whole."""
        number = self.type_of(entry)
        return f"{self._size_bytes(number)} {self._whole_text(number, depth)}"

    def _whole_text(self, number: int, depth: int) -> str:
        """Return a type's text; a nameless record with all its members."""
        return self._qualifiers(number) + self._bare_whole_text(self._bare(number), depth)

    def _bare_whole_text(self, bare: int, depth: int) -> str:
        if depth > NESTING_MAX or bare < 0:
            return "void"
        entry = self.entries[bare]
        if entry.tag == TAG_FUNCTION_TYPE:
            if not self.signatures or bare in self.open:
                return "()"  # what it takes and returns lies in no object
            self.open.add(bare)
            text = self.signature(bare, depth)
            self.open.discard(bare)
            return text
        is_known = AT_NAME in entry.values and not within_function(self.entries, entry)
        if entry.tag not in RECORDS or is_known or bare in self.open:
            return self._bare_text(bare, depth)
        self.open.add(bare)
        members = self.members_of(bare)
        self.open.discard(bare)
        size = number_of(entry.values.get(AT_BYTE_SIZE, 0))
        return f"{{{size} {' '.join(f'{n}@{b}+{s}:{t}' for n, b, s, t in members)}}}"

    def signature(self, number: int, depth: int = 0, *, is_named: bool = True) -> str:
        """Return what a function, or a type of functions, returns and takes.

        Parameters with names go by them, for two of one type may have changed places; not with
        `is_named` off, as a declaration says that leaves the names out.
        """
        parts = [
            "..."
            if part.tag == TAG_MORE_PARAMETERS
            else self.type_text(part, depth + 1)
            + (
                f" {part.values[AT_NAME]}"
                if is_named and AT_NAME in part.values and part.parent == number
                else ""
            )
            for part in (self.entries[number], *self.children.get(number, []))
            if part.tag in (TAG_FUNCTION_TYPE, TAG_SUBPROGRAM, TAG_PARAMETER, TAG_MORE_PARAMETERS)
        ]
        return f"{parts[0]} ({', '.join(parts[1:])})"

    def type_of(self, entry: DebugEntry) -> int:
        """Return the number of an entry's type, -1 for ``void``."""
        return self.place_of.get(number_of(entry.values.get(AT_TYPE, -1)), -1)

    def members_of(
        self, number: int, prefix: str = "", start_bits: int = 0, depth: int = 0
    ) -> tuple[tuple[str, int, int, str], ...]:
        """Return a record's members: name, place and size in bits, type; see `StructLayout`."""
        found: list[tuple[str, int, int, str]] = []
        for entry in self.children.get(number, []):
            size_bits, bits = self._place(entry)
            kind = self._bare(self.type_of(entry))
            inner = self.entries[kind]
            is_told = kind >= 0 and inner.tag in RECORDS and AT_NAME not in inner.values
            is_anonymous = is_told and AT_NAME not in entry.values
            name = prefix + str(entry.values.get(AT_NAME, "(unnamed)"))
            if not is_anonymous:
                text = self._short_text(self.type_of(entry))
                found.append((name, start_bits + bits, size_bits, text))
            if is_told:
                assert depth < NESTING_MAX, "structures nest as deep as C allows"
                within = prefix if is_anonymous else f"{name}."
                found += self.members_of(kind, within, start_bits + bits, depth + 1)
        return tuple(found)

    def _place(self, entry: DebugEntry) -> tuple[int, int]:
        """Return a member's size and its offset, in bits."""
        values = entry.values
        size_bits = number_of(values.get(AT_BIT_SIZE, 0))
        bits = 8 * number_of(values.get(AT_MEMBER_LOCATION, 0))
        bits += number_of(values.get(AT_BIT_OFFSET, 0))
        whole = 8 * self._size_bytes(self.type_of(entry))
        if AT_OLD_BIT_OFFSET in values:  # DWARF 4 counts from the storage unit's other end
            storage = 8 * number_of(values.get(AT_BYTE_SIZE, 0)) or whole
            bits += storage - number_of(values[AT_OLD_BIT_OFFSET]) - size_bits
        return size_bits or whole, bits

    def _bare(self, number: int) -> int:
        """Return a type without its other names and qualifiers."""
        for _ in range(NESTING_MAX):
            if number < 0 or self.entries[number].tag not in (
                TAG_TYPEDEF,
                TAG_CONST,
                TAG_VOLATILE,
            ):
                break
            number = self.type_of(self.entries[number])
        return number

    def _count(self, entry: DebugEntry) -> int:
        """Return how many elements one dimension of an array has; 0 where it is open."""
        last = number_of(entry.values.get(AT_UPPER_BOUND, -1))
        return number_of(entry.values.get(AT_COUNT, last + 1))

    def _size_bytes(self, number: int) -> int:
        """Return a type's size; 0 for an array without one."""
        number, count = self._bare(number), 1
        for _ in range(NESTING_MAX):
            if number < 0 or self.entries[number].tag != TAG_ARRAY:
                break
            for entry in self.children.get(number, []):
                count *= self._count(entry)
            number = self._bare(self.type_of(self.entries[number]))
        if number < 0:
            return 0
        entry = self.entries[number]
        default = 8 if entry.tag == TAG_POINTER else 0
        return count * number_of(entry.values.get(AT_BYTE_SIZE, default))
