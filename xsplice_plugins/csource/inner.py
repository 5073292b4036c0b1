# SPDX-License-Identifier: Apache-2.0
"""What of a function's body outlives a call: its static variables, and constants that they hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.csource.declarations import ChunkKind, without_attributes

if TYPE_CHECKING:
    from xsplice_plugins.csource.declarations import Declaration

_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|' + r"'(?:\\.|[^'\\])*'")
_STATIC = re.compile(r"\bstatic\b")
_ENUM = re.compile(r"\benum\b[^{};()=,]*\{")
_TYPES = re.compile(r"\b(?:struct|union)\b[^{};()=,]*\{|\btypedef\b")
_FUNCTIONS = (ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION)


def may_keep(text: str) -> bool:
    """Tell whether a function's text, before the preprocessor, has something that outlives it."""
    body = text[text.find("{") :]
    return re.search(r"\b(?:static|enum)\b", body) is not None


def variables_in(item: Declaration) -> tuple[tuple[str, str], ...]:
    """Return the variables that a declaration defines, or that a function's body keeps.

    Returns:
        For each declaration of variables its text, and the types around it that it may use.
    """
    outside = ((item.text, ""),) if item.kind is ChunkKind.OTHER else ()
    body = _body(item)
    found = []
    for match in _STATIC.finditer(body):
        start = max(body.rfind(mark, 0, match.start()) for mark in "{};") + 1
        if "(" not in body[start : match.start()]:  # else it speaks of a parameter
            found.append(body[start : _end(body, match.end())].strip())
    around = [body[match.start() : _end(body, match.end() - 1)] for match in _TYPES.finditer(body)]
    types = " ".join(around)
    return outside + tuple((text, item.text if "typeof" in text else types) for text in found)


def enumerations_in(item: Declaration) -> tuple[str, ...]:
    """Return the enumerations that a function's body, or a variable's declaration, defines."""
    body = without_attributes(item.text) if item.kind is ChunkKind.OTHER else _body(item)
    return tuple(
        body[match.start() : _closed(body, match.end() - 1)] for match in _ENUM.finditer(body)
    )


def _body(item: Declaration) -> str:
    is_odd = item.kind is ChunkKind.OTHER and item.text.endswith(
        "}"
    )  # a function, but for its head
    if item.kind not in _FUNCTIONS and not is_odd:
        return ""
    text = _LITERAL.sub('""', without_attributes(item.text))
    return text[text.find("{") + 1 :]


def _closed(text: str, start: int) -> int:
    """Return where the brackets are closed that ``start`` stands at."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] in "{([") - (text[at] in "})]")
        if depth == 0:
            return at + 1
    return len(text)


def _end(text: str, start: int) -> int:
    """Return where the statement ends that ``start`` lies in."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] in "{([") - (text[at] in "})]")
        if depth < 0 or (depth == 0 and text[at] == ";"):
            return at + 1
    return len(text)
