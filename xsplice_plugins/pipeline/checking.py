# SPDX-License-Identifier: Apache-2.0
"""Does the payload do what a full rebuild would do? Asked of bytes, not of the differ."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    BaseMatch,
    Checks,
    Duty,
    Finding,
    Severity,
    object_and_name,
    read_file,
)
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.pipeline.basing import MATCH_MORE
from xsplice_plugins.pipeline.retyped import retyped_findings
from xsplice_plugins.pipeline.run import settled
from xsplice_plugins.pipeline.stack import BY_HAND, NOTHING, kind_of, record_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import Delta, PatchDigest
    from xsplice_plugins.check.results import Beneath, CheckReport, NewObject
    from xsplice_plugins.pipeline.run import Run

REBUILD = "rebuild"  #: the check's name in findings
_DUTIES = (Duty.BASE, Duty.COMPLETE, Duty.LINES)  #: what it speaks of
_SHOWN_MAX = 8
#: Files of Xen that take payloads, and those that read the tables of one while it is applied.
_LOADER = ("livepatch", "livepatch_elf", "virtual_region")
_READERS = {
    ".altinstructions": ("alternative",),
    ".alt_call_sites": ("alternative",),
    ".ex_table": ("extable", "traps"),
    **{f".bug_frames.{number}": ("bug", "traps") for number in range(4)},
}


def check_rebuild(
    run: Run,
    name: str,
    payload: bytes,
    image: bytes,
    deltas: Sequence[Delta],
    objects: Sequence[NewObject],
    *,
    is_recompiled: bool = True,
    patches: Sequence[PatchDigest] = (),
    base: BaseMatch | None = None,
    handmade: Sequence[NewObject] = (),
) -> Checks:
    """Hold a payload against the objects of a rebuild, the image and the payloads beneath.

    Args:
        run: Settings and plugins.
        name: Name of the fix.
        payload: The unsigned payload.
        image: The whole ``xen-syms`` file.
        deltas: What the differ found; used only where an object comes without a side whose line
            numbers were held still.
        objects: Both sides of every object that differs; none for hand-written files. On a
            payload without its record: of every object that the patches reach.
        is_recompiled: Whether objects were compiled once more where the check needs it.
        patches: What the objects are made of.
        base: How the whole tree compares with the image; says what a matched base has otherwise.
        handmade: Compiled hand-written files, in which all is new.

    Returns:
        What was found, for this payload alone.

    Raises:
        ElfFormatError: A file is not what it should be.
        RelocationError: A relocation is of an unknown type.
    """
    run = settled(run, image)
    digest = hashlib.sha256(payload).hexdigest()
    needs = (
        *_needs(run, payload, image, base),
        *retyped_findings(REBUILD, base, (*objects, *handmade)),
        *erratum_findings(name, payload),
    )
    if not objects:
        findings = (*needs, *_handmade(name))
        return Checks(name=name, digest=digest, findings=findings, is_possible=False)
    return Checks(
        name=name,
        digest=digest,
        beneath=tuple(digest_of(path) for path in run.config.depends),
        findings=needs
        + tuple(
            _compare(
                run,
                name,
                payload,
                image,
                deltas,
                objects,
                is_recompiled=is_recompiled,
                held=frozenset(patch.sha256 for patch in patches),
            )
        ),
    )


def _needs(run: Run, payload: bytes, image: bytes, base: BaseMatch | None) -> Iterator[Finding]:
    """Say what a payload needs that a matched base has otherwise than its sources."""
    if base is None or not base.is_matched:
        return
    from xsplice_plugins.check.memory import read_image  # noqa: PLC0415  only where needed
    from xsplice_plugins.check.otherwise import needed_otherwise  # noqa: PLC0415
    from xsplice_plugins.check.tables import layouts  # noqa: PLC0415
    from xsplice_plugins.target.known import facts_of  # noqa: PLC0415

    config = run.config
    facts = facts_of(config.facts, config.release, read_elf(image, "xen-syms").machine)
    hypervisor = read_image(image, "xen-syms", layouts(facts))
    differs = object_and_name((*base.differs, *base.absent))
    yield from loader_findings(payload, base)
    for name, why in needed_otherwise(hypervisor, payload, facts, differs, base.strangers):
        text = f"{name}: {why}; {MATCH_MORE}"
        yield _finding(Severity.ERROR, name, text, Duty.BASE)


def loader_findings(payload: bytes, base: BaseMatch) -> Iterator[Finding]:
    """Say what of the code that takes payloads the shipped image has otherwise.

    The model, and whatever reads a payload's tables while it is applied, goes by the sources.

    Args:
        payload: The unsigned payload.
        base: How a matched base compares with its image.
    """
    tables = {section.name for section in read_elf(payload, "payload").sections}
    stems = {*_LOADER, *(stem for name, row in _READERS.items() if name in tables for stem in row)}
    items: dict[str, list[str]] = {}
    for path, name in object_and_name((*base.differs, *base.absent)):
        items.setdefault(path, []).append(name)
    for name, owners in base.owners:
        for path in owners if name in base.strangers else ():
            items.setdefault(path, []).append(name)
    for path in sorted(items):
        if PurePosixPath(path).name.partition(".")[0] in stems:
            text = (
                f"{path}: it takes payloads, or reads their tables, and the shipped image has "
                f"{_some(sorted(items[path]))} otherwise than the sources, or alone; {MATCH_MORE}"
            )
            yield _finding(Severity.UNCHECKED, path, text, Duty.LOADER)


def erratum_findings(name: str, payload: bytes) -> Iterator[Finding]:
    """Say where a payload's code meets an erratum that a rebuild's linker mends.

    Args:
        name: How messages call it.
        payload: The payload, signed or not.
    """
    from xsplice_plugins.check.erratum import met  # noqa: PLC0415  only where needed

    places = list(met(read_elf(payload, name)))
    if places:
        text = (
            f"{_some(places)}: erratum 843419 of Cortex-A53 (up to r0p4) meets the ADRP there, at "
            "the end of a page; a rebuild's linker puts other instructions there, the loader does "
            "not; link it again with xsplice's own linker, which moves such code"
        )
        yield _finding(Severity.UNCHECKED, name, text)


def shares_sections(row: NewObject) -> bool:
    """Tell whether functions of an object lie in one section, with distances already filled in.

    Those that run at boot only share theirs whatever the compiler is told, and never are replaced.
    """
    elf = read_elf(row.new, row.path)
    starts = {
        (s.shndx, s.value)
        for s in elf.symbols
        if s.type == STT_FUNC
        and 0 < s.shndx < len(elf.sections)
        and not elf.sections[s.shndx].name.startswith(".init")
    }
    return len({section for section, _ in starts}) < len(starts)


def digest_of(path: Path) -> str:
    """Return the sha256 of a payload's file."""
    return hashlib.sha256(read_file(path, limit_bytes=PAYLOAD_SIZE_MAX)).hexdigest()


def findings_of(
    checks: Checks | None, name: str, digest: str, beneath: Sequence[Path]
) -> tuple[Finding, ...]:
    """Return what a check has to say about a payload; a check that was not made proves nothing.

    Args:
        checks: What lies beside the payload; ``None`` if nothing does.
        name: Name of the payload.
        digest: sha256 of the unsigned payload that is judged.
        beneath: Payloads that are applied before it.
    """
    if checks is None:
        text = (
            "not compared with the objects of a rebuild, which lie in the folder of its build; "
            "judge it there with `scons xsplice-verify`, or `xsplice patch --verify`"
        )
    elif checks.digest != digest:
        text = "what was compared with a rebuild is another file; build it again"
    elif checks.is_possible and checks.beneath != tuple(map(digest_of, beneath)):
        text = "compared with a rebuild on top of other payloads than these; give its own DEPENDS"
    else:
        return checks.findings
    return tuple(_finding(Severity.UNCHECKED, name, text, duty) for duty in _DUTIES)


def _finding(severity: Severity, subject: str, text: str, duty: Duty = Duty.COMPLETE) -> Finding:
    return Finding(check=REBUILD, severity=severity, subject=subject, text=text, obligation=duty)


def _handmade(name: str) -> tuple[Finding, ...]:
    """Say why a hand-written payload is not compared."""
    texts = (
        "hand-written: its names and addresses are the image's own; the headers are its author's",
        "hand-written: there is no rebuild to hold it against",
        "hand-written: there are no lines that moved",
    )
    return tuple(
        _finding(Severity.EXEMPT, name, text, duty)
        for duty, text in zip(_DUTIES, texts, strict=True)
    )


def _compare(
    run: Run,
    name: str,
    payload: bytes,
    image: bytes,
    deltas: Sequence[Delta],
    objects: Sequence[NewObject],
    *,
    is_recompiled: bool,
    held: frozenset[str],
) -> list[Finding]:
    from xsplice_plugins.check.complete import check_payload  # noqa: PLC0415  only where needed
    from xsplice_plugins.check.memory import read_image  # noqa: PLC0415
    from xsplice_plugins.check.tables import layouts  # noqa: PLC0415
    from xsplice_plugins.target.known import facts_of  # noqa: PLC0415

    config = run.config
    facts = facts_of(config.facts, config.release, read_elf(image, "xen-syms").machine)
    beneath = _beneath(config.depends)
    hypervisor = read_image(image, "xen-syms", layouts(facts))
    found = check_payload(hypervisor, payload, objects, facts, beneath)
    still = {row.path for row in objects if row.neutral is not None}
    lines = {
        item.name for delta in deltas for item in delta.line_only if delta.object_path not in still
    }
    is_shared = any(row.is_apart or shares_sections(row) for row in objects)
    differences = [(s, text) for s, text in found.differences if s not in lines]
    moved = sorted({s for s, _ in found.differences if s in lines})
    text = (
        f"{found.replaced} replaced and {found.unchanged} untouched functions of "
        f"{len(objects)} objects are what a rebuild has"
    )
    if beneath:
        text += f", on top of {_some([row.name for row in beneath])}"
    severity, words = Severity.ERROR, "not what a rebuild has"
    if is_shared:  # a jump may be shorter within a section
        severity, words = Severity.UNCHECKED, "cannot be told, for functions share a section"
    if beneath and not is_recompiled:  # each payload beneath has lines of its own
        severity, words = Severity.UNCHECKED, "cannot be told on top of others where make builds"
    findings = [
        _finding(severity, subject, f"{subject}: {words}: {text}")
        for subject, text in differences[:_SHOWN_MAX]
    ] or [_finding(Severity.HELD, name, text)]
    findings += [
        _finding(severity, subject, f"{subject}: {words}: {text}", Duty.BASE)
        for subject, text in found.stale[:_SHOWN_MAX]
    ]
    findings += [
        _finding(severity, subject, f"{subject}: {words}: before the fix: {text}", Duty.STACK)
        for subject, text in found.beneath[:_SHOWN_MAX]
    ]
    old = sum(row.baseline is not None for row in objects)
    if (found.placed or beneath) and not (found.stale or found.beneath):
        text = f"{found.placed} functions and data of {old} objects lie in the image as compiled"
        if beneath:
            text = f"{old} objects before the fix are what runs: the image, and payloads beneath"
        findings.append(_finding(Severity.HELD, name, text, Duty.BASE))
    text = f"{len(still)} objects were compiled with their lines held still"
    if moved:
        text = f"{len(moved)} functions differ from the image in line numbers only: {_some(moved)}"
    elif not any(delta.line_only for delta in deltas):
        text = "no difference was taken for a line number"
    findings.append(_finding(Severity.HELD, name, text, Duty.LINES))
    if found.boot_only:
        text = f"used at boot only, and not replaced: {_some(found.boot_only)}"
        findings.append(_finding(Severity.INFO, name, text))
    doubts = _doubts(config.depends, found, held, is_recompiled=is_recompiled)
    if beneath and not found.beneath and not doubts:
        names = _some([row.name for row in beneath])
        text = f"{names}: what they changed is what their patches say"
        findings.append(_finding(Severity.HELD, name, text, Duty.STACK))
    not_checked = (
        (Duty.BASE, found.ambiguous),
        (Duty.COMPLETE, found.unchecked),
        (Duty.STACK, doubts),
    )
    for duty, texts in not_checked:
        findings += [_finding(Severity.UNCHECKED, name, text, duty) for text in texts]
    return findings


def _doubts(
    paths: Sequence[Path], found: CheckReport, held: frozenset[str], *, is_recompiled: bool
) -> list[str]:
    """Say what payloads beneath do and no object shows; where the fix meets them, it has all."""
    records = {path.name: record_of(path) for path in paths}
    kinds = {name: kind_of(record) for name, record in records.items()}
    apart = {
        name
        for name, record in records.items()
        if record is not None and any(row.sha256 not in held for row in record.patches)
    }
    doubts = [
        f"{row}: no object that its patch reaches has its `{what}`"
        for row, what in found.unseen
        if row not in apart and kinds.get(row) != BY_HAND
    ]
    unknown = sorted(name for name, kind in kinds.items() if kind == NOTHING)
    if unknown and not is_recompiled:
        doubts.append(f"{_some(unknown)}: no record says what it was made of")
    return doubts


def _beneath(paths: Sequence[Path]) -> list[Beneath]:
    """Read the payloads beneath."""
    from xsplice_plugins.check.results import Beneath  # noqa: PLC0415  only where needed

    return [
        Beneath(
            name=path.name,
            data=read_file(path, limit_bytes=PAYLOAD_SIZE_MAX),
            is_handmade=kind_of(record_of(path)) == BY_HAND,
        )
        for path in paths
    ]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_MAX
    return ", ".join(names[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
