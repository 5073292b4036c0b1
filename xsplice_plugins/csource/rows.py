# SPDX-License-Identifier: Apache-2.0
"""Rows of C words: brackets, arguments, and what is declared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_WORD = re.compile(r"[A-Za-z_]\w*")
_QUALIFIERS = {"const", "volatile", "restrict", "__restrict", "register", "static", "struct",
               "union", "__user", "__iomem", "__maybe_unused"}  # fmt: skip
_NO_TYPES = {"return", "goto", "else", "case", "sizeof", "do", "break", "continue", "typeof"}
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}

Row = tuple[str, ...]


def closing(row: Sequence[str], at: int) -> int:
    """Return the bracket that closes the one at a place; in doubt the row's last word."""
    depth = 0
    for place in range(at, len(row)):
        depth += (row[place] in _OPENING) - (row[place] in _CLOSING)
        if depth == 0:
            return place
    return len(row) - 1


def opening_of(row: Sequence[str], at: int) -> int:
    """Return the bracket that is open before a place, or -1."""
    depth = 0
    for place in range(at - 1, -1, -1):
        depth += (row[place] in _OPENING) - (row[place] in _CLOSING)
        if depth > 0:
            return place
    return -1


def arguments_in(row: Row) -> Iterator[Row]:
    """Give the arguments in a pair of brackets."""
    start = depth = 0
    for at, word in enumerate(row):
        depth += (word in _OPENING) - (word in _CLOSING)
        if word == "," and not depth:
            yield row[start:at]
            start = at + 1
    if row[start:]:
        yield row[start:]


def type_in(words: Iterable[str]) -> str:
    """Return a type's words without qualifiers, joined."""
    known = (word for word in words if word not in _QUALIFIERS)
    return " ".join("bool" if word == "bool_t" else word for word in known)


def parameter_in(words: Row) -> tuple[str, str]:
    """Return a parameter's name and type."""
    words = words[: words.index("[")] + ("*",) if "[" in words else words
    last = max((n for n, word in enumerate(words) if _WORD.fullmatch(word)), default=0)
    return (words[last] if words else ""), type_in(words[:last] + words[last + 1 :])


def declared_in(row: Row) -> Iterator[tuple[str, str]]:
    """Give name and type of each variable that a body declares."""
    for start, mark in enumerate(row):
        if mark not in {"{", ";", "}"}:
            continue
        at = start + 1
        while at < len(row) and (row[at] == "*" or _WORD.fullmatch(row[at])):
            at += 1
        words = row[start + 1 : at]
        if len(words) < 2 or words[0] in _NO_TYPES or not _WORD.fullmatch(words[-1]):
            continue
        yield words[-1], type_in(words[:-1])
        base = [word for word in words[:-1] if word != "*"]
        end = next((n for n in range(at, len(row)) if row[n] == ";"), at)
        for more in list(arguments_in(row[at:end]))[1:]:
            stars = [word for word in more if word == "*"]
            name = next((word for word in more if _WORD.fullmatch(word)), "")
            yield name, type_in([*base, *stars[: more.index(name) if name else 0]])
