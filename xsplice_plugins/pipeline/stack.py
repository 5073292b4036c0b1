# SPDX-License-Identifier: Apache-2.0
"""Whether a fix's sources hold what the payloads beneath it brought.

A payload replaces whole functions: one that is compiled from sources without the patch of a
payload beneath undoes that patch wherever the two meet. The records beside the payloads say which
patches they were made of.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    SUPERSEDED,
    Duty,
    Finding,
    PayloadRecord,
    Severity,
    findings_about,
    read_file,
    record_path,
)
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import PatchDigest, PatchSet, Superseded
    from xsplice_plugins.plugins.spec import Config

PATCHES, BY_HAND, NOTHING = "made of patches", "hand-written", "of unknown sources"
_NAMED_MAX = 4  #: functions or files that one message names


class Stack(Struct, frozen=True, kw_only=True):
    """What a fix is compiled from. Build it with `read_stack`."""

    patches: tuple[PatchDigest, ...] = ()  #: in order of application; none: not known
    net: tuple[str, ...] = ()  #: what they change in the end, as in `PatchSet`
    superseded: tuple[Superseded, ...] = ()  #: whose sources were held against them
    older: tuple[str, ...] = ()  #: what objects hold that are older than the payloads beneath
    lower: PatchSet | None = None  #: those of payloads beneath: the baseline holds them too
    #: Of each payload beneath: how many of the patches it and those under it are made of, and
    #: what it is.
    beneath: tuple[tuple[int, str], ...] = ()


UNKNOWN = Stack()  #: of objects that came without their sources


def check_payloads(config: Config) -> None:
    """Refuse what is no payload, and a chain with a gap, whatever the fix turns out to be.

    Args:
        config: Settings; ``config.depends`` and ``config.supersedes`` are read.

    Raises:
        ConfigError: A record is that of another file, or names another payload beneath.
        ElfFormatError: A payload is none.
    """
    for paths in (config.depends, config.supersedes):
        below: PayloadRecord | None = None
        for number, path in enumerate(paths):
            read_elf(read_file(path, limit_bytes=PAYLOAD_SIZE_MAX), str(path))
            record = record_of(path)
            if record is not None and (below is not None or not number):
                _check_stands_on(path, record, below)
            below = record


def _check_stands_on(path: Path, record: PayloadRecord, below: PayloadRecord | None) -> None:
    """Refuse a payload that stands on another one than that beneath it, as its record says."""
    wanted = below.build_id if below else record.xen_depends
    if wanted and record.depends != wanted:  # format 1 does not name the hypervisor
        raise ConfigError(
            f"{path.name}: it stacks on {record.depends}, not on "
            f"{below.name if below else 'the hypervisor'}; give the whole chain, bottom first"
        )


def read_stack(config: Config, patch_set: PatchSet, reads: Collection[str] | None = None) -> Stack:
    """Say which of a fix's patches the payloads beneath were made of.

    The fix must begin with them, bottom first. A payload whose patches are not there is accepted
    only if nothing that its patches touch is read by an object of the fix.

    Args:
        config: Settings; ``config.depends`` are the payloads beneath.
        patch_set: All patches of the fix.
        reads: Files that its objects are made of, relative to the source root; ``None`` if that
            is not known.

    Raises:
        RefusedError: The fix would undo one of them, or nothing tells whether it would.
        ConfigError: A record is that of another file.
        ElfFormatError: A payload is none.
    """
    given, done = patch_set.digests, 0
    check_payloads(config)
    beneath: list[tuple[int, str]] = []
    for path in config.depends:
        record = record_of(path)
        rest = given[done:]
        if record is None or not record.patches:
            if not (rest and _stem(rest[0].name) == _stem(path.name)):
                raise RefusedError(
                    f"{path.name}: no record beside it ({record_path(path).name}) says what it was "
                    f"made of; put its record there, or name its patch: PATCH="
                    f'"{_stem(path.name)}.patch {_names(given)}"'
                )
            done += 1  # the check holds the payload against that patch
            beneath.append((done, kind_of(record)))
            continue
        wanted = _wanted(record.patches, given[:done])
        if [p.sha256 for p in rest[: len(wanted)]] == [p.sha256 for p in wanted]:
            done += len(wanted)
            beneath.append((done, kind_of(record)))
            continue
        beneath.append((done, kind_of(record)))
        if met := _meeting(wanted, replace(patch_set, patches=patch_set.patches[done:]), reads):
            theirs = {p.sha256 for p in wanted}
            asked = [*given[:done], *wanted, *(p for p in rest if p.sha256 not in theirs)]
            text = (
                f"{patch_set.name}: it is compiled from sources without the patch of {path.name}, "
                f"so it would undo {path.name} ({met}); begin with that patch: "
            )
            if theirs <= {p.sha256 for p in rest}:
                text = (
                    f"{patch_set.name}: its patches come in another order than the payloads "
                    f"beneath: those of {path.name} are not where they must be; put them so: "
                )
            raise RefusedError(f'{text}PATCH="{_names(asked)}"' + _alike(asked, wanted, path))
    lower = replace(patch_set, patches=patch_set.patches[:done]) if done else None
    return Stack(
        patches=given,
        net=patch_set.net,
        superseded=patch_set.superseded,
        older=patch_set.older,
        lower=lower,
        beneath=tuple(beneath),
    )


def _wanted(patches: Sequence[PatchDigest], done: Sequence[PatchDigest]) -> list[PatchDigest]:
    """Return the patches that a payload has beyond those of the payloads under it."""
    rest = [patch for patch in patches if patch.files]
    under = [patch.sha256 for patch in done]
    if [patch.sha256 for patch in rest[: len(under)]] == under:
        return rest[len(under) :]
    return [patch for patch in rest if patch.sha256 not in under]


def check_replaced(config: Config, record: PayloadRecord, stack: Stack) -> PayloadRecord:
    """Refuse a payload that undoes one beneath it, whichever way it came; complete its record.

    Args:
        config: Settings; ``config.depends`` are the payloads beneath.
        record: Of the new payload.
        stack: What it was compiled from.

    Returns:
        The record with its patches, what was established and what could not be checked.

    Raises:
        RefusedError: It replaces a function of a payload beneath, and its sources lack that one.
        ConfigError: A record is that of another file.
    """
    held = {patch.sha256 for patch in stack.patches}
    is_handmade = bool(stack.patches) and not any(patch.files for patch in stack.patches)
    names = {_function(row.name) for row in record.functions}
    notes: list[str] = []
    found: list[Finding] = []

    def say(severity: Severity, text: str) -> None:
        found.extend(findings_about(Duty.STACK, "stack", severity, record.name, (text,)))

    for path in config.depends:
        below = record_of(path)
        if below is None or not below.patches or not stack.patches:
            if is_handmade:
                say(Severity.EXEMPT, f"hand-written, whatever {path.name} was made of")
            elif not stack.patches:
                why = "the objects' own are not known"
                say(Severity.UNCHECKED, f"{path.name}: its patches were not looked for, {why}")
            else:  # the check holds it against the patch that was named for it
                say(Severity.HELD, f"{path.name} has no record, and the patch named for it is held")
                text = f"{path.name} has no record: whether it leaves something behind, or lays"
                say(Severity.WARNING, f"{text} structures out otherwise, was not judged here")
            continue
        common = sorted(names & {_function(row.name) for row in below.functions})
        what = _some(common)
        if all(patch.sha256 in held for patch in below.patches):
            say(Severity.HELD, f"its sources hold {_names(below.patches)} of {path.name}")
            continue
        if not common:
            say(Severity.HELD, f"it and {path.name} replace no function in common")
            continue
        if is_handmade:
            text = f"{path.name} replaces {what} too: what it does there counts no more"
            notes.append(text)
            say(Severity.EXEMPT, f"hand-written: {text}")
            continue
        raise RefusedError(
            f"{record.name}: it and {path.name} replace {what}, and its sources lack "
            f"{_names(below.patches)}, so it would undo that; write one fix that does both"
        )
    found += _superseded(record.name, stack)
    texts = (f"from before the payloads beneath: {text}" for text in stack.older)
    found += findings_about(Duty.DATA, "stack", Severity.UNCHECKED, record.name, tuple(texts))
    return replace(
        record,
        patches=stack.patches,
        net=stack.net,
        notes=record.notes + tuple(notes),
        findings=record.findings + tuple(found),
    )


def _superseded(name: str, stack: Stack) -> Iterator[Finding]:
    """Say of each payload in whose place it comes that it was looked at, and what is open."""
    for row in stack.superseded:
        text = "its sources were held against those of the payload in whose place it comes"
        yield Finding(
            check="stack",
            severity=Severity.INFO,
            subject=name,
            text=text,
            obligation=Duty.STACK,
            evidence={SUPERSEDED: row.digest},
        )
        yield from findings_about(Duty.DATA, "stack", Severity.UNCHECKED, name, row.doubts)


def brought_again(config: Config) -> tuple[str, ...]:
    """Return the read-only data that payloads beneath have brought with other content.

    A name of these leads to the old content, in the image or in a payload further down.

    Args:
        config: Settings; ``config.depends`` are the payloads beneath.

    Raises:
        ConfigError: A record is that of another file.
    """
    records = filter(None, map(record_of, config.depends))
    return tuple(sorted({row.name for record in records for row in record.new if row.is_again}))


def kind_of(record: PayloadRecord | None) -> str:
    """Say what a record tells of a payload: `PATCHES`, `BY_HAND` or `NOTHING`."""
    if record is None or not record.patches:
        return NOTHING
    return PATCHES if any(patch.files for patch in record.patches) else BY_HAND


def record_of(path: Path) -> PayloadRecord | None:
    """Return the record beside a payload; ``None`` if there is none.

    Raises:
        ConfigError: It is that of another file.
    """
    beside = record_path(path)
    if not beside.exists():
        return None
    record = artefacts.load(beside, PayloadRecord)
    data = read_file(path, limit_bytes=PAYLOAD_SIZE_MAX)
    if hashlib.sha256(data[: record.size_bytes]).hexdigest() != record.digest:
        raise ConfigError(
            f"{beside}: it is the record of another file than {path.name}; build that payload "
            "again, or take the record away"
        )
    return record


def _meeting(wanted: list[PatchDigest], own: PatchSet, reads: Collection[str] | None) -> str:
    """Say where patches that a fix lacks and the fix itself meet; "" if surely nowhere."""
    if reads is None or own.may_read_anew:
        return "which files its objects read is not recorded"
    theirs = {path for patch in wanted for path in patch.files}
    both = sorted(theirs & {*reads, *(path for patch in own.patches for path in patch.files)})
    return f"both are made of {_some(both)}" if both else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(f"`{name}`" for name in names[:_NAMED_MAX]) + more


def _names(patches: Collection[PatchDigest]) -> str:
    return " ".join(patch.name for patch in patches)


def _function(name: str) -> str:
    return name.partition("+")[0]


def _alike(asked: list[PatchDigest], wanted: list[PatchDigest], path: Path) -> str:
    """Say which file is meant where several patches have one name."""
    counts = Counter(patch.name for patch in asked)
    texts = [
        f"{patch.name} stands for {counts[patch.name]} files there: first the one that {path.name} "
        f"was made of, whose digest in its record begins with {patch.sha256[:12]}"
        for patch in wanted
        if counts[patch.name] > 1
    ]
    return "".join(f"; {text}" for text in texts)


def _stem(name: str) -> str:
    return re.sub(r"(\.livepatch|\.patch|\.diff)$", "", name)
