# SPDX-License-Identifier: Apache-2.0
"""Functions and macros that allocate as much memory as an argument says, and that memory keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.csource.constants import macros_in
from xsplice_plugins.csource.keeping import allocations
from xsplice_plugins.csource.sizing import NAME, feeding
from xsplice_plugins.csource.uses import closing_of, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xsplice_plugins.csource.uses import Sizers, Token

_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}


def sizers_in(text: str, functions: Mapping[str, str]) -> Sizers:
    """Return which arguments say how much a function or macro allocates, from 0.

    Of a macro that is defined several times, the last definition counts.

    Args:
        text: A source.
        functions: Its functions by name; other names, such as ``macro()``, are left out.
    """
    parts: dict[str, tuple[tuple[str, ...], str]] = {}
    for name, definitions in macros_in(text).items() if "alloc" in text else ():
        for words, body in definitions:
            if words:
                parts[name] = words, body
    found: dict[str, frozenset[int]] = {}
    rows: dict[str, tuple[Sequence[str], Sequence[Token]]] = {}
    names = {"alloc"}
    while names:
        for name, body in functions.items():
            if name not in rows and NAME.fullmatch(name) and any(one in body for one in names):
                row = tokens(body)
                rows[name] = _parameters(row), row
        for name, (words, body) in parts.items():
            if name not in rows and any(one in body for one in names):
                rows[name] = words, tokens(body)
        more = {name: _places(*rows[name], found) for name in rows}
        names = {name for name, places in more.items() if places and places != found.get(name)}
        found |= {name: more[name] for name in names}
    return found


def _places(words: Sequence[str], row: Sequence[Token], known: Sizers) -> frozenset[int]:
    fed = {
        name
        for _, places, is_kept in allocations(row, known)
        if is_kept
        for name in feeding(row, places)
    }
    return frozenset(at for at, word in enumerate(words) if word in fed)


def _parameters(row: Sequence[Token]) -> tuple[str, ...]:
    """Return the names of a function's parameters, in order; "" for a pointer: it is no number."""
    start = next((at for at, token in enumerate(row) if token.text == "{"), 0)
    end = start - 1
    while end > 0 and row[end].text != ")":
        end -= 1
    opening = next((at for at in range(end) if closing_of(row, at) == end), end)
    found, depth, words = [], 0, list[str]()
    for token in row[opening + 1 : end + 1]:
        if depth == 0 and token.text in {",", ")"}:
            found.append(words[-1] if words and "*" not in words else "")
            words = []
        elif depth == 0:
            words.append(token.text)
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
    return tuple(found)
