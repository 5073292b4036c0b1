# SPDX-License-Identifier: Apache-2.0
"""The way from one cumulative payload to the next, played in the model.

The old payload is applied, the new one uploaded beside it and put in its place by ``replace``, the
old one unloaded. All that the old one did alone, and all that its variables held, ends there.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    SUPERSEDED,
    Finding,
    PayloadRecord,
    Severity,
    read_file,
    record_path,
)
from xsplice_plugins.hypervisor import Hypervisor, Unknown, ask
from xsplice_plugins.hypervisor.proof.remaining import remaining, xens_data
from xsplice_plugins.realxen.results import Step
from xsplice_plugins.verify.predict import predict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.hypervisor import BootedImage, Probe, Release, SignaturePolicy

CHECK = "upgrade"
_FUNCTION = re.compile("(?=[+-])")  #: where the digest of a function ends, in a line
_NUMBER = re.compile(r"\.[0-9]+$")  #: gcc's, behind the name of a static local
_VARIABLES = {"data", "bss"}


def play_upgrade(
    data: bytes,
    record: PayloadRecord,
    older: Sequence[Path],
    image: BootedImage,
    release: Release,
    *,
    probes: Sequence[Probe],
    signatures: SignaturePolicy,
) -> tuple[Finding, ...]:
    """Play an upgrade in the model, and say what is lost by it.

    Args:
        data: The new payload.
        record: What it holds.
        older: The payloads whose place it takes, bottom first.
        image: The hypervisor as after boot.
        release: Its release.
        probes: What shall be asked once the old payloads are gone.
        signatures: Whether uploads must be signed.
    """
    labels = labels_of(record.name, older)
    payloads = {record.name: data}
    payloads |= {
        label: read_file(path, limit_bytes=PAYLOAD_SIZE_MAX)
        for label, path in zip(labels, older, strict=True)
    }
    hv = Hypervisor(image, release, signatures=signatures)
    before, xens = hv.memory.digest(owner="xen", code_only=True), xens_data(hv)
    steps, down = upgrade_steps(record.name, labels)
    problem = _play(steps, payloads, hv, record.name)
    if problem is None:
        problem = _asked(record, image, hv, probes, labels)
    if problem is None:
        problem = _play(down, payloads, hv, record.name)
    if problem is None and (
        hv.memory.digest(owner="xen", code_only=True) != before or hv.arena.in_use()
    ):
        problem = _finding(record, Severity.HAZARD, "memory is not what it was before", "revert")
    remarks = () if problem is not None else remaining(hv, xens)
    names = " and ".join(labels)
    good = f"uploaded beside {names}, put in its place by replace; {names} unloaded"
    return (
        problem or _finding(record, Severity.HELD, good),
        *(finding for path in older for finding in _losses(record, path)),
        *(_finding(record, Severity.WARNING, remark) for remark in remarks),
    )


def labels_of(name: str, older: Sequence[Path]) -> list[str]:
    """Return the names that payloads are uploaded by, beside the one that takes their place."""
    return [path.stem + (".old" if path.stem == name else "") for path in older]


def upgrade_steps(name: str, older: Sequence[str]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return the job list of an upgrade, and that of taking the new payload off again.

    Args:
        name: The new payload.
        older: Those whose place it takes, bottom first.
    """
    steps: list[Step] = []
    for label in older:
        steps += [Step(verb="upload", name=label, payload=label), Step(verb="apply", name=label)]
    steps += [Step(verb="upload", name=name, payload=name), Step(verb="replace", name=name)]
    steps += [Step(verb="unload", name=label) for label in reversed(older)]
    return tuple(steps), (Step(verb="revert", name=name), Step(verb="unload", name=name))


def _play(
    steps: Sequence[Step],
    payloads: dict[str, bytes],
    hv: Hypervisor,
    name: str,
) -> Finding | None:
    """Do a job list; return what stopped it."""
    answers = predict(steps, payloads, image=hv.image, release=hv.release, hv=hv)
    for step, answer in zip(steps, answers, strict=False):
        at = f"{step.verb} {step.name}"
        if answer.unknown:
            return _found(name, Severity.UNCHECKED, f"{at}: {answer.unknown}", step.verb)
        if answer.hazard:
            return _found(name, Severity.HAZARD, f"{at}: {answer.hazard}", step.verb)
        if answer.error or answer.rc:
            errno = answer.error or -answer.rc
            return _found(name, Severity.ERROR, f"{at}: {answer.reason}", step.verb, errno)
    return None


def _asked(
    record: PayloadRecord,
    image: BootedImage,
    hv: Hypervisor,
    probes: Sequence[Probe],
    older: Sequence[str],
) -> Finding | None:
    """Ask what holds once the old payloads are gone."""
    lost = [name for name in record.references if image.lookup(name) is None]
    if lost:
        text = f"it refers to `{lost[0]}` of {' and '.join(older)}, which is unloaded"
        return _finding(record, Severity.HAZARD, text, "unload")
    for probe in probes:
        try:
            result = ask(probe, hv, "during")
        except Unknown as unknown:
            return _finding(record, Severity.UNCHECKED, unknown.reason, "probe")
        if result.problem:
            return _finding(record, Severity.HAZARD, f"{probe.function}: {result.problem}", "probe")
        if not result.is_good:
            text = f"{probe.function}: {result.found!r} instead of {result.expected!r}"
            return _finding(record, Severity.ERROR, text, "probe")
    return None


def _losses(record: PayloadRecord, path: Path) -> list[Finding]:
    """Say what ends with an old payload."""
    beside = record_path(path)
    if not beside.exists():
        text = f"{path.name} has no record: what ends with it was not compared"
        return [_finding(record, Severity.UNCHECKED, text)]
    old = artefacts.load(beside, PayloadRecord)
    data = read_file(path, limit_bytes=PAYLOAD_SIZE_MAX)[: old.size_bytes]
    if hashlib.sha256(data).hexdigest() != old.digest:
        text = f"{beside.name} is the record of another file: what ends with it was not compared"
        return [_finding(record, Severity.UNCHECKED, text)]
    found = []
    hint = " unless its hook carries it over" if record.hooks else ""
    for name in sorted(_variables(old)):
        is_kept = name in _variables(record)
        what = f"starts its own `{name}`" if is_kept else f"has no variable `{name}`"
        text = f"{record.name} {what}; the value in {old.name} is lost{hint}"
        found.append(_finding(record, Severity.WARNING, text))
    is_held = _holds(record, old)
    severity, hint = Severity.WARNING, ""
    if not is_held and not _is_by_hand(record):
        severity = Severity.UNCHECKED
        is_patched = any(patch.files for patch in old.patches)
        both = "begin PATCH= with its patches" if is_patched else "write by hand what does both"
        hint = f", and its sources lack that fix; {both}, or unload it first"
    if not is_held and (_share(record, old) < 1 or _undoes(record, old)):
        texts = _changed_by_both(record, old)
        found += [_finding(record, severity, text + hint) for text in texts]
    if is_held and not _is_by_hand(record) and not _was_held_against(record, old):
        text = (
            f"what objects hold that {old.name} made was not compared with what its sources read: "
            "make it with SUPERSEDES=, and begin PATCH= with the patches of that one"
        )
        found.append(_finding(record, Severity.UNCHECKED, text))
    texts = _given_up(record, old, is_held=is_held)
    return found + [_finding(record, severity, text + hint) for text in texts]


def _given_up(record: PayloadRecord, old: PayloadRecord, *, is_held: bool) -> list[str]:
    """Name what the old one did and the new one does not; all, where it lacks its patches."""
    now = {function.name for function in record.functions}
    brought = {item.name for item in record.new}  # what the old one replaced of one beneath it
    texts = []
    for function in (row for row in old.functions if row.name not in now):
        if not function.addr_old_virt and function.name in brought:
            continue
        # What a payload brought has no address in the image, and goes with that payload.
        after = "the hypervisor's runs again" if function.addr_old_virt else "it ends with that"
        texts.append(f"`{function.name}` is replaced by {old.name} only; {after}")
    hooks = sorted(set(old.hooks) - (set(record.hooks) if is_held else set()))
    kinds = ", ".join(section.rpartition(".")[2] for section in hooks)
    if kinds:
        texts.append(f"the hooks of {old.name} ({kinds}) run no more; what they left in Xen stays")
    return texts


def _holds(record: PayloadRecord, old: PayloadRecord) -> bool:
    """Tell whether the sources hold all that the old one was made of, in its order."""
    rest = iter(patch.sha256 for patch in record.patches)
    return bool(old.patches) and all(patch.sha256 in rest for patch in old.patches)


def _was_held_against(record: PayloadRecord, old: PayloadRecord) -> bool:
    """Tell whether its maker held its sources against the old one's."""
    rows = (row.evidence or {} for row in record.findings)
    return any(row.get(SUPERSEDED) == old.digest for row in rows)


def _changed_by_both(record: PayloadRecord, old: PayloadRecord) -> list[str]:
    """Name the functions that both replace."""
    now = {function.name for function in record.functions}
    both = [function.name for function in old.functions if function.name in now]
    return [f"what {old.name} changed in `{name}` is given up" for name in both]


def _share(record: PayloadRecord, old: PayloadRecord) -> float:
    """Return which part of the old one's lines the new sources hold: of the function with least.

    A cumulative patch that was written anew is another text with the same lines.
    """
    there = Counter(record.net)
    groups: dict[str, Counter[str]] = {}
    for line in old.net:
        groups.setdefault(_FUNCTION.split(line)[0], Counter())[line] += 1
    shares = [(lines & there).total() / lines.total() for lines in groups.values()]
    return min(shares, default=0.0)


def _undoes(record: PayloadRecord, old: PayloadRecord) -> bool:
    """Tell whether the new sources have a line that the old one, or a patch of it, took away."""
    if any(_of_line(line)[:1] == "-" for line in (Counter(old.net) - Counter(record.net))):
        return True
    taken = {line[1:] for patch in old.patches for line in patch.lines if line[:1] == "-"}
    before, after = (Counter(map(_of_line, side.net)) for side in (old, record))
    return any(line[:1] == "+" and line[1:] in taken for line in after - before)


def _of_line(line: str) -> str:
    """Return sign and digest of a line of `PayloadRecord.net`, without its function."""
    return line[len(_FUNCTION.split(line)[0]) :]


def _is_by_hand(record: PayloadRecord) -> bool:
    """Tell whether a person wrote the new one, and so chose what it does."""
    return bool(record.patches) and not any(patch.files for patch in record.patches)


def _variables(record: PayloadRecord) -> set[str]:
    return {_NUMBER.sub("", item.name) for item in record.new if item.kind in _VARIABLES}


def _finding(record: PayloadRecord, severity: Severity, text: str, step: str = "") -> Finding:
    return _found(record.name, severity, text, step)


def _found(name: str, severity: Severity, text: str, step: str = "", errno: int = 0) -> Finding:
    return Finding(check=CHECK, severity=severity, subject=name, text=text, errno=errno, step=step)
