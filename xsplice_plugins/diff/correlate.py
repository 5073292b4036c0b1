# SPDX-License-Identifier: Apache-2.0
"""Pair the parts of two versions of an object, each pair with its proof.

For functions any pairing is sound: a function counts as unchanged only if everything it refers to
is paired, so a poor pairing costs minimality, never truth. For data the pair decides which live
variable new code uses: where the compiler chose the name, the code that uses the datum must
prove the pair, and what stays open is reported as ambiguous.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from xsplice_plugins.diff.parts import (
    EXTERNAL,
    Edge,
    Kind,
    Part,
    is_compiler_named,
    masked,
    source_name,
)
from xsplice_plugins.diff.profiles import SectionClass

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from xsplice_plugins.diff.normalise import Parts

Key = tuple["Hashable", ...]

_DIGITS = re.compile(r"\d+")
_CONSTANT_CLASSES = (SectionClass.READ_ONLY, SectionClass.CONSTANTS, SectionClass.INIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguity:
    """Data of one name whose pairing nothing proves."""

    name: str
    old: tuple[int, ...]
    new: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Pairing:
    """Which part of the baseline is which part of the new object.

    Invariant: ``new_of`` and ``old_of`` are inverse to each other.
    """

    new_of: dict[int, int] = field(default_factory=dict)
    old_of: dict[int, int] = field(default_factory=dict)
    ambiguous: list[Ambiguity] = field(default_factory=list)

    def pair(self, old: int, new: int) -> None:
        """Record a pair."""
        assert old not in self.new_of, "a part is paired once"
        assert new not in self.old_of, "a part is paired once"
        self.new_of[old] = new
        self.old_of[new] = old


def correlate(old: Parts, new: Parts) -> Pairing:
    """Pair the functions and data of two versions of an object.

    Args:
        old: The baseline's parts.
        new: The new object's parts.

    Returns:
        The pairs, and the data that could not be paired for certain.
    """
    pairing = Pairing()
    _pair_source_names(old, new, pairing)
    _pair_clones(old, new, pairing)
    _pair_pieces(old, new, pairing)
    _pair_constant_data(old, new, pairing)
    _pair_init_data(old, new, pairing)
    _pair_statics(old, new, pairing)
    return pairing


def _named(parts: Parts, kind: Kind) -> list[Part]:
    return [p for p in parts.all if p.kind is kind and p.symbol is not None]


def _is_piece(parts: Parts, part: Part) -> bool:
    return parts.owner.get(part.number, part.number) != part.number


def _pair_source_names(old: Parts, new: Parts, pairing: Pairing) -> None:
    """Pair what the source names: equal names, each once per object."""
    for kind in (Kind.FUNCTION, Kind.DATA):
        sides = []
        for parts in (old, new):
            names: dict[str, list[int]] = {}
            for part in _named(parts, kind):
                is_numbered = is_compiler_named(part.name) and part.is_local
                if not (is_numbered or _is_line_named(part)):
                    names.setdefault(part.name, []).append(part.number)
            sides.append(names)
        olds, news = sides
        for name, numbers in olds.items():
            twins = news.get(name, [])
            if len(numbers) == len(twins) == 1:
                pairing.pair(numbers[0], twins[0])
            elif twins:
                pairing.ambiguous.append(Ambiguity(name=name, old=tuple(numbers), new=tuple(twins)))


def loose_key(parts: Parts, edge: Edge) -> Key:
    """Return what a relocation refers to without any pairing: names lose their numbers."""
    if edge.part == EXTERNAL:
        return ("symbol", edge.name, edge.at)
    part = parts.all[edge.part]
    if part.kind is Kind.STRING:
        return ("string", parts.content(part)[edge.at :])
    if part.kind is Kind.CONSTANT:
        return ("constant", parts.content(part), edge.at)
    if not part.is_local:
        return ("symbol", part.name, edge.at)
    return (part.kind.value, masked(part.name) or part.section_class.value, edge.at)


def loose_signature(parts: Parts, part: Part) -> Key:
    """Return a part's content as far as it can be compared without a pairing."""
    edges = parts.edges(part)
    return (
        parts.content(part),
        tuple((e.offset, e.type, *loose_key(parts, e)) for e in edges),
    )


def _pair_clones(old: Parts, new: Parts, pairing: Pairing) -> None:
    """Pair compiler-made functions: by equal content, then by name, then by order."""

    def left(
        parts: Parts, taken: dict[int, int], key: Callable[[str], str]
    ) -> dict[str, list[Part]]:
        groups: dict[str, list[Part]] = {}
        for part in _named(parts, Kind.FUNCTION):
            if part.number not in taken and part.is_local and not _is_piece(parts, part):
                groups.setdefault(key(part.name), []).append(part)
        return groups

    for key in (masked, source_name):
        olds = left(old, pairing.new_of, key)
        news = left(new, pairing.old_of, key)
        for name in sorted(olds.keys() & news.keys()):
            if key is source_name and not len(olds[name]) == len(news[name]) == 1:
                continue
            _pair_group(old, new, olds[name], news[name], pairing)


def _pair_group(
    old: Parts, new: Parts, olds: list[Part], news: list[Part], pairing: Pairing
) -> None:
    signatures: dict[Key, list[Part]] = {}
    for part in news:
        signatures.setdefault(loose_signature(new, part), []).append(part)
    for part in olds:
        same = signatures.get(loose_signature(old, part), [])
        if same:
            pairing.pair(part.number, same.pop(0).number)
    by_name = {p.name: p for p in news if p.number not in pairing.old_of}
    for part in olds:
        if part.number not in pairing.new_of and part.name in by_name:
            pairing.pair(part.number, by_name.pop(part.name).number)
    rest_old = [p for p in olds if p.number not in pairing.new_of]
    rest_new = [p for p in news if p.number not in pairing.old_of]
    for part, twin in zip(rest_old, rest_new, strict=False):
        pairing.pair(part.number, twin.number)


def _pair_pieces(old: Parts, new: Parts, pairing: Pairing) -> None:
    for number, pieces in old.pieces.items():
        twin = pairing.new_of.get(number)
        if twin is not None:
            for piece, other in zip(pieces[1:], new.pieces[twin][1:], strict=False):
                pairing.pair(piece, other)


def _unpaired_data(parts: Parts, taken: dict[int, int]) -> dict[str, list[Part]]:
    groups: dict[str, list[Part]] = {}
    for part in _named(parts, Kind.DATA):
        if part.number not in taken and part.is_local and is_compiler_named(part.name):
            groups.setdefault(masked(part.name), []).append(part)
    return groups


def _pair_constant_data(old: Parts, new: Parts, pairing: Pairing) -> None:
    """Pair read-only statics by content: they have no state that a wrong pair could lose."""
    olds = _unpaired_data(old, pairing.new_of)
    news = _unpaired_data(new, pairing.old_of)
    for name in sorted(olds.keys() & news.keys()):
        signatures: dict[Key, list[Part]] = {}
        for part in news[name]:
            if part.section_class in _CONSTANT_CLASSES:
                signatures.setdefault(loose_signature(new, part), []).append(part)
        for part in olds[name]:
            same = signatures.get(loose_signature(old, part), [])
            if part.section_class in _CONSTANT_CLASSES and same:
                exact = [p for p in same if p.name == part.name]
                chosen = (exact or same)[0]
                same.remove(chosen)
                pairing.pair(part.number, chosen.number)


# ------------------------------------------------------------------- statics


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


def _is_line_named(part: Part) -> bool:
    """Tell whether a source line may be part of the name, as in ``__setup_ign_704``."""
    return (
        part.section_class is SectionClass.INIT
        and part.kind is Kind.DATA
        and part.is_local
        and part.name[-1:].isdigit()
    )


def _pair_init_data(old: Parts, new: Parts, pairing: Pairing) -> None:
    """Pair boot-time data whose names may hold line numbers: by content, then by name."""

    def key(parts: Parts, part: Part) -> Key:
        content, edges = loose_signature(parts, part)
        assert isinstance(edges, tuple), "a signature is content and relocations"
        plain = tuple(
            (*e[:3], _DIGITS.sub("#", e[3]) if e[2] == Kind.DATA else e[3], *e[4:]) for e in edges
        )
        return (_DIGITS.sub("#", part.name), content, plain)

    groups: dict[Key, list[Part]] = {}
    for part in _named(new, Kind.DATA):
        if _is_line_named(part) and part.number not in pairing.old_of:
            groups.setdefault(key(new, part), []).append(part)
            groups.setdefault((part.name,), []).append(part)
    olds = [
        p for p in _named(old, Kind.DATA) if _is_line_named(p) and p.number not in pairing.new_of
    ]
    for keys in (lambda part: key(old, part), lambda part: (part.name,)):
        for part in olds:
            left = [p for p in groups.get(keys(part), []) if p.number not in pairing.old_of]
            if part.number not in pairing.new_of and left:
                pairing.pair(part.number, left[0].number)


def _pair_statics(old: Parts, new: Parts, pairing: Pairing) -> None:
    """Pair writable statics whose names the compiler numbered, by the code that uses them."""
    olds = _unpaired_data(old, pairing.new_of)
    news = _unpaired_data(new, pairing.old_of)
    common = sorted(olds.keys() & news.keys())
    if not common:
        return
    old_users, new_users = _Users(old), _Users(new)
    for name in common:
        _pair_static_group(old, new, olds[name], news[name], old_users, new_users, pairing)
        rest_old = tuple(p.number for p in olds[name] if p.number not in pairing.new_of)
        rest_new = tuple(p.number for p in news[name] if p.number not in pairing.old_of)
        flag = name.removesuffix(".#") in old.profile.once_flags
        if rest_old and rest_new and not flag:
            pairing.ambiguous.append(
                Ambiguity(name=source_name(name.replace("#", "0")), old=rest_old, new=rest_new)
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
    is_constant = {p.number: p.section_class in _CONSTANT_CLASSES for p in news}
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
        was_constant = part.section_class in _CONSTANT_CLASSES
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
        # The opcode bytes in front tell a load from a store and from another register.
        opcode = content[max(0, edge.offset - 3) : edge.offset]
        result.append(((opcode, *loose_key(parts, edge)), member))
    return result
