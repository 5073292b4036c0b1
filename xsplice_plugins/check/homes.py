# SPDX-License-Identifier: Apache-2.0
"""Where the image keeps the functions and variables that a new object names.

A name tells, and the baseline's place in the image, which settles names that several objects
share. What the compiler numbers (``count.3`` of a static in a function) may get another number in
the new object: there the functions that use it tell; among those that the same functions use, each
may be any of them, and order is the first guess. A static function that the compiler specialises
otherwise (``f`` became ``f.isra.0``) is the one of that stem, if there is one on each side: who
calls it is compared too.
A variable of the object's own that has another name, or left its function, may be the one that
the same code used as often, if nothing else is like either of them; or it is a new one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from xsplice_plugins.check.fields import has_anchors
from xsplice_plugins.check.memory import Image
from xsplice_plugins.check.objects import ObjectFile, Ref, Unit
from xsplice_plugins.check.placing import Placed
from xsplice_plugins.check.tables import layout_of
from xsplice_plugins.elf.types import STT_SECTION

_NUMBERED = re.compile(r"(.+?)\.(\d+)$")
#: A flag of Xen's `printk_once`; gcc numbers the name.
_FLAG = re.compile(r"(?:.*#)?once_\.\d+")
_SPECIALISED = re.compile(r"(?:\.(?:isra|constprop|part)\.\d+)+$")

Key = tuple[int, int]  #: section and start of a unit


def behind(obj: ObjectFile, ref: Ref, section: int) -> tuple[int, ...]:
    """Return what may have to be added to a relocation's addend to get the place it means."""
    return ref.kind.behind if obj.elf.sections[section].is_exec else (0,)


def meant(obj: ObjectFile, ref: Ref, section: int) -> list[Unit]:
    """Return the units that a relocation may mean, the likeliest first.

    In code a distance counts from the end of the instruction, which is not decoded here; so a
    reference by section may mean one of up to four neighbours.

    Args:
        obj: The object.
        ref: The relocation; its symbol is defined in the object, not in a merged section.
        section: The section that holds the relocation.
    """
    symbol = ref.symbol
    if symbol.type != STT_SECTION:
        return [obj.unit_at(symbol.shndx, symbol.value)]
    offsets = [symbol.value + ref.addend + more for more in behind(obj, ref, section)]
    size = obj.elf.sections[symbol.shndx].size_bytes
    units = {offset: obj.unit_at(symbol.shndx, offset) for offset in offsets}
    ranked = sorted(
        units, key=lambda at: (units[at].start != at, not 0 <= at < size, offsets.index(at))
    )
    return list(dict.fromkeys(units[offset] for offset in ranked))


@dataclass(kw_only=True, eq=False)
class Homes:
    """The image's places for one new object. Build it with `find_homes`."""

    image: Image
    by_unit: dict[Key, int] = field(default_factory=dict)
    #: names that the image has for units that the compiler specialised otherwise
    renamed: dict[Key, str] = field(default_factory=dict)
    #: what is static on one side and global on the other
    relinked: set[Key] = field(default_factory=set)
    #: places of numbered variables that no rule gave to one of the new object: by stem
    spare: dict[str, set[int]] = field(default_factory=dict)
    #: alignment, in bytes, of the section of the baseline that a place was filled from
    aligned: dict[int, int] = field(default_factory=dict)
    #: places that numbered variables share which the same functions use: each may be at any of them
    alike: dict[Key, frozenset[int]] = field(default_factory=dict)
    #: places of variables that may be one of the new object under its old name
    likely: dict[Key, int] = field(default_factory=dict)

    def of(self, unit: Unit) -> int | None:
        """Return where the image has what a unit is named after; ``None`` if it has not."""
        return self.by_unit.get((unit.section, unit.start))


def stem_of(name: str) -> str:
    """Return a name without the compiler's number."""
    match = _NUMBERED.match(name)
    return match[1] if match else ""


def is_flag(unit: Unit) -> bool:
    """Tell whether a variable lets a message be printed once: another one costs a message."""
    return _FLAG.fullmatch(unit.name) is not None


def _named_units(obj: ObjectFile) -> Iterator[Unit]:
    for row in obj.loaded:
        if not obj.is_merged(row.index):
            yield from (unit for unit in obj.units(row.index) if unit.name)


def users(obj: ObjectFile, *, is_wide: bool = False) -> dict[Key, set[str]]:
    """Map each unit to the names, without numbers, of the units that refer to it.

    Args:
        obj: The object.
        is_wide: Count every unit that a reference may mean, not the likeliest alone.
    """
    return {key: set(names) for key, names in _use_counts(obj, is_wide=is_wide).items()}


def _uses(obj: ObjectFile) -> Iterator[tuple[Unit, list[Unit]]]:
    """Give each reference within an object: who refers, and the units that may be meant."""
    for row in obj.loaded:
        for ref in obj.refs(row.index):
            if 0 < ref.symbol.shndx < len(obj.elf.sections) and not obj.is_merged(ref.symbol.shndx):
                yield obj.unit_at(row.index, ref.at), meant(obj, ref, row.index)


def _use_counts(obj: ObjectFile, *, is_wide: bool = False) -> dict[Key, Counter[str]]:
    """Count how often each unit is referred to by each function or datum."""
    result: dict[Key, Counter[str]] = {}
    for user, units in _uses(obj):
        name = user.name or obj.elf.sections[user.section].name
        for unit in units if is_wide else units[:1]:
            counts = result.setdefault((unit.section, unit.start), Counter())
            counts[stem_of(name) or name] += 1
    return result


def unreferenced(obj: ObjectFile) -> set[Key]:
    """Return the data that nothing in an object refers to, or nothing but each other.

    A reference counts for every unit that it may mean. Constants without a name, and entries of
    special sections, are left out: they are compared with the code that they belong to.
    """
    found = {
        (unit.section, unit.start)
        for row in obj.loaded
        if not (row.is_exec or obj.is_merged(row.index) or layout_of(obj.sizes, row.name))
        for unit in obj.units(row.index)
        if unit.name or not obj.is_constant(row.index)
    }
    before: dict[Key, set[Key]] = {}
    for user, units in _uses(obj):
        for key in {(unit.section, unit.start) for unit in units} & found:
            before.setdefault(key, set()).add((user.section, user.start))
    while True:
        used = {key for key in found if not before.get(key, set()) - {key} <= found}
        if has_anchors(obj.elf.machine):  # a variable may be reached from its neighbour
            used |= {key for key in found if key[0] in {section for section, _ in used}}
        if not used:
            return found
        found -= used


def _is_numbered(obj: ObjectFile, unit: Unit) -> bool:
    is_data = not obj.elf.sections[unit.section].is_exec
    return bool(is_data and unit.symbol and unit.symbol.is_local and stem_of(unit.name))


def homes_in(placed: Placed, number: int) -> Homes:
    """Return the places of one of the objects that were placed in an image."""
    found, obj, bases = Homes(image=placed.image), placed.objects[number], placed.bases[number]
    for unit in _named_units(obj):
        if unit.section in bases:
            found.by_unit[unit.section, unit.start] = bases[unit.section] + unit.start
    return found


def find_homes(image: Image, new: ObjectFile, baseline: ObjectFile | None, olds: Homes) -> Homes:
    """Find the image's places for a new object.

    Args:
        image: The image.
        new: The object compiled from the patched source.
        baseline: The object before; ``None`` for a new source file.
        olds: The baseline's places.
    """
    found = Homes(image=image)
    numbered = [unit for unit in _named_units(new) if baseline and _is_numbered(new, unit)]
    old: dict[str, int] = {}
    old_numbered: list[tuple[Unit, int]] = []
    old_data: list[tuple[Unit, int]] = []
    renamed: dict[str, str] = {}
    for unit in _named_units(baseline) if baseline else ():
        home = olds.of(unit)
        renamed[unit.name] = olds.renamed.get((unit.section, unit.start), "")
        if home is None or not baseline:
            continue
        found.aligned[home] = baseline.elf.sections[unit.section].align_bytes
        for symbol in baseline.named[unit.section]:
            if symbol.value == unit.start:
                old[symbol.decorated] = home
        if _is_numbered(baseline, unit):
            old_numbered.append((unit, home))
        if _is_own_data(baseline, unit):
            old_data.append((unit, home))
    if baseline is not None:
        _pair_relinked(found, new, baseline, olds)
    for unit in _named_units(new):
        if unit in numbered or (unit.section, unit.start) in found.relinked:
            continue
        home = old.get(unit.name)
        if home is None and (known := image.only(unit.name)):
            home = known.value
        if home is not None:
            found.by_unit[unit.section, unit.start] = home
        if renamed.get(unit.name):
            found.renamed[unit.section, unit.start] = renamed[unit.name]
    if baseline is not None:
        _pair_numbered(found, new, numbered, baseline, old_numbered)
        _pair_specialised(found, new, old)
        _pair_renamed(found, new, baseline, old_data)
    return found


def _pair_relinked(found: Homes, new: ObjectFile, baseline: ObjectFile, olds: Homes) -> None:
    """Pair what became global, or static, by its plain name: one of each object bears it."""
    before, after = (_by_plain_name(obj) for obj in (baseline, new))
    for name in before.keys() & after.keys():
        (was, *more), (unit, *others) = before[name], after[name]
        home = olds.of(was)
        if more or others or home is None or was.symbol is None or unit.symbol is None:
            continue
        is_code = [obj.elf.sections[u.section].is_exec
                   for obj, u in ((baseline, was), (new, unit))]  # fmt: skip
        if was.symbol.is_local != unit.symbol.is_local and is_code[0] == is_code[1]:
            key = unit.section, unit.start
            found.by_unit[key], found.renamed[key] = home, was.name
            found.relinked.add(key)


def _by_plain_name(obj: ObjectFile) -> dict[str, list[Unit]]:
    rows: dict[str, list[Unit]] = {}
    for unit in _named_units(obj):
        if unit.symbol is not None:
            rows.setdefault(unit.symbol.name, []).append(unit)
    return rows


def _is_own_data(obj: ObjectFile, unit: Unit) -> bool:
    """Tell whether a unit is a variable that no other object can name, and that lives on."""
    row = obj.elf.sections[unit.section]
    is_local = unit.symbol is not None and unit.symbol.is_local
    is_state = not row.is_exec and not obj.is_constant(unit.section)
    return is_local and is_state and not obj.is_boot_only(unit.section)


def _pair_renamed(
    found: Homes, new: ObjectFile, baseline: ObjectFile, olds: list[tuple[Unit, int]]
) -> None:
    """Pair variables that are left, where each is the only one like the other.

    Alike is what has the size and the kind of section, and a user in common. A pair has the same
    users, each as often, and the same first value.
    """
    taken = set(found.by_unit.values())
    fresh = [u for u in _named_units(new) if _is_own_data(new, u) and found.of(u) is None]
    stale = [row for row in olds if row[1] not in taken]
    if not fresh or not stale:
        return
    tables = _use_counts(new), _use_counts(baseline)
    rows = [_Look(new, unit, tables[0]) for unit in fresh]
    lefts = [_Look(baseline, unit, tables[1]) for unit, _ in stale]
    for unit, row in zip(fresh, rows, strict=True):
        alike = [n for n, left in enumerate(lefts) if left.is_like(row)]
        if len(alike) != 1 or sum(other.is_like(lefts[alike[0]]) for other in rows) != 1:
            continue
        if row.uses == lefts[alike[0]].uses and row.value == lefts[alike[0]].value is not None:
            found.likely[unit.section, unit.start] = stale[alike[0]][1]


class _Look:
    """What can be said of a variable without its name."""

    def __init__(self, obj: ObjectFile, unit: Unit, table: dict[Key, Counter[str]]) -> None:
        row, symbol = obj.elf.sections[unit.section], unit.symbol
        assert symbol is not None
        end = unit.start + (symbol.size_bytes or unit.end - unit.start)
        self.kind = (
            row.name.removesuffix("." + symbol.name),
            row.type,
            row.flags,
            row.align_bytes,
            end - unit.start,
        )
        self.uses = table.get((unit.section, unit.start), Counter())
        #: The first value; none if it holds addresses.
        has_refs = bool(obj.refs_in(unit.section, unit.start, end))
        self.value = None if has_refs else obj.content(unit.section, unit.start, end)

    def is_like(self, other: _Look) -> bool:
        """Tell whether one could be the other under a new name."""
        return self.kind == other.kind and not self.uses.keys().isdisjoint(other.uses)


def _pair_specialised(found: Homes, new: ObjectFile, old: dict[str, int]) -> None:
    """Pair static functions that are specialised otherwise, one of a stem on each side."""
    taken = set(found.by_unit.values())
    fresh: dict[str, list[Unit]] = {}
    stale: dict[str, list[str]] = {}
    for unit in _named_units(new):
        is_local = unit.symbol is not None and unit.symbol.is_local
        if is_local and new.elf.sections[unit.section].is_exec and found.of(unit) is None:
            fresh.setdefault(_SPECIALISED.sub("", unit.name), []).append(unit)
    for name, home in old.items():
        if home not in taken:
            stale.setdefault(_SPECIALISED.sub("", name), []).append(name)
    for stem, units in fresh.items():
        names = stale.get(stem, [])
        if len(units) == len(names) == 1:
            key = units[0].section, units[0].start
            found.by_unit[key], found.renamed[key] = old[names[0]], names[0]


def _pair_numbered(
    found: Homes,
    new: ObjectFile,
    news: list[Unit],
    baseline: ObjectFile,
    olds: list[tuple[Unit, int]],
) -> None:
    """Pair numbered variables: by who uses them, then by what is left; in order either way."""
    new_users, old_users, paired = users(new), users(baseline), news
    flags, others = ([u for u in units if is_flag(u)] for units in (news, [u for u, _ in olds]))
    if len(flags) != len(others):  # no reference to such a byte tells which of them it means
        news = [unit for unit in news if unit not in flags]

    def by_use(table: dict[Key, set[str]], unit: Unit) -> object:
        return stem_of(unit.name), frozenset(table.get((unit.section, unit.start), ()))

    def by_stem(_: dict[Key, set[str]], unit: Unit) -> object:
        return stem_of(unit.name)

    rules: tuple[Callable[[dict[Key, set[str]], Unit], object], ...] = (by_use, by_stem)
    for rule in rules:
        groups: dict[object, tuple[list[Unit], list[tuple[Unit, int]]]] = {}
        for unit in sorted(news, key=_order):
            groups.setdefault(rule(new_users, unit), ([], []))[0].append(unit)
        for row in sorted(olds, key=lambda row: _order(row[0])):
            groups.setdefault(rule(old_users, row[0]), ([], []))[1].append(row)
        for fresh, stale in groups.values():
            if len(fresh) == len(stale):
                for unit, (_, home) in zip(fresh, stale, strict=True):
                    found.by_unit[unit.section, unit.start] = home
                news = [unit for unit in news if unit not in fresh]
                olds = [row for row in olds if row not in stale]
    all_users = users(new, is_wide=True)
    likes: dict[object, list[Key]] = {}
    for unit in paired:
        key = unit.section, unit.start
        if key in found.by_unit:
            likes.setdefault(by_use(all_users, unit), []).append(key)
    for keys in likes.values():
        places = frozenset(found.by_unit[key] for key in keys)
        found.alike |= dict.fromkeys(keys if len(keys) > 1 else (), places)
    for unit, home in olds:
        found.spare.setdefault(stem_of(unit.name), set()).add(home)


def _order(unit: Unit) -> tuple[str, int]:
    match = _NUMBERED.match(unit.name)
    assert match
    return match[1], int(match[2])
