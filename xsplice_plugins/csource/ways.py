# SPDX-License-Identifier: Apache-2.0
"""What each way through a C function leaves behind: how often it takes, less how often it releases.

The text is read statement by statement, before the preprocessor. Loops run once or not at all, a
condition that is asked twice has one answer until something in it is assigned, and a jump leads
forward. A take that may fail has not happened on the way that says so.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_WORD = re.compile(r"[A-Za-z_]\w*")
_ASSIGNED = re.compile(r"(<<|>>|[|&^+*/%-])?=|\+\+|--")
_FAILED = re.compile(r"== (NULL|0)\b|\bIS_ERR\b|< 0|== - 1|!= 0")
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_LEAVING = {"return", "goto", "break", "continue"}
_STATES_MAX = 64  #: more are joined: what was assumed on the way is forgotten

#: (how much was taken less what was released, what conditions were found to be)
_State = tuple[int, frozenset[tuple[str, bool]]]
_States = frozenset[_State]
_NONE: _States = frozenset()


def balances(
    row: Sequence[str], weights: Mapping[int, tuple[int, ...]]
) -> tuple[frozenset[int], ...]:
    """Return what the ways through a function's body come to.

    Args:
        row: Its tokens, with the braces.
        weights: What the token at a place may come to: 1 takes, -1 releases; nothing of most.

    Returns:
        For each place where the function is left, in the order of the text.
    """
    walk = _Walk(row, weights)
    end, states = walk.statement(0, frozenset({(0, frozenset())}))
    walk.leave(end, states)
    return tuple(frozenset(walk.exits[at]) for at in sorted(walk.exits))


def _pairs(row: Sequence[str]) -> dict[int, int]:
    """Return where each bracket is closed."""
    found, opened = {}, []
    for at, word in enumerate(row):
        if word in _OPENING:
            opened.append(at)
        elif word in _CLOSING and opened:
            found[opened.pop()] = at
    return found


class _Walk:
    """One walk through a body."""

    def __init__(self, row: Sequence[str], weights: Mapping[int, tuple[int, ...]]) -> None:
        self.row = row
        self.exits: dict[int, set[int]] = {}
        self._weights = weights
        self._places = sorted(weights)
        self._labels: dict[str, _States] = {}
        self._breaks: list[_States] = []
        self._fallible: dict[str, int] = {}  #: what was taken and is known by a variable
        self._closing = _pairs(row)
        self._asked = Counter(
            text
            for at in range(len(row) - 1)
            if row[at + 1] == "(" and _WORD.fullmatch(row[at])
            for text in self._texts(at, self._close(at + 1))
        )  #: conditions that are asked once tell nothing of another one

    def leave(self, at: int, states: _States) -> None:
        """Let some ways end at a place."""
        self.exits.setdefault(at, set()).update(net for net, _ in states)

    def statement(self, at: int, states: _States) -> tuple[int, _States]:
        """Walk one statement; return where the next one begins and what holds there."""
        word = self._at(at)
        if word == "{":
            return self._block(at + 1, states)
        if word == "do":
            end, states = self.statement(at + 1, states)
            return self._plain(end, states) if self._at(end) == "while" else (end, states)
        if _WORD.fullmatch(word) and self._at(at + 1) == "(" and word != "return":
            close = self._close(at + 1)
            if word == "switch":
                return self._switch(at, close, states)
            if word == "if":
                return self._if(at, close, states)
            behind = self._at(close + 1)
            if word in {"while", "for"} or behind == "{" or _WORD.fullmatch(behind):
                return self._loop(at, close, states)
        if _WORD.fullmatch(word) and self._at(at + 1) == ":" and word != "default":
            return at + 2, states | self._labels.pop(word, _NONE)
        return self._plain(at, states)

    def _at(self, at: int) -> str:
        return self.row[at] if 0 <= at < len(self.row) else ""

    def _close(self, at: int) -> int:
        return self._closing.get(at, len(self.row) - 1)

    def _texts(self, at: int, close: int) -> Iterable[str]:
        """Return how a condition is remembered, with its call or loop and without it."""
        loop = " ".join(self.row[at:close])
        return (loop.split("( ", 1)[-1].removeprefix("! "), loop)

    def _block(self, at: int, states: _States) -> tuple[int, _States]:
        while at < len(self.row) and self.row[at] != "}":
            at, states = self.statement(at, states)
        return at + 1, states

    def _plain(self, at: int, states: _States) -> tuple[int, _States]:
        end, depth = at, 0
        while end < len(self.row) and (depth > 0 or self.row[end] not in {";", "}"}):
            depth += (self.row[end] in _OPENING) - (self.row[end] in _CLOSING)
            end += 1
        word, target = self._at(at), self._at(at + 1)
        states = self._passed(at, end, states)
        if word == "return":
            self.leave(at, states)
        elif word == "goto":
            self._labels[target] = self._labels.get(target, _NONE) | states
        elif word in {"break", "continue"} and self._breaks:
            self._breaks[-1] |= states
        return end + (self._at(end) == ";"), _NONE if word in _LEAVING else states

    def _passed(self, start: int, end: int, states: _States) -> _States:
        """Return what holds behind some tokens; remember what variables tell of a take."""
        first = bisect_left(self._places, start)
        is_silent = first == len(self._places) or self._places[first] >= end
        if is_silent and not self._fallible and not any(known for _, known in states):
            return states
        assigned: set[str] = set()
        for at in range(start, end):
            before = self._at(at - 1)
            if _ASSIGNED.fullmatch(self.row[at]):
                assigned |= {before, self._at(at + 1)} if self.row[at][0] in "+-" else {before}
                self._fallible.pop(before, None)
            elif before == "&":
                assigned.add(self.row[at])
            nets = self._weights.get(at, ())
            if nets:
                states = frozenset((net + more, known) for net, known in states for more in nets)
                if before == "=" and min(nets) > 0:
                    self._fallible[self._at(at - 2)] = min(nets)
        if assigned:
            states = frozenset(
                (net, frozenset(k for k in known if assigned.isdisjoint(k[0].split())))
                for net, known in states
            )
        if len(states) > _STATES_MAX:
            states = frozenset((net, frozenset()) for net, _ in states)
        return states

    def _split(self, start: int, end: int, states: _States) -> tuple[_States, _States]:
        """Return the ways on which a condition holds, and the others."""
        words = list(self.row[start:end])
        is_plain = {"&&", "||"}.isdisjoint(words)
        holds = not (is_plain and words[:1] == ["!"])
        text = " ".join(words if holds else words[1:])
        if self._asked[text] == 1:
            return states, states
        sides = [
            frozenset(
                (net, known | {(text, answer)})
                for net, known in states
                if (text, not answer) not in known
            )
            for answer in (holds, not holds)
        ]
        return sides[0], sides[1]

    def _failed(self, start: int, end: int) -> tuple[int, bool]:
        """Return what a condition says was not taken after all, and whether it plainly says so."""
        missing, is_plain = 0, _FAILED.search(" ".join(self.row[start:end])) is not None
        for at in range(start, end):
            word = self.row[at]
            nets = self._weights.get(at, ())
            found = min(nets) if nets and self._at(at + 1) == "(" else 0
            if found <= 0:
                found = self._fallible.pop(word, 0) if self._at(at - 1) not in {".", "->"} else 0
            if found > 0:
                missing += found
                is_plain |= self._at(at - 1) == "!"
        return missing, is_plain

    def _leaves(self, at: int) -> bool:
        """Tell whether a statement, or the last one of a block, leads elsewhere."""
        kept = dict(self._fallible), dict(self._labels)
        end, _ = self.statement(at, _NONE)
        self._fallible, self._labels = kept
        return any(word in _LEAVING for word in self.row[at:end])

    def _if(self, at: int, close: int, states: _States) -> tuple[int, _States]:
        start = at + 2
        states = self._passed(start, close, states)
        missing, is_plain = self._failed(start, close)
        yes, no = self._split(start, close, states)
        if missing:
            less = frozenset((net - missing, known) for net, known in states)
            less_yes, less_no = self._split(start, close, less)
            if is_plain or self._leaves(close + 1):
                yes = less_yes
            else:
                no = less_no
        end, yes = self.statement(close + 1, yes)
        if self._at(end) == "else":
            end, no = self.statement(end + 1, no)
        return end, yes | no

    def _loop(self, at: int, close: int, states: _States) -> tuple[int, _States]:
        states = self._passed(at, close, states)
        yes, no = self._split(at, close, states)
        self._breaks.append(_NONE)
        end, yes = self.statement(close + 1, yes)
        return end, yes | no | self._breaks.pop()

    def _switch(self, at: int, close: int, states: _States) -> tuple[int, _States]:
        states = self._passed(at, close, states)
        if self._at(close + 1) != "{":
            return self.statement(close + 1, states)
        self._breaks.append(_NONE)
        here, at, has_default = _NONE, close + 2, False
        while at < len(self.row) and self.row[at] != "}":
            if self.row[at] in {"case", "default"}:
                has_default |= self.row[at] == "default"
                while at < len(self.row) and self.row[at] != ":":
                    at += 1
                here, at = here | states, at + 1
            else:
                at, here = self.statement(at, here)
        return at + 1, here | self._breaks.pop() | (_NONE if has_default else states)
