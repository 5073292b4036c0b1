# SPDX-License-Identifier: Apache-2.0
"""Helpers and variables that say how much memory functions allocate, in whatever file.

A helper that a patch changes gives another size to those who ask it, be they changed or not; so
does a member, or a variable outside of functions, that gets something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.keeping import allocations, is_local
from xsplice_plugins.csource.literals import bodies
from xsplice_plugins.csource.sizers import sizers_in
from xsplice_plugins.csource.sizing import (
    MEMBERS,
    NAME,
    STEPS,
    STORE,
    assignments,
    end_of,
    names_at,
)
from xsplice_plugins.csource.uses import closing_of, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from xsplice_plugins.csource.uses import Token

    Bodies = Mapping[str, Sequence[Token]]

#: Functions that other files can call, and that give a number: of no sign, or perhaps an error.
_UNSIGNED = re.compile(r"(?!static )[^(*]*\b(?:unsigned|size_t|u\d+|uint\d+_t) [^(*]*\(")
_SIGNED = re.compile(r"(?!static )[^(*]*\b(?:int|long|s\d+|int\d+_t) [^(*]*\(")
_ARITHMETIC = {"+", "-", "*", "/", "%", "<<", ">>"}
_NOTHING = re.compile(r"(static |inline |noinline |cf_check |__init )*void (?!\*)")


class Sizes(NamedTuple):
    """What says now, otherwise than before, how much memory something needs."""

    helpers: frozenset[str]  #: functions and macros, that other files can call or not
    variables: frozenset[str]  #: members, and variables outside of functions
    far: frozenset[str]  #: helpers that files may ask which do not change


def changed_sizes(texts: Mapping[str, tuple[str, str]]) -> Sizes:
    """Name what may give another size than before: helpers and variables.

    Args:
        texts: Both sides of each file that changes, by path.
    """
    helpers, variables, far = set[str](), set[str](), set[str]()
    for path, (old, new) in texts.items():
        before, after = _taken_apart(old), _taken_apart(new)
        variables |= _changed_variables(before, after)
        for name in before.keys() & after.keys():
            rows = before[name], after[name]
            words = [" ".join(token.text for token in row) for row in rows]
            if words[0] != words[1] and not _NOTHING.match(words[1]):
                helpers.add(name)
                if path.endswith(".h") or any(map(_gives_number, words, rows)):
                    far.add(name)
    return Sizes(frozenset(helpers), frozenset(variables), frozenset(far))


def resized(text: str, sizes: Sizes) -> Iterator[str]:
    """Say which calls of a file allocate another size now, for what memory keeps.

    Args:
        text: A source, changed or not.
        sizes: What changed.
    """
    if not any(name in text for group in sizes[:2] for name in group):
        return
    functions = bodies(text)
    sizers = sizers_in(text, functions)
    if not sizers and "alloc" not in text:
        return
    rows = {name.removesuffix("()"): tokens(body) for name, body in functions.items()}
    through = {name: name for name in sizes.helpers}
    while True:
        more = {
            name: through[call]
            for name, row in rows.items()
            if name not in through
            for call in sorted(_reads(row, _results(row))[0] & through.keys())[:1]
        }
        if not more:
            break
        through |= more
    for name, row in rows.items():
        for at, places, is_kept in allocations(row, sizers):
            calls, known = _reads(row, places) if is_kept else (set[str](), set[str]())
            reasons = {through[call] for call in calls & through.keys()} | (known & sizes.variables)
            for reason in sorted(reasons):
                yield (
                    f"`{name}` allocates a size by `{row[at].text}` that `{reason}` gives, which "
                    "is another one now: what was allocated before has the old one"
                )


def _taken_apart(text: str) -> dict[str, list[Token]]:
    return {name.removesuffix("()"): tokens(body) for name, body in bodies(text).items()}


def _changed_variables(old: Bodies, new: Bodies) -> set[str]:
    """Return the variables that functions on both sides give something else than before."""
    found = set()
    for name in old.keys() & new.keys():
        before, after = _stores(old[name]), _stores(new[name])
        for variable in before.keys() | after.keys():
            was, now = before.get(variable, []), after.get(variable, [])
            if was and now and [x for x in was if x not in now] + [x for x in now if x not in was]:
                found.add(variable)
    return found


def _stores(row: Sequence[Token]) -> dict[str, list[tuple[str, ...]]]:
    """Return what members get, other than nothing, and variables outside of the function."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for at in range(1, len(row) - 2):
        if not NAME.fullmatch(row[at].text) or not STORE.fullmatch(row[at + 1].text):
            continue
        if row[at - 1].text in MEMBERS or not is_local(row, row[at].text):
            words = tuple(token.text for token in row[at + 1 : end_of(row, at + 2)])
            if words[1:] not in {("0",), ("NULL",)}:
                found.setdefault(row[at].text, []).append(words)
    return found


def _results(row: Sequence[Token]) -> list[int]:
    """Return the places that say what a function returns, or what a macro stands for."""
    starts = [at for at, token in enumerate(row) if token.text == "return"]
    if not any(token.text == "{" for token in row):
        return list(range(len(row)))
    return [spot for at in starts for spot in range(at + 1, end_of(row, at + 1))]


def _gives_number(words: str, row: Sequence[Token]) -> bool:
    """Tell whether other files can ask a function for a number; that of an error is none.

    A number that may be an error is one if it is computed, or read from a member.
    """
    if _UNSIGNED.match(words) or not _SIGNED.match(words):
        return _UNSIGNED.match(words) is not None
    gets, spots = assignments(row), _outside_calls(row, _results(row))
    done: set[str] = set()
    while todo := names_at(row, spots) - done:
        done |= todo
        found = (spot for name in todo for a, b in gets.get(name, ()) for spot in range(a, b))
        spots += _outside_calls(row, found)
    return any(_is_computed(row, at) for at in spots)


def _is_computed(row: Sequence[Token], at: int) -> bool:
    before, text = row[at - 1].text, row[at].text
    if text in _ARITHMETIC:
        return before in {")", "]"} or (before != "return" and bool(NAME.fullmatch(before)))
    behind = row[at + 2].text if at + 2 < len(row) else ";"
    is_member = text in MEMBERS and behind not in {"(", *MEMBERS}
    return is_member or text in STEPS or (text != "=" and STORE.fullmatch(text) is not None)


def _outside_calls(row: Sequence[Token], places: Iterable[int]) -> list[int]:
    """Return those of some places that are in no argument of a call."""
    found, end = [], -1
    for at in places:
        if at > end:
            found.append(at)
            if row[at].text == "(" and NAME.fullmatch(row[at - 1].text):
                end = closing_of(row, at)
    return found


def _reads(row: Sequence[Token], places: Iterable[int]) -> tuple[set[str], set[str]]:
    """Return what is called for a value at some places, and the variables that are read for it."""
    calls, members, done = set[str](), set[str](), set[str]()
    gets, spots = assignments(row), list(places)
    while spots:
        todo = names_at(row, spots) - done
        for at in spots:
            behind = row[at + 1].text if at + 1 < len(row) else ";"
            if NAME.fullmatch(row[at].text):
                calls |= {row[at].text} if behind == "(" else set()
                is_member = at > 0 and row[at - 1].text in MEMBERS
                members |= {row[at].text} if is_member and behind not in {"(", *MEMBERS} else set()
        done |= todo
        spots = [spot for name in todo for a, b in gets.get(name, ()) for spot in range(a, b)]
    return calls, members | {name for name in done if not is_local(row, name)}
