# SPDX-License-Identifier: Apache-2.0
"""Where structures keep their members, as debug information tells.

Objects that exist when a payload is applied have the old layout, and code that is not replaced
reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from xsplice_plugins.elf.debuginfo import (
    AT_BYTE_SIZE,
    AT_NAME,
    AT_PRODUCER,
    RECORDS,
    TAG_CONST,
    TAG_MEMBER,
    TAG_TYPEDEF,
    TAG_UNION,
    TAG_VOLATILE,
    debug_info,
    function_around,
    number_of,
    type_name,
    within_function,
)
from xsplice_plugins.elf.typetexts import TypeTexts

if TYPE_CHECKING:
    from xsplice_plugins.elf.reader import ElfFile

IN_DEBUG_INFORMATION = "in the debug information"


@dataclass(frozen=True, slots=True, kw_only=True)
class StructLayout:
    """Size and members of a structure: (name, offset in bits, size in bits).

    A member of a nameless structure or union is one of its own, after its owner's name; where the
    owner has none either, as C calls it.
    """

    size_bytes: int
    members: tuple[tuple[str, int, int], ...]
    #: type of each member: ``*`` and what it leads to, ``{}`` for a nameless record (its members
    #: are the owner's), its name, or, where an array has a nameless type, all of it
    types: tuple[str, ...] = field(default=(), compare=False)
    #: everything of this type that is seen is a member of a union
    is_in_unions: bool = field(default=False, compare=False)


def layouts_of(file: ElfFile) -> dict[str, StructLayout]:
    """Return the layouts that an object's debug information tells, by the structure's name.

    Raises:
        DiffError: It uses a form that is not known, or is damaged.
    """
    info = debug_info(file)
    return Layouts(info.entries, info.place_of).by_name()


def compilers_of(file: ElfFile) -> frozenset[str]:
    """Return how an object's compilers of C call themselves, an assembler not being one.

    Raises:
        DiffError: As `layouts_of`.
    """
    entries = debug_info(file).entries
    names = (str(entry.values.get(AT_PRODUCER, "")) for entry in entries if entry.parent < 0)
    return frozenset(name for name in names if name and not name.startswith("GNU AS"))


class Layouts(TypeTexts):
    """The structures of one object, with the sizes of their members."""

    def by_name(self, *, is_inside: bool = False) -> dict[str, StructLayout]:
        """Return every layout that outlives a function, by tag or by ``typedef``.

        With `is_inside` those of functions instead, under the names of both.
        """
        result = {}
        for number, entry in enumerate(self.entries):
            if AT_NAME not in entry.values or within_function(self.entries, entry) != is_inside:
                continue
            is_typedef = entry.tag == TAG_TYPEDEF
            place = self.type_of(entry) if is_typedef else number
            record = self.entries[place]
            if place < 0 or record.tag not in RECORDS or AT_BYTE_SIZE not in record.values:
                continue
            if is_typedef and AT_NAME in record.values:
                continue  # it goes by its tag
            name = f"typedef {entry.values[AT_NAME]}" if is_typedef else type_name(entry)
            name += f" in {function_around(self.info, number)}" if is_inside else ""
            size = number_of(record.values[AT_BYTE_SIZE])
            found = self.members_of(place)
            result[name] = StructLayout(
                size_bytes=size,
                members=tuple((name, bits, size_bits) for name, bits, size_bits, _ in found),
                types=tuple(kind for *_, kind in found),
                is_in_unions=self._is_in_unions(place),
            )
        return result

    @cached_property
    def _users(self) -> dict[int, list[int]]:
        """Return what is of each type."""
        users: dict[int, list[int]] = {}
        for user, entry in enumerate(self.entries):
            users.setdefault(self.type_of(entry), []).append(user)
        return users

    def _is_in_unions(self, number: int) -> bool:
        """Tell whether all that has a type, under any of its names, is a member of a union."""
        todo = [number]
        while todo:
            for user in self._users.get(todo.pop(), ()):
                entry = self.entries[user]
                if entry.tag in (TAG_TYPEDEF, TAG_CONST, TAG_VOLATILE):
                    todo.append(user)
                elif entry.tag != TAG_MEMBER or self.entries[entry.parent].tag != TAG_UNION:
                    return False
        return True
