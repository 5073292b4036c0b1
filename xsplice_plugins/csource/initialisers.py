# SPDX-License-Identifier: Apache-2.0
"""First values of variables in C text: where they stand, and what each part of one says."""

from __future__ import annotations

import re
from typing import NamedTuple

from xsplice_plugins.csource.places import blanked, closing, without_directives

_DESIGNATED = re.compile(r"(?P<place>(?:\.\s*\w+|\[[^\]]*\])+)\s*=(?!=)\s*(?P<value>.*)", re.DOTALL)
_RANGE = "..."
_SPACES = re.compile(
    r"(?P<literal>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')|(?:/\*.*?\*/|//[^\n]*|\s)+", re.DOTALL
)
_TYPE_WORD = re.compile(r"[A-Za-z_]\w*|\*")
_OPEN, _CLOSE = "([{", ")]}"


class First(NamedTuple):
    """A variable's first value."""

    start: int  #: of the declaration, in the file's text
    at: int  #: of the value
    end: int  #: of the semicolon
    text: str  #: the value


def first_value(text: str, name: str) -> First | None:
    """Return the first value of a file's variable; ``None`` without one, or with more than one.

    Args:
        text: C, with comments and directives.
        name: The variable's; those of functions do not count.
    """
    blank = without_directives(blanked(text))
    use = re.compile(rf"(?<![\w.>]){name}\b\s*(?:\[[^\]]*\]\s*)*[^;=(){{}},]*=(?!=)")
    found = []
    depth, done, start = 0, 0, 0
    for match in use.finditer(blank):
        for at in range(done, match.start()):
            depth += (blank[at] in _OPEN) - (blank[at] in _CLOSE)
            if not depth and blank[at] in ";}":
                start = at + 1
        done = match.start()
        if depth or not _TYPE_WORD.search(blank, start, match.start()):
            continue
        end = _statement_end(blank, match.end())
        if end < 0:
            return None
        at = match.end() + len(text[match.end() : end]) - len(text[match.end() : end].lstrip())
        found.append(First(start, at, end, text[at:end].rstrip()))
    return found[0] if len(found) == 1 else None


def _statement_end(blank: str, at: int) -> int:
    while at < len(blank) and blank[at] != ";":
        if blank[at] in _OPEN:
            at = closing(blank, at)
            if at < 0:
                return -1
        at += 1
    return at if at < len(blank) else -1


def parts_of(value: str) -> dict[str, str]:
    """Return what each named part of a first value is, by its place: ``.ack``, ``[2].name``.

    What is given by order, in ranges or under directives is one part with all around it; "" is
    the place of the whole.
    """
    return _parts(_single(value), "") if "#" not in blanked(value) else {"": value.strip()}


def _parts(value: str, place: str) -> dict[str, str]:
    if not (value.startswith("{") and value.endswith("}")):
        return {place: value}
    found: dict[str, str] = {}
    for row in _rows(value[1:-1]):
        match = _DESIGNATED.fullmatch(row)
        if match is None or _RANGE in match["place"]:
            return {place: value}
        inner = place + re.sub(r"\s", "", match["place"])
        found |= _parts(match["value"].strip(), inner)
    return found


def _rows(text: str) -> list[str]:
    """Cut at the commas that stand in no bracket and no literal."""
    rows, depth, start = [], 0, 0
    for at, mark in enumerate(blanked(text)):
        depth += (mark in _OPEN) - (mark in _CLOSE)
        if mark == "," and not depth:
            rows.append(text[start:at].strip())
            start = at + 1
    return [row for row in (*rows, text[start:].strip()) if row]


def _single(text: str) -> str:
    """Return text without comments, with single spaces outside of literals."""
    return _SPACES.sub(lambda match: match["literal"] or " ", text).strip()
