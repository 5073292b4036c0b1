# SPDX-License-Identifier: Apache-2.0
"""Pair writable statics whose names the compiler numbered, by the code that uses them."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from xsplice_plugins.diff.pairing import (
    CONSTANT_CLASSES,
    Ambiguity,
    Key,
    Pairing,
    loose_key,
    unpaired_data,
)
from xsplice_plugins.diff.parts import EXTERNAL, Kind, Part, source_name
from xsplice_plugins.elf.types import EM_AARCH64

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.diff.normalise import Parts


class _Users:
    """Which functions and data refer to each datum."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.of: dict[int, list[int]] = {}
        self.calls: dict[int, set[int]] = {}
        for part in list(parts.all):
            if part.kind not in (Kind.FUNCTION, Kind.DATA, Kind.SNIPPET):
                continue
            user = parts.owner.get(part.number, part.number)
            for edge in parts.edges(part):
                if edge.part != EXTERNAL:
                    target = parts.owner.get(edge.part, edge.part)
                    self.of.setdefault(target, []).append(user)
                    self.calls.setdefault(user, set()).add(target)

    def users(self, number: int) -> set[int]:
        return set(self.of.get(number, ()))


def pair_statics(old: Parts, new: Parts, pairing: Pairing) -> None:
    """Pair writable statics whose names the compiler numbered, by the code that uses them."""
    olds = unpaired_data(old, pairing.new_of)
    news = unpaired_data(new, pairing.old_of)
    common = sorted(olds.keys() & news.keys())
    if not common:
        return
    old_users, new_users = _Users(old), _Users(new)
    for name in common:
        _pair_static_group(old, new, olds[name], news[name], old_users, new_users, pairing)
        rest_old = _left(olds[name], pairing.new_of)
        rest_new = _left(news[name], pairing.old_of)
        plain = name.removesuffix(".#").rsplit(".", 1)[-1]  # clang: `f.__warned`
        flag = plain in old.profile.once_flags
        if rest_old and rest_new and not flag:
            pairing.ambiguous.append(
                Ambiguity(name=source_name(name.replace("#", "0")), old=rest_old, new=rest_new)
            )


def _left(group: list[Part], taken: dict[int, int]) -> tuple[int, ...]:
    """Return the unpaired members that have state; constants may come fresh at any time."""
    return tuple(
        p.number for p in group if p.number not in taken and p.section_class not in CONSTANT_CLASSES
    )


def _pair_static_group(
    old: Parts,
    new: Parts,
    olds: list[Part],
    news: list[Part],
    old_users: _Users,
    new_users: _Users,
    pairing: Pairing,
) -> None:
    links = _links(olds, news, old_users, new_users, pairing)
    left = Counter(a for a, _ in links)
    right = Counter(b for _, b in links)
    unique = [(a, b) for a, b in links if left[a] == right[b] == 1]
    for a, b in unique:
        pairing.pair(a, b)
    rest = sorted(links - set(unique))
    if rest:
        users = sorted({u for a, _ in rest for u in old_users.users(a)})
        _pair_by_position(old, new, {a for a, _ in rest}, {b for _, b in rest}, pairing, users)


def _links(
    olds: list[Part], news: list[Part], old_users: _Users, new_users: _Users, pairing: Pairing
) -> set[tuple[int, int]]:
    """Return the pairs in which code that uses the one became code that uses the other."""
    is_constant = {p.number: p.section_class in CONSTANT_CLASSES for p in news}
    news_of: dict[int, list[int]] = {}
    for part in news:
        for user in new_users.users(part.number) or {EXTERNAL}:
            news_of.setdefault(user, []).append(part.number)
    result = set()
    for part in olds:
        heirs: set[int] = set()
        for user in old_users.users(part.number):
            twin = pairing.new_of.get(user)
            if twin is None:
                # The user is gone: it may have been inlined where it was called.
                callers = old_users.users(user)
                heirs |= {pairing.new_of[c] for c in callers if c in pairing.new_of}
            else:
                heirs.add(twin)
                # What it calls and the baseline lacks may have been split off from it.
                calls = new_users.calls.get(twin, set())
                heirs |= {c for c in calls if c not in pairing.old_of}
        if not old_users.users(part.number):
            heirs.add(EXTERNAL)
        was_constant = part.section_class in CONSTANT_CLASSES
        for heir in heirs:
            for number in news_of.get(heir, ()):
                if is_constant[number] == was_constant:
                    result.add((part.number, number))
    return result


def _pair_by_position(
    old: Parts,
    new: Parts,
    olds: set[int],
    news: set[int],
    pairing: Pairing,
    users: list[int],
) -> None:
    """Pair same-named statics of one function by where its unchanged code refers to them.

    Every reference in code that both versions share votes; only unanimous 1:1 votes count.
    """
    votes: Counter[tuple[int, int]] = Counter()
    for function in users:
        twin = pairing.new_of.get(function)
        if twin is None or old.all[function].kind is not Kind.FUNCTION:
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
                    votes[a, b] += 1
    left: Counter[int] = Counter(a for a, _ in votes)
    right: Counter[int] = Counter(b for _, b in votes)
    for a, b in sorted(votes):
        if left[a] == right[b] == 1:
            pairing.pair(a, b)


def _is_repetitive(keys: Iterable[Key]) -> bool:
    counts = Counter(keys)
    return any(n > 1 for n in counts.values())


def _references(parts: Parts, part: Part, group: set[int]) -> list[tuple[Key, int]]:
    """Return a function's relocations in order: what each refers to, and which group member."""
    content = parts.content(part)
    result = []
    for edge in parts.edges(part):
        member = edge.part if edge.part in group else EXTERNAL
        # The opcode tells a load from a store and from another register. x86 has it in front of
        # the field; on arm64, where the address comes first, the neighbours tell the use.
        first, end = (-4, 8) if parts.file.machine == EM_AARCH64 else (-3, 0)
        opcode = content[max(0, edge.offset + first) : edge.offset + end]
        result.append(((opcode, *loose_key(parts, edge)), member))
    return result
