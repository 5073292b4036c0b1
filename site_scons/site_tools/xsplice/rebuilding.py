# SPDX-License-Identifier: Apache-2.0
"""What a payload is held against: both sides of its objects, compiled once more where needed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from xsplice_plugins import artefacts, capture, pipeline
from xsplice_plugins.artefacts import Duty, Finding, ObjectPair, Reach, Severity

from .actions import Fix, Nodes, _load_deltas, _path, _prefix, staged
from .copies import Farm, Side, lay_out, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import Delta, PatchSet


class Rebuild(Struct, frozen=True, kw_only=True):
    """What a payload is held against, beside the objects of both sides."""

    is_possible: bool = True  #: hand-written files have no rebuild
    farm: Farm | None = None  #: the patched sources with line numbers held still
    pristine: Path = Path()  #: root of the sources before the patch
    plain: Path = Path()  #: root of the sources without the patches of payloads beneath
    tree_objects: dict[str, Path] = field(default_factory=dict)  #: what those give, by object path
    sides: dict[str, Side] = field(default_factory=dict)  #: by object path: the patched sources
    #: By object path, for all that the patches of payloads beneath reach: made with those alone.
    lower_objects: dict[str, Path] = field(default_factory=dict)
    #: Where lies what they make of offsets for assembler and the linker script, by path.
    lower_texts: dict[str, Path] = field(default_factory=dict)
    base: Path = Path()  #: where lies whether the tree is what its image holds
    doubts: tuple[Finding, ...] = ()  #: whether what is compiled may have changed since
    #: Where lies which files of the patch each compile read, and the files that one should read.
    reads: tuple[Path, ...] = ()
    asked: frozenset[str] = frozenset()
    others: Path | None = None  #: where lies what nobody knows of the rest of the image

    def needs_make(self, fix: Fix) -> bool:
        """Tell whether only make can give both sides, with the lines of payloads beneath."""
        return self.is_possible and self.farm is None and bool(fix.tree and fix.stack.lower)


def _once_more(fix: Fix, side: Side, copy: Path, end: str, *, is_apart: bool) -> bytes:
    """Compile an object for the check alone, every function in a section of its own if asked."""
    require(copy)
    job = pipeline.apart(side.job) if is_apart else side.job
    place = fix.folder / "check" / f"{side.job.object_path}.{end}"
    capture.compile_object(job, copy, place, env=dict(side.variables) or None)
    return place.read_bytes()


def _new_object(fix: Fix, rebuild: Rebuild, delta: Delta) -> pipeline.NewObject:
    """Return both sides of an object, and what had to be compiled once more for the check.

    Where functions share a section, the assembler fills in the distances between them: they are
    compared apart. Where only lines moved, they are held still.
    """
    new, baseline = (
        _prefix(fix, delta.object_path).with_suffix(f".xsplice.{end}")
        for end in ("new", "baseline")
    )
    row = pipeline.NewObject(
        path=delta.object_path,
        new=new.read_bytes(),
        baseline=baseline.read_bytes() if baseline.exists() else None,
        is_apart=delta.is_apart,
    )
    side = rebuild.sides.get(delta.object_path)
    if side is None or rebuild.farm is None:
        return row
    is_apart = delta.is_apart or pipeline.shares_sections(row)
    if is_apart and not delta.is_apart:
        row = replace(
            row,
            new=_once_more(fix, side, side.copy, "new", is_apart=True),
            baseline=_once_more(fix, side, rebuild.pristine, "baseline", is_apart=True),
            is_apart=True,
        )
    if delta.line_only:
        still = _once_more(fix, side, rebuild.farm.copy, "still", is_apart=is_apart)
        row = replace(row, neutral=still)
    return _with_plain(fix, rebuild, side, row)


def _lower_objects(fix: Fix, rebuild: Rebuild, known: set[str]) -> Iterator[pipeline.NewObject]:
    """Give the objects in which payloads beneath changed something, and the fix nothing."""
    for path, place in sorted(rebuild.lower_objects.items()):
        data, own = place.read_bytes(), rebuild.tree_objects.get(path)
        is_equal = own is not None and not capture.differing(path, own.read_bytes(), data)
        if path in known or is_equal:
            continue
        row, side = pipeline.NewObject(path=path, new=data, baseline=data), rebuild.sides[path]
        if pipeline.shares_sections(row):
            data = _once_more(fix, side, rebuild.pristine, "baseline", is_apart=True)
            row = pipeline.NewObject(path=path, new=data, baseline=data, is_apart=True)
        yield _with_plain(fix, rebuild, side, row)


def _moved_beneath(rebuild: Rebuild) -> tuple[Finding, ...]:
    """Say what payloads beneath make otherwise that only code reads which is not replaced."""
    text = (
        "the patches of the payloads beneath change it, and assembler code and the image were made "
        "with it as it was; make that payload again without that change"
    )
    return tuple(
        finding
        for path, place in sorted(rebuild.lower_texts.items())
        if artefacts.load(place, ObjectPair).refused
        for finding in artefacts.findings_about(
            Duty.STACK, "rebuild", Severity.ERROR, path, [f"{path}: {text}"]
        )
    )


def _with_plain(
    fix: Fix, rebuild: Rebuild, side: Side, row: pipeline.NewObject
) -> pipeline.NewObject:
    """Add the tree's own object where payloads lie beneath."""
    place = rebuild.tree_objects.get(row.path)
    if not fix.run.config.depends or place is None:
        return row
    if row.is_apart:
        return replace(row, plain=_once_more(fix, side, rebuild.plain, "plain", is_apart=True))
    return replace(row, plain=place.read_bytes())


def _twins(
    fix: Fix, rebuild: Rebuild, objects: list[pipeline.NewObject], patches: PatchSet, end: str
) -> list[tuple[bytes, ...]]:
    """Compile objects with the lines that the tree and each payload beneath were compiled with."""
    assert rebuild.farm is not None
    found: list[tuple[bytes, ...]] = [() for _ in objects]
    for depth in sorted({0, *(depth for depth, _ in fix.stack.beneath)}):
        if depth >= len(patches.patches):
            continue
        name = f"{end}.{depth}"
        still = replace(patches, is_line_neutral=True, neutral_from=depth)
        farm = replace(rebuild.farm, copy=fix.folder / name, patch_set=still, is_merged=False)
        lay_out(farm)
        for number, row in enumerate(objects):
            side = rebuild.sides[row.path]
            made = _once_more(fix, side, farm.copy, name, is_apart=row.is_apart)
            found[number] += (made,)
    return found


def _with_lines(
    fix: Fix, rebuild: Rebuild, objects: list[pipeline.NewObject]
) -> list[pipeline.NewObject]:
    """Add what tells a line that a payload beneath moved from a change."""
    assert fix.stack.lower is not None
    new = _twins(fix, rebuild, objects, fix.patch_set, "still")
    old = _twins(fix, rebuild, objects, fix.stack.lower, "baseline-still")
    return [
        replace(row, stills=stills, baseline_stills=before)
        for row, stills, before in zip(objects, new, old, strict=True)
    ]


def _made_again(fix: Fix, deltas: list[Delta], jobs: int) -> list[pipeline.NewObject]:
    """Make the whole tree once more for the check: before the fix, and with it."""
    from xsplice_plugins.rebuild import stacked_sides  # noqa: PLC0415  only where needed

    assert fix.tree is not None
    depths = [depth for depth, _ in fix.stack.beneath]
    names = [delta.object_path for delta in deltas]
    return stacked_sides(fix.tree, fix.patch_set, depths, names, fix.folder / "check-make", jobs)


def _unread(rebuild: Rebuild) -> tuple[Finding, ...]:
    """Say which files of the patch no compile read: what else reads them, nobody knows."""
    read = {path for place in rebuild.reads for path in artefacts.load(place, tuple[str, ...])}
    text = (
        "no object of the image reads it, so nothing tells what its change does; leave it out of "
    )
    text += "the patch if it does nothing"
    return tuple(
        finding
        for path in sorted(rebuild.asked - read)
        for finding in artefacts.findings_about(
            Duty.COMPLETE, "rebuild", Severity.UNCHECKED, path, [f"{path}: {text}"]
        )
    )


def _unseen(
    fix: Fix,
    rebuild: Rebuild,
    base: artefacts.BaseMatch,
    deltas: list[Delta],
    objects: list[pipeline.NewObject],
) -> tuple[Finding, ...]:
    """Say what of the fix may reach code that only the shipped image has."""
    direct = {path for path, side in rebuild.sides.items() if side.job.reach is Reach.DIRECT}
    changed = {delta.object_path for delta in deltas}
    tree = fix.tree if rebuild.is_possible else None
    prefix = f"{tree.patch_root}/" if tree is not None and tree.patch_root else ""
    readers: dict[str, list[str]] = {}
    for path, side in rebuild.sides.items():
        for file in side.job.inputs:
            readers.setdefault(file.removeprefix(prefix), []).append(path)
    known = readers if rebuild.sides else None
    return (
        *pipeline.unseen_findings(tree, fix.patch_set, base, changed, direct, known, objects),
        *pipeline.unknown_findings(tree, fix.patch_set, base, objects),
    )


def check_rebuild(target: Nodes, source: Nodes, env: Environment) -> None:
    """Hold the payload against the objects. Sources: payload, image, then the deltas."""
    fix, rebuild = target[0].attributes.xsplice
    with staged(target):
        known = [d for d in _load_deltas(source[2:]) if d.machine]
        deltas = known if rebuild.is_possible else []
        if rebuild.farm is not None and any(delta.line_only for delta in deltas):
            lay_out(rebuild.farm)
        objects = [_new_object(fix, rebuild, delta) for delta in deltas]
        objects += _lower_objects(fix, rebuild, {row.path for row in objects})
        payload, image = (_path(node).read_bytes() for node in source[:2])
        base = artefacts.load(rebuild.base, artefacts.BaseMatch)
        check = partial(
            pipeline.check_rebuild,
            fix.run,
            fix.name,
            payload,
            image,
            deltas,
            patches=fix.stack.patches,
            base=base,
            handmade=[] if rebuild.is_possible else [_new_object(fix, rebuild, d) for d in known],
        )
        is_recompiled = rebuild.farm is not None
        if rebuild.needs_make(fix) and not any(delta.is_apart for delta in deltas):
            objects, is_recompiled = _made_again(fix, deltas, env.GetOption("num_jobs")), True
        checks = check(objects, is_recompiled=is_recompiled)
        is_held = all(row.severity in (Severity.HELD, Severity.INFO) for row in checks.findings)
        if not is_held and rebuild.farm is not None and fix.stack.lower is not None:
            checks = check(_with_lines(fix, rebuild, objects))
        findings = checks.findings + rebuild.doubts + _unread(rebuild) + _moved_beneath(rebuild)
        findings += _unseen(fix, rebuild, base, deltas, objects)
        if rebuild.others is not None:
            findings += artefacts.load(rebuild.others, tuple[artefacts.Finding, ...])
        checks = replace(checks, base=base, findings=findings)
        artefacts.save(_path(target[0]), checks)
