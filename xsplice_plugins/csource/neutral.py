# SPDX-License-Identifier: Apache-2.0
"""Line numbers: keep those of what a patch does not change, see which moved, move them all.

A patch that adds a line shifts ``__LINE__`` in everything below it. A ``#line`` directive in front
of the first unchanged declaration behind each change gives it its old number back, so that the
compiler sees no difference there; so do lines of a changed function that the patch leaves alone.
Directives are only put between declarations and statements: never into a macro's arguments, a
comment or a string. Those in a branch that is off count for nothing, so there is one in front of
each conditional, and one behind it where the branches end otherwise.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

from xsplice_plugins.csource.declarations import (
    ChunkKind,
    chunks,
    conditions,
    conditions_by_line,
    declaration,
    statement_starts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECTIVE = re.compile(r"^([ \t]*#[ \t]*(?:line[ \t]+)?)(\d+)", re.MULTILINE)
_LEAD = re.compile(r"(?:\s+|/\*.*?\*/|//[^\n]*)*", re.DOTALL)


def line_neutral(old: str, new: str) -> str:
    """Return the new text with the line numbers of the old one, where it is unchanged.

    Args:
        old: A C source before the patch.
        new: The same after it.

    Returns:
        The new text with ``#line`` directives between declarations, right whichever branches of
        conditionals are on, and between the statements of a changed function. A line that is new
        has a number of those around it.
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
    twins = _twins(before, after, wanted)
    out, lines = "", _Lines()
    for number, (lead, content, line) in enumerate(after):
        out += lead
        start = out.rfind("\n") + 1
        if number in twins and not out[start:].strip():
            out = out[:start] + _held_within(twins[number], out[start:] + content, line, lines)
            continue
        old_line = wanted.get(number)
        marks = conditions(content)
        is_mark = bool(marks) and content.startswith("#")
        is_inner = is_mark and not marks[0].startswith("if")  # nothing is left of that branch
        if content and old_line is not None and not is_inner and not out[start:].strip():
            out = out[:start] + lines.move(line, old_line) + out[start:]
        out += content
        for mark in marks:
            lines.go_past(mark)
        if is_mark and lines.shift is None:
            here, behind = old_line or line + lines.added + lines.outer, content.count("\n") + 1
            out += "\n" + lines.move(line + behind, here + behind).rstrip("\n")
    return out


_Placed = tuple[str, str, int]


def _twins(
    before: list[_Placed], after: list[_Placed], wanted: Mapping[int, int]
) -> dict[int, tuple[str, int]]:
    """Return what changed functions were before, by number: content and line.

    Where a file has several changed ones of one name, none has a twin.
    """
    old: dict[str, list[tuple[str, int]]] = {}
    new: dict[str, list[int]] = {}
    same = set(wanted.values())
    for _, content, line in before:
        if line not in same and (name := _function(content)):
            old.setdefault(name, []).append((content, line))
    for number, (_, content, _) in enumerate(after):
        if number not in wanted and (name := _function(content)):
            new.setdefault(name, []).append(number)
    return {
        numbers[0]: old[name][0]
        for name, numbers in new.items()
        if len(numbers) == len(old.get(name, ())) == 1
    }


def _function(content: str) -> str:
    item = declaration(content)
    return item.name if item.kind in (ChunkKind.FUNCTION, ChunkKind.STATIC_FUNCTION) else ""


def _held_within(twin: tuple[str, int], content: str, line: int, lines: _Lines) -> str:
    """Return a changed function with the old numbers of lines that are as before.

    Args:
        twin: The function before, and its line.
        content: The function after.
        line: Its line.
        lines: What numbers lines have so far.
    """
    olds, news = twin[0].split("\n"), content.split("\n")
    blocks = SequenceMatcher(None, olds, news, autojunk=False).get_matching_blocks()
    was = {block.b + k: block.a + k for block in blocks for k in range(block.size)}
    starts, marks = statement_starts(content), conditions_by_line(content)
    rows = []
    for number, row in enumerate(news):
        moved = ""
        if number in starts and number in was:
            moved = lines.move(line + number, twin[1] + was[number])
        elif number == 0:
            moved = lines.move(line, twin[1])
        rows.append(moved + row)
        for mark in marks.get(number, ()):
            lines.go_past(mark)
    return "\n".join(rows)


class _Lines:
    """What must be added to the place of a line to get the number that it has.

    The place counts the directives that were put in: one in a branch that is off has no effect,
    but takes a line. Every call changes the state; not for use from several threads.
    """

    def __init__(self) -> None:
        """Begin with the first line."""
        self.shift: int | None = 0  #: ``None`` where it depends on which branch is on
        self.added = 0  #: directives so far
        self.outer = 0  #: what it was in front of the conditional that ended last
        self._open: list[tuple[int | None, set[int | None]]] = []

    def move(self, line: int, wanted: int) -> str:
        """Return the directive that gives a line another number; "" if it has that."""
        if self.shift == wanted - line - self.added:
            return ""
        self.added += 1
        self.shift = wanted - line - self.added
        return f"#line {wanted}\n"

    def go_past(self, mark: str) -> None:
        """Go past ``if``, ``elif``, ``else`` or ``endif``: the next branch begins as the first."""
        if mark.startswith("if"):
            self._open.append((self.shift, {self.shift}))
        elif self._open:
            before, ends = self._open[-1]
            ends.add(self.shift)
            self.shift = before
            if mark == "endif":
                self._open.pop()
                self.outer = before or 0
                self.shift = before if ends == {before} else None


def _placed(text: str) -> list[_Placed]:
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
