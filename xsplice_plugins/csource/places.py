# SPDX-License-Identifier: Apache-2.0
"""C text with places: where a bracket closes, where an expression begins."""

from __future__ import annotations

import re

_SILENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
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
            before = re.search(r"(\w+|[\])])\s*$", text[:at])
            if is_call and (before is None or before[1] in _NO_VALUES):
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
