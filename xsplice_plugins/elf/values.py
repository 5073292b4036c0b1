# SPDX-License-Identifier: Apache-2.0
"""What memory's values mean, as debug information tells: types of variables, and constants.

A variable keeps its state when a payload is applied, and what is stored of an enumeration keeps
its number; both must mean the same to the new code, in functions' bodies too.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins.elf.changed import Question
from xsplice_plugins.elf.debuginfo import (
    AT_BYTE_SIZE,
    AT_CONST_VALUE,
    AT_LOCATION,
    AT_NAME,
    AT_TYPE,
    TAG_ENUM,
    TAG_TYPEDEF,
    TAG_VARIABLE,
    debug_info,
    function_around,
    number_of,
    origin_of,
    type_name,
)
from xsplice_plugins.elf.typetexts import TypeTexts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xsplice_plugins.elf.debuginfo import DebugInfo
    from xsplice_plugins.elf.reader import ElfFile

Key = tuple[str, str]  #: function ("" at file scope) and name


class Enumeration(Struct, frozen=True, kw_only=True):
    """One enumeration: its constants with their values."""

    key: Key  #: its name is the tag (``enum e``), ``typedef T``, or ""
    size_bytes: int
    rows: frozenset[tuple[str, int]]


class Values(Struct, frozen=True, kw_only=True):
    """Types of variables and values of constants; each key is (function or "", name)."""

    #: variables with an address of their own: the type of each that has this name there, in order
    variables: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    #: of the types above that are a structure of one member: that member's
    inner: dict[str, str] = field(default_factory=dict)
    enumerations: list[Enumeration] = field(default_factory=list)
    constants: dict[Key, frozenset[int]] = field(default_factory=dict)
    typedefs: dict[str, str] = field(default_factory=dict)  #: what each name at file scope means


def values_of(file: ElfFile) -> Values:
    """Return what an object's debug information tells of variables and enumerations.

    Raises:
        DiffError: It uses a form that is not known, or is damaged.
    """
    info = debug_info(file)
    types = TypeTexts(info.entries, info.place_of)
    found = Values()
    for key, text, inner in _variables(info, types):
        found.variables[key] = (*found.variables.get(key, ()), text)
        if text not in {inner, "const"}:
            found.inner[text] = inner
    names = {}
    for number, entry in enumerate(info.entries):
        if entry.tag == TAG_TYPEDEF:
            names[types.type_of(entry)] = f"typedef {entry.values.get(AT_NAME, '')}"
            if not function_around(info, number):
                found.typedefs[str(entry.values.get(AT_NAME, ""))] = types.type_text(entry)
    for number, entry in enumerate(info.entries):
        if entry.tag != TAG_ENUM:
            continue
        function = function_around(info, number)
        name = type_name(entry) if AT_NAME in entry.values else names.get(number, "")
        rows = frozenset(
            (str(child.values.get(AT_NAME, "")), number_of(child.values.get(AT_CONST_VALUE, 0)))
            for child in types.children.get(number, ())
        )
        size_bytes = number_of(entry.values.get(AT_BYTE_SIZE, 0))
        found.enumerations.append(
            Enumeration(key=(function, name), size_bytes=size_bytes, rows=rows)
        )
        for constant, value in rows:
            known = found.constants.get((function, constant), frozenset())
            found.constants[function, constant] = known | {value}
    return found


def _variables(info: DebugInfo, types: TypeTexts) -> list[tuple[Key, str, str]]:
    """Return place, type and inner type of each; copies of a function's body count once."""
    found = {}
    for number, entry in enumerate(info.entries):
        if entry.tag != TAG_VARIABLE or not entry.values.get(AT_LOCATION):
            continue
        root = origin_of(info, number)
        first = info.entries[root]
        typed = entry if AT_TYPE in entry.values else first
        name = str(first.values.get(AT_NAME, ""))
        texts = types.variable_text(typed), types.inner_text(typed)
        found[root] = ((function_around(info, root), name), *texts)
    return list(found.values())


def value_questions(before: Values, after: Values) -> tuple[dict[str, str], tuple[Question, ...]]:
    """Say what memory holds in another meaning, and what only leaves a question.

    Args:
        before: Variables and constants of one side.
        after: Those of the other.

    Returns:
        What does not fit, by "variable NAME", "constant NAME" or the enumeration's name, and the
        questions; what only one side has is neither, unless others took its place.
    """
    wrong: dict[str, str] = {}
    questions: list[str] = []
    for key in sorted(before.variables.keys() & after.variables.keys()):
        texts = _fitted(before, after, key), _fitted(after, before, key)
        # A constant's content is compared where it lies; it has no state.
        old, new = (Counter(text for text in side if text != "const") for side in texts)
        if old - new and new - old:
            wrong[f"variable {key[1]}"] = f"{_shown(key)} changed its type"
        elif texts[0] != texts[1] and len(old | new) > 1:
            questions.append(
                f"{_shown(key)} is several, and one is new, gone or elsewhere: nobody has shown "
                "that each keeps its state"
            )
    for key in sorted(before.constants.keys() & after.constants.keys()):
        values = [side.constants[key] for side in (before, after)]
        if values[0] != values[1]:
            earlier, later = (", ".join(str(value) for value in sorted(side)) for side in values)
            wrong[f"constant {key[1]}"] = f"{_shown(key)} was {earlier} and would be {later}"
    questions += [
        f"`{name}` is in another function with another type: nobody has shown that it does not "
        "take over what memory holds"
        for name in _elsewhere(before.variables, after.variables)
    ]
    questions += [
        f"`{old}` is gone and `{new}`, of the same size and another type, is new: nobody has shown "
        "that it does not take over what memory holds"
        for old, new in _replaced(before, after)
    ]
    questions += [
        f"`{name}` is in another function with another value: nobody has shown that memory does "
        "not hold the old one"
        for name in _elsewhere(before.constants, after.constants)
    ]
    for was, now in _pairs(before, after):
        wrong |= _enumeration(was, now, (before, after), questions)
    return wrong, tuple(Question("", "", text) for text in dict.fromkeys(questions))


def _fitted(side: Values, other: Values, key: Key) -> tuple[str, ...]:
    """Return a variable's types; a structure of one member is that where the other side has it."""
    theirs = other.variables[key]
    return tuple(
        side.inner[text] if text not in theirs and side.inner.get(text) in theirs else text
        for text in side.variables[key]
    )


def _pairs(before: Values, after: Values) -> Iterator[tuple[Enumeration, Enumeration]]:
    """Yield what an enumeration became: the same name, or nameless with a constant or all values.

    One that is nameless and lost its constants' names is known by its values.
    """
    for old in before.enumerations:
        twins = [new for new in after.enumerations if new.key == old.key]
        if not old.key[1]:
            names = {name for name, _ in old.rows}
            values = sorted(value for _, value in old.rows)
            alike = [new for new in twins if names & {name for name, _ in new.rows}]
            twins = alike or [
                new for new in twins if values == sorted(value for _, value in new.rows)
            ]
        yield from ((old, new) for new in twins)


def _enumeration(
    old: Enumeration, new: Enumeration, sides: tuple[Values, Values], questions: list[str]
) -> dict[str, str]:
    """Judge one enumeration's size, and its constants that only one side has."""
    wrong: dict[str, str] = {}
    function, name = old.key
    before, after = (side.constants for side in sides)
    fresh = {v for n, v in new.rows if (function, n) not in before}
    kept = {v for n, v in new.rows if (function, n) in before}
    renamed = []
    for constant, value in sorted(old.rows):
        if (function, constant) in after or value in kept:
            continue
        if value in fresh:
            renamed.append(f"`{constant}`")
        else:
            text = f"{_shown((function, constant))} is gone, and memory may hold its value {value}"
            wrong[f"constant {constant}"] = text
    if len(renamed) > 1:
        questions.append(
            f"constants {', '.join(renamed)} have new names: nobody has shown that none took "
            "another's place"
        )
    if name and old.size_bytes != new.size_bytes:
        wrong[name] = (
            f"{_shown(old.key)} had {old.size_bytes} bytes and would have {new.size_bytes}"
        )
    if name and len({any(value < 0 for _, value in one.rows) for one in (old, new)}) > 1:
        questions.append(
            f"{_shown(old.key)} gets or loses its sign: nobody has shown that no bit-field of it "
            "holds a value that is read otherwise"
        )
    return wrong


def known_names(before: Values, after: Values) -> frozenset[str]:
    """Return what `value_questions` judges of two sides, each as a refusal of the sources calls it.

    A variable without a place on the new side is in no code there.

    Returns:
        "variable NAME", "constant NAME", tags of enumerations and names of their ``typedef``, and
        "typedef NAME" of those that mean the same on both sides.
    """
    both = [old for old, _ in _pairs(before, after)]
    judged = {name for function, name in before.constants.keys() & after.constants.keys()}
    judged |= {name for old in both for name, _ in old.rows}
    return frozenset(
        {f"variable {name}" for _, name in before.variables}
        | {f"constant {name}" for name in judged}
        | {old.key[1].removeprefix("typedef ") for old in both if not old.key[0]} - {""}
        | {
            f"typedef {name}"
            for name, text in before.typedefs.items()
            if after.typedefs.get(name) == text
        }
    )


def _elsewhere(old: Mapping[Key, object], new: Mapping[Key, object]) -> list[str]:
    """Return names that are gone from one place and new in another, and not the same there."""
    lost, found = (
        {key[1]: value for key, value in one.items() if key not in other}
        for one, other in ((old, new), (new, old))
    )
    return sorted(name for name in lost.keys() & found.keys() if lost[name] != found[name])


def _replaced(before: Values, after: Values) -> Iterator[tuple[str, str]]:
    """Yield variables that are gone, with each new one that could be it under another name."""
    gone, fresh = (
        sorted(
            (key[1], text)
            for key, texts in one.variables.items()
            if key[1] not in {name for _, name in other.variables}
            for text in texts
            if text != "const"
        )
        for one, other in ((before, after), (after, before))
    )
    for old, was in gone:
        for new, now in fresh:
            if was != now and was.partition(" ")[0] == now.partition(" ")[0]:
                yield old, new


def _shown(key: Key) -> str:
    return f"`{key[1]}` of `{key[0]}`" if key[0] else f"`{key[1]}`"
