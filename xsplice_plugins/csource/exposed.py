# SPDX-License-Identifier: Apache-2.0
"""What of a header's change can reach sources that nobody has at hand.

A vendor's file may use whatever a header gave before the fix. What it cannot use is a function,
type or variable that the fix brings, or one that is gone afterwards: then it would not compile. A
macro is another matter, for a file can ask (``#ifdef``) whether there is one.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.csource.declarations import (
    ChunkKind,
    chunks,
    conditions,
    declaration,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DIRECTIVE = re.compile(r"\0 #\s*(\w+)\s*(\w*)")
_WORD = re.compile(r"[A-Za-z_]\w*")
_GUARD = re.compile(r"^[ \t]*#[ \t]*ifndef[ \t]+(\w+)\s+#[ \t]*define[ \t]+\1\b", re.MULTILINE)
#: A literal, or a comment behind a directive.
_SILENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|/\*(?s:.*?)\*/|//.*""")
#: A directive that is no condition, on a line of its own within what is declared.
_INNER = re.compile(r"^[ \t]*#[ \t]*(?:define|undef|pragma|include)\b", re.MULTILINE)
_MEMBER = re.compile(r"([^{};]*)([{};])")
_UNION = re.compile(r"(?:\w+ )*union\b")
_CALL = re.compile(r"\w+\s*\([^(){};]*(?:\([^(){};]*\)[^(){};]*)*\)\s*;?\s*")
_NAMED = {
    ChunkKind.STATIC_FUNCTION,
    ChunkKind.FUNCTION,
    ChunkKind.PROTOTYPE,
    ChunkKind.RECORD,
    ChunkKind.TYPEDEF,
    ChunkKind.ENUM,
}
_UNKNOWN = "what it declares"  #: where no name is known
_MACRO = "\0"  #: begins a directive
_ODD = "\1"  #: begins what has a directive within it: nobody knows what else that changes


class Exposed(Struct, frozen=True, kw_only=True):
    """What other sources may use of what a patch changes in headers."""

    changed: tuple[tuple[str, str], ...]  #: path, and what stands for something else now
    #: Path and names of what is new there, if one of the names is new to the whole tree.
    brought: tuple[tuple[str, frozenset[str]], ...]
    #: Path and name of each structure that has more members than before, and all others in place.
    larger: tuple[tuple[str, str], ...] = ()


class _Piece(Struct, frozen=True, kw_only=True):
    """What a header declares at one place."""

    around: tuple[str, ...]  #: the conditions that it stands under
    text: str  #: with single spaces
    literals: tuple[str, ...] = ()  #: as they are spelled, spaces and all
    lines: tuple[str, ...] = ()  #: of what may be assembler, where a line ends a statement


def exposed(texts: Mapping[str, tuple[str, str]]) -> Exposed:
    """Say what of some headers means something else after a patch.

    Comments mean nothing. A name that goes from one header to another is one of both, but for a
    macro: a source sees (``#ifdef``) that it is gone, or there. It may have one of that name for
    want of it (``#ifndef``), so one that no file knew counts too, but in a header that is new. A
    row of a list (`ROW(name)`) means what each reader of the list makes of it. A structure with
    more members than before is a matter of its layout, which may be compared elsewhere. What stays
    must stand in the order of before, by which macros and conditions are read.

    Args:
        texts: Both versions of each header, by path; "" where there is none.
    """
    gone: dict[str, list[tuple[str, _Piece]]] = {}
    come: dict[str, list[tuple[str, _Piece]]] = {}
    changed: dict[tuple[str, str], None] = {}
    larger: dict[tuple[str, str], None] = {}
    brought: list[tuple[str, frozenset[str]]] = []
    for path, sides in texts.items():
        before, after = (list(_pieces(text)) for text in sides)
        old, new = Counter(before), Counter(after)
        if not _are_in_order(before, after):  # as where a macro is taken back between two
            changed[path, _UNKNOWN] = None
        for names, rest in ((gone, old - new), (come, new - old)):
            for piece in rest:
                groups = _names(piece.text)
                if not groups:
                    changed[path, _UNKNOWN] = None
                for group in groups:
                    brought += [(path, group)] if names is come else []
                    for name in group:
                        names.setdefault(name, []).append((path, piece))
    left = {
        word
        for _, new in texts.values()
        for row in _pieces(new)
        for word in _WORD.findall(row.text)
    }
    for name, rows in sorted(gone.items()):
        path, piece = rows[0]
        # `#ifdef` sees that a macro is gone; where a name still stands, there may be another one.
        if name not in come:
            if name in left or _is_asked_for(piece):
                changed[path, f"`{name}`"] = None
        elif not _is_moved(rows, come[name]):
            record = _larger(rows, come[name])
            if record:
                larger[path, record] = None
            else:
                changed[path, f"`{name}`"] = None
    for name in sorted(come.keys() - gone.keys()):
        for path, piece in come[name]:
            if _is_asked_for(piece) and texts[path][0]:
                changed[path, f"`{name}`"] = None
    fresh = (row for row in brought if not row[1] & gone.keys())
    return Exposed(
        changed=tuple(changed), brought=tuple(dict.fromkeys(fresh)), larger=tuple(larger)
    )


def _is_asked_for(piece: _Piece) -> bool:
    """Tell whether a source that compiles without it may take it: a macro, or a row of a list."""
    text = piece.text
    return text.startswith(_MACRO) or (_CALL.fullmatch(text) is not None and text[-1] != ";")


def _are_in_order(old: list[_Piece], new: list[_Piece]) -> bool:
    """Tell whether what stays of a header stands there in the order of before."""
    common = Counter(old) & Counter(new)
    return [row for row in old if row in common] == [row for row in new if row in common]


def _is_moved(old: list[tuple[str, _Piece]], new: list[tuple[str, _Piece]]) -> bool:
    """Tell whether something is as it was, perhaps in another header, and then no macro."""
    before, after = (
        sorted(
            (
                path if row.text.startswith(_MACRO) else "",
                row.around,
                row.text,
                row.literals,
                row.lines,
            )
            for path, row in rows
        )
        for rows in (old, new)
    )
    return before == after


def _larger(old: list[tuple[str, _Piece]], new: list[tuple[str, _Piece]]) -> str:
    """Return the name of a structure that got members behind its first one, and no other change.

    Members stay within what they were in. None is new to a union, where it lies over others.
    """
    if len(old) != 1 or len(new) != 1 or old[0][1].around != new[0][1].around:
        return ""
    items = [declaration(rows[0][1].text) for rows in (old, new)]
    if any(item.kind is not ChunkKind.RECORD for item in items):
        return ""
    before, after = (_members(rows[0][1].text) for rows in (old, new))
    rest = iter(after)
    more = Counter(after) - Counter(before)
    is_in_place = before[:2] == after[:2] and all(row in rest for row in before)
    is_over_others = any(_UNION.match(owner) for owners, _ in more for owner in owners)
    return items[0].name if is_in_place and not is_over_others else ""


def _members(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Return the members of a structure, each below the heads of what it lies in."""
    owners: list[str] = []
    found = []
    for piece, mark in _MEMBER.findall(text):
        found.append((tuple(owners), piece.strip()))
        if mark == "{":
            owners.append(piece.strip())
        elif mark == "}" and owners:
            owners.pop()
    return found


def _pieces(text: str) -> Iterator[_Piece]:
    """Give what a text declares, each piece with the conditions that it stands under."""
    around: list[str] = []
    guard = _GUARD.search(text)
    for chunk in chunks(text):
        flat = plain(chunk.text)
        if _DIRECTIVE.match(flat):
            bare = _SILENT.sub(lambda match: match[1] or " ", flat.strip("\0"))
            flat = f"\0 {' '.join(bare.split())}\0"
        words = conditions(chunk.text)
        if _DIRECTIVE.match(flat) is None or not words:
            literals = tuple(filter(None, _SILENT.findall(chunk.text)))
            if _DIRECTIVE.match(flat) is None and _INNER.search(chunk.text):
                flat = _ODD + flat
            calls = _CALL.findall(flat)
            is_cut = len(calls) > 1 and "".join(calls) == flat and not literals
            lines = _lines(chunk.text) if words or not (is_cut or _names(flat)) else ()
            for piece in calls if is_cut else [flat] if flat else ():
                where = tuple(filter(None, around))
                yield _Piece(around=where, text=piece.strip(), literals=literals, lines=lines)
            if words.count("endif") != sum(word.startswith("if") for word in words):
                around.append(flat)  # nobody knows what it leaves open
        elif words[0].startswith("if"):
            is_guard = guard is not None and not around and flat.endswith(f" {guard[1]}\0")
            around.append("" if is_guard else flat)  # headers differ in it, and mean the same
        else:
            above = around.pop() if around else ""
            around += [f"{above} {flat}"] if words[0].startswith("el") else []


def _lines(text: str) -> tuple[str, ...]:
    """Return the lines of a text that say something, with single spaces and without comments."""
    bare = _SILENT.sub(lambda match: match[1] or " ", text.replace("\\\n", " "))
    rows = (" ".join(row.split()) for row in bare.splitlines())
    return tuple(filter(None, rows))


def _names(text: str) -> tuple[frozenset[str], ...]:
    """Return the names that a piece gives a meaning, in groups; none where that is not known.

    Of what a macro declares nobody knows which of its arguments is the name.
    """
    if text.startswith(_ODD):
        return ()
    if match := _DIRECTIVE.match(text):
        return (frozenset({match[2]}),) if match[1] == "define" and match[2] else ()
    if _CALL.fullmatch(text):
        words = _WORD.findall(text.partition("(")[2])
        return (frozenset(words),) if words else ()
    item = declaration(text)
    if item.kind not in _NAMED or not item.name:
        return ()
    words = [item.name.rpartition(" ")[2]]
    if item.kind is ChunkKind.ENUM:
        words += _WORD.findall(text.partition("{")[2])
    return tuple(frozenset({word}) for word in dict.fromkeys(words))
