# SPDX-License-Identifier: Apache-2.0
"""Find the parts that differ in meaning.

Two parts mean the same when their bytes are equal and every relocation refers to the same thing:
a paired part at the same distance, a string of the same text, a constant of the same value.
Functions whose bytes differ are compared once more as instruction streams (`streams`), where
jumps count by their target. A number in the code is a line number only if it is shown to move
with the lines: see `_settle_lines`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins.artefacts import SHIFT_LINES
from xsplice_plugins.diff import streams
from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Entry, Key, Part, PartKind
from xsplice_plugins.diff.readers import gathered, kept_by
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xsplice_plugins.artefacts import MovedLines
    from xsplice_plugins.diff.canon import Canon

    Second = Callable[[], Canon | None]

#: Sections that the compiler chooses by what a datum holds; the last part may be its name.
_PLAIN = re.compile(r"(\.init)?\.(data|rodata|bss)(\.rel(\.ro)?(\.local)?)?")
_ALIGN_MAX = 1 << 63  #: what the start of a section tells of its alignment: nothing
_NO_LONGER_WRITTEN = (SectionClass.WRITABLE, SectionClass.READ_ONLY)


class FunctionChange(Struct, frozen=True, kw_only=True):
    """Evidence that a function's meaning changed, or only source lines."""

    old: int
    new: int
    stream: streams.StreamDifference | None = None  #: None: only table entries differ
    entry: str = ""  #: the table whose entries differ
    data: int = EXTERNAL  #: the changed read-only datum it reads, in the new object
    frames: tuple[tuple[int, int], ...] = ()  #: lines in its table entries: (before, after)

    @property
    def lines_text(self) -> str:
        """Return which lines moved, for people."""
        numbers = self.stream.numbers if self.stream is not None else ()
        moves = sorted({*self.frames, *((number.old, number.new) for number in numbers)})
        more = f" and {len(moves) - 1} more" if len(moves) > 1 else ""
        return f"line {moves[0][0]} became {moves[0][1]}{more}"

    @property
    def shown_by(self) -> str:
        """Return by what the numbers are shown to be lines, for people."""
        frame = "the place in a table entry that holds the line" if self.frames else ""
        moved = f"compiled with every line {SHIFT_LINES} further down, each number moves by that"
        return "; ".join(text for text in (frame, moved if self.stream else "") if text)


class Comparison(Struct, kw_only=True):
    """What differs between two objects."""

    changed: dict[int, FunctionChange] = field(default_factory=dict)  #: by new number
    kept: set[int] = field(default_factory=set)  #: new numbers: boot code that would stay
    lines: dict[int, FunctionChange] = field(default_factory=dict)  #: by new number
    data_changed: dict[int, str] = field(default_factory=dict)  #: new number -> how
    copied: set[int] = field(default_factory=set)  #: read-only data whose new content is taken
    again: set[int] = field(default_factory=set)  #: of these, what a payload beneath has changed
    #: new numbers of data that, on either side, only a list made at link time leads to
    gathered: set[int] = field(default_factory=set)


def compare(
    canon: Canon, moved: Sequence[MovedLines] = (), second: Second = lambda: None
) -> Comparison:
    """Return the functions and data that differ among all pairs.

    Args:
        canon: Both objects, and which parts of them belong together.
        moved: Lines that the patch moved and left as they are.
        second: The new object with the shifted one; asked only if numbers in code may be lines.
    """
    twins = canon.pairing.new_of
    lists = {*gathered(canon.new), *(twins[n] for n in gathered(canon.old) if n in twins)}
    result = Comparison(gathered=lists)
    for old_number, new_number in sorted(twins.items()):
        part = canon.old.all[old_number]
        if part.kind is PartKind.DATA:
            how = _data_difference(canon, part, canon.new.all[new_number])
            is_found = new_number in lists or _is_init(part)  # by the section's name
            if not how and is_found and _changes_section(canon, old_number, new_number):
                how = "section"
            if how:
                result.data_changed[new_number] = how
        elif canon.new.owner[new_number] == new_number:
            if _is_init(part) and not _is_init(canon.new.all[new_number]):
                result.kept.add(new_number)
            _compare_function(canon, old_number, new_number, result)
    _settle_lines(moved, second, result)
    _spread(canon, result)
    return result


def _settle_lines(moved: Sequence[MovedLines], second: Second, result: Comparison) -> None:
    """Decide on numbers in code: lines are what the patch moved and what moves with the lines.

    In the shifted object nothing but line numbers can differ, for nothing else differs in its
    sources. A number that moves there by their distance is a line therefore, and no constant can
    move by accident. That it is the same line before and after the patch is told by the sources.
    """
    rows = {number: row for number, row in result.lines.items() if row.stream is not None}
    candidates = {
        number
        for number, row in rows.items()
        if row.stream and all(_is_moved(move.old, move.new, moved) for move in row.stream.numbers)
    }
    shift = second() if candidates else None
    for number, row in rows.items():
        if number not in candidates or shift is None or not _moves_along(shift, number, row):
            result.changed[number] = result.lines.pop(number)


def _is_moved(old: int, new: int, moved: Sequence[MovedLines]) -> bool:
    return any(r.old <= old < r.old + r.count and new - old == r.new - r.old for r in moved)


def _moves_along(canon: Canon, number: int, row: FunctionChange) -> bool:
    """Tell whether all that differs in the shifted function are numbers that moved alike."""
    twin = canon.pairing.new_of.get(number)
    found = Comparison()
    if twin is not None:
        _compare_function(canon, number, twin, found)
    again = found.lines.get(-1 if twin is None else twin)
    if again is None or again.stream is None or row.stream is None:
        return False
    moves = (*again.frames, *((move.old, move.new) for move in again.stream.numbers))
    places = {move.at for move in again.stream.numbers}
    is_seen = all(move.at in places for move in row.stream.numbers)
    return is_seen and all(after - before == SHIFT_LINES for before, after in moves)


def _is_init(part: Part) -> bool:
    return part.section_class is SectionClass.INIT


def _data_difference(canon: Canon, old: Part, new: Part) -> str:
    """Return "", "class", "size", "value" or "alignment"; see `compare` for "section"."""
    classes = (old.section_class, new.section_class)
    # Data that nothing writes any more is read-only for the compiler, not in memory.
    if classes[0] is not classes[1] and classes != _NO_LONGER_WRITTEN:
        return "class"
    if old.size_bytes != new.size_bytes:
        return "size"
    if canon.body(OLD, old) != canon.body(NEW, new):
        return "value"
    return "alignment" if _needs_more(canon, old, new) else ""


def _needs_more(canon: Canon, old: Part, new: Part) -> bool:
    """Tell whether a datum must be aligned more than before; not if a new neighbour must be."""
    if _is_init(new) or new.section_class is SectionClass.IGNORED:
        return False
    before, after = (
        min(parts.file.sections[part.section].align_bytes, part.offset & -part.offset or _ALIGN_MAX)
        for parts, part in ((canon.old, old), (canon.new, new))
    )
    is_new = (p for p in canon.new.all if p.number not in canon.pairing.old_of)
    align = canon.new.file.sections[new.section].align_bytes
    return (
        after > before
        and align > canon.old.file.sections[old.section].align_bytes
        and not any(p.section == new.section and p.offset % align == 0 for p in is_new)
    )


def _changes_section(canon: Canon, old: int, new: int) -> bool:
    """Tell whether a datum gets a section of another name that a linker script may look for."""
    names = set()
    for parts, number in ((canon.old, old), (canon.new, new)):
        part = parts.all[number]
        name = part.section_name.removesuffix(f".{part.name}")
        names.add("" if _PLAIN.fullmatch(name) else name)
    return len(names) > 1


def _compare_function(canon: Canon, old: int, new: int, result: Comparison) -> None:
    before, after = canon.old.pieces[old], canon.new.pieces[new]
    is_plain = len(before) == len(after) and all(
        canon.body(OLD, canon.old.all[a]) == canon.body(NEW, canon.new.all[b])
        for a, b in zip(before, after, strict=True)
    )
    stream, places_old, places_new = None, None, None
    if not is_plain:
        stream = streams.difference(canon, old, new)
        if stream is not None and not stream.numbers:
            result.changed[new] = FunctionChange(old=old, new=new, stream=stream)
            return
        places_old, places_new = streams.places(canon.old, old), streams.places(canon.new, new)
    entries_old = _entry_keys(canon, OLD, old, places_old)
    entries_new = _entry_keys(canon, NEW, new, places_new)
    if [k for k, _, _ in entries_old] != [k for k, _, _ in entries_new]:
        table = _first_differing_table(entries_old, entries_new)
        result.changed[new] = FunctionChange(old=old, new=new, entry=table)
        return
    pairs = zip(entries_old, entries_new, strict=True)
    said = zip(canon.lines(OLD, before), canon.lines(NEW, after), strict=False)
    moved = {(a, b) for (_, _, a), (_, _, b) in pairs} | set(said)
    frames = tuple(sorted((a, b) for a, b in moved if a != b))
    if frames or stream is not None:
        result.lines[new] = FunctionChange(old=old, new=new, frames=frames, stream=stream)


def entries_alike(canon: Canon, old: int, new: int) -> bool:
    """Tell whether the table entries of two functions differ in line numbers at most."""
    keys = [
        [row[0] for row in _entry_keys(canon, side, number, streams.places(parts, number))]
        for side, parts, number in ((OLD, canon.old, old), (NEW, canon.new, new))
    ]
    return keys[0] == keys[1]


def _entry_keys(
    canon: Canon, is_new: bool, function: int, places: dict[tuple[int, int], int] | None
) -> list[tuple[Key, str, int]]:
    """Return a function's table entries in order of code: content, table, line."""
    parts = canon.parts(is_new)
    pieces = {number: i for i, number in enumerate(parts.pieces[function])}
    keyed = []
    for place, entry in enumerate(parts.entries.get(function, ())):
        at: Key = (pieces.get(entry.piece, -1), entry.at)
        if places is not None:
            at = (places.get((entry.piece, entry.at), -1), 0)
        table = parts.all[entry.part].section_name
        keyed.append(
            ((table, *at), place, (*_entry_key(canon, is_new, entry, places),), table, entry.line)
        )
    keyed.sort(key=lambda row: (row[0], row[1]))
    return [((where, what), table, line) for where, _, what, table, line in keyed]


def _entry_key(
    canon: Canon, is_new: bool, entry: Entry, places: dict[tuple[int, int], int] | None
) -> Key:
    parts = canon.parts(is_new)
    part = parts.all[entry.part]
    content = bytearray(parts.content(part))
    if entry.row.line_field is not None:
        content[entry.row.line_field : entry.row.line_field + 2] = bytes(2)
    edges = [
        e
        for e in parts.edges(part)
        if e.offset not in entry.row.unused_fields
        and ((e.offset != entry.row.owner_field and e.part != entry.snippet) or e.part == EXTERNAL)
    ]
    snippet: Key = ()
    if entry.snippet != EXTERNAL:
        body = parts.all[entry.snippet]
        snippet = (
            parts.content(body),
            streams.edge_keys(canon, is_new, parts.edges(body), places or {}),
        )
    return (bytes(content), streams.edge_keys(canon, is_new, edges, places or {}), snippet)


def _first_differing_table(old: list[tuple[Key, str, int]], new: list[tuple[Key, str, int]]) -> str:
    before, after = {k for k, _, _ in old}, {k for k, _, _ in new}
    for key, table, _ in new:
        if key not in before:
            return table
    return next((table for key, table, _ in old if key not in after), "")


def _spread(canon: Canon, result: Comparison) -> None:
    """Let changed read-only data change what reads it.

    A read-only datum that only this object's code can reach gets a new copy: the functions that
    read it are replaced, the read-only data that points to it are copied too.
    """
    users: dict[int, set[int]] = {}
    for part in list(canon.new.all):
        is_named = part.kind in (PartKind.FUNCTION, PartKind.DATA)
        if is_named and part.section_class is not SectionClass.IGNORED:
            for edge in canon.new.edges(part):
                users.setdefault(edge.part, set()).add(part.number)
    todo = [n for n in result.data_changed if may_copy(canon, result, n)]
    while todo:
        number = todo.pop()
        if number in result.copied:
            continue
        result.copied.add(number)
        for user in sorted(users.get(number, ())):
            part = canon.new.all[user]
            if part.kind is PartKind.FUNCTION:
                function = canon.new.owner[user]
                old = canon.pairing.old_of.get(function)
                if old is not None and function not in result.changed:
                    result.lines.pop(function, None)
                    result.changed[function] = FunctionChange(old=old, new=function, data=number)
            elif user in canon.pairing.old_of:
                result.data_changed.setdefault(user, "points to changed data")
                if may_copy(canon, result, user):
                    todo.append(user)


def may_copy(canon: Canon, result: Comparison, number: int) -> bool:
    """Tell whether a copy of a datum that both objects have reaches everybody who reads it."""
    if number in result.gathered:
        return False
    part = canon.new.all[number]
    old = canon.old.all[canon.pairing.old_of[number]]
    is_constant = part.section_class in (SectionClass.READ_ONLY, SectionClass.CONSTANTS)
    is_counter = canon.new.profile.counters.fullmatch(part.name) is not None
    is_alike = old.section_class is part.section_class and part.is_local
    return is_alike and (is_counter or (is_constant and not kept_by(canon, number)))
