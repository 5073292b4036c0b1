# SPDX-License-Identifier: Apache-2.0
"""Numbers and sizes that a patch changes inside functions, where memory knows the old ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from xsplice_plugins.csource.constants import macros_in, number_of
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.uses import Token, Use, allocation_around, tokens, use_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NUMBER = re.compile(r"\d\w*")
_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}
_TWICE = 2  #: places of one number: a single subscript that changes is an ordinary fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Literals:
    """What changed inside the functions of one file."""

    stale: tuple[str, ...]  #: memory that the old code made does not fit the new code
    remarks: tuple[str, ...]


def changed_literals(old: str, new: str) -> Literals:
    """Compare numbers of functions that both sides have, and sizes that they allocate.

    Args:
        old: A source before the patch.
        new: And after it.

    Returns:
        Sentences, each in the order of the text.
    """
    before, after = _bodies(old), _bodies(new)
    uses: dict[tuple[str, str], list[tuple[str, Use]]] = {}
    stale: list[str] = []
    for name in before:
        if before[name] == after.get(name, before[name]):
            continue
        sides = (tokens(before[name]), tokens(after[name]))
        for here, there in _replaced(*sides):
            use, other = use_at(sides[1], there), use_at(sides[0], here)
            if use[2:] == other[2:]:
                uses.setdefault((other.name, use.name), []).append((name, use))
        stale += _sizes(name, *sides)
    remarks: list[str] = []
    for (was, now), rows in uses.items():
        names = ", ".join(dict.fromkeys(f"`{name}`" for name, _ in rows))
        plain = [use for _, use in rows if not use.indexes or len(rows) >= _TWICE]
        if any(use.makes for use in plain) and any(use.reads for use in plain):
            stale.append(f"state that was made with {was} is read with {now} ({names})")
        elif any(use.reads for use in plain):
            remarks.append(
                f"{names} asks for {now} where it asked for {was}: what was made before is as the "
                "old code made it"
            )
    return Literals(stale=tuple(sorted(set(stale))), remarks=tuple(sorted(set(remarks))))


def _bodies(text: str) -> dict[str, str]:
    """Return functions and macros by name; those that are defined several times joined."""
    found: dict[str, str] = {}
    for name, definitions in macros_in(text).items():
        if any(words is not None for words, _ in definitions):
            found[f"{name}()"] = " ; ".join(body for _, body in definitions)
    for chunk in chunks(text):
        item = declaration(chunk.text)
        if item.kind in _FUNCTIONS:
            found[item.name] = f"{found.get(item.name, '')}\n{chunk.text}"
    return found


def _words(row: Sequence[Token]) -> list[str]:
    return [token.text for token in row]


def _differences(old: Sequence[Token], new: Sequence[Token]) -> Iterator[tuple[slice, slice]]:
    matcher = SequenceMatcher(None, _words(old), _words(new), autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield slice(a, b), slice(c, d)


def _replaced(old: Sequence[Token], new: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Give the places of numbers that stand where another number stood."""
    for was, now in _differences(old, new):
        if was.stop - was.start != now.stop - now.start:
            continue
        for here, there in zip(range(was.start, was.stop), range(now.start, now.stop), strict=True):
            texts = (old[here].text, new[there].text)
            if all(_NUMBER.fullmatch(text) for text in texts) and number_of(texts[0]) != number_of(
                texts[1]
            ):
                yield here, there


def _sizes(name: str, old: Sequence[Token], new: Sequence[Token]) -> Iterator[str]:
    """Say which calls that allocate what memory keeps have another argument now."""
    for places in _differences(old, new):
        for row, place in zip((old, new), places, strict=True):
            # Nothing was added on this side: what stands before tells in which call it is.
            at = place.start if place.stop > place.start else max(place.start, 0)
            if at >= len(row):
                continue
            found = allocation_around(row, at)
            if found is None or not found[1] or _is_whole_call(row, place, found[0]):
                continue
            yield (
                f"`{name}` allocates another size by `{found[0]}`: what was allocated before has "
                "the old one"
            )


def _is_whole_call(row: Sequence[Token], place: slice, callee: str) -> bool:
    """Tell whether the call itself is part of what differs."""
    return any(token.text == callee for token in row[place])
