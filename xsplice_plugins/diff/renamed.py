# SPDX-License-Identifier: Apache-2.0
"""Pair what got another name: the code that uses it tells that it is the same.

A static variable that was renamed, or moved out of a function, keeps its state: new code must use
the image's variable. A renamed static function is the old one, and so are its static variables.
"""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import state_word
from xsplice_plugins.diff.pairing import loose_key, named
from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Edge, Key, Part, PartKind
from xsplice_plugins.elf.changed import Question
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.normalise import ObjectParts
    from xsplice_plugins.diff.pairing import Pairing
    from xsplice_plugins.target.sections import Profile

_STATE = (SectionClass.WRITABLE, SectionClass.RO_AFTER_INIT)
_KEPT = (*_STATE, SectionClass.PERCPU)
#: What `xsplice shadow` writes: the function that finds an object's shadow, and its variables.
_SHADOW = re.compile(r"xsplice_(\w+)_shadow")
_STORE = ("shadows", "reserve", "heads", "spare", "used", "lock")


def pair_renamed_functions(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair static functions of equal code, each the only one left on its side."""

    def left(parts: ObjectParts, taken: dict[int, int], is_new: bool) -> dict[Key, list[Part]]:
        groups: dict[Key, list[Part]] = {}
        for part in named(parts, PartKind.FUNCTION):
            is_owner = parts.owner.get(part.number) == part.number
            if part.number not in taken and part.is_local and is_owner:
                key = (part.section_class, parts.content(part), *_uses(parts, part, taken, is_new))
                groups.setdefault(key, []).append(part)
        return groups

    news = left(new, pairing.old_of, NEW)
    for key, olds in left(old, pairing.new_of, OLD).items():
        twins = news.get(key, [])
        if len(olds) == len(twins) == 1:
            pairing.pair(olds[0].number, twins[0].number)


def pair_renamed_data(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair variables that are alike and that the same code uses at the same places.

    Where code that uses one changes besides: if nothing else is like either, each function uses
    both as often, and one that is otherwise the same, byte for byte, uses them.
    """
    olds, news = _unpaired(old, pairing.new_of, _KEPT), _unpaired(new, pairing.old_of, _KEPT)
    if not olds or not news:
        return
    votes: Counter[tuple[int, int]] = Counter()
    total_old, total_new = _use_counts(old, olds), _use_counts(new, news)
    anchored: set[tuple[int, int]] = set()
    uses: list[tuple[Counter[int], Counter[int]]] = []
    for function in [p for p in named(old, PartKind.FUNCTION) if p.number in pairing.new_of]:
        twin = new.all[pairing.new_of[function.number]]
        before = references_to(old, function, olds, pairing.new_of, OLD)
        after = references_to(new, twin, news, pairing.old_of, NEW)
        matcher = SequenceMatcher(a=[k for k, _ in before], b=[k for k, _ in after], autojunk=False)
        for block in matcher.get_matching_blocks():
            for i in range(block.size):
                pair = (before[block.a + i][1], after[block.b + i][1])
                if EXTERNAL not in pair:
                    votes[pair] += 1
                    if block.size == len(before) == len(after):
                        anchored |= {pair} if old.content(function) == new.content(twin) else set()
        uses.append((Counter(n for _, n in before), Counter(n for _, n in after)))
    for (a, b), count in votes.items():
        is_only = sum(a == x or b == y for x, y in votes) == 1
        is_everywhere = count == total_old[a] == total_new[b] or (
            (a, b) in anchored
            and all(before[a] == after[b] for before, after in uses)
            and sum(before[a] for before, _ in uses) == total_old[a] == total_new[b]
            and _is_sole(old, a, olds)
            and _is_sole(new, b, news)
        )
        if is_only and is_everywhere and _are_alike(old, new, a, b):
            pairing.pair(a, b)


def _is_sole(parts: ObjectParts, number: int, group: set[int]) -> bool:
    """Tell whether no other member of a group has the same kind and size."""
    looks = [(parts.all[n].section_class, parts.all[n].size_bytes) for n in group]
    return looks.count((parts.all[number].section_class, parts.all[number].size_bytes)) == 1


def _stores(canon: Canon) -> set[str]:
    """Give the names of variables in which the store of new shadows is.

    What a shadow holds is a member, and asked about as one (``csource/brought.py``).
    """
    tags = {
        match[1]
        for part in named(canon.new, PartKind.FUNCTION)
        if (match := _SHADOW.fullmatch(part.name)) and part.number not in canon.pairing.old_of
    }
    return {f"xsplice_{tag}_{what}" for tag in tags for what in _STORE}


def lost_state(canon: Canon, taken: Iterable[int]) -> tuple[Question, ...]:
    """Say which variables' state may start again: a new one stands where an old one was used.

    One of the same size counts wherever it is used; one of another size, where code uses it that
    used the old one, or that is new itself.

    Args:
        canon: Both objects under their pairing.
        taken: Numbers of the parts of the new object that the payload brings.

    Returns:
        Questions, in the order of their words.
    """
    old, new, pairing = canon.old, canon.new, canon.pairing
    unpaired = _unpaired(old, pairing.new_of, _KEPT)
    both = {a: b for a, b in pairing.new_of.items() if _has_state(old.all[a], _KEPT)}
    before, after = _use_counts(old, set(both)), _use_counts(new, set(both.values()))
    idle = {a for a, b in both.items() if before[a] and not after[b]}
    result = set[Question]()
    for number in set(taken) & _unpaired(new, pairing.old_of):
        part = new.all[number]
        if not keeps_state(new.profile, part):
            continue
        for a in unpaired | idle:
            row = old.all[a]
            is_same = row.size_bytes == part.size_bytes
            if not keeps_state(new.profile, row) or not (is_same or _is_heir(canon, a, number)):
                continue
            size = " of the same size" if is_same else ""
            said = (
                f"state of `{row.name}` would start again: new `{part.name}`{size} is used where "
                "it is no longer"
            )
            result.add(Question(state_word(part.name), "", said))
    return tuple(sorted(result))


def new_state(canon: Canon, taken: Iterable[int]) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Say which new variables know nothing of what happened before.

    It is a question where a function uses a variable that lives on less than before, and uses the
    new one, or a new function does: the new one stands for it. Else it is a remark.

    Args:
        canon: Both objects under their pairing.
        taken: Numbers of the parts of the new object that the payload brings.

    Returns:
        Questions and remarks, for people, sorted.
    """
    old, new, pairing = canon.old, canon.new, canon.pairing
    kept = [a for a in pairing.new_of if keeps_state(new.profile, old.all[a])]
    before = _uses_by_function(old, set(kept))
    after = _uses_by_function(new, {pairing.new_of[a] for a in kept})
    moved: Counter[int] = Counter()  # uses that new functions have taken over, perhaps
    for (function, b), count in after.items():
        moved[b] += count if function not in pairing.old_of else 0
    less: dict[int, set[int]] = {}  # function: variables; both of the old object
    for (function, a), count in before.items():
        twin = pairing.new_of.get(function)
        b = pairing.new_of[a]
        if twin is not None and after[twin, b] + moved[b] < count:
            less.setdefault(function, set()).add(a)
    questions, remarks = set[Question](), set[str]()
    stores = _stores(canon)
    for number in set(taken) & _unpaired(new, pairing.old_of):
        part = new.all[number]
        if not keeps_state(new.profile, part) or not old.all or part.name in stores:
            continue
        said = (
            f"`{part.name}` is new: it starts at its first value, and what happened before is not "
            "in it"
        )
        users = _users(new, number)
        is_open = any(user not in pairing.old_of for user in users)
        heirs = less if is_open else {pairing.old_of[user] for user in users} & less.keys()
        texts = (
            f"{said}; `{old.all[function].name}` uses `{old.all[a].name}` less than before"
            for function in heirs
            for a in less[function]
        )
        questions |= {Question(state_word(part.name), "", text) for text in texts}
        remarks |= set() if heirs else {said}
    return tuple(sorted(questions)), tuple(sorted(remarks))


def _uses_by_function(parts: ObjectParts, group: set[int]) -> Counter[tuple[int, int]]:
    """Count how often each function refers to each member of a group."""
    return Counter(
        (parts.owner.get(part.number, part.number), edge.part)
        for part in list(parts.all)
        if part.section_class is not SectionClass.IGNORED
        for edge in parts.edges(part)
        if edge.part in group
    )


def keeps_state(profile: Profile, part: Part) -> bool:
    """Tell whether a part is a variable whose value matters: flags of once are said again."""
    is_known = _plain(part) in profile.once_flags or profile.counters.fullmatch(part.name)
    return _has_state(part, _KEPT) and not is_known


def _is_heir(canon: Canon, a: int, b: int) -> bool:
    """Tell whether code uses a new variable that used the old one, or that is new itself."""
    before, after = _users(canon.old, a), _users(canon.new, b)
    twins = canon.pairing.old_of
    return any(user not in twins or twins[user] in before for user in after)


def _users(parts: ObjectParts, number: int) -> set[int]:
    """Return the functions and data that refer to a part; a piece counts as its function."""
    return {
        parts.owner.get(part.number, part.number)
        for part in list(parts.all)
        if part.number != number
        and part.section_class is not SectionClass.IGNORED
        and any(edge.part == number for edge in parts.edges(part))
    }


def _plain(part: Part) -> str:
    return next((w for w in reversed(part.name.split(".")) if not w.isdigit()), part.name)


def _unpaired(
    parts: ObjectParts, taken: dict[int, int], classes: Collection[SectionClass] = _STATE
) -> set[int]:
    return {p.number for p in parts.all if p.number not in taken and _has_state(p, classes)}


def _has_state(part: Part, classes: Collection[SectionClass]) -> bool:
    return part.kind is PartKind.DATA and part.section_class in classes and part.symbol is not None


def _use_counts(parts: ObjectParts, group: set[int]) -> Counter[int]:
    """Count the relocations that lead to each member of a group."""
    return Counter(
        edge.part
        for part in list(parts.all)
        if part.section_class is not SectionClass.IGNORED
        for edge in parts.edges(part)
        if edge.part in group
    )


def _are_alike(old: ObjectParts, new: ObjectParts, a: int, b: int) -> bool:
    first, second = old.all[a], new.all[b]
    sections = (old.file.sections[first.section], new.file.sections[second.section])
    return (
        (first.section_class, first.size_bytes) == (second.section_class, second.size_bytes)
        and sections[0].align_bytes == sections[1].align_bytes
        and first.is_local
        and second.is_local
        and old.content(first) == new.content(second)
        and not old.edges(first)
        and not new.edges(second)
    )


def _uses(parts: ObjectParts, part: Part, taken: dict[int, int], is_new: bool) -> Key:
    """Return a function's relocations; what has no twin yet counts by its kind alone."""
    return tuple((e.offset, e.type, *_key(parts, e, taken, is_new)) for e in parts.edges(part))


def _key(parts: ObjectParts, edge: Edge, taken: dict[int, int], is_new: bool) -> Key:
    """Return what a relocation refers to: a pair by its new number, the rest without a name."""
    if edge.part in taken:
        return ("pair", edge.part if is_new else taken[edge.part], edge.at)
    if edge.part == EXTERNAL or not parts.all[edge.part].name:
        return loose_key(parts, edge)
    part = parts.all[edge.part]
    return ("unpaired", part.kind, part.section_class, edge.at)


def references_to(
    parts: ObjectParts, part: Part, group: set[int], taken: dict[int, int], is_new: bool
) -> list[tuple[Key, int]]:
    """Return a function's relocations in order, each with the member of a group it refers to."""
    content, (first, end) = parts.content(part), parts.profile.machine.opcode_window
    result = []
    for edge in parts.edges(part):
        opcode = content[max(0, edge.offset + first) : edge.offset + end]
        member = edge.part if edge.part in group else EXTERNAL
        result.append(((opcode, *_key(parts, edge, taken, is_new)), member))
    return result
