# SPDX-License-Identifier: Apache-2.0
"""Ask whether variables have exchanged their names.

A variable keeps its name and, in memory, its value. If all code that used one uses another one now,
and the other way round, the sources may mean the same variables under exchanged names.
"""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, PartKind, is_compiler_named
from xsplice_plugins.diff.renamed import keeps_state, references_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.compare import Comparison

    Votes = dict[int, Counter[int]]


def exchanged_names(canon: Canon, comparison: Comparison) -> tuple[str, ...]:
    """Say which variables stand now where another one of them stood, all around.

    Args:
        canon: Both objects under their pairing.
        comparison: What differs.

    Returns:
        Sentences for people, sorted: one for each two or more that change places.
    """
    if not comparison.changed:
        return ()
    old, new, twins = canon.old, canon.new, canon.pairing.new_of
    group = {
        a: b
        for a, b in twins.items()
        if keeps_state(new.profile, old.all[a])
        and old.all[a].name == new.all[b].name
        and not is_compiler_named(old.all[a].name)
    }
    votes = _votes(canon, comparison, group)
    heirs = {}
    for a, counts in votes.items():
        b, most = max(counts.items(), key=lambda row: (row[1], -row[0]))
        is_same = old.all[a].size_bytes == old.all[b].size_bytes
        if b != a and most > counts[a] and is_same:
            heirs[a] = b
    rounds = {tuple(sorted(row)) for a in heirs if (row := _round(heirs, a))}
    return tuple(
        sorted(
            f"{', '.join(sorted(f'`{old.all[a].name}`' for a in row))} may have exchanged their "
            "names: where one of them was used, another one is now; in memory each keeps its value"
            for row in rounds
        )
    )


def _votes(canon: Canon, comparison: Comparison, group: dict[int, int]) -> Votes:
    """Count, for each variable of the old object, what stands where it was used; by old numbers."""
    votes: Votes = {a: Counter() for a in group}
    known = {b: a for a, b in group.items()}
    for number, change in comparison.changed.items():
        for a, b in _places(canon, change.old, number, group):
            votes[a][known[b]] += 1
    for part in list(canon.new.all):
        owner = canon.new.owner.get(part.number, part.number)
        is_user = part.kind in (PartKind.FUNCTION, PartKind.DATA)
        if is_user and owner in canon.pairing.old_of and owner not in comparison.changed:
            for edge in canon.new.edges(part):
                if edge.part in known:
                    votes[known[edge.part]][known[edge.part]] += 1
    return {a: counts for a, counts in votes.items() if counts}


def _places(canon: Canon, old: int, new: int, group: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Give what stands at the same place of a changed function, before and after."""
    twins = {a: b for a, b in canon.pairing.new_of.items() if a not in group}
    back = {b: a for a, b in twins.items()}
    sides = (
        (canon.old, old, set(group), twins, OLD),
        (canon.new, new, set(group.values()), back, NEW),
    )
    before, after = (
        [
            row
            for piece in parts.pieces.get(number, ())
            for row in references_to(parts, parts.all[piece], wanted, taken, side)
        ]
        for parts, number, wanted, taken, side in sides
    )
    matcher = SequenceMatcher(a=[k for k, _ in before], b=[k for k, _ in after], autojunk=False)
    for _, start, end, at, to in matcher.get_opcodes():
        if end - start == to - at:
            for (_, a), (_, b) in zip(before[start:end], after[at:to], strict=True):
                if EXTERNAL not in (a, b):
                    yield a, b


def _round(heirs: dict[int, int], first: int) -> list[int]:
    """Follow who stands in whose place; return all of a round that comes back to the first."""
    row = [first]
    while (following := heirs.get(row[-1], first)) not in row:
        row.append(following)
    return row if heirs.get(row[-1]) == first else []
