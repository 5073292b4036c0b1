# SPDX-License-Identifier: Apache-2.0
"""Does a payload turn the image into what a full rebuild would run?

Every function of the new objects must be found in the patched hypervisor: at its record's new
address if the payload replaces it, else where the image has it. Variables must have the first
values that the image has; what the payload holds beyond the new objects must do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.base import match_of, place_objects
from xsplice_plugins.check.compare import Comparison, Side, is_root, names_of, own_size, title
from xsplice_plugins.check.homes import find_homes, users
from xsplice_plugins.check.memory import Image, load_payload
from xsplice_plugins.check.objects import ObjectFile, Unit, read_object
from xsplice_plugins.check.records import Record, read_records
from xsplice_plugins.check.results import CheckReport, NewObject
from xsplice_plugins.check.tables import SNIPPETS, layouts
from xsplice_plugins.elf.types import SHN_LORESERVE

_HOOKS = ".livepatch.hooks."


class _Report:
    """Collects what is found."""

    def __init__(self) -> None:
        self.differences: dict[tuple[str, str], None] = {}
        self.replaced = 0
        self.unchanged = 0

    def add(self, subject: str, text: str) -> None:
        self.differences[subject, text] = None


def check_payload(
    image: Image, payload: bytes, objects: Iterable[NewObject], facts: Facts
) -> CheckReport:
    """Say whether a payload turns the image into what a full rebuild would run.

    Args:
        image: The running hypervisor, read by `memory.read_image` with `tables.layouts` of the
            same facts.
        payload: The payload, signed or not.
        objects: Every object that the patch reaches; an object left out is taken as unchanged.
        facts: What the build's headers define.

    Raises:
        ElfFormatError: A file is not what it should be.
        RelocationError: A relocation is of an unknown type.
    """
    rows, report = list(objects), _Report()
    loaded = load_payload(payload, "payload", image)
    records = read_records(loaded, image, facts)
    check = Comparison(image, loaded, records)
    sides = _sides(image, rows, facts, check, report)
    for side, _ in sides:
        for name, symbol in side.obj.globals.items():
            if symbol.shndx < SHN_LORESERVE and side.obj.elf.sections[symbol.shndx].is_alloc:
                check.definers[name] = (side, side.obj.unit_at(symbol.shndx, symbol.value))
    done: set[Record] = set()
    for side, neutral in sides:
        done.update(_functions(check, report, side, neutral))
        _variables(check, report, side)
        _boot_only(check, side, neutral)
    _hooks(check, report, [side.obj.path for side, _ in sides], [side for side, _ in sides])
    _leftovers(check, report, done, records)
    return CheckReport(
        held=not report.differences,
        replaced=report.replaced,
        unchanged=report.unchanged,
        differences=tuple(report.differences),
        unchecked=tuple(check.notes),
    )


def _sides(
    image: Image, rows: list[NewObject], facts: Facts, check: Comparison, report: _Report
) -> list[tuple[Side, Side | None]]:
    """Read the objects, and find out where the image has what they name."""
    sizes = layouts(facts)
    olds = {row.path: read_object(row.path, row.baseline, sizes) for row in rows if row.baseline}
    placed = place_objects(image, list(olds.values()))
    numbers = {path: number for number, path in enumerate(olds)}
    for match in match_of(placed).objects:
        for mismatch in match.differs:
            report.add(match.object_path, f"before the patch it is not the image's: {mismatch}")
        for name in match.ambiguous:
            check.note(f"{name}: several places of the image are equally good")

    def side_of(path: str, data: bytes) -> Side:
        obj = read_object(path, data, sizes)
        known = placed if path in numbers else None
        return Side(obj=obj, homes=find_homes(image, obj, known, numbers.get(path, 0)))

    return [
        (side_of(row.path, row.new), side_of(row.path, row.neutral) if row.neutral else None)
        for row in rows
    ]


def _units(obj: ObjectFile, *, is_code: bool) -> Iterator[Unit]:
    for row in obj.loaded:
        if row.is_exec == is_code and not obj.is_merged(row.index) and row.name not in SNIPPETS:
            yield from obj.units(row.index)


def _in_image(check: Comparison, side: Side, neutral: Side | None, unit: Unit, home: int) -> str:
    """Compare a unit with the image: as it is, or else with its line numbers held still."""
    text = check.attempt(side, own_size(side.obj, unit), home)
    if text and neutral is not None:
        for twin in _units(neutral.obj, is_code=side.obj.elf.sections[unit.section].is_exec):
            if twin.name == unit.name and neutral.homes.of(twin) == home:
                return check.attempt(neutral, own_size(neutral.obj, twin), home) and text
    return text


def _functions(
    check: Comparison, report: _Report, side: Side, neutral: Side | None
) -> Iterator[Record]:
    """Compare each function of a new object; give the records that are its."""
    for unit in _units(side.obj, is_code=True):
        if not is_root(side.obj, unit):
            continue
        home, record = side.homes.of(unit), check.record_of(side, unit)
        if home is None:
            continue  # new; compared if something leads to it
        if record is not None:
            yield record
            text = _record(check, record, unit, home)
            text = text or check.attempt(side, own_size(side.obj, unit), record.new or 0)
            report.replaced += not text
            if len(side.obj.units(unit.section)) > 1:
                check.note(f"{unit.name}: distances to its neighbours in the section")
        else:
            text = _in_image(check, side, neutral, unit, home)
            report.unchanged += not text
            text = text and f"it is not replaced, and the image differs: {text}"
        if text:
            report.add(unit.name, text)


def _record(check: Comparison, record: Record, unit: Unit, home: int) -> str:
    """Compare a record's own members."""
    if record.new is None:
        return "its record has no replacement"
    sizes = {unit.end - unit.start, unit.symbol.size_bytes if unit.symbol else 0}
    if record.new_size not in sizes:
        return f"its record says {record.new_size} new bytes, the object has {max(sizes)}"
    olds = {symbol.size_bytes for symbol in check.image.homes.get(record.name, ())
            if symbol.value == home}  # fmt: skip
    if record.old_size not in olds:
        return f"its record says {record.old_size} old bytes, not the image's size"
    if record.expect and check.image.read(home, len(record.expect)) != record.expect:
        return "its record expects other bytes than the image has"
    return ""


def _variables(check: Comparison, report: _Report, side: Side) -> None:
    """Compare what other objects may see or a linker script gathers: data of the image."""
    obj, used = side.obj, users(side.obj)
    for unit in _units(obj, is_code=False):
        section, home = obj.elf.sections[unit.section], side.homes.of(unit)
        is_local = unit.symbol is None or unit.symbol.is_local
        is_constant = obj.is_constant(unit.section)
        if obj.is_boot_only(unit.section) or section.name.startswith(".livepatch"):
            continue
        if home is None:
            if is_local and not is_constant and (unit.section, unit.start) not in used:
                text = "it is new and nothing refers to it: a list made at link time lacks it"
                report.add(title(obj, unit), text)
        elif not (is_constant and is_local):
            assert unit.symbol is not None
            text = check.attempt(side, own_size(obj, unit), home)
            olds = {s.size_bytes for name in names_of(obj, unit)
                    for s in check.image.homes.get(name, ()) if s.value == home}  # fmt: skip
            if olds and unit.symbol.size_bytes not in olds:
                text = f"it has {unit.symbol.size_bytes} bytes, in the image {max(olds)}"
            if text:
                report.add(unit.name, f"its first value is not the image's: {text}")


def _boot_only(check: Comparison, side: Side, neutral: Side | None) -> None:
    """Note what runs at boot only and is not what the image holds."""
    for is_code in (True, False):
        for unit in _units(side.obj, is_code=is_code):
            home = side.homes.of(unit)
            if home is None or not side.obj.is_boot_only(unit.section):
                continue
            if _in_image(check, side, neutral, unit, home):
                check.note(f"{unit.name}: changed, and it is used at boot only")


def _hooks(check: Comparison, report: _Report, paths: list[str], sides: list[Side]) -> None:
    """Compare the sections of hooks."""
    wanted: dict[str, int] = {}
    for path, side in zip(paths, sides, strict=True):
        for row in side.obj.loaded:
            if not row.name.startswith(_HOOKS):
                continue
            wanted[row.name] = wanted.get(row.name, 0) + row.size_bytes
            unit = Unit(row.index, 0, row.size_bytes, row.name, None)
            areas = check.payload.section(row.name)
            places = [at for area in areas for at in range(area.start, area.end, 8)]
            if all(check.attempt(side, unit, at) for at in places):
                report.add(row.name, f"the payload has not the hook of {path}")
    for area in check.payload.areas:
        if area.name.startswith(_HOOKS) and wanted.get(area.name) != area.end - area.start:
            report.add(area.name, "the payload has another number of hooks than the new objects")


def _leftovers(
    check: Comparison, report: _Report, done: set[Record], records: list[Record]
) -> None:
    """Find what the payload does beyond the new objects."""
    for record in records:
        if record not in done:
            report.add(record.name, "the payload replaces it, and no new object has it there")
    if len(records) != len(set(check.records)):
        report.add("records", "a function is replaced twice")
    for table, spots in check.tables.items():
        for spot in spots:
            if ("entry", spot.start) not in check.seen:
                place = spot.start & 0xFFFFFFFF
                report.add(table, f"its entry at {place:#x} speaks of nothing that was compared")
    for text in check.overlaps():
        report.add("variables", text)
