# SPDX-License-Identifier: Apache-2.0
"""Named constants that have another value on either side of a patch.

Objects that exist hold what the old code made of the old value. What the preprocessor lists as
defined is compared, expanded; another spelling of the same number is no change.
"""

from __future__ import annotations

import ast
import operator
import re
from difflib import SequenceMatcher
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.csource.declarations import plain
from xsplice_plugins.csource.uses import tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)(\([^)]*\))?((?:\\\n|[^\n])*)", re.MULTILINE)
_CONST = re.compile(r"\bconst\b[^;={}()\[\]]*?\b([A-Za-z_]\w*)\s*=\s*([^;{}]+);")
_RUN_TIME = re.compile(r"->|\b(?!sizeof\b)[a-z_]\w* \(")
_CALL = re.compile(r"[a-z_]\w* \(")
_ENUM = re.compile(r"\benum\b[^;{}()]*\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)[uUlL]*")
_CAST = re.compile(r"\(\s*(?:(?:unsigned|signed|int|long|short|char|bool|[us]\d+|\w+_t)\s*)+\)")
_DEPTH_MAX = 30
_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_SHIFT_MAX = 128
_HEX_FROM = 10_000  #: larger numbers are shown as addresses and masks are written

#: (parameters, or ``None``; body) of each definition of a name, in their order.
Macros = dict[str, tuple[tuple[tuple[str, ...] | None, str], ...]]


class Changed(Struct, frozen=True, kw_only=True):
    """A constant, or a macro with arguments, that is something else on the other side."""

    name: str
    old: str  #: its value, as a number where it is one; "" where the side has none
    new: str
    takes_arguments: bool


def macros_in(text: str) -> Macros:
    """Read the definitions that a text holds.

    Args:
        text: What ``gcc -E -dD`` gives, or a source as it is.
    """
    found: Macros = {}
    for match in _DEFINE.finditer(text):
        words = tuple(_WORD.findall(match[2])) if match[2] is not None else None
        body = " ".join(plain(match[3].replace("\\\n", " ")).split())
        found[match[1]] = (*found.get(match[1], ()), (words, body))
    return found


def constants_in(text: str) -> Macros:
    """Read the constants that a source names otherwise: ``const`` variables, enumerators.

    Args:
        text: A source as it is.
    """
    flat = " ".join(token.text for token in tokens(text))
    found: Macros = {}
    for match in _CONST.finditer(flat):
        found[match[1]] = (*found.get(match[1], ()), (None, match[2].strip()))
    for match in _ENUM.finditer(flat):
        last, step = "0", 0
        for part in match[1].split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            if _WORD.fullmatch(name):
                last, step = (value, 0) if value else (last, step)
                found[name] = (*found.get(name, ()), (None, f"({last}) + {step}"))
                step += 1
    return found


def constants_on_both(old: str, new: str) -> tuple[Macros, Macros]:
    """Read the constants that both sides of a source name, see `constants_in`.

    A local pointer to what is constant gets its value while the code runs. One more of a name, or
    one less, changes none of the others, and is left out; so is one that a function gives now.

    Args:
        old: The source before the patch.
        new: And after it.
    """
    sides = constants_in(old), constants_in(new)
    pointers = [_run_time_pointers(text) for text in (old, new)]
    for name in pointers[0].keys() | pointers[1].keys():
        rows = [[body for _, body in side.get(name, ())] for side in sides]
        known = [side.get(name, []) for side in pointers]
        shorter, longer = sorted(rows, key=len)
        rest = iter(longer)
        is_one_more = all(body in rest for body in shorter)
        is_asked = all(_CALL.match(body) for body in rows[1] if body not in rows[0])
        if rows == known and (is_one_more or is_asked):
            for side in sides:
                side.pop(name, None)
    return sides


def _run_time_pointers(text: str) -> dict[str, list[str]]:
    """Return local pointers to what is constant, and whose own value is none."""
    flat = " ".join(token.text for token in tokens(text))
    found: dict[str, list[str]] = {}
    for match in _CONST.finditer(flat):
        head = match[0][: match.start(1) - match.start()]
        is_static = "static" in head or flat[: match.start()].endswith("static ")
        if "*" in head and not is_static and _RUN_TIME.search(match[2]):
            found.setdefault(match[1], []).append(match[2].strip())
    return found


def changed_constants(
    old: Macros, new: Macros, renamed: Mapping[str, set[str]] | None = None
) -> tuple[Changed, ...]:
    """Name what both sides define and that is not the same on both.

    A name that is gone is among them unless what stands in its place has its value; what is new is
    not.

    Args:
        old: All definitions that hold before the patch.
        new: And after it.
        renamed: What stands now where a word stood, see `replaced_words`.

    Returns:
        In the order of names.
    """
    direct = {name for name in old if old[name] != new.get(name)}
    found = []
    for name in sorted(_carriers(direct, (old, new)) & old.keys()):
        takes_arguments = any(words is not None for words, _ in (*old[name], *new.get(name, ())))
        values = [_shown(name, side) for side in (old, new)]
        if values[0] == values[1]:
            continue
        if name not in new:
            heirs = sorted((renamed or {}).get(name, set()) & (new.keys() - old.keys()))
            others = [value for heir in heirs if (value := _shown(heir, new)) != values[0]]
            if takes_arguments or (heirs and not others):
                continue  # it is gone, or it has another name now
            values[1] = others[0] if others else ""
        found.append(
            Changed(name=name, old=values[0], new=values[1], takes_arguments=takes_arguments)
        )
    return tuple(found)


def families(sides: Iterable[Macros], names: Collection[str]) -> list[tuple[str, ...]]:
    """Group names of which one is made of another, such as a bit's number and its mask.

    Args:
        sides: All definitions of either side.
        names: What to group.

    Returns:
        Groups of two and more, sorted.
    """
    group = {name: {name} for name in names}
    for side in sides:
        for name in names:
            for _, body in side.get(name, ()):
                for other in group.keys() & set(_WORD.findall(body)):
                    joined = group[name] | group[other]
                    group.update(dict.fromkeys(joined, joined))
    return sorted({tuple(sorted(found)) for found in group.values() if len(found) > 1})


def replaced_words(old: str, new: str) -> dict[str, set[str]]:
    """Say which words stand where another word stood.

    Args:
        old: A source before the patch.
        new: And after it.
    """
    found: dict[str, set[str]] = {}
    lines = [text.split("\n") for text in (old, new)]
    for tag, a, b, c, d in SequenceMatcher(None, lines[0], lines[1], autojunk=False).get_opcodes():
        if tag != "replace":
            continue
        sides = [
            [token.text for token in tokens("\n".join(part))]
            for part in (lines[0][a:b], lines[1][c:d])
        ]
        for kind, e, f, g, h in SequenceMatcher(
            None, sides[0], sides[1], autojunk=False
        ).get_opcodes():
            if kind == "replace" and f - e == h - g:
                for was, now in zip(sides[0][e:f], sides[1][g:h], strict=True):
                    found.setdefault(was, set()).add(now)
    return found


def _carriers(names: Iterable[str], sides: tuple[Macros, Macros]) -> set[str]:
    """Return names with those of all macros whose bodies mention them."""
    users: dict[str, set[str]] = {}
    for side in sides:
        for name, definitions in side.items():
            for _, body in definitions:
                for word in _WORD.findall(body):
                    users.setdefault(word, set()).add(name)
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += users.get(name, ())
    return found


def value_in(text: str, side: Macros) -> int | None:
    """Return the integer that an expression of constants is, ``None`` where it is none for certain.

    Args:
        text: Such as a number, a name, or names that are joined.
        side: All definitions that hold where it stands.
    """
    return number_of(_expanded(text, side, frozenset()))


def looks_elsewhere(old: str, new: str) -> bool:
    """Tell whether a macro looks at another place of a table than before.

    Args:
        old: Its body, expanded.
        new: And after the patch; a place that is only guarded against speculation is the same.
    """
    return _subscripts(old) != _subscripts(new)


def _subscripts(text: str) -> list[str]:
    """Return what stands in square brackets, the inner ones by themselves as well."""
    row = [token.text for token in tokens(text)]
    found, opened = [], []
    for at, word in enumerate(row):
        if word == "[":
            opened.append(at)
        elif word == "]" and opened:
            inside = " ".join(row[opened.pop() + 1 : at])
            found.append(re.sub(r"^array_index_nospec \( (.*) , [^,]* \)$", r"\1", inside))
    return found


def _shown(name: str, side: Macros) -> str:
    """Return a constant's values as numbers where they are, else as they expand."""
    return ", ".join(
        _value(_expanded(body, side, frozenset({name, *(words or ())})), words)
        for words, body in side.get(name, ())
    )


def _value(text: str, words: tuple[str, ...] | None) -> str:
    for place, word in enumerate(words or ()):  # a parameter that is renamed is the same
        text = re.sub(rf"\b{word}\b", f"@{place}", text)
    number = number_of(text) if words is None else None
    if number is None:
        return " ".join(token.text for token in tokens(text))
    return str(number) if number < _HEX_FROM else f"{number:#x}"


def _expanded(text: str, side: Macros, hidden: frozenset[str], depth: int = 0) -> str:
    """Put bodies in the place of macros; with arguments only where they are plain."""
    if depth > _DEPTH_MAX:
        return text
    row = [token.text for token in tokens(text)]
    parts, at = [], 0
    while at < len(row):
        word = row[at]
        definitions = set(side.get(word, ()))  # a header that is read twice defines it twice
        at += 1
        if len(definitions) != 1 or word in hidden:
            parts.append(word)
            continue
        words, body = definitions.pop()
        if words is not None:
            given, end = _arguments(row, at)
            if len(given) != len(words):
                parts.append(word)
                continue
            at = end
            body = _filled(body, dict(zip(words, given, strict=True)))
        parts.append(_expanded(body, side, hidden | {word}, depth + 1))
    return " ".join(parts)


def _arguments(row: list[str], at: int) -> tuple[list[str], int]:
    """Return the arguments of a call that begins at a bracket, and where it ends."""
    if at >= len(row) or row[at] != "(":
        return [], at
    depth, given = 0, [""]
    for place in range(at, len(row)):
        word = row[place]
        depth += (word in "([{") - (word in ")]}")
        if depth == 0:
            return [part.strip() for part in given], place + 1
        if depth == 1 and word == ",":
            given.append("")
        elif place > at:
            given[-1] += f" {word}"
    return [], at


def _filled(body: str, given: Mapping[str, str]) -> str:
    text = " ".join(given.get(token.text, token.text) for token in tokens(body))
    return re.sub(r"\s*##\s*", "", text)


@cache
def number_of(text: str) -> int | None:
    """Return the integer that a C expression is, ``None`` where it is none for certain."""
    bare = _NUMBER.sub(lambda match: str(_integer(match[1])), _CAST.sub(" ", text))
    try:
        return _evaluated(ast.parse(" ".join(bare.replace("/", "//").split()), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, KeyError):
        return None


def _integer(text: str) -> int:
    if text[:2].lower() in {"0x", "0b"}:
        return int(text, 0)
    return int(text, 8) if text.startswith("0") and text.isdigit() and len(text) > 1 else int(text)


def _evaluated(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert | ast.UAdd):
        value = _evaluated(node.operand)
        if isinstance(node.op, ast.Invert):
            return ~value
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left), _evaluated(node.right)
        if isinstance(node.op, ast.LShift) and right > _SHIFT_MAX:
            raise ValueError("too far")
        return int(_OPERATIONS[type(node.op)](left, right))
    raise ValueError("no number")
