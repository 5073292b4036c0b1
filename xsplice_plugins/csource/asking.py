# SPDX-License-Identifier: Apache-2.0
"""What functions ask of a structure's members: comparisons and truth."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.csource.uses import Token

_WORD = re.compile(r"[A-Za-z_]\w*")
_COMPARISONS = {"==", "!=", "<", ">", "<=", ">="}
_MEMBERS = {"->", "."}
_JOINTS = {"&&", "||", "?"}
_SUMS = {"+", "-"}
_FACTORS = {"*", "/", "%", "<<", ">>"}
_AROUND = {"(", "!", *_JOINTS}
_ENDS = {";", "{", "}", ",", ":", ")", "]", *_JOINTS}
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_ASKING = {"if", "while", "likely", "unlikely", "ASSERT", "BUG_ON", "WARN_ON", *_AROUND, "="}


def asked_otherwise(old: Sequence[Token], new: Sequence[Token]) -> dict[str, tuple[str, str]]:
    """Name the members that a function asks something else of than before.

    Args:
        old: The function before the patch.
        new: And after it.

    Returns:
        For each what was asked and what is asked now, such as ``== 0``. One that only one side
        asks of is none of them.
    """
    sides = [asked_in([token.text for token in row]) for row in (old, new)]
    found = {}
    for member in sorted(sides[0].keys() & sides[1].keys()):
        was, now = (set(side[member]) for side in sides)
        gone, come = was - now, now - was
        if gone and come:
            found[member] = (min(gone), min(come))
    return found


def asked_in(row: Sequence[str]) -> dict[str, Counter[str]]:
    """Return what is asked of each member, such as ``== 0``, and how often."""
    found: dict[str, Counter[str]] = {}
    for at in range(1, len(row) - 1):
        if row[at - 1] not in _MEMBERS or not _WORD.fullmatch(row[at]) or row[at + 1] in _MEMBERS:
            continue
        left = start_of(row, at)
        before, behind = row[left - 1] if left else ";", row[at + 1]
        text = ""
        if behind in _COMPARISONS:
            text = f"{behind} {_operand(row, at + 2)}"
        elif before in _COMPARISONS:
            text = f"{_operand_before(row, left - 2)} {before}"
        elif before == "!":
            text = "!"
        elif behind in {")", *_JOINTS} and before in _AROUND and _is_condition(row, left - 1):
            text = "is true"
        if text:
            found.setdefault(row[at], Counter())[text] += 1
    return found


def weighed_in(row: Sequence[str]) -> dict[str, Counter[str]]:
    """Return what is asked of members as a part: by a mask, a factor, a sum that is compared.

    Args:
        row: The texts of a function's tokens.
    """
    found: dict[str, Counter[str]] = {}
    for at in range(1, len(row) - 1):
        if row[at - 1] not in _MEMBERS or not _WORD.fullmatch(row[at]) or row[at + 1] in _MEMBERS:
            continue
        left = start_of(row, at)
        before, behind = row[left - 1] if left else ";", row[at + 1]
        text = ""
        if behind == "&" and _outside(row, left - 1) in _ASKING - {"=", "("} | {"return"}:
            text = f"& {_operand(row, at + 2)}"
        elif behind in _FACTORS or before in _FACTORS - {"*"}:
            text = f"{behind if behind in _FACTORS else before} as a factor"
        elif {before, behind} & _SUMS:
            text = _compared(row, range(at + 1, len(row))) or _compared(row, range(left - 1, 0, -1))
        if text:
            found.setdefault(row[at], Counter())[text] += 1
    return found


def _outside(row: Sequence[str], at: int) -> str:
    """Return what stands at a place, or before the brackets that are open there."""
    while at > 0 and row[at] == "(" and row[at - 1] in _AROUND | _ASKING:
        at -= 1
    return row[at] if at >= 0 else ";"


def _compared(row: Sequence[str], places: range) -> str:
    """Return how the sum that a row of places leads out of is compared, ``""`` if it is not."""
    depth, ends = 0, _ENDS | {"=", "return"}
    for at in places:
        depth += ((row[at] in _OPENING) - (row[at] in _CLOSING)) * places.step
        if depth < 0 or (depth == 0 and row[at] in ends - _CLOSING - _OPENING):
            return ""
        if depth == 0 and row[at] in _COMPARISONS:
            return f"{row[at]} in a sum"
    return ""


def start_of(row: Sequence[str], at: int) -> int:
    """Return where the path begins that ends with a member."""
    while at > 1 and row[at - 1] in _MEMBERS:
        at -= 2
        while at > 0 and row[at] in _CLOSING:
            depth = 0
            while at >= 0:
                depth += (row[at] in _CLOSING) - (row[at] in _OPENING)
                if depth == 0:
                    break
                at -= 1
            at -= bool(at > 0 and (_WORD.fullmatch(row[at - 1]) or row[at - 1] in _CLOSING))
    return max(at, 0)


def _is_condition(row: Sequence[str], at: int) -> bool:
    """Tell whether a bracket or an operator before a value says that its truth is asked."""
    return row[at] != "(" or (at > 0 and row[at - 1] in _ASKING)


def _operand(row: Sequence[str], at: int) -> str:
    end, depth = at, 0
    while end < len(row) and (depth or row[end] not in _ENDS):
        depth += (row[end] in _OPENING) - (row[end] in _CLOSING)
        end += 1
    return " ".join(row[at:end])


def _operand_before(row: Sequence[str], at: int) -> str:
    start, depth = at, 0
    while start >= 0 and (depth or row[start] not in (_ENDS - _CLOSING) | {"(", "return", "="}):
        depth += (row[start] in _CLOSING) - (row[start] in _OPENING)
        start -= 1
    return " ".join(row[start + 1 : at + 1])
