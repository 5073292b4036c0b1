# SPDX-License-Identifier: Apache-2.0
"""Hold a payload against a full rebuild: make the whole patched tree, then compare.

The check ``base`` holds that the running image is the link of the tree's objects; here the patched
image must be that of the copy's. Then what the payload has to bring is what differs between their
objects, and the independent check holds each of those against payload and running image.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    Duty,
    Finding,
    PayloadRecord,
    Severity,
    VerifyRequest,
    load,
    read_file,
    record_path,
)
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.memory import read_image
from xsplice_plugins.check.results import Beneath
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.rebuild.linking import Link
from xsplice_plugins.rebuild.sides import Before, before_fix, both_sides, make_patched
from xsplice_plugins.rebuild.trees import Build, Changes, changes, read_build, waiting_for
from xsplice_plugins.target.known import facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import Facts, Sources
    from xsplice_plugins.check.results import CheckReport, ImageMatch, NewObject
    from xsplice_plugins.plugins.spec import Config

CHECK = "whole"
_FOLDER = "whole"  #: of the private copy, beside the payload
_SHOWN_MAX = 8


def verify_by_rebuild(
    data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
) -> tuple[Finding, ...]:
    """Make the whole patched tree in a private copy, and hold the payload against it.

    Args:
        data: The whole signed file.
        record: What it holds.
        request: Where the payload lies, the image, and the sources that it was made of.
        config: Settings of the run; its facts of the build count more than the release's name.

    Returns:
        One finding with figures, or what differs by name; what could not be told is unchecked.

    Raises:
        ConfigError: The image is not the tree's.
        CaptureError: The patched tree does not build.
        MachineError: The copy cannot be written, or make or a compiler is missing.
    """
    name, sources = record.name, request.sources
    if record.patches and not any(patch.files for patch in record.patches):
        text = "hand-written: there is no patched tree to make"
        return (_finding(Severity.EXEMPT, name, text),)
    if sources is None:
        text = (
            "no full rebuild: no patch and no Xen tree are at hand; "
            "build it from tree and patch, with `scons xsplice-verify` or `xsplice patch --verify`"
        )
        return (_finding(Severity.UNCHECKED, name, text),)
    if len(request.beneath) != len(sources.beneath):
        text = "no full rebuild: nothing tells which patches are those of the payloads beneath"
        return (_finding(Severity.UNCHECKED, name, text),)
    lacking = [path.name for path in request.beneath if _lacks(sources, path)]
    if lacking:
        text = (
            f"no full rebuild: the patches lack those of {', '.join(lacking)}, which lies beneath; "
            "name them all in PATCH=, bottom first"
        )
        return (_finding(Severity.UNCHECKED, name, text),)
    if record.patches and record.patches != sources.patch_set.digests:
        text = "its record names other patches than those at hand; build it again"
        return (_finding(Severity.ERROR, name, text),)
    tree = locate_tree(sources.tree)
    facts = facts_of(config.facts, request.release, tree.machine)
    before = read_build(read_index(tree))
    if read_file(request.image_path) != before.image:
        raise ConfigError(
            f"{request.image_path}: not the image of the tree {sources.tree}; give the tree of the "
            "running hypervisor"
        )
    folder = request.payload_path.parent / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    try:
        beneath = _beneath(request.beneath, sources)
        payload = data[: record.size_bytes]
        return tuple(_held(before, folder, payload, record, sources, facts, beneath))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lacks(sources: Sources, path: Path) -> bool:
    """Tell whether the sources lack a patch that a payload beneath was made of."""
    held, beside = {patch.sha256 for patch in sources.patch_set.digests}, record_path(path)
    rows = load(beside, PayloadRecord).patches if beside.exists() else ()
    return any(patch.files and patch.sha256 not in held for patch in rows)


def _beneath(paths: Sequence[Path], sources: Sources) -> list[Beneath]:
    """Read the payloads beneath."""
    return [
        Beneath(
            name=path.name,
            data=read_file(path, limit_bytes=PAYLOAD_SIZE_MAX),
            is_handmade=is_handmade,
        )
        for path, (_, is_handmade) in zip(paths, sources.beneath, strict=True)
    ]


def _lower(before: Build, folder: Path, sources: Sources, jobs: int) -> dict[str, Before]:
    """Make what lies beneath the fix; its copy is gone afterwards."""
    depths = [depth for depth, _ in sources.beneath]
    if not max(depths):
        return {}
    patches = sources.patch_set.patches[: max(depths)]
    try:
        lower = replace(sources.patch_set, patches=patches)
        return before_fix(before, lower, folder, depths, jobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _held(
    before: Build,
    folder: Path,
    payload: bytes,
    record: PayloadRecord,
    sources: Sources,
    facts: Facts,
    beneath: Sequence[Beneath],
) -> list[Finding]:
    """Make the copy, and say how everything compares."""
    sizes, jobs = layouts(facts), len(os.sched_getaffinity(0))
    lower = _lower(before, folder, sources, jobs) if beneath else None
    depths = [depth for depth, _ in sources.beneath]
    link = Link(before, folder, sizes)
    try:
        after = make_patched(before, sources.patch_set, folder, jobs)
    finally:
        link.stop()
    changed, linked = changes(before, after), link.answer(after)
    touched = {function.object_path for function in record.functions} & after.objects.keys()
    names = sorted(touched.union(changed.differing, (lower or {}).keys() & after.objects.keys()))
    rows = both_sides(before, after, sources.patch_set, names, jobs, depths=depths, lower=lower)
    image = read_image(before.image, "xen-syms", sizes)
    found = check_payload(image, payload, rows, facts, beneath)
    wrong = [*_link(linked), *_trees(before, after, changed), *_differences(found, rows)]
    said = wrong[:_SHOWN_MAX]
    if len(wrong) > _SHOWN_MAX:
        text = f"and {len(wrong) - _SHOWN_MAX} more that differ in a full rebuild"
        said.append(_finding(wrong[-1].severity, record.name, text))
    figures = _figures(after, changed, linked, found)
    figures += "".join(f", on top of {row.name}" for row in beneath[-1:])
    unchecked = [
        *found.unchecked,
        *(f"{path}: a full rebuild does not link it, and it stays" for path in changed.gone),
    ]
    if not said:
        said = [_finding(Severity.HELD, record.name, figures)]
    if found.boot_only:
        boot = ", ".join(found.boot_only[:_SHOWN_MAX])
        text = f"used at boot only, and not replaced: {boot}"
        said.append(_finding(Severity.INFO, record.name, text))
    return said + [
        _finding(Severity.UNCHECKED, record.name, text, duty)
        for duty, texts in (
            (Duty.COMPLETE, unchecked),
            (Duty.BASE, found.ambiguous),
            (Duty.STACK, _unseen(found, beneath)),
        )
        for text in texts
    ]


def _link(link: ImageMatch) -> Iterator[Finding]:
    """Say where the patched image is not the link of its objects."""
    texts = [
        f"{row.object_path}: {what}"
        for row in link.objects
        if not row.held
        for what in (*map(str, row.differs), *(f"{name} is not in it" for name in row.absent))
    ]
    texts += [f"{name} lies in none of them" for name in link.strangers]
    for text in (*texts, *link.overlaps):
        said = f"the patched image is not the link of its objects: {text}"
        yield _finding(Severity.ERROR, "the patched image", said)


def _trees(before: Build, after: Build, changed: Changes) -> Iterator[Finding]:
    """Say what of the patched tree no payload can bring."""
    for path in changed.scripts:
        text = f"{path}: the linker script differs in a full rebuild"
        yield _finding(Severity.ERROR, path, text)
    for name, paths in waiting_for(before, after, changed.differing).items():
        text = f"only a full rebuild has it, and it is asked for by {', '.join(paths)}"
        yield _finding(Severity.ERROR, name, f"{name}: {text}, which the payload leaves as it is")


def _differences(found: CheckReport, rows: Sequence[NewObject]) -> Iterator[Finding]:
    """Say which functions and data differ, and in which object.

    Where functions share a section, the distances between them are filled in, and a jump may be
    shorter than in the payload: that cannot be told.
    """
    owners: dict[str, tuple[str, bool]] = {}
    for row in rows:
        symbols = [symbol for symbol in read_elf(row.new, row.path).symbols[1:] if symbol.shndx]
        starts = {(s.shndx, s.value) for s in symbols if s.type == STT_FUNC}
        count = Counter(section for section, _ in starts)
        owners |= {s.decorated: (row.path, count[s.shndx] > 1) for s in symbols}
    for path, text in found.stale:
        yield _finding(Severity.ERROR, path, f"{path}: {text}", Duty.BASE)
    said = [(row, Duty.COMPLETE, "") for row in found.differences]
    said += [(row, Duty.STACK, " before the fix") for row in found.beneath]
    for (subject, text), duty, when in said:
        path, is_shared = owners.get(subject, ("", False))
        place = f" in {path}" if path else ""
        severity = Severity.UNCHECKED if is_shared else Severity.ERROR
        words = f"{subject}{place} differs in a full rebuild{when}: {text}"
        yield _finding(severity, subject, words, duty)


def _unseen(found: CheckReport, beneath: Sequence[Beneath]) -> list[str]:
    """Say what payloads beneath replace, and their patches do not."""
    judged = {row.name for row in beneath if not row.is_handmade}
    return [
        f"{name}: no object of a full rebuild before the fix has its `{what}`"
        for name, what in found.unseen
        if name in judged
    ]


def _figures(after: Build, changed: Changes, link: ImageMatch, found: CheckReport) -> str:
    exempt = ", ".join(changed.exempt)
    exempt = f" ({exempt} as well, which no code reads)" if exempt else ""
    names = sum(len(row.matched) for row in link.objects if row.is_linked)
    return (
        f"{changed.again} of {len(after.objects)} objects made again, {len(changed.differing)} "
        f"differ{exempt}; the patched image is the link of its objects ({names} functions and "
        f"data); {found.replaced} replaced and {found.unchanged} untouched functions "
        "of what differs are what the full rebuild has"
    )


def _finding(severity: Severity, subject: str, text: str, duty: Duty = Duty.COMPLETE) -> Finding:
    return Finding(check=CHECK, severity=severity, subject=subject, text=text, obligation=duty)
