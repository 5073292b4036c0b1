# SPDX-License-Identifier: Apache-2.0
"""Who reads a datum, and what they keep of it: whether a new copy reaches every user.

Where the old table's address was stored, passed or compared, objects that exist hold it: they keep
the old content, whatever the payload brings. What nothing refers to is found by the linker script
alone, which puts it between two symbols: no copy of it is ever seen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.diff.parts import NEW, OLD, PartKind
from xsplice_plugins.target.addresses import AddressFlow
from xsplice_plugins.target.held import RETURNED, Kept
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.normalise import ObjectParts

#: The compiler's own tables, which it only reads, and names of functions: text for people.
_HARMLESS = re.compile(r"CSWTCH\.\d+|switch\.table\..*|__(func|FUNCTION|PRETTY_FUNCTION)__.*")
_CONSTANT = (SectionClass.READ_ONLY, SectionClass.CONSTANTS)
_ORDINARY = (SectionClass.READ_ONLY, SectionClass.WRITABLE, SectionClass.RO_AFTER_INIT)


def gathered(parts: ObjectParts) -> frozenset[int]:
    """Return the static data that nothing refers to, or nothing but each other.

    The compiler drops what nobody uses, unless it is told that somebody else does: such a datum is
    an entry of a list that the linker makes of all objects' sections of that name.
    """
    found = {
        part.number
        for part in parts.all
        if part.kind is PartKind.DATA and part.is_local and part.section_class in _ORDINARY
    }
    users: dict[int, set[int]] = {}
    for part in list(parts.all) if found else ():
        if part.section_class is not SectionClass.IGNORED:
            for edge in parts.edges(part):
                if edge.part in found and edge.part != part.number:
                    users.setdefault(edge.part, set()).add(part.number)
    while True:
        reached = {number for number in found if not users.get(number, set()) <= found}
        if parts.profile.machine.has_anchors:  # the compiler reaches one from its neighbour
            sections = {parts.all[n].section for n in reached}
            reached |= {n for n in found if parts.all[n].section in sections}
        if not reached:
            return frozenset(found)
        found -= reached


def kept_by(canon: Canon, number: int) -> str:
    """Say who keeps the address of a datum that both objects have.

    Args:
        canon: Both objects under their pairing.
        number: The datum in the new object.

    Returns:
        A sentence without its subject; "" if everybody only reads through the address.
    """
    if _HARMLESS.fullmatch(canon.new.all[number].name):
        return ""
    return _kept(canon.old, canon.pairing.old_of[number], OLD) or _kept(canon.new, number, NEW)


def _kept(parts: ObjectParts, number: int, is_new: bool) -> str:
    flow = AddressFlow(parts.references, lambda _place: False)
    when = "would be" if is_new else "is"
    seen: set[int] = set()
    todo = [number]
    while todo:
        number = todo.pop()
        fields = []
        for part in list(parts.all):
            places = [e.offset + part.offset for e in parts.edges(part) if e.part == number]
            section = parts.file.sections[part.section]
            if not places or not section.is_alloc or part.section_class is SectionClass.IGNORED:
                continue
            if section.is_exec:
                fields += [(part.section, place) for place in places]
            elif part.kind is PartKind.ENTRY:
                continue
            elif part.section_class in _CONSTANT and part.is_local:
                todo += [part.number] if part.number not in seen else []
            else:
                return f"`{part.name or part.section_name}` points to it"
        kept = flow.follow(fields)
        if seen:  # it points to the table: who loads from it has the table's address
            kept |= flow.follow(fields, is_pointer=True)
        kept = _asked_of_callers(flow, kept)
        seen.add(number)
        if kept:
            first = min(kept, key=lambda row: (row.verb == RETURNED, row))
            verb = first.verb.replace("is ", f"{when} ", 1) if "is " in first.verb else first.verb
            return f"its address {verb} `{first.name}`"
    return ""


def _asked_of_callers(flow: AddressFlow, kept: set[Kept]) -> set[Kept]:
    """Return what keeps an address, without what may only be left in a register at a return.

    Callers of the object that take it as the second word of a result are followed.
    """
    seen: set[Kept] = set()
    while left := {row for row in kept if row.is_left} - seen:
        seen |= left
        for row in left:
            calls = flow.calls_of(row.name)
            kept |= flow.after_calls(calls, is_way=row.is_way, is_second=True)
    return kept - seen
