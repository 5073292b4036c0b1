# SPDX-License-Identifier: Apache-2.0
"""Line numbers: keep those of what a patch does not change, see which moved, move them all.

A patch that adds a line shifts ``__LINE__`` in everything below it. A ``#line`` directive in front
of the first unchanged declaration behind each change gives it its old number back, so that the
compiler sees no difference there. Directives are only put between top-level declarations: never
into a macro's arguments, a comment or a string.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import count

from xsplice_plugins.csource.declarations import chunks

_DIRECTIVE = re.compile(r"^([ \t]*#[ \t]*(?:line[ \t]+)?)(\d+)", re.MULTILINE)
_LEAD = re.compile(r"(?:\s+|/\*.*?\*/|//[^\n]*)*", re.DOTALL)


def line_neutral(old: str, new: str) -> str:
    """Return the new text with the line numbers of the old one, where it is unchanged.

    Args:
        old: A C source before the patch.
        new: The same after it.

    Returns:
        The new text with ``#line`` directives between declarations. Inside a changed declaration
        numbers go on from its start.
    """
    before, after = _placed(old), _placed(new)
    matcher = SequenceMatcher(
        None, [text for _, text, _ in before], [text for _, text, _ in after], autojunk=False
    )
    wanted = {
        block.b + k: before[block.a + k][2]
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    }
    pieces: list[str] = []
    shift = 0  # what must be added to a line's number in the new text to get the one it has now
    for number, (lead, content, line) in enumerate(after):
        pieces.append(lead)
        old_line = wanted.get(number)
        head, newline, indent = lead.rpartition("\n")
        has_own_line = not indent.strip() and (newline or number == 0)
        if content and old_line is not None and has_own_line and line + shift != old_line:
            pieces[-1] = f"{head}{newline}#line {old_line}\n{indent}"
            shift = old_line - line
        pieces.append(content)
    return "".join(pieces)


def _placed(text: str) -> list[tuple[str, str, int]]:
    """Return (white space and comments, content, line of the content) of every declaration."""
    placed = []
    for chunk in chunks(text):
        match = _LEAD.match(chunk.text)
        end = match.end() if match else 0
        lead = chunk.text[:end]
        placed.append((lead, chunk.text[end:], chunk.line + lead.count("\n")))
    return placed


def shifted(text: str, lines: int) -> str:
    """Return a source in which every line has a number greater by ``lines``, and nothing else.

    ``#line`` directives are shifted too.
    """
    moved = _DIRECTIVE.sub(lambda found: f"{found[1]}{int(found[2]) + lines}", text)
    return "\n" * lines + moved


@lru_cache(maxsize=64)
def moved_lines(old: str, new: str) -> tuple[tuple[int, int, int], ...]:
    """Return the runs of equal lines whose numbers differ: (old first, new first, how many)."""
    rows = old.split("\n"), new.split("\n")
    numbers = _numbers(rows[0]), _numbers(rows[1])
    runs: list[tuple[int, int, int]] = []
    matcher = SequenceMatcher(None, *rows)  # what it leaves open is no moved line: a change
    for block in matcher.get_matching_blocks():
        for k in range(block.size):
            before, after = numbers[0][block.a + k], numbers[1][block.b + k]
            first, other, size = runs[-1] if runs else (0, 0, 0)
            if size and (before, after) == (first + size, other + size):
                runs[-1] = (first, other, size + 1)
            elif before != after:
                runs.append((before, after, 1))
    return tuple(runs)


def _numbers(rows: list[str]) -> list[int]:
    """Return the number that the compiler gives each line."""
    result: list[int] = []
    counter = count(1)
    for row in rows:
        result.append(next(counter))
        found = _DIRECTIVE.match(row)
        if found:
            counter = count(int(found[2]))
    return result
