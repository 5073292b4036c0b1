# SPDX-License-Identifier: Apache-2.0
"""Local variables that say how much memory a function allocates, and what they get."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.keeping import allocations, target_of
from xsplice_plugins.csource.uses import closing_of, is_type

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from xsplice_plugins.csource.uses import Sizers, Token

    _Calls = Mapping[int, tuple[list[int], bool]]  # where their sizes stand, and if memory keeps it
    _Gets = Mapping[str, list[tuple[int, int]]]  # where what a variable gets stands in the text

NAME = re.compile(r"[A-Za-z_]\w*")
STORE = re.compile(r"(<<|>>|[|&^+*/%-])?=")
STEPS = {"++", "--"}
MEMBERS = {"->", "."}
_OPENING, _CLOSING = {"(", "[", "{"}, {")", "]", "}"}
_OF_TYPES = re.compile(r"sizeof|offsetof|(__)?typeof(__)?|_*alignof(__)?")
_ERROR = re.compile(r"- E[A-Z0-9]+")  #: no size
_IN_BYTES = re.compile(r"_x|.*_bytes|v[mz]alloc")
_SPELLING = {"sizeof", "typeof", "struct", "union", "(", ")"}
_BEHIND_NAMES = {"=", ";", ",", ")", "["}


class Sizes(NamedTuple):
    """The calls of one function that allocate what memory keeps, on both sides."""

    resized: list[str]  #: allocators whose size, or what it comes from, is another one
    gone: list[tuple[str, ...]]  #: sizes, in words, of calls that have no like on the new side
    come: list[tuple[str, tuple[str, ...]]]  #: the same of the new side, with the allocators


def compare_sizes(
    old: Sequence[Token], new: Sequence[Token], sizers: tuple[Sizers, Sizers] = ({}, {})
) -> Sizes:
    """Compare the sizes of what a function allocates, through its local variables.

    Args:
        old: One function before the patch.
        new: And after it, with the names of before.
        sizers: What allocates on either side, beside Xen's own allocators.
    """
    before, after = (
        {at: (places, is_kept) for at, places, is_kept in allocations(row, known)}
        for row, known in zip((old, new), sizers, strict=True)
    )
    gets = assignments(old), assignments(new)
    same = dict(_same_places(old, new)) if before and after else {}
    pairs = {was: same[was] for was in before if same.get(was) in after}
    pairs |= dict(_written_anew(old, new, before, after, pairs))
    resized = []
    for was, now in pairs.items():
        sizes = [
            [row[spot].text for spot in calls[at][0]]
            for row, calls, at in ((old, before, was), (new, after, now))
        ]
        if len({bool(_IN_BYTES.match(row[at].text)) for row, at in ((old, was), (new, now))}) > 1:
            sizes = [[word for word in words if word not in _SPELLING] for words in sizes]
        is_other = _fed(old, gets[0], before[was][0]) != _fed(new, gets[1], after[now][0])
        if (before[was][1] or after[now][1]) and (is_other or sizes[0] != sizes[1]):
            resized.append(new[now].text)
    return Sizes(
        resized,
        [size for _, size in _others(old, before, pairs.keys())],
        list(_others(new, after, pairs.values())),
    )


def _others(
    row: Sequence[Token], calls: _Calls, known: Collection[int]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give the allocators and sizes of other calls, of what memory keeps."""
    for at, (places, is_kept) in calls.items():
        if is_kept and at not in known:
            words = (row[spot].text for spot in places)
            yield row[at].text, tuple(word for word in words if word not in _SPELLING)


def _written_anew(
    old: Sequence[Token],
    new: Sequence[Token],
    before: _Calls,
    after: _Calls,
    known: Mapping[int, int],
) -> Iterator[tuple[int, int]]:
    """Pair the calls that stand elsewhere now by what gets the result, in order."""
    tables: list[dict[str, list[int]]] = [{}, {}]
    for table, row, calls, taken in (
        (tables[0], old, before, known.keys()),
        (tables[1], new, after, set(known.values())),
    ):
        for at in calls:
            target = target_of(row, at)
            if target and at not in taken:
                table.setdefault(target[-1], []).append(at)
    for name, places in tables[0].items():
        yield from zip(places, tables[1].get(name, ()), strict=False)


def with_old_names(old: Sequence[Token], new: Sequence[Token]) -> list[Token]:
    """Give variables that the new side only calls otherwise their old names.

    Args:
        old: One function before the patch.
        new: And after it.
    """
    before, after = _locals(old), _locals(new)
    words = {token.text for token in old}, {token.text for token in new}
    pairs: set[tuple[str, str]] = set()
    for tag, a, b, c, d in _matcher(old, new).get_opcodes():
        if tag == "replace" and b - a == d - c:
            pairs |= {(x.text, y.text) for x, y in zip(old[a:b], new[c:d], strict=True)}
    pairs = {
        (was, now) for was, now in pairs if was in before - words[1] and now in after - words[0]
    }
    names = {
        now: was
        for was, now in pairs
        if sum(was == one for one, _ in pairs) == sum(now == other for _, other in pairs) == 1
    }
    return [token._replace(text=names.get(token.text, token.text)) for token in new]


def _matcher(old: Sequence[Token], new: Sequence[Token]) -> SequenceMatcher[str]:
    texts = [token.text for token in old], [token.text for token in new]
    return SequenceMatcher(None, *texts, autojunk=False)


def _same_places(old: Sequence[Token], new: Sequence[Token]) -> Iterator[tuple[int, int]]:
    for block in _matcher(old, new).get_matching_blocks():
        for step in range(block.size):
            yield block.a + step, block.b + step


def _locals(row: Sequence[Token]) -> set[str]:
    """Return what is declared in a function, its parameters too, and is no member's name."""
    found = set(assignments(row))
    members = set()
    for at in range(1, len(row) - 1):
        before, text, behind = (token.text for token in row[at - 1 : at + 2])
        if before in MEMBERS:
            members.add(text)
        elif NAME.fullmatch(text) and behind in _BEHIND_NAMES and is_type(row, at - 1):
            found.add(text)
    return found - members


def assignments(row: Sequence[Token]) -> dict[str, list[tuple[int, int]]]:
    """Return by variable where its operator stands, and where what it gets ends."""
    found: dict[str, list[tuple[int, int]]] = {}
    for at, token in enumerate(row):
        before = row[at - 1].text if at else ";"
        if not NAME.fullmatch(token.text) or before in {*MEMBERS, "*"}:
            continue
        behind = row[at + 1].text if at + 1 < len(row) else ";"
        if STORE.fullmatch(behind):
            end = end_of(row, at + 2)
            if not _ERROR.fullmatch(" ".join(word.text for word in row[at + 2 : end])):
                found.setdefault(token.text, []).append((at + 1, end))
        elif behind in STEPS:
            found.setdefault(token.text, []).append((at + 1, at + 2))
        elif before in STEPS and behind not in {*MEMBERS, "["}:
            found.setdefault(token.text, []).append((at - 1, at))
    return found


def end_of(row: Sequence[Token], at: int) -> int:
    """Return where an expression ends that begins at a place."""
    depth = 0
    while at < len(row):
        text = row[at].text
        if depth == 0 and (text in {",", ";"} or text in _CLOSING):
            break
        depth += (text in _OPENING) - (text in _CLOSING)
        at += 1
    return at


def names_at(row: Sequence[Token], places: Iterable[int]) -> set[str]:
    """Return the variables at some places whose own values count: no pointers to structures."""
    found: set[str] = set()
    skipped = -1
    for at in places:
        behind = row[at + 1].text if at + 1 < len(row) else ";"
        if at < skipped:
            continue
        if _OF_TYPES.fullmatch(row[at].text) and behind == "(":
            skipped = closing_of(row, at + 1)
        elif NAME.fullmatch(row[at].text) and row[at - 1].text not in MEMBERS:
            found |= {row[at].text} if behind not in {*MEMBERS, "("} else set()
    return found


def _fed(
    row: Sequence[Token], gets: _Gets, places: Iterable[int]
) -> dict[str, list[tuple[str, ...]]]:
    """Return all that the variables at some places get, and those from which they get it."""
    return {
        name: [tuple(token.text for token in row[a:b]) for a, b in gets[name]]
        for name in _feeding(row, gets, places)
        if name in gets
    }


def feeding(row: Sequence[Token], places: Iterable[int]) -> set[str]:
    """Return the variables at some places, and all from which these get something."""
    return _feeding(row, assignments(row), places)


def _feeding(row: Sequence[Token], gets: _Gets, places: Iterable[int]) -> set[str]:
    found: set[str] = set()
    todo = list(names_at(row, places))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for start, end in gets.get(name, ()):
                todo += names_at(row, range(start, end))
    return found
