# SPDX-License-Identifier: Apache-2.0
"""Where do the sections of objects lie in an image?

A name of the image leads to a section, a section's fields lead to others. What no certain name
leads to is searched by its content, or by what a table's entry speaks of. A place counts if all
bytes outside relocated fields are equal there, and every field leads to where its symbol lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from xsplice_plugins.check.fields import ALL, Aim
from xsplice_plugins.check.memory import Image
from xsplice_plugins.check.objects import ObjectFile, Ref, Unit
from xsplice_plugins.check.results import Mismatch
from xsplice_plugins.check.tables import SNIPPETS, bounds
from xsplice_plugins.elf.types import SHN_ABS, SHN_UNDEF, STB_WEAK

_SHOWN = 8  #: bytes of a difference that a message shows
_PLACES_TRIED = 64  #: of content that repeats
_POINTER = 8  #: bytes


class _Check(NamedTuple):
    """What came of comparing a section at an address."""

    wrong: list[Mismatch]
    leads: list[tuple[int, int]]  #: sections with the address that a field gives them


@dataclass(kw_only=True, eq=False)
class Placed:
    """Objects with the places of their sections in an image."""

    image: Image
    objects: list[ObjectFile]
    bases: list[dict[int, int]] = field(default_factory=list)  #: per object: section -> address
    taken: set[int] = field(default_factory=set)  #: addresses at which a section starts
    wrong: list[list[Mismatch]] = field(default_factory=list)
    ambiguous: list[list[str]] = field(default_factory=list)
    optional: frozenset[str] = frozenset()  #: paths of objects that the linker may leave out

    def symbol_address(self, number: int, ref: Ref) -> int | None:
        """Return where a relocation's symbol lies; ``None`` while nobody knows."""
        symbol = ref.symbol
        if symbol.shndx == SHN_UNDEF:
            found = self.image.only(symbol.name)
            if found is None:
                return 0 if symbol.bind == STB_WEAK else None
            return found.value
        if symbol.shndx == SHN_ABS:
            return symbol.value
        base = self.bases[number].get(symbol.shndx)
        return None if base is None else base + symbol.value


def joined(aims: Iterable[tuple[Ref, Aim]]) -> Iterator[tuple[Ref, Aim]]:
    """Put together what several fields tell of one symbol + addend (page and offset in it)."""
    parts: dict[tuple[int, int], Aim] = {}
    late: list[tuple[Ref, Aim]] = []
    for ref, aim in aims:
        if aim.known == ALL:
            yield ref, aim
            continue
        key = (ref.symbol.number, ref.addend)
        old = parts.get(key, Aim(0, 0))
        parts[key] = Aim(old.value | aim.value & aim.known, old.known | aim.known)
        late.append((ref, aim))
    for ref, aim in late:
        both = parts[ref.symbol.number, ref.addend]
        yield ref, both if both.known == ALL and not (both.value ^ aim.value) & aim.known else aim


def _mismatch(
    unit: Unit, name: str, at: int, text: str, want: bytes = b"", have: bytes = b""
) -> Mismatch:
    return Mismatch(
        name=unit.name or name, offset=at - unit.start, want=want.hex(), have=have.hex(), text=text
    )


def _compare(placed: Placed, number: int, section: int, base: int) -> _Check:
    """Compare a section with the image at an address."""
    obj, image = placed.objects[number], placed.image
    found = _Check([], [])
    name = obj.elf.sections[section].name
    for unit in obj.units(section):
        wrong = compare_unit(placed, number, unit, base, found.leads)
        if wrong is not None:
            at, text, size = wrong
            want = obj.content(section, at, at + size)
            have = image.read(base + at, size) or b""
            found.wrong.append(_mismatch(unit, name, at, text, want, have))
        homes = image.homes.get(unit.name)
        if homes and not any(home.value == base + unit.start for home in homes):
            text = f"the image's symbol lies elsewhere, not at {base + unit.start:#x}"
            found.wrong.append(_mismatch(unit, name, unit.start, text))
    return found


def compare_unit(
    placed: Placed, number: int, unit: Unit, base: int, leads: list[tuple[int, int]]
) -> tuple[int, str, int] | None:
    """Return the first difference: offset in the section, text, bytes to show."""
    obj, image, section = placed.objects[number], placed.image, unit.section
    size = unit.end - unit.start
    have = image.read(base + unit.start, size)
    if have is None:
        return unit.start, "the image ends here", 0
    at = obj.first_difference(section, unit.start, unit.end, have)
    if at is not None:
        return unit.start + at, "other bytes", min(_SHOWN, size - at)
    aims = (
        (ref, aim)
        for ref in obj.refs_in(section, unit.start, unit.end)
        if (aim := image.aim(base + ref.at, ref))
    )
    for ref, aim in joined(aims):
        is_here = 0 < ref.symbol.shndx < SHN_ABS
        if is_here and _is_nowhere(obj, ref.symbol.shndx):
            return ref.at, "it leads to a section that no memory holds", 0
        if is_here and obj.is_merged(ref.symbol.shndx):
            more, want = obj.piece(ref, section)
            if aim.known != ALL:
                return ref.at, "it tells only a part of the address of a text or constant", 0
            if image.read(aim.value + more, len(want)) != want:
                return ref.at, f"it leads to another text or constant than {want[:40]!r}", 0
            continue
        address = placed.symbol_address(number, ref)
        if address is not None:
            if not aim.fits(address + ref.addend):
                what = ref.symbol.decorated or obj.elf.sections[ref.symbol.shndx].name
                return ref.at, f"it leads to another place than {what}{ref.addend:+#x}", 0
        elif ref.symbol.shndx == SHN_UNDEF:
            homes = image.homes.get(ref.symbol.name, ())
            if not any(aim.fits(home.value + ref.addend) for home in homes):
                return ref.at, f"the image has no symbol {ref.symbol.name} there", 0
        elif aim.known == ALL:
            leads.append((ref.symbol.shndx, (aim.value - ref.addend - ref.symbol.value) & ALL))
    return None


def _is_nowhere(obj: ObjectFile, section: int) -> bool:
    """Tell whether a section takes no memory, and has no name that the image could tell."""
    row = obj.elf.sections[section]
    return not row.is_alloc or not (row.size_bytes or section in obj.named or row.name in SNIPPETS)


def _put(placed: Placed, number: int, section: int, base: int) -> None:
    """Give a section its place, and those that its fields lead to theirs."""
    pending = [(section, base)]
    while pending:
        index, address = pending.pop()
        if index in placed.bases[number]:
            continue  # whoever leads elsewhere is found when all is placed
        obj = placed.objects[number]
        row = obj.elf.sections[index]
        address = _by_name(placed.image, obj, index, address)
        placed.bases[number][index] = address
        if row.size_bytes and row.is_alloc:
            placed.taken.add(address)
            pending += _compare(placed, number, index, address).leads


def _by_name(image: Image, obj: ObjectFile, section: int, address: int) -> int:
    """Return where a section's own certain name says it lies; without one, where somebody led.

    Who leads elsewhere is the one that differs then, not what it should lead to.
    """
    for symbol in obj.named.get(section, ()):
        home = image.only(symbol.decorated)
        if home is not None and symbol.bind != STB_WEAK:
            return home.value - symbol.value
    return address


def _candidates(placed: Placed, number: int, section: int) -> list[int]:
    """Return the places at which a section may lie."""
    obj, image = placed.objects[number], placed.image
    row = obj.elf.sections[section]
    by_name = [
        {home.value - symbol.value for home in homes}
        for symbol in obj.named.get(section, ())
        if (homes := image.homes.get(symbol.decorated))
    ]
    if by_name:
        return sorted(set.intersection(*by_name) or set.union(*by_name))
    if bounds(row.name)[1] and obj.refs(section):
        first = obj.refs(section)[0]
        address = placed.symbol_address(number, first)
        key = None if address is None else (address + first.addend) & 0xFFFFFFFF
        return [] if key is None else image.keys(row.name).get(key, [])
    return _by_content(placed, number, section)


def _first_pointer(placed: Placed, number: int, section: int) -> tuple[int, bytes]:
    """Return offset and value of the first whole address whose symbol's place is known."""
    for ref in placed.objects[number].refs(section):
        address = placed.symbol_address(number, ref)
        if address and ref.kind.size_bytes == _POINTER and not ref.kind.is_relative:
            return ref.at, (address + ref.addend & ALL).to_bytes(_POINTER, "little")
    return 0, b""


def _by_content(placed: Placed, number: int, section: int) -> list[int]:
    """Search the longest stretch without relocated fields, or an address that is known."""
    obj, image = placed.objects[number], placed.image
    row = obj.elf.sections[section]
    fields = [(ref.at, ref.at + ref.kind.size_bytes) for ref in obj.refs(section)]
    edges = [0, *chain.from_iterable(fields), row.size_bytes]
    spans = zip(edges[::2], edges[1::2], strict=True)
    start, end = max(spans, key=lambda span: span[1] - span[0])
    text = row.data[start:end]
    found: list[int] = []
    if not text.strip(b"\0") or len(text) < _SHOWN:
        start, text = _first_pointer(placed, number, section)
    if not text:
        return found
    for area in image.areas:
        at = area.data.find(text)
        while at >= 0 and len(found) < _PLACES_TRIED:
            found.append(area.start + at - start)
            at = area.data.find(text, at + 1)
    return found


def _place_rest(placed: Placed, left_out: set[str]) -> None:
    """Place what no certain name leads to: same-named statics, tables, sections without names."""
    left = [
        (number, row.index)
        for number, obj in enumerate(placed.objects)
        if obj.path not in left_out
        for row in obj.loaded
        if not obj.is_merged(row.index)
    ]
    is_certain = True
    while left:
        progress = False
        for number, section in left:
            if section in placed.bases[number]:
                continue
            good = [
                base
                for base in _candidates(placed, number, section)
                if base not in placed.taken and not _compare(placed, number, section, base).wrong
            ]
            if good and (len(good) == 1 or not is_certain):
                if len(good) > 1:
                    obj = placed.objects[number]
                    names = [u.name for u in obj.units(section) if u.name]
                    placed.ambiguous[number] += names or [obj.elf.sections[section].name]
                _put(placed, number, section, good[0])
                progress = True
                if not is_certain:
                    break
        left = [(n, s) for n, s in left if s not in placed.bases[n]]
        if not progress and not is_certain:
            return
        is_certain = progress


def _is_left_out(image: Image, obj: ObjectFile) -> bool:
    """Tell whether the image knows no name for which the linker takes a member of an archive."""
    names = list(obj.globals.values()) or [s for symbols in obj.named.values() for s in symbols]
    return not any(symbol.decorated in image.homes for symbol in names)


def place_objects(
    image: Image, objects: list[ObjectFile], optional: frozenset[str] = frozenset()
) -> Placed:
    """Find the place of every section of some objects in an image.

    Args:
        image: The linked hypervisor.
        objects: Objects that it is said to be linked from.
        optional: Paths of those that the linker may leave out: members of archives.
    """
    placed = Placed(
        image=image,
        objects=objects,
        bases=[{} for _ in objects],
        wrong=[[] for _ in objects],
        ambiguous=[[] for _ in objects],
        optional=optional,
    )
    left_out = {obj.path for obj in objects if obj.path in optional and _is_left_out(image, obj)}
    for number, obj in enumerate(objects):
        if obj.path in left_out:
            continue
        for section, symbols in obj.named.items():
            if not obj.elf.sections[section].is_alloc or obj.is_merged(section):
                continue
            for symbol in symbols:
                home = image.only(symbol.decorated)
                if home is not None and symbol.bind != STB_WEAK:
                    _put(placed, number, section, home.value - symbol.value)
                    break
    _place_rest(placed, left_out)
    for number, obj in enumerate(objects):
        for row in obj.loaded:
            base = placed.bases[number].get(row.index)
            if base is not None:
                check = _compare(placed, number, row.index, base)
                placed.wrong[number] += check.wrong
                placed.wrong[number] += _sizes(image, obj, row.index, base)
        if obj.path not in left_out:
            placed.wrong[number] += _numbers(image, obj)
    return placed


def _sizes(image: Image, obj: ObjectFile, section: int, base: int) -> Iterator[Mismatch]:
    """Compare how long things are by the symbols of both sides: content need not tell."""
    for symbol in obj.named.get(section, ()):
        at = base + symbol.value
        sizes = {h.size_bytes for h in image.homes.get(symbol.decorated, ()) if h.value == at}
        if sizes and symbol.size_bytes not in sizes:
            text = f"it has {symbol.size_bytes} bytes, in the image {max(sizes)}"
            yield _mismatch(obj.unit_at(section, symbol.value), symbol.name, symbol.value, text)


def _numbers(image: Image, obj: ObjectFile) -> Iterator[Mismatch]:
    """Compare the names that stand for a number, not for a place."""
    for name, symbol in obj.globals.items():
        homes = image.homes.get(name) if symbol.shndx == SHN_ABS else None
        if homes and not any(home.value == symbol.value for home in homes):
            text = f"it stands for {symbol.value:#x}, in the image for {homes[0].value:#x}"
            yield Mismatch(name=name, offset=0, want="", have="", text=text)
