# SPDX-License-Identifier: Apache-2.0
"""Functions that are called by their address, and the data that they were registered with.

A timer or a tasklet keeps a function's address and a pointer for it. If a patch changes both what
the function takes the pointer for and what is handed over with it, objects that exist already
still hold the old pointer, and the new function takes it for something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.rows import (
    arguments_in,
    closing,
    declared_in,
    opening_of,
    parameter_in,
    type_in,
)
from xsplice_plugins.csource.uses import tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from xsplice_plugins.csource.rows import Row

_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}
_WORD = re.compile(r"[A-Za-z_]\w*")
_NO_CALLS = {"if", "while", "switch", "for", "sizeof", "typeof", "__typeof__", "return", "case"}
#: They call the function, and keep nothing; those of the second row only if they are told to wait.
_AT_ONCE = {"stop_machine_run", "sort", "bsearch", "alternative_call", "alternative_vcall"}
_WAITING = {"rangeset_report_ranges", "rangeset_consume_ranges",
            "on_selected_cpus", "on_each_cpu", "smp_call_function"}  # fmt: skip
#: The data comes right behind the function; other arguments say when and where it is called.
_DATA_BEHIND = {"init_timer", "tasklet_init", "softirq_tasklet_init",
                "continue_hypercall_on_cpu", *_WAITING}  # fmt: skip
_TRUTHS = {"?", "&&", "||", "==", "!=", "<", ">", "<=", ">="}  #: what is asked, and not taken
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+\w+(?:\([^)]*\))?((?:\\\n|[^\n])*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    is_static: bool
    parameters: tuple[Row, ...]
    body: Row
    types: Mapping[str, str] = field(repr=False)  #: of parameters and local variables


class _Call(NamedTuple):
    """A call that is given a function's address."""

    caller: str
    callee: str
    arguments: tuple[Row, ...]
    place: int  #: of the function among the arguments


@lru_cache(maxsize=4)  # asked once for each object of a fix
def changed_callbacks(
    old: str, new: str, taken: frozenset[str] = frozenset()
) -> tuple[tuple[str, str], ...]:
    """Find functions that take what existing objects hold for something else.

    Args:
        old: The sources before the patch.
        new: And after it.
        taken: Functions whose address other sources hand over.

    Returns:
        The name of each such function, with a sentence.
    """
    before, after = _functions(old), _functions(new)
    if before == after and _words(old) == _words(new):
        return ()
    names = before.keys() & after.keys()
    calls = _calls(old, before, names), _calls(new, after, names)
    stored, tabled = _taken(old, before, calls[0], names)
    stored |= taken & names
    found: dict[str, str] = {}
    for name in sorted(names):
        text = ""
        if name in stored or name in tabled:
            text = _retyped(before, after, name, is_typed=name in stored)
        if not text and name in calls[0] and name in calls[1]:
            text = _regiven(before, after, name, calls[0][name], calls[1][name])
        if text:
            found[name] = f"objects that exist already hold what `{name}` took before: {text}"
    return tuple(found.items())


@lru_cache(maxsize=4)
def retyped_functions(old: str, new: str) -> tuple[str, ...]:
    """Return the functions of any file's use that take their arguments for something else.

    Args:
        old: A source before the patch.
        new: And after it.
    """
    before, after = _functions(old), _functions(new)
    return tuple(
        name
        for name in sorted(before.keys() & after.keys())
        if not all(function.is_static for function in before[name])
        and _retyped(before, after, name, is_typed=True)
    )


def taken_in(text: str, names: Collection[str]) -> set[str]:
    """Return those of some functions whose address a source keeps, or hands over.

    Args:
        text: C before the preprocessor.
        names: The functions.
    """
    functions = _functions(text)
    return set().union(*_taken(text, functions, _calls(text, functions, names), names))


def _taken(
    text: str,
    functions: Mapping[str, list[_Function]],
    calls: Mapping[str, list[_Call]],
    names: Collection[str],
) -> tuple[set[str], set[str]]:
    """Return the functions whose address goes to memory, and those that tables hold."""
    stored = {name for name, rows in calls.items() if any(map(_keeps, rows))}
    for row in (function.body for rows in functions.values() for function in rows):
        for at, word in enumerate(row[:-1]):
            if word not in names or row[at + 1] == "(":
                continue
            is_argument = row[at - 1] != "=" and row[at + 1] in {",", ")"} and word in calls
            if not is_argument and not {row[at - 1], row[at + 1]} & {".", "->", "==", "!="}:
                stored.add(word)
    tabled = {
        word
        for _, row in _outside(text)
        for word, behind in pairwise(row)
        if word in names and behind != "("
    }
    return stored, tabled - stored


def _words(text: str) -> Row:
    return tuple(token.text for token in tokens(text))


@lru_cache(maxsize=4)
def _functions(text: str) -> dict[str, list[_Function]]:
    """Return functions by name; an ``#if`` may define one several times."""
    found: dict[str, list[_Function]] = {}
    for chunk in chunks(text):
        item = declaration(chunk.text)
        if item.kind not in _FUNCTIONS:
            continue
        row = _words(chunk.text)
        start = next(
            (n for n in range(len(row) - 1) if row[n] == item.name and row[n + 1] == "("), None
        )
        if start is None:
            continue
        end = closing(row, start + 1)
        body = row[end + 1 :]
        parameters = tuple(arguments_in(row[start + 2 : end]))
        types = dict(declared_in(body))
        types.update(parameter_in(words) for words in parameters)
        is_static = item.kind is ChunkKind.STATIC_FUNCTION
        function = _Function(is_static=is_static, parameters=parameters, body=body, types=types)
        found.setdefault(item.name, []).append(function)
    return found


def _calls(
    text: str, functions: Mapping[str, list[_Function]], names: Collection[str]
) -> dict[str, list[_Call]]:
    """Give the calls that are given the address of each function."""
    bodies = [(name, f.body) for name, rows in functions.items() for f in rows]
    found: dict[str, list[_Call]] = {}
    for caller, row in [*bodies, *_outside(text)]:
        for at, word in enumerate(row):
            if word not in names or row[at + 1 : at + 2] not in {(",",), (")",)}:
                continue
            opening = opening_of(row, at)
            callee = row[opening - 1] if opening > 0 and row[opening] == "(" else ""
            if not _WORD.fullmatch(callee) or callee in _NO_CALLS:
                continue
            arguments = tuple(arguments_in(row[opening + 1 : closing(row, opening)]))
            for place, argument in enumerate(arguments):
                if argument[-1] == word and argument[:-1] in {(), ("&",), ("(", "void", "*", ")")}:
                    found.setdefault(word, []).append(_Call(caller, callee, arguments, place))
    return found


def _outside(text: str) -> Iterator[tuple[str, Row]]:
    """Give what is in no function: tables, and what macros stand for."""
    for match in _MACRO.finditer(text):
        yield "", (*_words(match[1].replace("\\\n", " ")), ";")
    for chunk in chunks(text):
        if declaration(chunk.text).kind not in _FUNCTIONS:
            yield "", _words(chunk.text)


def _keeps(call: _Call) -> bool:
    """Tell whether something may keep the function after the call."""
    if call.callee in _WAITING:
        return call.arguments[-1] not in {("1",), ("true",)}
    return call.callee not in _AT_ONCE


def _retyped(
    before: Mapping[str, list[_Function]],
    after: Mapping[str, list[_Function]],
    name: str,
    *,
    is_typed: bool,
) -> str:
    """Say what a function takes its arguments for, if that is another thing than before."""
    was = _taken_for(before, name, is_typed=is_typed)
    now = _taken_for(after, name, is_typed=is_typed)
    rows = [[types for (_, path), types in side.items() if not path] for side in (was, now)]
    if len(rows[0]) != len(rows[1]) and all(not types or types in rows[1] for types in rows[0]):
        return ""
    for key, types in was.items():
        others = now.get(key, frozenset())
        if types and others - types:
            return f"it takes `{min(others - types)}` where it took `{min(types)}`"
    return ""


def _taken_for(
    functions: Mapping[str, list[_Function]], name: str, *, is_typed: bool
) -> dict[tuple[int, Row], frozenset[str]]:
    """Return the pointers that a function takes each of its parameters for, and their members."""
    found: dict[tuple[int, Row], frozenset[str]] = {}
    for function in functions[name]:
        for place, words in enumerate(function.parameters):
            meanings = {(): set(), **_meanings(functions, function, words, is_typed=is_typed)}
            for path, types in meanings.items():
                found[place, path] = found.get((place, path), frozenset()) | types
    return found


def _meanings(
    functions: Mapping[str, list[_Function]], function: _Function, words: Row, *, is_typed: bool
) -> dict[Row, set[str]]:
    """Return the pointers that a function takes a parameter for, or what is reached from it."""
    name, declared = parameter_in(words)
    if "*" in declared and not is_typed and not declared.startswith(("void", "char")):
        return {}
    found: dict[Row, set[str]] = {(): {declared} if is_typed else set()}
    row = function.body
    for at, word in enumerate(row):
        if word != name or row[at - 1] in {".", "->"}:
            continue
        path, end = _path(row, at)
        types = found.setdefault(path, set())
        low = at
        while low and row[low - 1] == ")":
            opening = opening_of(row, low - 1)
            inner = row[opening + 1 : low - 1]
            if not all(part == "*" or _WORD.fullmatch(part) for part in inner):
                break
            types.add(type_in(inner))
            low = opening
        is_asked = not _TRUTHS.isdisjoint(row[end : end + 1]) and row[end : end + 2] != ("?", ":")
        if row[low - 1] == "=" and _WORD.fullmatch(row[low - 2]) and not is_asked:
            types.add(function.types.get(row[low - 2], ""))
        opening = opening_of(row, low)
        callee = row[opening - 1] if opening > 0 and row[opening] == "(" else ""
        arguments = list(arguments_in(row[opening + 1 : closing(row, opening)])) if callee else []
        for place, argument in enumerate(arguments):
            if path or argument != row[low : at + 1]:
                continue
            if callee == "container_of":
                types.add("* of " + type_in(part for more in arguments[1:] for part in more))
            for target in functions.get(callee, ()):
                if place < len(target.parameters):
                    types.add(parameter_in(target.parameters[place])[1])
    return {
        path: {text for text in types if "*" in text and text not in {"void *", "char *"}}
        for path, types in found.items()
    }


def _path(row: Row, at: int) -> tuple[Row, int]:
    """Return which member of a variable is reached at a place, and where the words end."""
    end, found = at + 1, []
    while end < len(row) and row[end] in {".", "->", "[", "("}:
        behind = closing(row, end) + 1 if row[end] in {"[", "("} else end + 2
        found += [
            "" if _WORD.fullmatch(word) and row[end] in {"[", "("} else word
            for word in row[end:behind]
        ]
        end = behind
    return tuple(found), end


def _regiven(
    before: Mapping[str, list[_Function]],
    after: Mapping[str, list[_Function]],
    name: str,
    was: list[_Call],
    now: list[_Call],
) -> str:
    """Say what is handed over with a function that changes, if that is another thing."""
    if not _is_edited(before, after, name):
        return ""
    olds = {_data(call, before, after): call for call in was if _keeps(call)}
    news = {_data(call, after, before): call for call in now if _keeps(call)}
    gone, come = olds.keys() - news.keys(), news.keys() - olds.keys()
    if not gone or not come:
        return ""
    first, second = min(gone), min(come)
    return f"`{news[second].callee}` is given {_shown(second)} with it where it was {_shown(first)}"


def _shown(data: tuple[Row, ...]) -> str:
    return ", ".join(f"`{' '.join(word.split(':')[0] for word in words)}`" for words in data)


def _is_edited(
    before: Mapping[str, list[_Function]], after: Mapping[str, list[_Function]], name: str
) -> bool:
    """Tell whether a function, or one that it leads to, is another than before."""
    seen, left = set(), [name]
    while left:
        here = left.pop()
        if here in seen:
            continue
        seen.add(here)
        if before.get(here) != after.get(here):
            return True
        words = {word for function in after.get(here, ()) for word in function.body}
        left += sorted(words & (before.keys() | after.keys()))
    return False


def _data(
    call: _Call, here: Mapping[str, list[_Function]], there: Mapping[str, list[_Function]]
) -> tuple[Row, ...]:
    """Return what is handed over with a function; a local variable's name may be another."""
    own = {n: t for function in here.get(call.caller, ()) for n, t in function.types.items()}
    others = {n for function in there.get(call.caller, ()) for n in function.types}

    def named(words: Row) -> Row:
        return tuple(
            word
            if word not in own or (at and words[at - 1] in {".", "->"})
            else f"{word}:{own[word]}"
            if word in others or own[word].startswith("void")
            else f"<{own[word]}>"
            for at, word in enumerate(words)
        )

    place = call.place
    if call.callee in _DATA_BEHIND and place + 1 < len(call.arguments):
        return (named(call.arguments[place + 1]),)
    rest = (words for n, words in enumerate(call.arguments) if n != place)
    return tuple(named(words) for words in rest if not words[0].startswith('"'))
