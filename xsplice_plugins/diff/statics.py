# SPDX-License-Identifier: Apache-2.0
"""Pair writable statics whose names the compiler numbered, by the code that uses them."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from itertools import pairwise
from typing import TYPE_CHECKING

from xsplice_plugins.diff.pairing import (
    CONSTANT_CLASSES,
    Ambiguity,
    Pairing,
    loose_key,
    unpaired_data,
)
from xsplice_plugins.diff.parts import EXTERNAL, Key, Part, PartKind, source_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.diff.normalise import ObjectParts


class _Side:
    """One object, and which of its functions and data refer to each datum."""

    def __init__(self, parts: ObjectParts) -> None:
        self.parts = parts
        self.users: dict[int, set[int]] = {}
        self.calls: dict[int, set[int]] = {}
        for part in list(parts.all):
            if part.kind not in (PartKind.FUNCTION, PartKind.DATA, PartKind.SNIPPET):
                continue
            user = parts.owner.get(part.number, part.number)
            for edge in parts.edges(part):
                if edge.part != EXTERNAL:
                    target = parts.owner.get(edge.part, edge.part)
                    self.users.setdefault(target, set()).add(user)
                    self.calls.setdefault(user, set()).add(target)


def pair_statics(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair writable statics whose names the compiler numbered, by the code that uses them."""
    olds = unpaired_data(old, pairing.new_of)
    news = unpaired_data(new, pairing.old_of)
    common = sorted(olds.keys() & news.keys())
    if not common:
        return
    before, after = _Side(old), _Side(new)
    for name in common:
        links = _links(olds[name], news[name], before, after, pairing)
        _pair_static_group(links, before, after, pairing)
        plain = name.removesuffix(".#").rsplit(".", 1)[-1]  # clang: `f.__warned`
        if plain in old.profile.once_flags:
            _pair_flags(links, old, new, pairing)
            continue
        rest_old = _left(olds[name], pairing.new_of)
        rest_new = _left(news[name], pairing.old_of)
        if rest_old and rest_new:
            pairing.ambiguous.append(
                Ambiguity(name=source_name(name.replace("#", "0")), old=rest_old, new=rest_new)
            )


def _pair_flags(
    links: set[tuple[int, int]], old: ObjectParts, new: ObjectParts, pairing: Pairing
) -> None:
    """Keep flags that print once: those of one text, then the rest, the same names first.

    One taken for another costs a message at most.
    """
    links = {(a, b) for a, b in links if not (a in pairing.new_of or b in pairing.old_of)}
    texts = _texts_of(old, {a for a, _ in links}), _texts_of(new, {b for _, b in links})
    said = {(a, b) for a, b in links if texts[0].get(a, {0}) == texts[1].get(b, {1})}
    _pair_unanimous(said, pairing)
    rows = [(old.all[a], new.all[b]) for a, b in links]
    for a, b in sorted(rows, key=lambda row: (row[0].name != row[1].name, row[0].number)):
        is_alike = (a.section_class, a.size_bytes) == (b.section_class, b.size_bytes)
        if is_alike and a.number not in pairing.new_of and b.number not in pairing.old_of:
            pairing.pair(a.number, b.number)


def _texts_of(parts: ObjectParts, flags: set[int]) -> dict[int, set[bytes]]:
    """Return the texts that code refers to just before or behind each flag."""
    found: dict[int, set[bytes]] = {}
    for part in list(parts.all):
        if part.kind is not PartKind.FUNCTION:
            continue
        leads = [edge.part for edge in parts.edges(part)]
        for one, other in [*pairwise(leads), *pairwise(reversed(leads))]:
            if one in flags and other != EXTERNAL and parts.all[other].kind is PartKind.STRING:
                found.setdefault(one, set()).add(parts.content(parts.all[other]))
    return found


def _left(group: list[Part], taken: dict[int, int]) -> tuple[int, ...]:
    """Return the unpaired members that have state; constants may come fresh at any time."""
    return tuple(
        p.number for p in group if p.number not in taken and p.section_class not in CONSTANT_CLASSES
    )


def _pair_static_group(
    links: set[tuple[int, int]], before: _Side, after: _Side, pairing: Pairing
) -> None:
    rest = links - set(_pair_unanimous(links, pairing))
    if rest:
        users = sorted({u for a, _ in rest for u in before.users.get(a, ())})
        olds, news = {a for a, _ in rest}, {b for _, b in rest}
        votes = _votes_by_position(before.parts, after.parts, olds, news, pairing, users)
        _pair_unanimous(votes, pairing)


def _pair_unanimous(votes: set[tuple[int, int]], pairing: Pairing) -> list[tuple[int, int]]:
    """Pair, and return, those for which every vote is the same."""
    left, right = Counter(a for a, _ in votes), Counter(b for _, b in votes)
    unique = [(a, b) for a, b in sorted(votes) if left[a] == right[b] == 1]
    for a, b in unique:
        pairing.pair(a, b)
    return unique


def _links(
    olds: list[Part], news: list[Part], before: _Side, after: _Side, pairing: Pairing
) -> set[tuple[int, int]]:
    """Return the pairs in which code that uses the one became code that uses the other."""
    is_constant = {p.number: p.section_class in CONSTANT_CLASSES for p in news}
    news_of: dict[int, list[int]] = {}
    for part in news:
        for user in after.users.get(part.number) or {EXTERNAL}:
            news_of.setdefault(user, []).append(part.number)
    result = set()
    for part in olds:
        heirs: set[int] = set()
        for user in before.users.get(part.number, ()):
            twin = pairing.new_of.get(user)
            if twin is None:
                # The user is gone: it may have been inlined where it was called.
                callers = before.users.get(user, ())
                heirs |= {pairing.new_of[c] for c in callers if c in pairing.new_of}
            else:
                heirs.add(twin)
                # What it calls and the baseline lacks may have been split off from it.
                calls = after.calls.get(twin, ())
                heirs |= {c for c in calls if c not in pairing.old_of}
        if part.number not in before.users:
            heirs.add(EXTERNAL)
        was_constant = part.section_class in CONSTANT_CLASSES
        for heir in heirs:
            for number in news_of.get(heir, ()):
                if is_constant[number] == was_constant:
                    result.add((part.number, number))
    return result


def _votes_by_position(
    old: ObjectParts,
    new: ObjectParts,
    olds: set[int],
    news: set[int],
    pairing: Pairing,
    users: list[int],
) -> set[tuple[int, int]]:
    """Return a vote for each reference to a static in code that both versions share."""
    votes: set[tuple[int, int]] = set()
    for function in users:
        twin = pairing.new_of.get(function)
        if twin is None or old.all[function].kind is not PartKind.FUNCTION:
            continue
        before = _references(old, old.all[function], olds)
        after = _references(new, new.all[twin], news)
        if all(n == EXTERNAL for _, n in before) or all(n == EXTERNAL for _, n in after):
            continue
        matcher = SequenceMatcher(a=[k for k, _ in before], b=[k for k, _ in after], autojunk=False)
        if len(before) != len(after) and _is_repetitive(k for k, n in before if n != EXTERNAL):
            continue
        for block in matcher.get_matching_blocks():
            for (_, a), (_, b) in zip(
                before[block.a : block.a + block.size],
                after[block.b : block.b + block.size],
                strict=True,
            ):
                if EXTERNAL not in (a, b):
                    votes.add((a, b))
    return votes


def _is_repetitive(keys: Iterable[Key]) -> bool:
    counts = Counter(keys)
    return any(n > 1 for n in counts.values())


def _references(parts: ObjectParts, part: Part, group: set[int]) -> list[tuple[Key, int]]:
    """Return a function's relocations in order: what each refers to, and which group member."""
    content = parts.content(part)
    result = []
    for edge in parts.edges(part):
        member = edge.part if edge.part in group else EXTERNAL
        # The opcode tells a load from a store and from another register.
        first, end = parts.profile.machine.opcode_window
        opcode = content[max(0, edge.offset + first) : edge.offset + end]
        result.append(((opcode, *loose_key(parts, edge)), member))
    return result
