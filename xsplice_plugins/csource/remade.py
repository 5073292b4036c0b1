# SPDX-License-Identifier: Apache-2.0
"""Members that are made otherwise than before, and that another function reads otherwise.

Objects that exist are as the old code made them: the new code may not understand them.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.asking import asked_in, start_of, weighed_in
from xsplice_plugins.csource.keeping import is_local
from xsplice_plugins.csource.literals import bodies
from xsplice_plugins.csource.sizing import MEMBERS, NAME, assignments, end_of
from xsplice_plugins.csource.uses import closing_of, opening_before, tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from xsplice_plugins.csource.uses import Token

_NOTHING = {"0", "NULL", "false", "{ }", "{ 0 }"}
_PREPARING = re.compile(r"\w*init\w*", re.IGNORECASE)
_EXCHANGING = re.compile(r"\w*(?:xchg|write_atomic)\w*")
_COMPARING = re.compile(r"\w+_eq")
#: What says nothing of a member's meaning.
_PLAIN = re.compile(
    r"\w*printk|ASSERT\w*|BUG_ON|WARN_ON|panic|sizeof|typeof|__typeof__|(un)?likely|container_of|"
    r"if|while|for|switch|return|\w*lock\w*|mem(cpy|set|cmp)|XV?FREE"
)
_SCALES = {"*", "/", "%", "<<", ">>"}
_OPERATORS = {"&", "*", "(", ")", "+", "-", "|", "/", "!", "?", "<<", ">>"}


_BARE = {"!", "is true"}


class Remade(NamedTuple):
    """A member that is made and read otherwise."""

    path: str  #: where one of the functions stands
    functions: tuple[str, str]  #: who makes it, and who reads it
    text: str


_Words = dict[str, Counter[str]]  #: by member


@lru_cache(maxsize=2)  # asked for each object of a fix
def remade_members(texts: tuple[tuple[str, str, str], ...]) -> tuple[Remade, ...]:
    """Find members that one function makes otherwise than before, and another one reads otherwise.

    What only moved from one function to another is made as before; what a function reads no more
    because a new function does is read as before. So is a test that is new in a function which
    makes the member itself, of a member that the patch brings, or that was asked of another
    member before. What is only cleared counts where it is asked whether it is.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        Each once for each file in which one of its functions stands.
    """
    before, after = _Side(), _Side()
    words = {word for _, old, _ in texts for word in NAME.findall(old)}
    paths: dict[str, str] = {}
    for path, *both in texts:
        old, new = (bodies(text) for text in both)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                paths[name] = path
                for side, rows in zip((before, after), (old, new), strict=True):
                    if name in rows:
                        side.add(name, tokens(rows[name]))
    gone = tuple(_found(before, after, paths))
    words -= {row.text.split("`")[1] for row in gone}
    return (*gone, *_asked(before, after, paths, words), *_cleared(before, after, paths, words))


class _Side:
    """What the changed functions of one side do with members."""

    def __init__(self) -> None:
        self.made: dict[str, _Words] = {}
        self.read: dict[str, _Words] = {}
        self.cleared: dict[str, Counter[str]] = {}
        self.asked: dict[str, _Words] = {}
        #: what a member is part of where it is made, and where not; "" if not known
        self.parts: dict[str, dict[tuple[str, bool], set[str]]] = {}

    def add(self, name: str, row: Sequence[Token]) -> None:
        spelled = _spelled_out(row)
        texts = [token.text for token in spelled]
        self.made[name], self.read[name], self.cleared[name] = _uses(spelled)
        self.asked[name] = _all((asked_in(texts), weighed_in(texts)))
        self.parts[name] = {}
        for part, mark, member, behind in zip(texts, texts[1:], texts[2:], texts[3:], strict=False):
            if mark in MEMBERS:
                known = part if mark == "." and NAME.fullmatch(part) else ""
                self.parts[name].setdefault((member, behind == "="), set()).add(known)

    def may_be_one(self, member: str, maker: str, reader: str) -> bool:
        """Tell whether what one function makes and another one reads may be the same member."""
        places = ((maker, True), (reader, False))
        parts = [self.parts[name].get((member, is_made), {""}) for name, is_made in places]
        return any("" in part for part in parts) or not parts[0].isdisjoint(parts[1])


def _all(tables: Iterable[_Words]) -> _Words:
    found: _Words = {}
    for words in tables:
        for member, counts in words.items():
            found.setdefault(member, Counter()).update(counts)
    return found


def _found(old: _Side, new: _Side, paths: Mapping[str, str]) -> Iterator[Remade]:
    before, after = _all(old.made.values()), _all(new.made.values())
    nothing = Counter[str]()
    come = new.read.keys() - old.read.keys()
    for member in sorted(after.keys() | {m for row in new.cleared.values() for m in row}):
        more = after.get(member, nothing) - before.get(member, nothing)
        moved = {word for name in come for word in new.read[name].get(member, ())}
        readers = {
            name: word
            for name in sorted(old.read.keys() & new.read.keys())
            for word in old.read[name].get(member, nothing) - new.read[name].get(member, nothing)
            if word not in moved
        }
        # Who need not ask any more whether it is there may rely on what moved to the maker.
        is_needed = {f"{member} is true", f"{member} !"} & set(readers.values())
        makers = {
            name: word
            for name, words in sorted(new.made.items())
            for word in words.get(member, nothing) - old.made.get(name, {}).get(member, nothing)
            if word in more or (is_needed and name in old.made)
        }
        makers |= {
            name: "= 0"
            for name, counts in sorted(new.cleared.items())
            if counts[member] > old.cleared.get(name, nothing)[member]
            and old.made.get(name, {}).get(member, nothing) - new.made[name].get(member, nothing)
        }
        if not makers or not readers or len(makers.keys() | readers.keys()) == 1:
            continue
        maker = min(makers, key=lambda name: (name in readers, name))
        reader = min(readers, key=lambda name: (name == maker, name in makers, name))
        said = (
            f"`{member}` is made otherwise than before (`{maker}`: `{makers[maker]}`), and "
            f"`{reader}` reads it otherwise (no more `{readers[reader]}`): objects that exist are "
            "as the old code made them"
        )
        for path in sorted({paths[maker], paths[reader]}):
            yield Remade(path, (maker, reader), said)


def _asked(
    old: _Side, new: _Side, paths: Mapping[str, str], known: Collection[str]
) -> Iterator[Remade]:
    """Find members that are made otherwise, and of which a function asks more than before."""
    before, after = _all(old.made.values()), _all(new.made.values())
    nothing = Counter[str]()
    for member in sorted(after.keys() & _all(new.asked.values()).keys() & set(known)):
        more = after[member] - before.get(member, nothing)
        makers = {
            name: word
            for name, words in sorted(new.made.items())
            for word in words.get(member, nothing) - old.made.get(name, {}).get(member, nothing)
            if word in more
        }
        readers = {
            name: word
            for name, word in _asking(old, new, member)
            if name not in makers and not _is_renamed(word, old.asked[name], new.asked[name])
        }
        for maker, reader in _first_pair(new, member, makers, readers):
            said = (
                f"`{member}` is made otherwise than before (`{maker}`: `{makers[maker]}`), and "
                f"`{reader}` asks of it what it did not ask (`{readers[reader]}`): objects that "
                "exist are as the old code made them"
            )
            for path in sorted({paths[maker], paths[reader]}):
                yield Remade(path, (maker, reader), said)


def _cleared(
    old: _Side, new: _Side, paths: Mapping[str, str], known: Collection[str]
) -> Iterator[Remade]:
    """Find members that are cleared where they were left, and that others ask whether they are.

    As who frees an object clears a member, and who takes it has a `BUG_ON` of that.
    """
    before, after = (sum(side.cleared.values(), Counter[str]()) for side in (old, new))
    for member in sorted((after - before).keys() & set(known)):
        makers = {
            name
            for name in old.cleared.keys() & new.cleared.keys()
            if new.cleared[name][member] > old.cleared[name][member]
        }
        readers = {
            name: word
            for name, word in _asking(old, new, member)
            if name not in makers and word in _BARE
        }
        for maker, reader in _first_pair(new, member, makers, readers):
            said = (
                f"`{member}` is cleared where it was left (`{maker}`), and `{reader}` asks of it "
                f"what it did not ask (`{readers[reader]}`): objects that exist are as the old "
                "code left them"
            )
            for path in sorted({paths[maker], paths[reader]}):
                yield Remade(path, (maker, reader), said)


def _asking(old: _Side, new: _Side, member: str) -> Iterator[tuple[str, str]]:
    """Give functions of both sides, and what they ask of a member that nobody asked before."""
    before, after = (
        sum((words.get(member, Counter()) for words in side.asked.values()), Counter[str]())
        for side in (old, new)
    )
    come, nothing = after - before, Counter[str]()
    for name in sorted(old.asked.keys() & new.asked.keys()):
        more = new.asked[name].get(member, nothing) - old.asked[name].get(member, nothing)
        yield from ((name, word) for word in more if word in come)


def _first_pair(
    side: _Side, member: str, makers: Iterable[str], readers: Iterable[str]
) -> list[tuple[str, str]]:
    """Return one who makes and one who reads what may be the same member; none if there is none."""
    pairs = product(sorted(makers), sorted(readers))
    return [pair for pair in pairs if side.may_be_one(member, *pair)][:1]


def _is_renamed(word: str, old: _Words, new: _Words) -> bool:
    """Tell whether a function asked the same of another member, and asks it of that no more."""
    return word not in _BARE and any(
        counts[word] > new.get(member, Counter())[word] for member, counts in old.items()
    )


def _spelled_out(row: Sequence[Token]) -> list[Token]:
    """Put the member in place of local variables that hold nothing else."""
    held: dict[str, tuple[str, int]] = {}
    for name, places in assignments(row).items():
        start, end = places[0]
        words = [token.text for token in row[start:end]]
        is_member = len(words) > 2 and words[-2] in MEMBERS and NAME.fullmatch(words[-1])
        if (
            len(places) == 1
            and is_member
            and words[0] == "="
            and not _OPERATORS & set(words)
            and is_local(row, name)
        ):
            held[name] = (words[-1], end)
    found: list[Token] = []
    for at, token in enumerate(row):
        found.append(token)
        member, end = held.get(token.text, ("", len(row)))
        if at > end and row[at - 1].text not in MEMBERS:
            found += [token._replace(text=text) for text in ("->", member)]
    return found


def _uses(row: Sequence[Token]) -> tuple[_Words, _Words, Counter[str]]:
    """Return how a function makes members, how it reads them, and how often it clears them."""
    texts = [token.text for token in row]
    made: _Words = {}
    cleared = Counter[str]()
    read: _Words = {
        name: Counter(f"{name} {word}" for word in words.elements())
        for name, words in _all((asked_in(texts), weighed_in(texts))).items()
    }
    for at in range(1, len(row) - 1):
        name, behind = texts[at], texts[at + 1]
        if texts[at - 1] not in MEMBERS or not NAME.fullmatch(name) or behind in MEMBERS:
            continue
        if texts[at - 2 : at - 1] in (["{"], [","]):
            continue  # of a structure that is written out
        start = start_of(texts, at)
        if "->" not in texts[start:at] and is_local(row, texts[start]):
            continue  # a structure of the function's own
        value = closing_of(row, at + 1) + 1 if behind == "[" else at + 1
        if texts[value : value + 1] == ["="]:
            words = " ".join(texts[value + 1 : end_of(row, value + 1)])
            if words not in _NOTHING:
                made.setdefault(name, Counter())[f"= {words}"] += 1
            else:
                cleared[name] += 1
            continue
        if behind in _SCALES:
            other = " ".join(texts[at + 2 : at + 3])
            read.setdefault(name, Counter())[f"{name} {behind} {other}"] += 1
        while start > 1 and texts[start - 1] in {"&", "*"}:
            start -= 1
        if texts[start - 1] in {"(", ","} and behind in {")", ","}:
            _note_call(row, (start - 1, at), made, read)
    return made, read, cleared


def _note_call(row: Sequence[Token], place: tuple[int, int], made: _Words, read: _Words) -> None:
    """Note what a call does with a member that is an argument of it.

    Args:
        row: The function.
        place: What stands before the argument, and the member's name.
        made: Gets what makes it.
        read: Gets what reads it.
    """
    before, at = place
    opening = opening_before(row, before) if row[before].text == "," else before
    callee = row[opening - 1].text if opening > 0 else ""
    if row[opening].text != "(" or not NAME.fullmatch(callee) or _PLAIN.fullmatch(callee):
        return
    name, end = row[at].text, closing_of(row, opening)
    others = " ".join(token.text for token in (*row[opening + 1 : before], *row[at + 2 : end]))
    if _PREPARING.fullmatch(callee):
        made.setdefault(name, Counter())[f"{callee}()"] += 1
    elif _EXCHANGING.fullmatch(callee):
        made.setdefault(name, Counter())[f"{callee}(..., {others})"] += 1
        if "cmp" in callee:
            read.setdefault(name, Counter())[f"{callee}(..., {others})"] += 1
    else:
        shown = f"..., {others}" if _COMPARING.fullmatch(callee) else ""
        read.setdefault(name, Counter())[f"{callee}({shown})"] += 1
