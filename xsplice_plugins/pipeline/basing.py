# SPDX-License-Identifier: Apache-2.0
"""Is the tree what the image was linked from? All of it, once for each base."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.artefacts import (
    BaseMatch,
    Finding,
    Likeness,
    Retyped,
    Severity,
    read_file,
)
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.inlining import inlined_otherwise
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import CaptureError, ElfError
from xsplice_plugins.pipeline.run import settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from xsplice_plugins.artefacts import Checks
    from xsplice_plugins.check.results import ImageMatch
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.pipeline.run import Run

BASE = "base"  #: the check's name in findings
_SUBJECT = "xen-syms"
_SHOWN_MAX = 8
_AGAIN = (
    "run make in the tree and boot what it makes, or name the tree that the running hypervisor "
    "was built from; remove the build folder if an object was put back with its old time stamp"
)
#: Of a base that was built of sources of its own: make would only give the same again.
MATCH_MORE = (
    "build the base of the vendor's own sources, patches, settings and compiler (docs/bases.md)"
)


class BaseObjects(Struct, frozen=True, kw_only=True):
    """The objects that an image is said to be linked from."""

    files: tuple[tuple[str, Path], ...]  #: how messages call it, and where it lies
    optional: frozenset[str] = frozenset()  #: those of archives, which the linker may leave out
    is_told: bool = True  #: records say what is linked; else it is a guess, which refuses nothing
    #: The image was not linked from them: a named base that was matched when it was added. Then
    #: what differs is known, and refused where a fix needs it.
    is_matched: bool = False
    otherwise: Retyped | None = None  #: what the image of a matched base has otherwise
    advice: str = _AGAIN  #: where something differs


def objects_of_tree(tree: XenTree) -> BaseObjects:
    """Return the objects that a tree's records name as parts of its image.

    Raises:
        CaptureError: The build folder or a record cannot be read.
    """
    from xsplice_plugins.kbuild.indexing import read_index  # noqa: PLC0415  only trees have one
    from xsplice_plugins.kbuild.tree import advice_of_base  # noqa: PLC0415  as above

    index = read_index(tree)
    members = index.members
    is_matched, advice = False, _AGAIN
    if tree.base is not None:
        is_matched = tree.base.likeness is Likeness.MATCHED
        advice = MATCH_MORE if is_matched else advice_of_base(tree.base)
    return BaseObjects(
        is_told=index.is_told,
        files=tuple((path, tree.build_root / path) for path in members),
        optional=frozenset(path for path, is_optional in members.items() if is_optional),
        is_matched=is_matched,
        advice=advice,
        otherwise=tree.base.otherwise if tree.base is not None else None,
    )


def match_base(run: Run, image: bytes, objects: BaseObjects) -> BaseMatch:
    """Match every function and datum of the objects with the image.

    Args:
        run: Settings; the facts say what the tables of the build look like.
        image: The whole ``xen-syms`` file.
        objects: What it is said to be linked from.

    Returns:
        What was found. What differs is an error, named; what cannot be read is not checked.

    Raises:
        ConfigError: The image is of another release than the run.
        ElfFormatError: The image cannot be read.
    """
    run = settled(run, image)
    digest = hashlib.sha256(image).hexdigest()
    match, findings = _match(run, image, objects)
    if match is None:
        return BaseMatch(image=digest, findings=findings)
    rows = match.objects
    inlined = inlined_by(image, objects) if objects.is_matched else ()
    return BaseMatch(
        image=digest,
        findings=(*_told(match, objects), *_told_inlined(inlined, objects.advice)),
        is_matched=objects.is_matched,
        objects=sum(row.is_linked for row in rows),
        matched=sum(len(row.matched) for row in rows if row.is_linked),
        differs=tuple(_differing(match)),
        absent=tuple(
            f"{name} ({row.object_path})" for row in rows if not row.held for name in row.absent
        ),
        ambiguous=tuple(name for row in rows for name in row.ambiguous),
        strangers=(*match.strangers, *match.overlaps),
        owners=match.owners,
        otherwise=objects.otherwise,
        left_out=tuple(row.object_path for row in rows if row.is_optional and not row.is_linked),
        inlined=inlined,
    )


def inlined_by(image: bytes, objects: BaseObjects) -> tuple[str, ...]:
    """Return what an image inlined otherwise than its objects, each with the object.

    Args:
        image: The whole ``xen-syms`` file.
        objects: What it is said to be linked from.

    Raises:
        DiffError: The debug information is damaged, or of a form that is not known.
    """
    shipped = read_elf(image, _SUBJECT)
    if not has_types(shipped):  # less is told of calls as well, and objects may tell more
        return ()
    files = (
        (read_elf(read_file(file, error=CaptureError), path), path in objects.optional)
        for path, file in objects.files
    )
    rows = inlined_otherwise(((f, left) for f, left in files if has_types(f)), shipped)
    return tuple(f"inlining of {name} ({path})" for path, name in rows)


def base_findings(checks: Checks | None, name: str, image: bytes) -> tuple[Finding, ...]:
    """Return what is known of the base that a payload is judged on.

    Args:
        checks: What lies beside the payload; ``None`` if nothing does.
        name: Name of the payload.
        image: The whole ``xen-syms`` file that it is judged on.
    """
    base = checks.base if checks is not None else None
    if base is None:
        text = "the objects of the tree were not compared with the image; judge the payload in the "
        text += "folder of its build, with `scons xsplice-verify` or `xsplice patch --verify`"
    elif base.image != hashlib.sha256(image).hexdigest():
        text = "the objects of the tree were compared with another image than this one; give the "
        text += "xen-syms of the tree that the payload was built for"
    else:
        return base.findings
    return (Finding(check=BASE, severity=Severity.UNCHECKED, subject=name, text=text),)


def _match(
    run: Run, image: bytes, objects: BaseObjects
) -> tuple[ImageMatch | None, tuple[Finding, ...]]:
    """Match objects and image, or say why that cannot be done."""
    from xsplice_plugins.check.base import match_objects  # noqa: PLC0415  only where needed
    from xsplice_plugins.check.memory import read_image  # noqa: PLC0415
    from xsplice_plugins.check.tables import layouts  # noqa: PLC0415
    from xsplice_plugins.target.known import facts_of  # noqa: PLC0415

    config = run.config
    sizes = layouts(facts_of(config.facts, config.release, read_elf(image, _SUBJECT).machine))
    memory = read_image(image, _SUBJECT, sizes)
    if gone := [path for path, file in objects.files if not file.is_file()]:
        text = f"{len(gone)} objects of the tree are gone: {_some(gone)}; the image was not "
        text += "compared with them; build the tree again"
        return None, (_finding(Severity.UNCHECKED, text),)
    if not objects.files:
        text = "nothing tells from which objects the image is linked; they were not compared; "
        text += "in an SConstruct, make them the sources of the image"
        return None, (_finding(Severity.UNCHECKED, text),)
    try:
        content = [(p, read_file(file, error=CaptureError)) for p, file in objects.files]
        return match_objects(memory, content, sizes, objects.optional), ()
    except (ElfError, CaptureError) as error:
        text = f"the objects of the tree could not be compared with it: {error}"
        return None, (_finding(Severity.UNCHECKED, text),)


def _differing(match: ImageMatch) -> list[str]:
    """Return name and object of what differs, once where it has several names or places."""
    return list(
        dict.fromkeys(f"{m.name} ({row.object_path})" for row in match.objects for m in row.differs)
    )


def _told(match: ImageMatch, objects: BaseObjects) -> Iterator[Finding]:
    """Put a match into words: what speaks against it first, and how much that weighs."""
    severity = Severity.ERROR if objects.is_told else Severity.UNCHECKED
    if objects.is_matched:  # a verdict says it first: what else its sources have, nobody knows
        severity = Severity.WARNING
    rows = match.objects
    wrong = _differing(match)
    wrong += [
        f"{name} ({row.object_path}: not found)"
        for row in rows
        if not row.held
        for name in row.absent
    ]
    if wrong:
        count = sum(not row.held for row in rows)
        text = f"{len(wrong)} functions and data of {count} objects are not what the image holds"
        yield _finding(severity, f"{text}: {_some(wrong)}; {objects.advice}")
    if match.strangers:
        text = f"{len(match.strangers)} functions and data of the image are in no object"
        yield _finding(severity, f"{text} of the tree: {_some(match.strangers)}; {objects.advice}")
    if match.overlaps:
        text = f"{len(match.overlaps)} sections lie where others lie"
        yield _finding(severity, f"{text}: {_some(match.overlaps)}; {objects.advice}")
    if objects.is_matched and not (wrong or match.strangers or match.overlaps):
        yield _finding(severity, "another build than the tree's, of which all code and data fit")
    linked = [row for row in rows if row.is_linked]
    counts = {
        "objects": len(linked),
        "matched": sum(len(row.matched) for row in linked),
        "differ": len(_differing(match)),
        "absent": sum(len(row.absent) for row in rows if not row.held),
        "ambiguous": sum(len(row.ambiguous) for row in rows),
        "left_out": sum(not row.is_linked and row.is_optional for row in rows),
    }
    text = f"{counts['matched']} functions and data of {len(linked)} objects lie in the image as "
    text += "the tree's objects have them"
    if counts["left_out"]:
        text += f"; of the archives {counts['left_out']} objects were not taken"
    if counts["ambiguous"]:
        names = [name for row in rows for name in row.ambiguous]
        text += f"; {len(names)} fit in several places: {_some(names)}"
    is_held = objects.is_matched or not (wrong or match.strangers or match.overlaps)
    good = Severity.HELD if is_held else Severity.INFO
    yield Finding(check=BASE, severity=good, subject=_SUBJECT, text=text, evidence=counts)


def _told_inlined(inlined: tuple[str, ...], advice: str) -> Iterator[Finding]:
    """Say that code which is equal was compiled of other sources."""
    if inlined:
        text = f"the image was made of other sources than the objects: {_some(inlined)}; {advice}"
        yield _finding(Severity.WARNING, text)


def _finding(severity: Severity, text: str) -> Finding:
    return Finding(check=BASE, severity=severity, subject=_SUBJECT, text=text)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _SHOWN_MAX
    return ", ".join(listed[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
