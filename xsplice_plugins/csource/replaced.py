# SPDX-License-Identifier: Apache-2.0
"""Constants that stand in a function where other ones stood, and which of them are one."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import combinations
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.csource.constants import Macros, value_in
from xsplice_plugins.csource.uses import Token, Use, opening_before, use_at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

_NUMBER = re.compile(r"\d\w*")
_CONSTANT = re.compile(r"\w+")
_WORD = re.compile(r"[A-Za-z_]\w*")
_ERROR = re.compile(r"E[A-Z0-9]+")  #: what a call answers, behind a minus: nobody keeps it
_WORDS_MAX = 8  #: of one constant that is joined of several
_BITS_MAX = 64
_MEMBERS = {"->", "."}
_NO_CONSTANTS = {"(", "[", "->", ".", "=", "++", "--", "+=", "-=", "|=", "&="}
_STORE = re.compile(r"(<<|>>|[|&^+*/%-])?=")
_BORDERS = {";", "{", "}", "&&", "||", ",", "?", ":", "=", "if", "while", "return"}

_Texts = tuple[str, str]
_Values = tuple[int, int]


class Replaced(Struct, frozen=True, kw_only=True):
    """A constant that stands where another one stood."""

    function: str
    texts: tuple[str, str]
    use: Use  #: on the new side
    member: str  #: of a structure, that it makes or that is asked for it; "" if not known
    is_near: bool = True  #: in the file that is looked at, not in another one of the patch


def is_number(text: str) -> bool:
    """Tell whether a constant is written as a number."""
    return _NUMBER.fullmatch(text) is not None


def replaced(name: str, old: Sequence[Token], new: Sequence[Token]) -> Iterator[Replaced]:
    """Give the constants, as far as the text tells, that stand where another one stood."""
    for was, now in differences(old, new):
        places = [(was, now)]
        if was.stop - was.start == now.stop - now.start:
            places = [
                (slice(here, here + 1), slice(there, there + 1))
                for here, there in zip(
                    range(was.start, was.stop), range(now.start, now.stop), strict=True
                )
            ]
        for here, there in places:
            texts = (" ".join(words_of(old[here])), " ".join(words_of(new[there])))
            if not all(_may_be_constant(*pair) for pair in ((old, here), (new, there))):
                continue
            other, use = use_at(old, here.start), use_at(new, there.start)
            if use.kinds != other.kinds:  # the operator changed too: it reads if one side does
                use = use._replace(makes=False, reads=use.reads or other.reads, indexes=False)
            if texts[0] != texts[1] and (use.makes or use.reads):
                yield Replaced(
                    function=name, texts=texts, use=use, member=_member(new, there.start, use)
                )


def exchanged(
    name: str, old: Sequence[Token], new: Sequence[Token], pairs: Collection[_Texts]
) -> Iterator[Replaced]:
    """Give the names that another name took the place of, where the text around them changed too.

    Args:
        name: The function's.
        old: It before the patch.
        new: And after it.
        pairs: Names that stand in each other's place somewhere else.
    """
    sides = words_of(old), words_of(new)
    for was, now in sorted(pairs):
        is_gone = sides[0].count(was) > sides[1].count(was)
        if not is_gone or sides[0].count(now) >= sides[1].count(now):
            continue
        before, after = (
            [use_at(row, at) for at, word in enumerate(words) if word == text]
            for row, words, text in ((old, sides[0], was), (new, sides[1], now))
        )
        reads = any(use.reads for use in (*before, *after))
        makes = all(any(use.makes for use in side) for side in (before, after))
        if makes or reads:
            use = after[0]._replace(makes=makes, reads=reads, indexes=False)
            yield Replaced(function=name, texts=(was, now), use=use, member="")


def grouped(
    rows: Iterable[Replaced], sides: tuple[Macros, Macros]
) -> Iterator[list[tuple[Replaced, _Values]]]:
    """Group what is another number now by both numbers; a bit's number and its mask are one.

    Args:
        rows: Of one file, and those of other files that may belong to them.
        sides: All definitions of either side.

    Yields:
        Each group, with the numbers of either side, that has one of the file itself.
    """
    named = {row.texts for row in rows if row.is_near and not _has_number(row.texts)}
    found: dict[_Texts | _Values, list[tuple[Replaced, _Values]]] = {}
    values: dict[_Texts, _Values] = {}
    places: dict[_Texts, _Texts | _Values] = {}
    for row in rows:
        old, new = (value_in(text, side) for text, side in zip(row.texts, sides, strict=True))
        if old is not None and new is not None and old != new:
            is_own = row.is_near or row.texts in named
            places[row.texts] = key = (old, new) if is_own else row.texts
            values[row.texts] = (old, new)
            found.setdefault(key, []).append((row, (old, new)))
    names = [texts for texts in values if not _has_number(texts)]
    words = {texts: [_reached(*one) for one in zip(texts, sides, strict=True)] for texts in names}
    for one, other in combinations(names, 2):
        kept, left = places[one], places[other]
        is_made_of = all(
            was in its or now in mine
            for was, now, mine, its in zip(one, other, words[one], words[other], strict=True)
        )
        if kept != left and (is_made_of or _is_mask(values[one], values[other])):
            found[kept] += found.pop(left)
            places.update({row.texts: kept for row, _ in found[kept]})
    yield from (group for group in found.values() if any(row.is_near for row, _ in group))


def _has_number(texts: _Texts) -> bool:
    return any(is_number(text) for text in texts)


def _is_mask(one: _Values, other: _Values) -> bool:
    """Tell whether on both sides one number is the mask of the bit that the other one counts."""
    return any(
        all(0 <= bit < _BITS_MAX and 1 << bit == mask for bit, mask in zip(*pair, strict=True))
        for pair in ((one, other), (other, one))
    )


def _reached(text: str, side: Macros) -> set[str]:
    """Return the words of a constant, and those of all macros that it is made of."""
    found: set[str] = set()
    todo = _WORD.findall(text)
    while todo:
        word = todo.pop()
        if word not in found:
            found.add(word)
            todo += [more for _, body in side.get(word, ()) for more in _WORD.findall(body)]
    return found


def _may_be_constant(row: Sequence[Token], place: slice) -> bool:
    """Tell whether tokens may be a constant: not what is called, assigned, or holds something."""
    words = words_of(row[place])
    if not any(_CONSTANT.fullmatch(word) for word in words) or len(words) > _WORDS_MAX:
        return False
    behind = row[place.stop].text if place.stop < len(row) else ";"
    before = row[place.start - 1].text if place.start else ";"
    if len(words) == 1 and not is_number(words[0]):
        is_error = before == "-" and _ERROR.fullmatch(words[0]) is not None
        return not (is_error or before in _MEMBERS or behind in _NO_CONSTANTS)
    return True


def _member(row: Sequence[Token], at: int, use: Use) -> str:
    """Return the member of a structure that a constant goes to, or that is compared with it."""
    if use.makes == use.reads:
        return ""
    left = at - 1
    if use.makes:
        while left > 0 and not _STORE.fullmatch(row[left].text) and row[left].text not in ";{}":
            left -= 1
        left -= 1
        if left > 0 and row[left].text == "]":
            left = opening_before(row, left) - 1
        return _after_point(row, left) if left > 0 else ""
    while left > 0 and row[left].text not in _BORDERS:
        if found := _after_point(row, left):
            return found
        left -= 1
    right = at + 1
    while right < len(row) and row[right].text not in _BORDERS:
        if _after_point(row, right) and row[right + 1].text not in _MEMBERS:
            return row[right].text
        right += 1
    return ""


def _after_point(row: Sequence[Token], at: int) -> str:
    return row[at].text if row[at - 1].text in _MEMBERS else ""


def words_of(row: Sequence[Token]) -> list[str]:
    """Return the texts of tokens."""
    return [token.text for token in row]


def differences(old: Sequence[Token], new: Sequence[Token]) -> Iterator[tuple[slice, slice]]:
    """Give the places that differ, on both sides."""
    matcher = SequenceMatcher(None, words_of(old), words_of(new), autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            yield slice(a, b), slice(c, d)
