# SPDX-License-Identifier: Apache-2.0
"""Calls that belong together, of which one is made when an object is made and one when it goes.

If a patch adds the taking call to one function and the releasing one to another, objects that
exist never took what will be released; if it drops both, they took what nobody releases.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.csource.hooked import brings, hooks_in
from xsplice_plugins.csource.taking import bodies_in, kinds
from xsplice_plugins.csource.ways import balances

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xsplice_plugins.csource.taking import Body, Key, Kind

_WORD = re.compile(r"\w+")


class Paired(Struct, frozen=True, kw_only=True):
    """What a patch does to calls that belong together."""

    stale: tuple[tuple[str, str], ...]  #: a file, and a sentence
    remarks: tuple[tuple[str, str], ...]


class _Side:
    """All functions of one side."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self.bodies = {(b.path, b.name): b for path, text in texts for b in bodies_in(path, text)}
        self.named = {body.name: body for body in self.bodies.values()}
        self.called = {name for body in self.bodies.values() for _, name in body.calls}

    def row(self, place: tuple[str, str]) -> tuple[str, ...]:
        """Return a function's tokens; none where this side does not have it."""
        return self.bodies[place].row if place in self.bodies else ()

    def callee(self, body: Body, name: str) -> Body | None:
        """Return what a function calls by a name, as far as it is known."""
        return self.bodies.get((body.path, name)) or self.named.get(name)

    def reached(self, places: Iterable[tuple[str, str]]) -> list[Body]:
        """Return some functions with all that they call."""
        found: dict[tuple[str, str], Body] = {}
        todo = [self.bodies[place] for place in places if place in self.bodies]
        while todo:
            body = todo.pop()
            if (body.path, body.name) not in found:
                found[body.path, body.name] = body
                todo += (b for _, name in body.calls if (b := self.callee(body, name)))
        return list(found.values())


class _Shift(Struct, frozen=True, kw_only=True):
    """How the ways through a function differ between both sides, for calls of one kind."""

    body: Body
    shown: tuple[str, str]  #: what takes there, and what releases
    takes: bool  #: it takes more often now
    releases: bool
    spares: bool  #: it takes less often now
    keeps: bool  #: it releases less often now
    is_turned: bool  #: it counts in the other direction


@lru_cache(maxsize=2)  # asked for each object of a fix
def changed_pairs(texts: tuple[tuple[str, str, str], ...]) -> Paired:
    """Find what is taken in one function and released in another, both new or both gone.

    Args:
        texts: Path, old source and new one of each file that the patch changes.
    """
    old = _Side((path, text) for path, text, _ in texts)
    new = _Side((path, text) for path, _, text in texts)
    places = sorted(old.bodies.keys() | new.bodies.keys())
    changed = [place for place in places if old.row(place) != new.row(place)]
    stale: list[tuple[str, str]] = []
    remarks: list[tuple[str, str]] = []
    reached = [side.reached(changed) for side in (old, new)]
    keys = {event.key for bodies in reached for body in bodies for event in body.events}
    groups = kinds(side.bodies.values() for side in (old, new))
    for kind in _joined(groups, _renamed(old, new, texts)):
        if kind.isdisjoint(keys):
            continue
        walks = _Walks(old, kind, new), _Walks(new, kind, old)
        signs = {sign for walk in walks for sign in walk.signs}
        shifts = [shift for place in changed if (shift := _shift(place, walks))]
        if len(signs) < 2 or _are_own(shifts, kind, new, texts):
            continue
        for shift in shifts:
            said, is_remark = _judged(shift, shifts)
            if said:
                (remarks if is_remark else stale).append((shift.body.path, said))
    return Paired(stale=tuple(sorted(set(stale))), remarks=tuple(sorted(set(remarks))))


def _renamed(
    old: _Side, new: _Side, texts: tuple[tuple[str, str, str], ...]
) -> list[tuple[Key, Key]]:
    """Return what one function counts on both sides, under a name that only one side knows."""
    words = [set(_WORD.findall("\n".join(row[i] for row in texts))) for i in (1, 2)]
    found = []
    for place in sorted(old.bodies.keys() & new.bodies.keys()):
        gone, come = (
            {e.key for e in side.bodies[place].events if e.key.member and not e.key.words}
            for side in (old, new)
        )
        gone = {key for key in gone if key.member not in words[1]}
        come = {key for key in come if key.member not in words[0]}
        pairs = [(key, other) for key in gone for other in come if key.family == other.family]
        found += pairs if len(pairs) == 1 else []
    return found


def _joined(groups: Iterable[Kind], renamed: Iterable[tuple[Key, Key]]) -> list[Kind]:
    """Return groups with both names of what has another one now in the same group."""
    result = list(groups)
    for pair in renamed:
        both = [group for group in result if not group.isdisjoint(pair)]
        result = [group for group in result if group not in both]
        result.append(frozenset().union(*both))
    return result


def _are_own(
    shifts: Sequence[_Shift], kind: Kind, new: _Side, texts: tuple[tuple[str, str, str], ...]
) -> bool:
    """Tell whether only hooks take and release, and only variables that the patch brings.

    A hook runs once for each load, apply, revert or unload, and not for objects that exist.
    """
    sources = {path: (was, now) for path, was, now in texts}
    return all(
        shift.body.name in hooks_in(shift.body.path, texts)
        and all(
            brings({e.variable for e in body.events if e.key in kind}, *sources[body.path])
            for body in new.reached([(shift.body.path, shift.body.name)])
        )
        for shift in shifts
    )


def _judged(shift: _Shift, shifts: Sequence[_Shift]) -> tuple[str, bool]:
    """Say of one function what its part in a change is, and whether it is a remark only."""
    name, take, release = f"`{shift.body.name}`", *shift.shown
    if shift.is_turned:
        text = f"{name} has {take} and {release} the other way round"
        return f"{text}: what was counted before does not fit", False
    if found := _pair(shifts, ("takes", "releases"), ("spares", "keeps")):
        taker, giver = found
        text = (
            f"`{taker.body.name}` takes what it did not take before ({taker.shown[0]}), and "
            f"`{giver.body.name}` ({giver.body.path}) releases it ({giver.shown[1]}): objects that "
            "exist never took it"
        )
        return text if shift in found else "", False
    if found := _pair(shifts, ("spares", "keeps"), ("takes", "releases")):
        taker, giver = found
        text = (
            f"`{taker.body.name}` takes no more what it took before ({taker.shown[0]}), and "
            f"`{giver.body.name}` ({giver.body.path}) releases it no more ({giver.shown[1]}): "
            "objects that exist took it"
        )
        return text if shift in found else "", False
    text = (
        f"{name} takes what it did not take before ({take}): what was made before has not taken it"
    )
    return text if shift.takes else "", True


def _pair(
    shifts: Sequence[_Shift], more: tuple[str, str], less: tuple[str, str]
) -> tuple[_Shift, _Shift] | None:
    """Return who takes and who releases, unless either only moved from function to function."""
    for what, other in zip(more, less, strict=True):
        if sum(getattr(s, what) for s in shifts) <= sum(getattr(s, other) for s in shifts):
            return None
    takers, givers = ([s for s in shifts if getattr(s, what)] for what in more)
    return takers[0], next((s for s in givers if s is not takers[0]), givers[0])


def _shift(place: tuple[str, str], walks: tuple[_Walks, _Walks]) -> _Shift | None:
    sides = [walk.side for walk in walks]
    here = [side.bodies[place] for side in sides if place in side.bodies]
    if len(here) == 1 and any(place[1] in side.called for side in sides):
        return None  # it counts where it is called
    was, now = (
        walk.ways(walk.side.bodies[place]) if place in walk.side.bodies else () for walk in walks
    )
    if was == now:
        return None
    if len(was) != len(now):  # which place to leave is which, nobody knows
        was, now = ((frozenset[int]().union(*ways) or frozenset({0}),) for ways in (was, now))
    rows = [(min(w), max(w), min(n), max(n)) for w, n in zip(was, now, strict=True) if w and n]
    return _Shift(
        body=here[-1],
        shown=(walks[0].shown(here, 1), walks[0].shown(here, -1)),
        takes=any(0 < most > top or 0 < least > low for low, top, least, most in rows),
        releases=any(0 > least < low or 0 > most < top for low, top, least, most in rows),
        spares=any(most < top > 0 or 0 < low > least for low, top, least, most in rows),
        keeps=any(least > low < 0 or 0 > top < most for low, top, least, most in rows),
        is_turned=any(
            (top > 0 <= low and least < 0 >= most) or (most > 0 <= least and low < 0 >= top)
            for low, top, least, most in rows
        ),
    )


class _Walks:
    """What the ways through the functions of one side come to, for calls of one kind."""

    def __init__(self, side: _Side, kind: Kind, other: _Side) -> None:
        self.side = side
        self._kind = kind
        self._other = other
        self._known: dict[tuple[str, str], tuple[frozenset[int], ...]] = {}
        bodies = (body.events for body in side.bodies.values())
        self.signs = {e.sign for events in bodies for e in events if e.key in kind}

    def shown(self, bodies: Sequence[Body], sign: int) -> str:
        """Return what takes (1) or releases (-1) in a function, in the newest of its versions."""
        rows = (event for body in reversed(bodies) for event in body.events)
        found = (e.shown for e in rows if e.sign == sign and e.key in self._kind)
        return next(found, "in a function that it calls")

    def ways(self, body: Body) -> tuple[frozenset[int], ...]:
        """Return it of one function, with what it calls in these files, for each way out."""
        place = (body.path, body.name)
        if place in self._known:
            return self._known[place]
        self._known[place] = ()  # a function that calls itself
        mine = (event for event in body.events if event.key in self._kind)
        own: dict[int, tuple[int, ...]] = {event.at: (event.sign,) for event in mine}
        for at, name in body.calls:
            callee = self.side.callee(body, name)
            if callee is None or (at in own and name in self._other.named):
                continue  # it is not known, or its name says what it does
            found = sorted(set().union(*self.ways(callee)))
            place = (callee.path, callee.name)
            if self._other.row(place) == callee.row:
                found = found if len(found) == 1 else []  # it does that, and nothing else
            elif self._other.row(place):
                continue  # it is judged by itself
            own.pop(at, None)
            if any(found):
                own[at] = tuple(found)
        if own:
            self._known[body.path, body.name] = balances(body.row, own)
        return self._known[body.path, body.name]
