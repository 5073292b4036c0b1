# SPDX-License-Identifier: Apache-2.0
"""Is what the tree's objects hold what the image holds?

A linker puts each section of an object at one address and fills in the relocated fields. So the
image is the link of these objects if every section has one place in it where all bytes outside
relocated fields are equal and every field leads to where its symbol lies, and if what the linker
gathered is theirs to the last entry. Pieces of merged sections have no place of their own: they
are compared at the address that each field leads to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from msgspec.structs import replace

from xsplice_plugins.check.gathered import Span, blamed, unexplained
from xsplice_plugins.check.memory import Image
from xsplice_plugins.check.objects import read_object
from xsplice_plugins.check.owners import files_of, owners_of
from xsplice_plugins.check.placing import Placed, place_objects
from xsplice_plugins.check.results import ImageMatch, ObjectMatch
from xsplice_plugins.check.strangers import named_pieces, strangers
from xsplice_plugins.check.tables import Layout
from xsplice_plugins.check.unplaced import spoken_otherwise


def _object_match(placed: Placed, number: int) -> ObjectMatch:
    obj, bases = placed.objects[number], placed.bases[number]
    if bases:  # else the linker left it out
        known = {row.name for row in placed.wrong[number]}
        rows = spoken_otherwise(placed, number, known)
        placed.wrong[number] += {row.name: row for row in rows}.values()
    wrong = {row.name for row in placed.wrong[number]}
    matched, absent = [], []
    for row in obj.loaded:
        if obj.is_merged(row.index):
            continue
        names = [unit.name for unit in obj.units(row.index) if unit.name]
        if row.index in bases:
            matched += [name for name in names if name not in wrong]
        else:
            absent += names or [row.name]
    return ObjectMatch(
        object_path=obj.path,
        matched=tuple(matched),
        differs=tuple(placed.wrong[number]),
        absent=tuple(absent),
        ambiguous=tuple(placed.ambiguous[number]),
        is_optional=obj.path in placed.optional,
    )


def _spans(placed: Placed) -> list[Span]:
    """Return what the sections take of the image, sorted."""
    return sorted(
        Span(base, base + row.size_bytes, f"{obj.path}({row.name})", number, section)
        for number, (obj, bases) in enumerate(zip(placed.objects, placed.bases, strict=True))
        for section, base in bases.items()
        for row in (obj.elf.sections[section],)
        if row.size_bytes and row.is_alloc and not obj.is_merged(section)
    )


def _overlaps(spans: list[Span]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Say which sections claim the same bytes, and of which objects they are."""
    for one, other in pairwise(spans):
        if other.start < one.end:
            text = f"{one.title} and {other.title} would both lie at {other.start:#x}"
            yield text, (one.number, other.number)


def match_of(placed: Placed) -> ImageMatch:
    """Say how placed objects compare with their image."""
    for number, mismatch in blamed(placed, _spans(placed)):
        placed.wrong[number].append(mismatch)
    rows = [_object_match(placed, number) for number in range(len(placed.objects))]
    found = {name for row in rows for name in row.matched}
    # Of an archive the linker takes only what nobody else defines.
    for number, row in enumerate(rows):
        wrong = tuple(mismatch.name for mismatch in row.differs)
        if row.is_optional and wrong and not row.matched and found.issuperset(wrong):
            rows[number] = replace(row, differs=(), absent=row.absent + wrong)
            placed.bases[number].clear()
    return ImageMatch(
        objects=tuple(rows), overlaps=tuple(text for text, _ in _overlaps(_spans(placed)))
    )


def match_objects(
    image: Image,
    objects: Iterable[tuple[str, bytes]],
    sizes: Mapping[str, tuple[Layout, ...]],
    optional: frozenset[str] = frozenset(),
) -> ImageMatch:
    """Compare objects with the image that they are said to be linked into.

    Args:
        image: The linked hypervisor.
        objects: Path relative to the build root, and content, of each object.
        sizes: What the build's tables look like, from `tables.layouts`.
        optional: Paths of members of archives, of which the linker takes what is called.

    Returns:
        For every object what is equal, what differs, and what was not found. The answer for an
        object is surer the more of the other objects are given.

    Raises:
        ElfFormatError: One of the files is not an object.
        RelocationError: It has a relocation of an unknown type.
    """
    read = [read_object(path, data, sizes) for path, data in objects]
    placed = place_objects(image, read, optional)
    match = match_of(placed)
    spans = _spans(placed)
    linked = (obj for obj, bases in zip(read, placed.bases, strict=True) if bases)
    taken = [(span.start, span.end) for span in spans]
    taken += [span for obj in linked for span in named_pieces(image, obj)]
    unknown = list(strangers(image, sorted(taken)))
    differing = {mismatch.name: None for row in match.objects for mismatch in row.differs}
    names = set(differing)
    names.update(unknown, *(row.absent for row in match.objects))
    unknown += unexplained(image, spans, names)
    owners = owners_of(placed, spans, unknown) if unknown else ()
    owners += files_of(image, [name for name in differing if name not in unknown])
    for text, numbers in _overlaps(spans):
        owners += ((text, tuple(sorted({read[number].path for number in numbers}))),)
    return replace(match, strangers=tuple(unknown), owners=owners)
