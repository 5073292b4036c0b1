# SPDX-License-Identifier: Apache-2.0
"""Stages of a function that is left and entered again, by a state that is stored, in their order.

What was left behind one stage goes on with the next one: a stage that moved in front of it is left
out, and one that moved behind it runs once more.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.csource.literals import changed_bodies
from xsplice_plugins.csource.uses import tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORD = re.compile(r"[A-Za-z_]\w*")
_STORES_CASE = re.compile(r"(?<![=!<>])=(?!=).*\bcase\b", re.DOTALL)
_STARTS = {";", "{", "}", ":"}
_LEAVING = {"break", "return", "goto", "continue"}
_TWO = 2
_WRONG = "what the old code left between them goes on with the wrong one"


@lru_cache(maxsize=2)  # asked for each object of a fix
def reordered_stages(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find functions whose stages, which lead into each other, have another order than before.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        The file of each, and a sentence.
    """
    found = []
    for path, name, both, files in changed_bodies(texts):
        was, now = (_stages(text, known) for text, known in zip(both, files, strict=True))
        kept = [label for label in was if label in now]
        order = [label for label in now if label in was]
        moved = next((pair for pair in zip(kept, order, strict=True) if len({*pair}) > 1), ())
        if moved:
            said = f"the stages `{moved[0]}` and `{moved[1]}` of `{name}` have another order: "
            found.append((path, said + _WRONG))
    return tuple(found)


def _stages(text: str, functions: Mapping[str, str]) -> list[str]:
    """Return the labels of stages that store where they are and are reached from the one before.

    Args:
        text: A function.
        functions: With the macros of its file; a label may be one that stores its own case.
    """
    row = [token.text for token in tokens(text)]
    found: list[str] = []
    for at in range(1, len(row) - _TWO):
        if row[at - 1] not in _STARTS or not _WORD.fullmatch(row[at]):
            continue
        end = next((spot for spot in range(at, len(row)) if row[spot] in _STARTS), at)
        label = " ".join(row[at:end])
        if row[end] != ":" or not _is_reached(row, at):
            continue
        is_macro = _STORES_CASE.search(functions.get(f"{row[at]}()", "")) is not None
        is_stored = row[at] == "case" and f"= {' '.join(row[at + 1 : end])} ;" in " ".join(row)
        if is_macro or is_stored:
            found.append(label)
    return [label for label in found if found.count(label) == 1]


def _is_reached(row: Sequence[str], at: int) -> bool:
    """Tell whether the statement before a label leads on to it."""
    while at > 0 and row[at - 1] in _STARTS:
        at -= 1
    while at > 0 and row[at - 1] not in _STARTS:
        at -= 1
    return row[at] not in _LEAVING
