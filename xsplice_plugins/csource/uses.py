# SPDX-License-Identifier: Apache-2.0
"""How C text uses a constant: does it make state with it, does it read state by it?

State is *made* where a constant is assigned, returned or passed; it is *read* where a value is
masked with it, compared for equality, or looked up by it. A comparison with ``<`` is a bound.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_TOKEN = re.compile(
    r"(?P<gap>/\*.*?\*/|//[^\n]*|\s+|\\\n)|(?P<directive>^[ \t]*\#(?:/\*.*?\*/|\\\n|[^\n])*)"
    r'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\w+|<<=|>>=|\.\.\.|->|\+\+|--|<<|>>|[<>=!&|^*/%+-]=|'
    r"&&|\|\||##|.",
    re.MULTILINE | re.DOTALL,
)
_STORES = {"=", "|=", "&=", "^=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>="}
_BOUNDS = {"<", ">", "<=", ">="}
_EQUALS = {"==", "!="}
_ENDS = {"(", "[", "{", ")", "]", "}", ",", ";", "?", ":", "&", "&&", "||", "%", "return", "case"}
_DELIMITERS = _ENDS | _STORES | _BOUNDS | _EQUALS
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_NO_CALLS = {"if", "while", "switch", "for", "sizeof", "typeof", "__typeof__", "return", "case"}
_NO_TYPES = {"return", "case", "else", "sizeof", "goto", "do"}
_TESTING = re.compile(r"test|has_|is_|_is|check|match", re.IGNORECASE)
_TESTED_AND_SET = re.compile(r"test_and_|cmpxchg")
_LENGTHS = re.compile(r"(mem|str|strn)cmp")
_WRAPPING = re.compile(r"[A-Z_0-9]+|(un)?likely|array_index_nospec")
_WORD = re.compile(r"[A-Za-z_]\w*")
_STEPS_MAX = 40  #: expressions around one use


class Token(NamedTuple):
    """One word, number, literal or operator."""

    text: str
    line: int


class Use(NamedTuple):
    """One place where a constant stands."""

    name: str
    line: int
    makes: bool  #: state is made with it
    reads: bool  #: state is read by it
    indexes: bool  #: it says where in a table something lies, or how large memory is


def tokens(text: str) -> list[Token]:
    """Cut C text into tokens, without comments and directives.

    Args:
        text: C before the preprocessor.
    """
    starts = [match.end() for match in re.finditer("\n", text)]
    return [
        Token(match[0], 1 + bisect_right(starts, match.start()))
        for match in _TOKEN.finditer(text)
        if not match.lastgroup
    ]


def uses_in(text: str, names: Collection[str]) -> Iterator[Use]:
    """Give each use of some names.

    Args:
        text: C before the preprocessor; definitions of macros are no uses.
        names: What to look for.
    """
    row = tokens(text)
    for at, token in enumerate(row):
        if token.text in names:
            yield use_at(row, at)


def use_at(row: Sequence[Token], at: int) -> Use:
    """Say how the token at a place is used; of other tokens than names and numbers, nothing."""
    makes = reads = indexes = False
    low = high = at
    through: set[str] = set()
    is_negated = False
    for _ in range(_STEPS_MAX):
        low, high = _expression(row, low, high, through)
        is_negated |= row[low].text == "~"
        left = row[low - 1].text if low else ";"
        right = row[high + 1].text if high + 1 < len(row) else ";"
        if {left, right} & _EQUALS or left == "case":
            reads = True
        if left == "%":
            makes = reads = indexes = True
        is_masked = right == "&" or (left == "&" and _is_operand(row, low - 2))
        if is_masked:
            reads = True
            if not is_negated:
                break
        if left in _STORES or left == "return":
            makes = True
        if left in _STORES | _EQUALS | {"return", "case", "%", "&&", "||", ";", "}"}:
            break
        if right == "?" or left in _BOUNDS or right in _BOUNDS | _EQUALS:
            break
        if is_masked or left in {"?", ":"}:
            through |= {"&", "?", ":"}
            if _is_statement(row, low - 1):
                break
            low -= left in through
            continue
        opening = _opening(row, low - 1)
        if opening < 0:
            break
        callee = row[opening - 1].text if opening else ""
        if row[opening].text == "[":
            dimension = _is_dimension(row, opening)
            if not dimension:
                makes = reads = indexes = True
            break
        if row[opening].text == "{":
            makes = makes or left in {",", "{"}
            break
        low, high = opening, _closing(row, opening)
        if not _WORD.fullmatch(callee) or callee in _NO_CALLS:
            if callee in _NO_CALLS - {"return", "case"}:
                break
            continue
        if "alloc" in callee:
            makes = reads = indexes = True
        elif _TESTED_AND_SET.search(callee):
            makes = reads = True
        elif _TESTING.search(callee):
            reads = True
        elif not _LENGTHS.fullmatch(callee):
            makes = makes or not _WRAPPING.fullmatch(callee)
        if not _WRAPPING.fullmatch(callee):
            break
        low -= 1
    return Use(row[at].text, row[at].line, makes, reads, indexes)


def allocation_around(row: Sequence[Token], at: int) -> tuple[str, bool] | None:
    """Return the allocating call whose argument a token is, and whether memory keeps the result.

    ``None`` where it is in no such call.
    """
    while (opening := _opening(row, at - 1)) >= 0 and row[opening].text != "{":
        callee = row[opening - 1].text if opening else ""
        if "alloc" in callee and "free" not in callee:
            start = opening - 1
            while start and row[start - 1].text not in {";", "{", "}"}:
                start -= 1
            target = [token.text for token in row[start : opening - 1]]
            is_kept = bool({"->", ".", "["} & set(target)) or target[:1] == ["*"]
            return callee, is_kept or target[1:] == ["="]
        at = opening
    return None


def _expression(
    row: Sequence[Token], low: int, high: int, through: Collection[str]
) -> tuple[int, int]:
    """Widen a range to the operands that are added, shifted or joined with it."""
    stops = _DELIMITERS - set(through)
    while low and row[low - 1].text not in stops - _CLOSING:
        low -= 1
        if row[low].text in _CLOSING:
            low = max(_opening(row, low), 0)
    while high + 1 < len(row) and row[high + 1].text not in stops - _OPENING:
        high += 1
        if row[high].text in _OPENING:
            high = _closing(row, high)
    return low, high


def _opening(row: Sequence[Token], at: int) -> int:
    """Return the bracket that is open before a place (or that the one there closes), or -1."""
    depth = 1 if at < 0 or row[at].text not in _CLOSING else 0
    while at >= 0:
        text = row[at].text
        depth += (text in _CLOSING) - (text in _OPENING)
        if depth == 0 or (text == ";" and depth == 1):
            return at if text in _OPENING else -1
        at -= 1
    return -1


def _closing(row: Sequence[Token], at: int) -> int:
    """Return the bracket that closes the one at a place."""
    depth = 0
    for place in range(at, len(row)):
        depth += (row[place].text in _OPENING) - (row[place].text in _CLOSING)
        if depth == 0:
            return place
    return len(row) - 1


def _is_operand(row: Sequence[Token], at: int) -> bool:
    """Tell whether a value ends at a place, so that ``&`` behind it joins two."""
    text = row[at].text if at >= 0 else ""
    return text in {")", "]"} or (bool(re.fullmatch(r"\w+", text)) and text not in _NO_TYPES)


def _is_statement(row: Sequence[Token], at: int) -> bool:
    """Tell whether a colon ends a label, so that a statement begins behind it."""
    if row[at].text != ":":
        return False
    while at > 0 and row[at - 1].text not in {";", "{", "}", "?"}:
        at -= 1
    return at == 0 or row[at - 1].text != "?"


def _is_dimension(row: Sequence[Token], opening: int) -> bool:
    """Tell whether brackets give a declared array's size; in doubt they look something up."""
    before = row[opening - 2].text if opening > 1 else ""
    if before == "*":
        return row[opening - 4].text in {";", "{", "}", "struct", "const", "static"}
    return bool(_WORD.fullmatch(before)) and before not in _NO_TYPES
