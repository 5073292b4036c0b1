# SPDX-License-Identifier: Apache-2.0
"""Pair the parts of two versions of an object, each pair with its proof.

For functions any pairing is sound: a function counts as unchanged only if everything it refers to
is paired, so a poor pairing costs minimality, never truth. For data the pair decides which live
variable new code uses: where the compiler chose the name, the code that uses the datum must
prove the pair, and what stays open is reported as ambiguous.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.diff.pairing import (
    CONSTANT_CLASSES,
    Ambiguity,
    Pairing,
    grouped,
    loose_signature,
    named,
    unpaired_data,
)
from xsplice_plugins.diff.parts import (
    Key,
    Part,
    PartKind,
    is_compiler_named,
    masked,
    source_name,
)
from xsplice_plugins.diff.renamed import pair_renamed_data, pair_renamed_functions
from xsplice_plugins.diff.statics import pair_statics
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from xsplice_plugins.diff.normalise import ObjectParts

_PROMOTED = ".llvm."  #: ThinLTO makes statics global; a hash of the module is their suffix
_DIGITS = re.compile(r"\d+")


def correlate(old: ObjectParts, new: ObjectParts) -> Pairing:
    """Return the pairs of two versions' functions and data, and what has no certain twin."""
    pairing = Pairing()
    _pair_source_names(old, new, pairing)
    _pair_clones(old, new, pairing)
    _pair_pieces(old, new, pairing)
    _pair_constant_data(old, new, pairing)
    _pair_init_data(old, new, pairing)
    pair_renamed_functions(old, new, pairing)
    pair_statics(old, new, pairing)
    pair_renamed_data(old, new, pairing)
    return pairing


def _is_piece(parts: ObjectParts, part: Part) -> bool:
    return parts.owner.get(part.number, part.number) != part.number


def _pair_source_names(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair what the source names: equal names, each once per object."""
    for kind in (PartKind.FUNCTION, PartKind.DATA):
        olds, news = (
            grouped(
                part
                for part in named(parts, kind)
                if not (is_compiler_named(part.name) and part.is_local) and not _is_line_named(part)
            )
            for parts in (old, new)
        )
        for name in sorted(olds.keys() & news.keys()):
            numbers, twins = ([p.number for p in side[name]] for side in (olds, news))
            if len(numbers) == len(twins) == 1:
                pairing.pair(numbers[0], twins[0])
            else:
                pairing.ambiguous.append(Ambiguity(name=name, old=tuple(numbers), new=tuple(twins)))


def _pair_clones(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair compiler-made functions: by equal content, then by name, then by order."""

    def left(parts: ObjectParts, taken: dict[int, int]) -> list[Part]:
        return [
            part
            for part in named(parts, PartKind.FUNCTION)
            if part.number not in taken
            and (part.is_local or _PROMOTED in part.name)
            and not _is_piece(parts, part)
        ]

    for key in (masked, source_name):
        olds = grouped(left(old, pairing.new_of), key)
        news = grouped(left(new, pairing.old_of), key)
        for name in sorted(olds.keys() & news.keys()):
            if key is masked or len(olds[name]) == len(news[name]) == 1:
                _pair_group(old, new, olds[name], news[name], pairing)


def _pair_equal(
    old: ObjectParts, new: ObjectParts, olds: list[Part], news: list[Part], pairing: Pairing
) -> None:
    """Pair by content; of several that are equal, one of the same name comes first."""
    signatures: dict[Key, list[Part]] = {}
    for part in news:
        signatures.setdefault(loose_signature(new, part), []).append(part)
    for part in olds:
        same = signatures.get(loose_signature(old, part), [])
        if same:
            twin = next((p for p in same if p.name == part.name), same[0])
            same.remove(twin)
            pairing.pair(part.number, twin.number)


def _pair_group(
    old: ObjectParts, new: ObjectParts, olds: list[Part], news: list[Part], pairing: Pairing
) -> None:
    _pair_equal(old, new, olds, news, pairing)
    by_name = {p.name: p for p in news if p.number not in pairing.old_of}
    for part in olds:
        if part.number not in pairing.new_of and part.name in by_name:
            pairing.pair(part.number, by_name.pop(part.name).number)
    rest_old = [p for p in olds if p.number not in pairing.new_of]
    rest_new = [p for p in news if p.number not in pairing.old_of]
    for part, twin in zip(rest_old, rest_new, strict=False):
        pairing.pair(part.number, twin.number)


def _pair_pieces(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    for number, pieces in old.pieces.items():
        twin = pairing.new_of.get(number)
        if twin is not None:
            for piece, other in zip(pieces[1:], new.pieces[twin][1:], strict=False):
                pairing.pair(piece, other)


def _pair_constant_data(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair read-only statics by content: they have no state that a wrong pair could lose."""
    olds = unpaired_data(old, pairing.new_of)
    news = unpaired_data(new, pairing.old_of)
    for name in sorted(olds.keys() & news.keys()):
        left, right = (
            [p for p in side[name] if p.section_class in CONSTANT_CLASSES] for side in (olds, news)
        )
        _pair_equal(old, new, left, right, pairing)


def _is_line_named(part: Part) -> bool:
    """Tell whether a source line may be part of the name, as in ``__setup_ign_704``."""
    return (
        part.section_class is SectionClass.INIT
        and part.kind is PartKind.DATA
        and part.is_local
        and part.name[-1:].isdigit()
    )


def _pair_init_data(old: ObjectParts, new: ObjectParts, pairing: Pairing) -> None:
    """Pair boot-time data whose names may hold line numbers: by content, then by name."""

    def key(parts: ObjectParts, part: Part) -> Key:
        content, edges = loose_signature(parts, part)
        assert isinstance(edges, tuple), "a signature is content and relocations"
        plain = tuple(
            (*e[:3], _DIGITS.sub("#", e[3]) if e[2] == PartKind.DATA else e[3], *e[4:])
            for e in edges
        )
        return (_DIGITS.sub("#", part.name), content, plain)

    groups: dict[Key, list[Part]] = {}
    for part in named(new, PartKind.DATA):
        if _is_line_named(part) and part.number not in pairing.old_of:
            groups.setdefault(key(new, part), []).append(part)
            groups.setdefault((part.name,), []).append(part)
    olds = [
        p for p in named(old, PartKind.DATA) if _is_line_named(p) and p.number not in pairing.new_of
    ]
    for keys in (lambda part: key(old, part), lambda part: (part.name,)):
        for part in olds:
            left = [p for p in groups.get(keys(part), []) if p.number not in pairing.old_of]
            if part.number not in pairing.new_of and left:
                pairing.pair(part.number, left[0].number)
