# SPDX-License-Identifier: Apache-2.0
"""Functions that keep a result in a static variable of their own: the old code's result stays."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.literals import bodies
from xsplice_plugins.csource.sizing import end_of
from xsplice_plugins.csource.uses import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.csource.uses import Token

_WORD = re.compile(r"[A-Za-z_]\w*")
_TABLE = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*=")
_PLAIN = re.compile(r"-? ?\w+")  #: a number or a name: that something was done, not what came out
_COMPARISONS = {"==", "!=", "<", ">", "<=", ">="}
_BEFORE = {"(", "!", "&&", "||"}
_BEHIND = {")", "&&", "||", "?", *_COMPARISONS}


@lru_cache(maxsize=2)  # asked for each object of a fix
def remembered_results(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find functions that change, or whose tables do, and that remember what they found once.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        The file of each, and a sentence.
    """
    found = []
    for path, *both in texts:
        old, new = (bodies(text) for text in both)
        tables: set[str] | None = None
        for name in sorted(old.keys() & new.keys()):
            if "static" not in old[name] or "static" not in new[name]:
                continue
            rows = tokens(old[name]), tokens(new[name])
            kept = sorted(set(_remembered(rows[0])) & set(_remembered(rows[1])))
            sides = [[token.text for token in row] for row in rows]
            if kept and sides[0] == sides[1]:
                tables = _changed_tables(*both) if tables is None else tables
                kept = [] if tables.isdisjoint(sides[1]) else kept
            said = f"`{name}` is another, or a table that it reads, and keeps what it found once in"
            end = "what the old code put there stays"
            found += [(path, f"{said} `{variable}`: {end}") for variable in kept]
    return tuple(found)


def _changed_tables(old: str, new: str) -> set[str]:
    """Return the names of variables outside of functions that get other values."""
    sides = [
        {
            item.text
            for chunk in chunks(text)
            if (item := declaration(chunk.text)).kind is ChunkKind.OTHER
        }
        for text in (old, new)
    ]
    return {match[1] for text in sides[1] - sides[0] if (match := _TABLE.search(text))}


def _remembered(row: Sequence[Token]) -> Iterator[str]:
    """Give the static variables of a function that it tests and gives what it computed."""
    texts = [token.text for token in row]
    for name in _statics(texts):
        places = [at for at, text in enumerate(texts) if text == name and at]
        places = [at for at in places if texts[at - 1] not in {"->", "."}][1:]  # not where declared
        values = [
            " ".join(texts[at + 2 : end_of(row, at + 2)]) for at in places if texts[at + 1] == "="
        ]
        is_tested = any(texts[at - 1] in _BEFORE and texts[at + 1] in _BEHIND for at in places)
        if is_tested and any(not _PLAIN.fullmatch(value) for value in values):
            yield name


def _statics(texts: Sequence[str]) -> Iterator[str]:
    """Give the static variables that a function declares, but for constants and arrays."""
    start = texts.index("{") if "{" in texts else len(texts)
    for at in range(start, len(texts)):
        if texts[at] != "static":
            continue
        end = at + 1
        while end < len(texts) and (texts[end] == "*" or _WORD.fullmatch(texts[end])):
            end += 1
        if "const" not in texts[at:end] and texts[end : end + 1] in ([";"], ["="], [","]):
            yield texts[end - 1]
