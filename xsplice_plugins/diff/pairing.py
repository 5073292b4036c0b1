# SPDX-License-Identifier: Apache-2.0
"""The pairs of parts, and what can be compared of parts before they are paired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins.diff.parts import (
    EXTERNAL,
    Edge,
    Key,
    Part,
    PartKind,
    is_compiler_named,
    masked,
)
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xsplice_plugins.diff.normalise import ObjectParts

#: Data without state that a wrong pair could lose.
CONSTANT_CLASSES = (SectionClass.READ_ONLY, SectionClass.CONSTANTS, SectionClass.INIT)


class Ambiguity(Struct, frozen=True, kw_only=True):
    """Data of one name whose pairing nothing proves."""

    name: str
    old: tuple[int, ...]
    new: tuple[int, ...]


class Pairing(Struct, kw_only=True):
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


def named(parts: ObjectParts, kind: PartKind) -> list[Part]:
    """Return the parts of a kind that a symbol names."""
    return [p for p in parts.all if p.kind is kind and p.symbol is not None]


def loose_key(parts: ObjectParts, edge: Edge) -> Key:
    """Return what a relocation refers to without any pairing: names lose their numbers."""
    if edge.part == EXTERNAL:
        return ("symbol", edge.name, edge.at)
    part = parts.all[edge.part]
    if part.kind is PartKind.STRING:
        return ("string", parts.content(part)[edge.at :])
    if part.kind is PartKind.CONSTANT:
        return ("constant", parts.content(part), edge.at)
    if not part.is_local:
        return ("symbol", part.name, edge.at)
    return (part.kind.value, masked(part.name) or part.section_class.value, edge.at)


def loose_signature(parts: ObjectParts, part: Part) -> Key:
    """Return a part's content as far as it can be compared without a pairing."""
    edges = parts.edges(part)
    return (parts.content(part), tuple((e.offset, e.type, *loose_key(parts, e)) for e in edges))


def grouped(
    parts: Iterable[Part], key: Callable[[str], str] = lambda name: name
) -> dict[str, list[Part]]:
    """Return parts by what a function makes of their names."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(key(part.name), []).append(part)
    return groups


def unpaired_data(parts: ObjectParts, taken: dict[int, int]) -> dict[str, list[Part]]:
    """Return unpaired data whose names the compiler numbered, by name without numbers."""
    return grouped(
        (
            part
            for part in named(parts, PartKind.DATA)
            if part.number not in taken and part.is_local and is_compiler_named(part.name)
        ),
        masked,
    )
