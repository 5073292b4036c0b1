# SPDX-License-Identifier: Apache-2.0
"""Calls that allocate: how much, and whether the memory outlives the function that asks for it.

It does not if it goes to a variable of the function that is freed on each way out. Whatever is not
understood is kept.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.csource.uses import (
    closing_of,
    is_size,
    is_type,
    opening_before,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.csource.uses import Sizers, Token

_WORD = re.compile(r"[A-Za-z_]\w*")
_FREEING = re.compile(r"\w*free\w*", re.IGNORECASE)
_EXCHANGING = re.compile(r"swap|xchg", re.IGNORECASE)
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_CONDITIONS = {"if", "else", "while", "for", "do", "switch"}
_BORDERS = {"=", ";", "{", "}", "(", ","}
_STARTS = {";", "{", "}", ":"}
_FAILING = {"-", "NULL", "ERR_PTR"}  #: what a function begins to return that did not go well


def allocations(
    row: Sequence[Token], sizers: Sizers | None = None
) -> Iterator[tuple[int, list[int], bool]]:
    """Give the calls that allocate, the places that say how much, and whether memory keeps it.

    Args:
        row: One function.
        sizers: What allocates, beside Xen's own allocators.
    """
    for at in range(len(row) - 1):
        if row[at + 1].text == "(" and is_size(row, at + 1, at + 2, sizers) is not None:
            end = closing_of(row, at + 1)
            if [token.text for token in row[end + 1 : end + 2]] != ["{"]:  # its own definition
                sizes = [spot for spot in range(at + 2, end) if is_size(row, at + 1, spot, sizers)]
                yield at, sizes, is_kept(row, at)


def target_of(row: Sequence[Token], callee: int) -> tuple[str, ...]:
    """Return the words of what gets the result of a call, up to its ``=``; none where nothing does.

    Args:
        row: One function.
        callee: Where the call's name stands.
    """
    end = callee - 1
    while end > 0 and row[end].text in {")", "("}:  # a cast, or what is asked of the result
        end = opening_before(row, end) - 1 if row[end].text == ")" else end - 1
    while end > 0 and row[callee - 1].text in {"?", ":"} and row[end].text not in _BORDERS:
        end -= 1
    if end <= 0 or row[end].text != "=":
        return ()
    start = end
    while start and row[start - 1].text not in {*_STARTS, "(", ",", "&&", "||", "!", "="}:
        start -= 1
        if row[start].text in _CLOSING:
            start = max(opening_before(row, start), 0)
    return tuple(token.text for token in row[start:end])


def is_kept(row: Sequence[Token], callee: int) -> bool:
    """Tell whether what a call returns may stay in memory when its function returns.

    Args:
        row: One function.
        callee: Where the call's name stands.
    """
    words = target_of(row, callee)
    path = _path(words)
    if not path or not is_local(row, path[0]):
        return True
    return not _is_freed(row, callee, path)


def _path(words: Sequence[str]) -> tuple[str, ...]:
    """Return a variable, or a member of one that is a structure; none of what pointers lead to."""
    at = len(words)
    while at and (_WORD.fullmatch(words[at - 1]) or words[at - 1] == "."):
        at -= 1
        if at and words[at] != "." and words[at - 1] != ".":
            break
    path, before = tuple(words[at:]), words[:at]
    if not path or any(word in {"->", "[", "]", ")"} for word in before):
        return ()
    return path if all(_WORD.fullmatch(word) for word in before[:1]) else ()


def is_local(row: Sequence[Token], name: str) -> bool:
    """Tell whether a function declares a variable that ends with it, or has such a parameter."""
    depth = 0
    for at, token in enumerate(row[:-1]):
        depth += (token.text in {"(", "["}) - (token.text in {")", "]"})
        if token.text != name or at == 0 or row[at - 1].text in {"->", "."}:
            continue
        is_named = row[at - 1].text in {"*", ","} or is_type(row, at - 1)
        if not is_named or row[at + 1].text not in {"=", ";", ",", "[", ")"}:
            continue
        start = at
        while start and row[start - 1].text not in {";", "{", "}", "("}:
            start -= 1
        is_parameter = "{" not in {token.text for token in row[:at]}
        is_declaration = is_type(row, start) and (
            row[start + 1].text == "*" or _WORD.fullmatch(row[start + 1].text)
        )
        if start < at and is_declaration and (depth == 0 or is_parameter):
            return row[start].text != "static"
    return False


def _is_freed(row: Sequence[Token], callee: int, path: Sequence[str]) -> bool:
    """Tell whether a variable is freed on each way that leads on from a call."""
    labels = {row[at].text: at for at in range(1, len(row) - 1) if _is_label(row, at)}
    depth = lowest = 0
    jumps: list[int] = []
    for at in range(callee, len(row)):
        text = row[at].text
        depth += (text == "{") - (text == "}")
        lowest = min(lowest, depth)
        is_here = depth == lowest and not _is_conditional(row, at)
        if text in {"return", "goto"} and not _is_failing(row, at, path, callee):
            if text == "return":
                return False
            jumps.append(labels.get(row[at + 1].text, len(row)))
        if _starts_with(row, at, path) and at > callee:
            if row[at + len(path)].text == "=" or _is_handed_on(row, at, len(path)):
                return False  # what it held went elsewhere
            if is_here and _is_argument_of_free(row, at, len(path)):
                return all(callee < jump < at for jump in jumps)
    return False


def _is_label(row: Sequence[Token], at: int) -> bool:
    is_word = _WORD.fullmatch(row[at].text) and row[at + 1].text == ":"
    return bool(is_word) and row[at - 1].text in _STARTS


def _starts_with(row: Sequence[Token], at: int, path: Sequence[str]) -> bool:
    words = [token.text for token in row[at : at + len(path)]]
    return words == list(path) and row[at - 1].text not in {"->", "."}


def _is_argument_of_free(row: Sequence[Token], at: int, length: int) -> bool:
    opening = opening_before(row, at - 1)
    is_call = opening > 0 and _FREEING.fullmatch(row[opening - 1].text) is not None
    return is_call and row[at + length].text in {")", ","} and row[at - 1].text in {"(", ","}


def _statement(row: Sequence[Token], at: int) -> int:
    """Return where a statement begins."""
    while at and row[at - 1].text not in _STARTS:
        at -= 1
        if row[at].text == ")":
            at = max(opening_before(row, at), 0)
    return at


def _block_around(row: Sequence[Token], at: int) -> int:
    """Return the brace of the block that a place is in; 0 where there is none."""
    depth = 0
    while at and depth <= 0:
        at -= 1
        depth += (row[at].text == "{") - (row[at].text == "}")
    return at


def _is_conditional(row: Sequence[Token], at: int) -> bool:
    """Tell whether a statement without braces of its own hangs on a condition."""
    return row[_statement(row, at)].text in _CONDITIONS


def _is_handed_on(row: Sequence[Token], at: int, length: int) -> bool:
    """Tell whether a variable is stored elsewhere, exchanged, or its own address is taken."""
    before, behind = row[at - 1].text, row[at + length].text
    opening = opening_before(row, at - 1)
    callee = row[opening - 1].text if opening > 0 else ""
    is_address = before == "&" and behind not in {"->", ".", "["}
    is_stored = before == "=" and behind in {";", ","}
    return is_stored or is_address or _EXCHANGING.search(callee) is not None


def _is_failing(row: Sequence[Token], at: int, path: Sequence[str], callee: int) -> bool:
    """Tell whether a way out is that of one that got nothing, or frees what it got before."""
    if row[at + 1].text in _FAILING:
        return True
    first = _statement(row, at)
    if row[first].text not in _CONDITIONS:
        block = _block_around(row, first)
        if block <= callee:
            return False  # the way that goes well
        first = _statement(row, block)  # with the condition of the block
    inside = [spot for spot in range(max(first, 1), at) if _starts_with(row, spot, path)]
    for spot in inside:
        words = [token.text for token in row[spot:at]]
        is_here = words.count("{") == words.count("}") and not _is_conditional(row, spot)
        if is_here and _is_argument_of_free(row, spot, len(path)):
            return True
    if row[first].text != "if":
        return False
    end = closing_of(row, first + 1)
    words = [token.text for token in row[first:end]]
    return "&&" not in words and any(
        "!" in {row[spot - 1].text, row[spot - 2].text} or ("NULL" in words and "==" in words)
        for spot in inside
        if spot < end
    )
