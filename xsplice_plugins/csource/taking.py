# SPDX-License-Identifier: Apache-2.0
"""Where a C function takes something and where it releases something, by the shape of names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.constants import macros_in
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.uses import tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Words in the names of calls, taking and releasing. A second call of these does harm. What may be
#: done twice is not here (set, clear), nor what no CPU is within while a payload is applied (lock).
_COUNT = "count"
_VERBS = {
    _COUNT: ("inc incr", "dec decr"),
    "hold": ("get ref hold grab acquire pin", "put unref deref drop release unpin"),
    "pause": ("pause suspend block", "unpause resume unblock"),
    "add": (
        "add insert link register attach bind enqueue",
        "sub del delete remove unlink unregister deregister detach unbind dequeue",
    ),
    "make": (
        "init create alloc zalloc setup start",
        "destroy fini deinit kill free cleanup teardown stop",
    ),
    "map": ("map vmap open enable charge", "unmap vunmap close disable uncharge"),
}
_SIGNS = {
    word: (family, sign)
    for family, words in _VERBS.items()
    for sign, row in zip((1, -1), words, strict=True)
    for word in row.split()
}
#: They say how, not what.
_MANNERS = re.compile(
    "|atomic|and|test|return|fetch|(no)?sync|locked|tail|head|h?list|node|init|zero|unless|negative|to|from"
)
#: Within one call of the hypervisor, or no state at all.
_PASSING = re.compile(
    "irq|preempt|interrupt|smp|perfc|lock|nmi|smap|order|unaligned|guest|pagetable", re.IGNORECASE
)
#: Verbs of calls that are told how much.
_AMOUNTS = {"add", "sub"}
_LESS = re.compile(
    r"(\( (((un)?signed|int|long|short|char|[su]\d+|u?int\d+_t) )*(\) )?)*(- |~ 0\b|0 - )"
)
_LESS_TOKENS_MAX = 8
_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}
_WORD = re.compile(r"[A-Za-z_]\w*")
_NO_TYPES = {"return", "goto", "else", "case", "sizeof", "do", "break", "continue"}
_STEPS = {"++": 1, "--": -1, "+=": 1, "-=": -1}
_SHOWN = {1: "++", -1: "--"}
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}


class Key(NamedTuple):
    """What is taken or released: a kind of calls, what the name says else, or a member."""

    family: str
    words: frozenset[str]
    member: str


Kind = frozenset[Key]


class Event(NamedTuple):
    """One place that takes or releases."""

    at: int  #: among the tokens
    key: Key
    sign: int  #: 1 takes, -1 releases
    shown: str
    variable: str  #: that is counted, or whose address comes first; "" if it is not plainly one


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A function, or a macro with arguments."""

    path: str
    name: str
    row: tuple[str, ...]
    events: tuple[Event, ...] = field(repr=False)
    calls: tuple[tuple[int, str], ...] = field(repr=False)  #: where something is called, its name


def bodies_in(path: str, text: str) -> Iterator[Body]:
    """Give the functions of a text, and macros with arguments.

    Args:
        path: The source's.
        text: C before the preprocessor.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, definitions in macros_in(text).items():
        if any(words is not None for words, _ in definitions):
            body = " ; ".join(text for _, text in definitions)
            found[name] = ("{", *(t.text for t in tokens(body)), ";", "}")
    heads: dict[str, tuple[str, ...]] = {}
    for chunk in chunks(text):
        item = declaration(chunk.text)
        if item.kind in _FUNCTIONS:
            row = tuple(token.text for token in tokens(chunk.text))
            start = row.index("{") if "{" in row else 0
            found[item.name], heads[item.name] = row[start:], row[:start]
    for name, row in found.items():
        local = _locals((*heads.get(name, ()), *row))
        calls = ((at, word) for at, word in enumerate(row[:-1]) if row[at + 1] == "(")
        yield Body(
            path=path,
            name=name,
            row=row,
            events=tuple(_events(row, local)),
            calls=tuple((at, word) for at, word in calls if _WORD.fullmatch(word)),
        )


def kinds(sides: Iterable[Iterable[Body]]) -> list[Kind]:
    """Group what functions take and release by what belongs together."""
    keys = sorted(
        {event.key for bodies in sides for body in bodies for event in body.events},
        key=lambda key: (key.family, sorted(key.words), key.member),
    )
    groups: list[set[Key]] = []
    for key in keys:
        joined = [group for group in groups if any(_fit(key, other) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append({key}.union(*joined))
    return [frozenset(group) for group in groups]


def _fit(one: Key, other: Key) -> bool:
    if one.family != other.family or bool(one.words) != bool(other.words):
        return False
    return one.words <= other.words or other.words <= one.words if one.words else one == other


def _events(row: tuple[str, ...], local: Mapping[str, str]) -> Iterator[Event]:
    for at, word in enumerate(row):
        name, sign = "", _STEPS.get(word, 0)
        path: tuple[str, ...] = ()
        if sign:
            is_prefix = re.fullmatch(r"\w+|[(*]", row[at + 1]) and word in {"++", "--"}
            path = _behind(row, at) if is_prefix else _before(row, at)
            name = _state(path, local)
            if word in {"+=", "-="} and _is_less(row[at + 1 : at + _LESS_TOKENS_MAX]):
                sign = -sign
        elif word == "=" and (path := _before(row, at)):
            end = at + 1 + len(path)
            if row[at + 1 : end] == path and row[end : end + 1] in {("+",), ("-",)}:
                name, sign = _state(path, local), (1 if row[end] == "+" else -1)
                if _is_less(row[end + 1 : end + _LESS_TOKENS_MAX]):
                    sign = -sign
            elif _is_summed(row, at, path):
                name, sign = _state(path, local), (-1 if _is_less(row[at + 1 :]) else 1)
        elif row[at + 1 : at + 2] == ("(",) and (found := _call(row, at, local)):
            given = _behind(row, at + 2) if row[at + 2 : at + 3] == ("&",) else ()
            yield Event(at, *found, f"`{word}`", _variable(given, local))
        if name:
            shown = f"`{_SHOWN[sign]}` of `{name}`"
            key = Key(_COUNT, frozenset(), name)
            yield Event(at, key, sign, shown, _variable(path, local))


def _variable(path: Sequence[str], local: Mapping[str, str]) -> str:
    """Return the variable that a path lies in, without pointers and tables; "" if in none."""
    is_plain = path and path[0] not in local and all(w == "." or _WORD.fullmatch(w) for w in path)
    return path[0] if is_plain else ""


def _call(row: tuple[str, ...], at: int, local: Mapping[str, str]) -> tuple[Key, int] | None:
    words = row[at].strip("_").split("_")
    verb = next((word for word in words if word in _SIGNS), "")
    if words[0] == "xsm" and verb == "get":
        return None  # it asks whether somebody may get it
    if not verb or any(_PASSING.fullmatch(word) for word in words):
        return None
    family, sign = _SIGNS[verb]
    others = (word for word in words if word != verb and not _MANNERS.fullmatch(word))
    rest = frozenset(word.removesuffix("s") for word in others)
    if "atomic" in words and family == "add":
        family = _COUNT
    given = _given(row, at)
    if (
        verb in _AMOUNTS
        and "list" not in words
        and any(map(_is_less, (words[1:] for words in given)))
    ):
        sign = -sign
    if rest:
        return Key(family, rest, ""), sign
    names = [_state(_before(words, len(words)), local, is_given=True) for words in given]
    return Key(family, rest, next((name for name in names if name), "")), sign


def _is_summed(row: Sequence[str], at: int, path: tuple[str, ...]) -> bool:
    """Tell whether an assignment ends as in `x = 1 + x`."""
    end = next((end for end in range(at, len(row)) if row[end] == ";"), len(row))
    start = end - len(path) - 1
    return start > at + 1 and row[start] == "+" and tuple(row[start + 1 : end]) == path


def _is_less(words: Sequence[str]) -> bool:
    """Tell whether an amount begins as a negative one does: `-1`, `(-n)`, `(int)-1`, `~0`."""
    text = " ".join(words)
    return _LESS.match(text) is not None


def _given(row: Sequence[str], at: int) -> list[list[str]]:
    """Return the tokens of each argument of a call, behind an empty one."""
    depth, place, given = 0, at + 1, [[""]]
    while place < len(row):
        depth += (row[place] in _OPENING) - (row[place] in _CLOSING)
        if depth == 0:
            break
        if row[place] == "," and depth == 1:
            given.append([""])
        elif place > at + 1:
            given[-1].append(row[place])
        place += 1
    return given


def _before(row: Sequence[str], at: int) -> tuple[str, ...]:
    """Return the tokens of what ends before a place: names, members, subscripts."""
    start = at
    while start:
        word = row[start - 1]
        if word in _CLOSING - {"}"}:
            depth = 0
            while start:
                start -= 1
                depth += (row[start] in _CLOSING) - (row[start] in _OPENING)
                if depth == 0:
                    break
            if row[start] == "[" or (start and _WORD.fullmatch(row[start - 1])):
                continue
        elif _WORD.fullmatch(word) and word not in _NO_TYPES:
            start -= 1
        else:
            break
        if not start or row[start - 1] not in {".", "->"}:
            break
        start -= 1
    return tuple(row[start:at])


def _behind(row: Sequence[str], at: int) -> tuple[str, ...]:
    """Return the tokens of what begins behind a place."""
    end, depth = at + 1, 0
    while end < len(row):
        word = row[end]
        depth += (word in _OPENING) - (word in _CLOSING)
        if depth < 0 or (
            not depth and word not in {".", "->", ")", "]"} and not _WORD.fullmatch(word)
        ):
            break
        end += 1
    return tuple(row[at + 1 : end])


def _state(path: Sequence[str], local: Mapping[str, str], *, is_given: bool = False) -> str:
    """Return the member or variable that a path names, if it outlives the call; else ""."""
    depth, flat = 0, []
    for word in path:
        depth -= word == "]"
        if not depth and word not in {"(", ")", "[", "]"}:
            flat.append(word)
        depth += word == "["
    names = [word for word in flat if _WORD.fullmatch(word)]
    if not names:
        return ""
    first, is_reached = names[0], not {"->", "*"}.isdisjoint(flat)
    if path[0] == first and path[1:2] in (("(",), ["("]) and {".", "->"}.isdisjoint(flat):
        return names[1] if len(names) > 1 else ""  # such as `this_cpu(name)`
    if first in local and len(names) == 1:
        is_alias = (is_reached or is_given) and local[first] not in {"", "*"}
        return local[first] if is_alias else (first if is_reached else "")
    return names[-1] if first not in local or is_reached or local[first] else ""


def _locals(row: tuple[str, ...]) -> dict[str, str]:
    """Return the variables of a function that end with the call.

    Returns:
        For each "*" if it is a pointer, the member whose address it gets, or "".
    """
    found: dict[str, str] = {}
    for start, mark in enumerate(row):
        if mark not in {"{", "}", ";", "(", ","}:
            continue
        at = start + 1
        while at < len(row) and (row[at] == "*" or _WORD.fullmatch(row[at])):
            at += 1
        words = row[start + 1 : at]
        if len(words) < 2 or words[0] in _NO_TYPES | {"*", "static"} or words[-1] == "*":
            continue
        found[words[-1]] = "*" if "*" in words else ""
        depth = 0
        while mark not in {"(", ","} and at < len(row) and row[at] not in {";", "{"}:
            depth += (row[at] in _OPENING) - (row[at] in _CLOSING)
            if row[at] == "," and not depth:
                name = next((w for w in row[at + 1 : at + 4] if w != "*"), "")
                found[name] = "*" if row[at + 1] == "*" else ""
            at += 1
    for at in range(1, len(row) - 2):
        if row[at] == "=" and row[at + 1] == "&" and found.get(row[at - 1]) == "*":
            path = _behind(row, at + 1)
            found[row[at - 1]] = _state(path, found) or "*"
    return found
