# SPDX-License-Identifier: Apache-2.0
"""Does a payload turn the image into what a full rebuild would run?

Every function of the new objects must be found in the patched hypervisor: at its record's new
address if the payload replaces it, else where the image has it. Variables must have the first
values that the image has; what the payload holds beyond the new objects must do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.base import match_of
from xsplice_plugins.check.compare import Comparison
from xsplice_plugins.check.homes import Homes, find_homes, homes_in, unreferenced
from xsplice_plugins.check.hooks import left_of, slots_of
from xsplice_plugins.check.lists import other_entries
from xsplice_plugins.check.memory import Image, load_payload
from xsplice_plugins.check.objects import ObjectFile, Unit, read_object
from xsplice_plugins.check.placing import place_objects
from xsplice_plugins.check.records import Record, read_records
from xsplice_plugins.check.results import Beneath, CheckReport, NewObject
from xsplice_plugins.check.sides import (
    Side,
    all_units,
    is_root,
    names_of,
    own_size,
    title,
    units_of,
)
from xsplice_plugins.check.stack import Layers, Running, apply_payloads
from xsplice_plugins.elf.types import SHN_LORESERVE, SHN_UNDEF, STT_FUNC, STT_OBJECT


class _Report:
    """Collects what is found."""

    def __init__(self) -> None:
        self.differences: dict[tuple[str, str], None] = {}
        self.notes: dict[str, None] = {}
        self.beneath: dict[tuple[str, str], None] = {}
        self.unseen: list[tuple[str, str]] = []
        self.stale: dict[tuple[str, str], None] = {}
        self.ambiguous: dict[str, None] = {}
        self.placed = 0
        self.boot_only: dict[str, None] = {}
        self.replaced = 0
        self.unchanged = 0
        self.copied: set[str] = set()  # tables that payloads beneath have brought again

    def add(self, subject: str, text: str) -> None:
        self.differences[subject, text] = None


#: What compilers put data into; behind it there may be the datum's own name.
_PLAIN = (".data", ".bss", ".rodata", ".data.rel", ".data.rel.local", ".data.rel.ro",
          ".data.rel.ro.local")  # fmt: skip

#: A new object, or a baseline, with its twins: as it is, but lines are others.
_Sides = list[tuple[Side, list[Side]]]


def check_payload(
    image: Image,
    payload: bytes,
    objects: Iterable[NewObject],
    facts: Facts,
    beneath: Iterable[Beneath] = (),
) -> CheckReport:
    """Say whether a payload turns the running hypervisor into what a full rebuild would run.

    Args:
        image: The hypervisor, read by `memory.read_image` with `tables.layouts` of the same facts.
        payload: The payload, signed or not.
        objects: Every object that the patch reaches; an object left out is taken as unchanged.
        facts: What the build's headers define.
        beneath: Payloads that are applied before it, bottom first. What they turn the image into
            must be what the baselines say.

    Raises:
        ElfFormatError: A file is not what it should be.
        RelocationError: A relocation is of an unknown type.
    """
    rows, report, lower = list(objects), _Report(), list(beneath)
    running = apply_payloads(image, lower, facts) if lower else image
    olds = _baselines(image, running, rows, report)
    loaded = load_payload(payload, "the payload", running)
    records = read_records(loaded, running, facts)
    check = Comparison(running, loaded, records, report.copied)
    sides: _Sides = []
    for row in rows:
        old = olds.get(row.path)
        twins = [data for data in (row.neutral, *row.stills) if data]
        new, *others = (_side(running, row.path, data, old) for data in (row.new, *twins))
        sides.append((new, others))
    done = _compare(check, report, sides)
    for side, _ in sides:
        if side.obj.path in olds:
            for name, text in other_entries(olds[side.obj.path], side):
                report.add(name, text)
    _hooks(check, report, [side for side, _ in sides])
    _leftovers(check, report, done, records)
    report.notes |= dict.fromkeys(check.notes)
    return CheckReport(
        held=not (report.differences or report.beneath or report.stale),
        replaced=report.replaced,
        unchanged=report.unchanged,
        differences=tuple(report.differences),
        unchecked=tuple(report.notes),
        beneath=tuple(report.beneath),
        unseen=tuple(report.unseen),
        placed=report.placed,
        stale=tuple(report.stale),
        ambiguous=tuple(report.ambiguous),
        boot_only=tuple(report.boot_only),
    )


def _side(running: Image, path: str, data: bytes, old: Side | None) -> Side:
    """Read an object, and find what it names where the object before it has it."""
    obj = read_object(path, data, running.sizes, running.homes)
    if old is None:
        return Side(obj=obj, homes=find_homes(running, obj, None, Homes(image=running)))
    return Side(obj=obj, homes=find_homes(running, obj, old.obj, old.homes))


def _compare(check: Comparison, report: _Report, sides: _Sides) -> set[Record]:
    """Compare all functions and variables of some objects; return the records that are theirs."""
    wanted: set[str] = set()  # names of other objects
    for side, _ in sides:
        wanted |= {s.name for s in side.obj.elf.symbols if s.shndx == SHN_UNDEF}
        for name, symbol in side.obj.globals.items():
            if symbol.shndx < SHN_LORESERVE and side.obj.elf.sections[symbol.shndx].is_alloc:
                check.definers[name] = (side, side.obj.unit_at(symbol.shndx, symbol.value))
    _relinked(report, [side for side, _ in sides])
    done: set[Record] = set()
    for side, twins in sides:
        _named(check, report, side)
        done.update(_functions(check, report, side, twins))
        _variables(check, report, side, wanted)
        report.boot_only |= dict.fromkeys(_boot_only(check, side, twins))
        check.ask_restarted(side)
    return done


def _baselines(
    image: Image, running: Image, rows: list[NewObject], report: _Report
) -> dict[str, Side]:
    """Hold what lies beneath the fix against the baselines: the image, and payloads on it.

    Returns:
        The baselines with their places, by path.
    """
    is_stacked = isinstance(running, Running)
    plain = {
        row.path: read_object(row.path, data, image.sizes, image.homes)
        for row in rows
        if (data := row.plain or row.baseline)
    }
    placed = place_objects(image, list(plain.values()))
    known = {path: homes_in(placed, number) for number, path in enumerate(plain)}
    trees_own = {row.path for row in rows if row.plain or not is_stacked}
    for match in match_of(placed).objects:
        if match.object_path in trees_own:
            report.placed += len(match.matched)
            for mismatch in match.differs:
                text = f"before the patch it is not the image's: {mismatch}"
                report.stale[match.object_path, text] = None
            for name in match.ambiguous:
                report.ambiguous[f"{name}: several places of the image are equally good"] = None
    if not isinstance(running, Running):
        return {path: Side(obj=plain[path], homes=known[path]) for path in plain}
    sides: _Sides = []
    for row in rows:
        if row.baseline:
            own = Side(obj=plain[row.path], homes=known[row.path])
            before = (row.baseline, *row.baseline_stills)
            old, *twins = (_side(running, row.path, data, own) for data in before)
            sides.append((old, twins))
    check = Comparison(running, running.beneath, list(running.replaced.values()))
    lower = _Report()
    done = _compare(check, lower, sides)
    for side, _ in sides:
        for unit in units_of(side.obj, is_code=False):
            addr = check.brought(side.obj, unit)
            if addr is not None:
                side.homes.by_unit[unit.section, unit.start] = addr
    for text in check.overlaps():
        lower.add("variables", text)
    report.copied = check.brought_again()
    report.notes |= dict.fromkeys(check.notes)
    report.unseen = [running.title(row) for row in running.replaced.values() if row not in done]
    wanted = slots_of(side for side, _ in sides)
    left = left_of(check, wanted, running.beneath.areas)
    report.unseen += [(running.at(at).words, name) for name, at in left]
    for side, unit in wanted:
        lower.add(unit.name, f"no payload beneath has the hook of {side.obj.path}")
    report.beneath = lower.differences
    return {side.obj.path: side for side, _ in sides}


def _as_is(
    check: Comparison, side: Side, twins: list[Side], unit: Unit, addr: int | None = None
) -> str:
    """Compare a unit with what lies at an address: as it is, or else with other lines.

    Without an address it is what runs in its place without the payload.
    """
    home = side.homes.of(unit)
    if addr is None:
        assert home is not None
        addr = check.image.body(home)
    text = check.attempt(side, own_size(side.obj, unit), addr)
    is_code = side.obj.elf.sections[unit.section].is_exec
    for twin in twins if text else ():
        for same in units_of(twin.obj, is_code=is_code):
            if same.name == unit.name and twin.homes.of(same) == home:
                if not check.attempt(twin, own_size(twin.obj, same), addr):
                    return ""
                break
    return text


def _functions(
    check: Comparison, report: _Report, side: Side, twins: list[Side]
) -> Iterator[Record]:
    """Compare each function of a new object; give the records that are its."""
    by_hand = check.image.by_hand if isinstance(check.image, Running) else {}
    for unit in units_of(side.obj, is_code=True):
        if not is_root(side.obj, unit):
            continue
        home, record = side.homes.of(unit), check.record_of(side, unit)
        if home is None:  # new: what nothing leads to is found by its name
            addr = None if unit.symbol is None else check.payload.exported(unit.symbol.name)
            text = "" if addr is None else _as_is(check, side, twins, unit, addr)
        elif record is not None:
            yield record
            others = twins if isinstance(check.payload, Layers) else []
            text = _record(check, record, unit, home)
            text = text or _as_is(check, side, others, unit, record.new)
            report.replaced += not text
            if len(side.obj.units(unit.section)) > 1:
                check.note(f"{unit.name}: distances to its neighbours in the section")
        else:
            text = _as_is(check, side, twins, unit)
            report.unchanged += not text
            where = check.image.at(check.image.body(home)).words
            text = text and f"it is not replaced, and {where} differs: {text}"
            if home in by_hand:
                check.note(f"{unit.name}: replaced by {by_hand[home]}, which is hand-written")
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
    if isinstance(check.payload, Layers):
        return ""  # what it expects lay there before the others came
    if record.expect and isinstance(check.image, Running) and check.image.is_jump(home):
        return "its record expects certain bytes where a payload beneath has put a jump"
    have = check.image.at(home).stored(home, len(record.expect))
    if record.expect and have != record.expect:
        return "its record expects other bytes than the image has"
    return ""


def _named(check: Comparison, report: _Report, side: Side) -> None:
    """Find names that others use, and that lead elsewhere than in the image.

    A function may have several names. One that becomes another name of a second function, or that
    gets a body of its own, is asked for by objects that are not compared.
    """
    obj, sharing = side.obj, dict[int, dict[Unit, str]]()
    for name, symbol in obj.globals.items():
        is_thing = symbol.type in (STT_FUNC, STT_OBJECT) and symbol.shndx < SHN_LORESERVE
        if not is_thing or obj.is_boot_only(symbol.shndx):
            continue
        unit = obj.unit_at(symbol.shndx, symbol.value)
        home, known = side.homes.of(unit), check.image.homes.get(symbol.decorated, ())
        if home is None or symbol.value != unit.start or not known:
            continue
        if all(row.value != home for row in known):
            text = f"it is another name of {unit.name} now, and the image has something else there"
            report.add(name, text)
        sharing.setdefault(home, {})[unit] = name
    for units in sharing.values():
        if len(units) > 1 and any(check.record_of(side, unit) for unit in units):
            first, *others = sorted(units.values())
            report.add(first, f"in the image it is one with {', '.join(others)}, and is not now")


def _relinked(report: _Report, sides: list[Side]) -> None:
    """Find what became static or global where another object defines something in its place."""
    for side in sides:
        places = {side.homes.by_unit[key] for key in side.homes.relinked}
        for other in sides if places else ():
            for unit in all_units(other.obj):
                if other is not side and other.homes.of(unit) in places:
                    report.add(unit.name, f"{side.obj.path} has it too, static on one side alone")


def _variables(check: Comparison, report: _Report, side: Side, wanted: set[str]) -> None:
    """Compare what other objects may see or a linker script gathers: data of the image."""
    obj, listed = side.obj, unreferenced(side.obj)
    for unit in units_of(obj, is_code=False):
        section, home = obj.elf.sections[unit.section], check.home_of(side, unit)
        is_local = unit.symbol is None or unit.symbol.is_local
        is_constant = obj.is_constant(unit.section)
        is_listed = (unit.section, unit.start) in listed
        if obj.is_boot_only(unit.section) or section.name.startswith(".livepatch"):
            continue
        if home is None:
            text = "it is new and nothing refers to it: a list made at link time lacks it"
            if is_local and is_listed:
                report.add(title(obj, unit), text)
            elif is_listed and unit.name not in wanted and not _is_plain(obj, unit):
                check.note(f"{unit.name}: {text}")
        elif is_listed or not (is_constant and is_local):
            assert unit.symbol is not None
            text = check.attempt(side, own_size(obj, unit), home)
            names = [*names_of(obj, unit), side.homes.renamed.get((unit.section, unit.start), "")]
            olds = {s.size_bytes for name in names
                    for s in check.image.homes.get(name, ()) if s.value == home}  # fmt: skip
            if olds and unit.symbol.size_bytes not in olds:
                text = f"it has {unit.symbol.size_bytes} bytes, in the image {max(olds)}"
            if text:
                report.add(unit.name, f"it is not as the image has it: {text}")


def _is_plain(obj: ObjectFile, unit: Unit) -> bool:
    """Tell whether a datum lies in a section that compilers choose."""
    name = obj.elf.sections[unit.section].name.removesuffix(f".{unit.symbol and unit.symbol.name}")
    return name in _PLAIN


def _boot_only(check: Comparison, side: Side, twins: list[Side]) -> Iterator[str]:
    """Name what is used at boot only and is not what the image holds: it never runs again."""
    for unit in all_units(side.obj):
        is_known = side.homes.of(unit) is not None and side.obj.is_boot_only(unit.section)
        if is_known and _as_is(check, side, twins, unit):
            yield unit.name


def _hooks(check: Comparison, report: _Report, sides: list[Side]) -> None:
    """Compare the hooks; those of payloads beneath are theirs, and run with them alone."""
    wanted = slots_of(sides)
    if isinstance(check.image, Running):
        left_of(check, wanted, check.image.beneath.areas)
    for name, _ in left_of(check, wanted, check.payload.areas):
        text = "the payload has a hook that the new objects have not, or once more"
        if isinstance(check.image, Running):
            text += (
                ": one of a payload beneath ran as it was and stays; to change its code, make one "
                "payload that takes the place of that one, with SUPERSEDES"
            )
        report.add(name, text)
    for side, unit in wanted:
        report.add(unit.name, f"the payload has not the hook of {side.obj.path}")


def _leftovers(
    check: Comparison, report: _Report, done: set[Record], records: list[Record]
) -> None:
    """Find what the payload does beyond the new objects."""
    for record in records:
        if record not in done:
            report.add(record.name, "the payload replaces it, and no new object has it there")
    if len(records) != len(set(check.records)):
        report.add("records", "a function is replaced twice")
    for table, spots in check.payload.tables.items():
        for spot in spots:
            if ("entry", spot.start) not in check.seen:
                place = spot.start & 0xFFFFFFFF
                report.add(table, f"its entry at {place:#x} speaks of nothing that was compared")
    for text in check.overlaps():
        report.add("variables", text)
