# SPDX-License-Identifier: Apache-2.0
"""Can a difference between two preprocessed texts reach the object?

A changed static inline function in a header changes the text of every object that includes it,
and the code of the few that call it. Here the differing declarations are named, and an object is
spared its compile if no live part of it mentions them. Everything not understood is live.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.csource.declarations import KEPT, ChunkKind, Declaration, chunks, declaration
from xsplice_plugins.csource.merging import CHANGED, COUNTER_WORD, LINE_WORD, MOVED
from xsplice_plugins.csource.structures import added_constants, layout_refusals, packed

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Refusal

_MARKER = re.compile(r"^#[^\n]*\n?", re.MULTILINE)
_MARK = re.compile(r"\bxsplice_at_(?:old|new|end|moved|rest)_\d+")
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"' + "|" + r"'(?:\\.|[^'\\])*'")
_PASSES_MAX = 10_000  #: names followed in one text; a header has a few thousand


class TextVerdict(Struct, frozen=True, kw_only=True):
    """What the comparison of two texts came to."""

    is_affected: bool  #: the object must be compiled
    note: str  #: why, for the record
    refused: tuple[Refusal, ...] = ()


class _Split(Struct, frozen=True, kw_only=True):
    """Two versions of a translation unit, taken apart."""

    old: tuple[Declaration, ...]  #: only in the old version
    new: tuple[Declaration, ...]  #: only in the new version
    rest: str  #: what both have


def judge_texts(old_text: str, new_text: str) -> TextVerdict:
    """Compare the preprocessed texts of both sides.

    Args:
        old_text: Of the pristine side, with line markers.
        new_text: Of the patched side, with line markers.
    """
    old, new = _lines(old_text), _lines(new_text)
    if old == new:
        return TextVerdict(is_affected=False, note="preprocessed text equal, not compiled")
    first = _common(old, new)
    last = _common(old[first:][::-1], new[first:][::-1])
    head, tail = _widened(old, new, first, last)
    middles = ["\n".join(side[head : len(side) - tail]) for side in (old, new)]
    rest = "\n".join(new[:head]) + "\n" + ("\n".join(new[len(new) - tail :]) if tail else "")
    return _judge(_split([(middles[0], middles[1])], rest))


def judge_merged(text: str) -> TextVerdict:
    """Compare both sides out of one text that was preprocessed with merged headers."""
    if COUNTER_WORD in text:
        return TextVerdict(is_affected=True, note="uses __COUNTER__, compiled")
    first = text.find("xsplice_at_")
    if first < 0:
        return TextVerdict(is_affected=False, note="preprocessed text equal, not compiled")
    # Only the stretch that comes from merged headers is looked at closely; the text has a megabyte.
    last = text.rfind("xsplice_at_")
    end = text.find("\n", last)
    end = len(text) if end < 0 else end
    stretch = _MARKER.sub("", text[first:end])
    pairs = [(match[2], match[3]) for match in CHANGED.finditer(stretch)]
    stretch = CHANGED.sub(" ", stretch)
    moved = [match[2] for match in MOVED.finditer(stretch) if LINE_WORD in match[2]]

    def kept(match: re.Match[str]) -> str:
        return " " if LINE_WORD in match[2] else match[2]

    stretch = MOVED.sub(kept, stretch)
    if _MARK.search(stretch):
        return TextVerdict(is_affected=True, note="the two versions cannot be told apart, compiled")
    rest = f"{text[:first]}\n{stretch}\n{text[end:]}"
    # The same text on another line: differing on purpose.
    pairs += [(piece, piece.replace(LINE_WORD, LINE_WORD + "_")) for piece in moved]
    return _judge(_split(pairs, rest))


def _lines(text: str) -> list[str]:
    """Return a preprocessed text's lines; a literal never spans two of them."""
    stripped = (line.strip() for line in text.split("\n"))
    return [line for line in stripped if line and (line[0] != "#" or line.startswith("#pragma"))]


def _common(old: list[str], new: list[str]) -> int:
    """Return how many lines two lists have in common from their start."""
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _borders(lines: list[str]) -> list[int]:
    """Return before which lines (and the end) top-level declarations begin, roughly but fast.

    A border may be missing where several declarations share a line, or where a closing brace
    could have a type's name or attributes on the next line.
    """
    borders = [0]
    depth = 0
    for number, line in enumerate(lines, 1):
        bare = line
        if "{" in line or "}" in line:
            if '"' in line or "'" in line:
                bare = _LITERAL.sub("", line)
            depth += bare.count("{") - bare.count("}")
        if depth <= 0 and line.endswith((";", "}")):
            depth = 0
            following = lines[number] if number < len(lines) else ""
            is_open = line[-1] == "}" and following.endswith(";") and "{" not in following
            if not is_open:
                borders.append(number)
    return borders


def _widened(old: list[str], new: list[str], first: int, last: int) -> tuple[int, int]:
    """Widen a range of differing lines to the borders of top-level declarations.

    Args:
        old: Lines of one side.
        new: Lines of the other.
        first: How many lines both have in common from the start.
        last: How many from the end.

    Returns:
        The same two figures, made smaller so that what lies between is whole declarations.
    """
    before, after = _borders(old), _borders(new)
    head = before[bisect_right(before, first) - 1]
    ends_old = {len(old) - border for border in before}
    ends = [end for border in after if (end := len(new) - border) <= last and end in ends_old]
    return head, max(ends, default=0)


def _split(pairs: list[tuple[str, str]], rest: str) -> _Split:
    old: list[Declaration] = []
    new: list[Declaration] = []
    for was, now in pairs:
        sides = [
            packed([declaration(chunk.text) for chunk in chunks(text) if chunk.text.strip()])
            for text in (was, now)
        ]
        texts = [{item.text for item in side} for side in sides]
        old += (item for item in sides[0] if item.text not in texts[1])
        new += (item for item in sides[1] if item.text not in texts[0])
        rest += "\n" + "\n".join(item.text for item in sides[1] if item.text in texts[0])
        pragmas = [
            [item.text for item in side if item.kind is ChunkKind.DIRECTIVE] for side in sides
        ]
        if pragmas[0] != pragmas[1]:
            old += (item for item in sides[0] if item.kind is ChunkKind.DIRECTIVE)
            new += (item for item in sides[1] if item.kind is ChunkKind.DIRECTIVE)
    return _Split(old=tuple(old), new=tuple(new), rest=rest)


def _judge(split: _Split) -> TextVerdict:
    refused = layout_refusals(split.old, split.new)
    if refused:
        return TextVerdict(is_affected=False, note="refused, not compiled", refused=refused)
    differing = (*split.old, *split.new)
    if not differing:
        return TextVerdict(is_affected=False, note="preprocessed text equal, not compiled")
    names: set[str] = set()
    for item in differing:
        own = _silent_names(item, split)
        if own is None:
            shown = item.name or item.text[:60]
            return TextVerdict(is_affected=True, note=f"compiled because {shown} differs")
        names |= own
    live = _live_mention(names, split.rest) if names else ""
    if live:
        return TextVerdict(is_affected=True, note=f"compiled because it uses {live}")
    shown = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
    return TextVerdict(is_affected=False, note=f"does not use {shown}, not compiled")


def _silent_names(item: Declaration, split: _Split) -> set[str] | None:
    """Say under which names a declaration can matter that as such puts nothing into the object.

    Returns:
        The names; ``None`` if the declaration as such can change the object.
    """
    if not item.name:
        return None
    twins = [
        (old, new) for old in split.old for new in split.new if old.name == new.name == item.name
    ]
    if item.kind is ChunkKind.ENUM:
        gained = [added_constants(old, new) for old, new in twins]
        if not gained or None in gained:
            return None
        return {name for names in gained if names for name in names}
    if item.kind is ChunkKind.STATIC_FUNCTION and KEPT.search(item.text):
        return None
    if item.kind in {ChunkKind.STATIC_FUNCTION, ChunkKind.PROTOTYPE, ChunkKind.RECORD}:
        return {item.name.split()[-1]}
    return None


def _live_mention(names: set[str], rest: str) -> str:
    """Return the first of the names that a live part mentions, or ""."""
    pending = {name for name in names if _is_mentioned(name, rest)}
    if not pending:
        return ""
    lines = _lines(rest)
    text = "\n".join(lines)
    borders = _borders(lines)
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    offsets = [starts[border] for border in borders]
    carriers = set(names)
    for _ in range(_PASSES_MAX):
        if not pending:
            return ""
        search = re.compile(rf"\b(?:{'|'.join(sorted(pending))})\b")
        places = {bisect_right(offsets, match.start()) - 1 for match in search.finditer(text)}
        found: set[str] = set()
        for place in sorted(places):
            end = offsets[place + 1] if place + 1 < len(offsets) else len(text)
            for chunk in chunks(text[offsets[place] : end]):
                item = declaration(chunk.text)
                match = search.search(item.text)
                if match is None or (
                    item.kind is ChunkKind.STATIC_FUNCTION and item.name in carriers
                ):
                    continue
                if item.kind is not ChunkKind.STATIC_FUNCTION or KEPT.search(item.text):
                    return match[0]
                found.add(item.name)
        carriers |= found
        pending = found
    return min(names)


def _is_mentioned(name: str, rest: str) -> bool:
    """Tell whether a text outside line markers has a word."""
    at = rest.find(name)
    while at >= 0:
        end = at + len(name)
        before, after = rest[at - 1 : at], rest[end : end + 1]
        if not (_is_word(before) or _is_word(after)):
            line = rest.rfind("\n", 0, at) + 1
            if rest[line : line + 1] != "#" or rest.startswith("#pragma", line):
                return True
        at = rest.find(name, end)
    return False


def _is_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"
