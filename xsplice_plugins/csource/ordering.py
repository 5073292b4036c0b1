# SPDX-License-Identifier: Apache-2.0
"""Lists that are put in another order than before, and that another function walks otherwise.

A list that exists has the order that the old code gave it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.csource.literals import changed_bodies
from xsplice_plugins.csource.uses import closing_of, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.csource.uses import Token

_ADDING = re.compile(r"\w*list_add\w*")
_WALKING = re.compile(r"\w*for_each\w*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_HEADS = {"if", "while", "for", "switch"}

_Added = tuple[str, str, str]  #: a call, what it adds and where, by their last words
_Walk = tuple[frozenset[str], str]  #: which lists a loop may walk, and its text


@lru_cache(maxsize=2)  # asked for each object of a fix
def reordered_lists(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find lists to which entries are added at another place, and that are walked otherwise.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        A file in which one of the functions stands, and a sentence.
    """
    added: list[tuple[str, str, _Added, _Added]] = []
    walked: list[tuple[str, str, frozenset[str]]] = []
    for path, name, both, _ in changed_bodies(texts):
        rows = [tokens(text) for text in both]
        was, now = (Counter(_added(row)) for row in rows)
        for one in was - now:
            added += ((path, name, one, other) for other in now - was if one[1] == other[1])
        before, after = (Counter(_walks(row)) for row in rows)
        walked += ((path, name, lists) for lists, _ in after - before)
    found: list[tuple[str, str]] = []
    for path, name, one, other in added:
        heads = {one[2], other[2]} - {one[1]}  # or in front of an entry, by its own node
        for place, reader, lists in walked:
            if reader != name and lists & heads:
                said = (
                    f"`{name}` adds to a list at another place ({_shown(one)}, now "
                    f"{_shown(other)}), and `{reader}` walks it otherwise: a list that exists has "
                    "the order that the old code gave it"
                )
                found += ((file, said) for file in sorted({path, place}))
    return tuple(dict.fromkeys(found))


def _shown(added: _Added) -> str:
    return f"`{added[0]}(.. {added[1]}, .. {added[2]})`"


def _added(row: Sequence[Token]) -> Iterator[_Added]:
    """Give the calls that add to a list."""
    for at in range(len(row) - 1):
        if _ADDING.fullmatch(row[at].text) and row[at + 1].text == "(":
            last = _last_words(row, at + 1)
            if len(last) > 1:
                yield row[at].text.removesuffix("_rcu"), last[0], last[1]


def _walks(row: Sequence[Token]) -> Iterator[_Walk]:
    """Give the loops that walk a list."""
    for at in range(len(row) - 1):
        if _WALKING.fullmatch(row[at].text) and row[at + 1].text == "(":
            lists = frozenset(_last_words(row, at + 1)[1:])
            yield lists, " ".join(token.text for token in row[at : _end_of(row, at)])


def _last_words(row: Sequence[Token], opening: int) -> list[str]:
    """Return the last word of each argument of a call."""
    found, depth = [""], 0
    for token in row[opening : closing_of(row, opening)]:
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if token.text == "," and depth == 1:
            found.append("")
        elif _WORD.fullmatch(token.text):
            found[-1] = token.text
    return found


def _end_of(row: Sequence[Token], at: int) -> int:
    """Return where a statement ends."""
    while at + 1 < len(row) and row[at + 1].text == "(":
        is_head = row[at].text in _HEADS or _WALKING.fullmatch(row[at].text)
        if not is_head:
            break
        at = closing_of(row, at + 1) + 1
    if at < len(row) and row[at].text == "{":
        return closing_of(row, at) + 1
    while at < len(row) and row[at].text != ";":
        at = closing_of(row, at) if row[at].text in _OPENING else at
        at += 1
    return at + 1
