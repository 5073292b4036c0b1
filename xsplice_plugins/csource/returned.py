# SPDX-License-Identifier: Apache-2.0
"""Constants that a function returns: state only where a caller keeps what it gets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.uses import is_type, opening_before, tokens, use_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xsplice_plugins.csource.uses import Token, Use

_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}
_WORD = re.compile(r"[A-Za-z_]\w*")
_BEFORE_LOCAL = {";", "{", "}", ")", ":", "else", "do"}


def without_passing(text: str, uses: Iterable[Use]) -> Iterator[Use]:
    """Give uses as they are, without "makes" where a returned constant is only compared.

    Args:
        text: The source they are in.
        uses: Of its tokens, with lines.
    """
    known: dict[str, bool] = {}
    for use in uses:
        if use.is_returned and use.makes:
            name = _function_around(text, use.line)
            if name not in known:
                known[name] = is_kept(text, name)
            yield use._replace(makes=known[name])
        else:
            yield use


def is_kept(text: str, name: str) -> bool:
    """Tell whether something may keep what a function returns; in doubt it does.

    Args:
        text: The whole source. A static function can be called from there alone.
        name: The function's.
    """
    outside, is_static = text, False
    for chunk in chunks(text):
        item = declaration(chunk.text)
        if item.kind not in _FUNCTIONS:
            continue
        is_static |= item.name == name and item.kind is ChunkKind.STATIC_FUNCTION
        outside = outside.replace(chunk.text, ";", 1)
        if re.search(rf"#.*\b{name}\b", chunk.text) or _keeps(tokens(chunk.text), name):
            return True
    return not is_static or bool(re.search(rf"\b{name}\b(?!\s*\([^{{}}]*\)\s*;)", outside))


def _function_around(text: str, line: int) -> str:
    """Return the function in which a line is, or ""."""
    for chunk in chunks(text):
        if chunk.line <= line <= chunk.line + chunk.text.count("\n"):
            item = declaration(chunk.text)
            if item.kind in _FUNCTIONS:
                return item.name
    return ""


def _keeps(row: Sequence[Token], name: str) -> bool:
    """Tell whether one function may keep what another one returns."""
    for at, token in enumerate(row):
        if token.text != name or (at and is_type(row, at - 1)):
            continue  # something else, or the function itself
        if at + 1 == len(row) or row[at + 1].text != "(":
            return True
        if not use_at(row, at).makes:
            continue
        is_local = (
            at > 2  # a name and "=" before it, and what is before these
            and row[at - 1].text == "="
            and _WORD.fullmatch(row[at - 2].text)
            and (row[at - 3].text in _BEFORE_LOCAL or is_type(row, at - 3))
        )
        if not is_local or _goes_on(row, row[at - 2].text):
            return True
    return False


def _goes_on(row: Sequence[Token], local: str) -> bool:
    """Tell whether a variable's value goes anywhere, or the variable is none of this function."""
    is_declared = False
    for at, token in enumerate(row):
        if token.text != local or row[at - 1].text in {"->", "."}:
            continue
        start = at
        while start and row[start - 1].text not in {";", "{", "}"}:
            start -= 1
        opening = opening_before(row, at - 1)
        is_listed = row[at - 1].text == "," and opening >= 0 and row[opening].text == "{"
        if is_type(row, at - 1) or (is_listed and is_type(row, start)):
            if row[start].text == "static":
                return True
            is_declared = True
        elif row[at + 1].text != "=" and (
            use_at(row, at).makes or (row[at - 1].text == "&" and not _ends_value(row, at - 2))
        ):
            return True
    return not is_declared


def _ends_value(row: Sequence[Token], at: int) -> bool:
    return row[at].text in {")", "]"} or bool(re.fullmatch(r"\w+", row[at].text))
