# SPDX-License-Identifier: Apache-2.0
"""C text with places: where a bracket closes, where an expression begins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SILENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_RECORD = re.compile(
    r"\b(?:struct|union)\b(?:\s+(?:__\w+\s+)*(?P<tag>(?!__)\w+))?\s*(?:__\w+\s*)*\{"
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_TYPE = re.compile(
    r"\s*(?:(?:const|volatile|unsigned|signed)\s+)*(?:(?:struct|union|enum)\s+\w+|void|char|bool|"
    r"short|int|long|\w+_t|[us](?:8|16|32|64))\b[\w\s]*\**\s*|[^(]*\*\s*"
)
_NO_VALUES = {"return", "case", "else", "do", "if", "while", "for", "switch", "sizeof", "typeof"}


def blanked(text: str) -> str:
    """Return C text with blanks for comments and literals; every place stays where it is."""
    return _SILENT.sub(_blanks, text)


def without_directives(text: str) -> str:
    """Return text with blanks for the preprocessor's lines."""
    return _DIRECTIVE.sub(_blanks, text)


def _blanks(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def closing(text: str, at: int) -> int:
    """Return where the bracket closes that opens at a place of blanked text; -1 if nowhere."""
    depth = 0
    for place in range(at, len(text)):
        if text[place] in _PAIRS:
            depth += 1
        elif text[place] in _PAIRS.values():
            depth -= 1
            if not depth:
                return place
    return -1


def structures(text: str) -> Iterator[tuple[str, int, int]]:
    """Give the structures and unions that a text defines: tag, or "", and the span of the body.

    Args:
        text: C, blanked and without directives.
    """
    for match in _RECORD.finditer(text):
        yield match["tag"] or "", match.end(), closing(text, match.end() - 1)


def arguments(text: str) -> list[str]:
    """Cut what stands between a call's brackets at its commas."""
    found, depth, start = [], 0, 0
    for at, mark in enumerate(text):
        depth += (mark in _PAIRS) - (mark in _PAIRS.values())
        if mark == "," and not depth:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, text[start:].strip()]


def _opening(text: str, at: int) -> int:
    """Return where the bracket opens that closes at a place; -1 if nowhere."""
    depth = 0
    for place in range(at, -1, -1):
        if text[place] in _PAIRS.values():
            depth += 1
        elif text[place] in _PAIRS:
            depth -= 1
            if not depth:
                return place
    return -1


def operand_start(text: str, end: int) -> int:
    """Return where the operand begins that ends before a ``->`` or ``.``.

    Args:
        text: C, blanked.
        end: Where the operator stands.

    Returns:
        The first place of what is named, called or looked up in; -1 if there is no operand, as in
        an initialiser.
    """
    start, at = -1, end
    while True:
        at = len(text[:at].rstrip())
        if at and text[at - 1] in ")]":
            is_call = text[at - 1] == ")"
            at = _opening(text, at - 1)
            if at < 0:
                return -1
            if is_call and not _is_called(text, at):
                return at  # brackets around a value
            continue
        name = re.search(r"[A-Za-z_]\w*$", text[:at])
        if name is None or name[0] in _NO_VALUES:
            return start
        start = at = name.start()
        joined = re.search(r"(->|\.)\s*$", text[:at])
        if joined is None:
            return start
        at = joined.start()


def _is_called(text: str, at: int) -> bool:
    """Tell whether a function stands before a bracket; else it is around a value.

    What stands there may be a cast, or the condition of a statement.
    """
    before = text[:at].rstrip()
    if before.endswith(")"):
        start = _opening(before, len(before) - 1)
        word = re.search(r"(\w+)\s*$", before[: max(start, 0)])
        is_condition = word is not None and word[1] in _NO_VALUES
        return start >= 0 and not is_condition and not _TYPE.fullmatch(before[start + 1 : -1])
    word = re.search(r"(\w+|\])$", before)
    return word is not None and word[1] not in _NO_VALUES
