# SPDX-License-Identifier: Apache-2.0
"""From a signed payload to the verdict: what is asked, of whom, and what decides."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    Duty,
    Finding,
    PayloadRecord,
    Severity,
    SignatureState,
    VerifyRequest,
    findings_about,
    read_file,
)
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError, ElfFormatError
from xsplice_plugins.pipeline.accepting import told_by_host
from xsplice_plugins.pipeline.basing import base_findings
from xsplice_plugins.pipeline.checking import findings_of
from xsplice_plugins.pipeline.obligations import conclude
from xsplice_plugins.pipeline.payload import check_signature
from xsplice_plugins.pipeline.run import settled
from xsplice_plugins.plugins.manager import call, chosen
from xsplice_plugins.settings import check_release
from xsplice_plugins.target.abi import BUILD_ID_SECTION, DEPENDS_SECTION, XEN_DEPENDS_SECTION
from xsplice_plugins.target.funcs import read_funcs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import Checks, Report, SignatureCheck, Sources
    from xsplice_plugins.pipeline.run import Run

_NOTE_HEAD_BYTES = 16  #: three numbers and ``GNU``
_BROUGHT = {"function", "data", "bss"}


def verify_payload(
    run: Run,
    data: bytes,
    record: PayloadRecord,
    path: Path,
    *,
    checks: Checks | None,
    beneath: Sequence[Path] = (),
    sources: Sources | None = None,
) -> Report:
    """Ask the signer and every chosen verifier about a signed payload, and conclude.

    Args:
        run: Settings and plugins; ``config.image`` is the hypervisor.
        data: The whole signed file.
        record: What it holds.
        path: Where the file lies.
        checks: How it compares with a rebuild; ``None`` if nobody compared it.
        beneath: Payloads that are applied before it, bottom first.
        sources: What it was made of; ``None`` where only image and payload are at hand.

    Raises:
        ConfigError: Image, record and settings contradict each other.
        ElfFormatError: The image cannot be read.
        PluginError: A verifier failed.
    """
    image_path = run.config.image
    if image_path is None:
        raise ConfigError(f"{path}: no image to judge it on; give xen-syms")
    image = read_file(image_path)
    run = settled(run, image)
    config = run.config
    _check_record(run, record, image)
    check = check_signature(run, data)
    is_wanted = config.signer != "none"
    request = VerifyRequest(
        payload_path=path,
        image_path=image_path,
        release=config.release,
        releases_compared=config.releases_compared,
        certificate=config.certificate,
        signature=check if is_wanted and _is_checkable(run, check) else None,
        expected=config.expected,
        beneath=tuple(beneath),
        supersedes=config.supersedes,
        sources=sources,
    )
    findings = [_signature_finding(run, record.name, check), *_record_findings(data, record)]
    digest = hashlib.sha256(data[: record.size_bytes]).hexdigest()
    findings += findings_of(checks, record.name, digest, beneath)
    findings += base_findings(checks, record.name, image)
    findings += _stack_findings(run, record.name, beneath)
    if config.expected is not None:
        findings += _expectations(config.expected, record)
    hook = chosen(run.plugins, "xsplice_verify_payload", *config.verifiers)
    answers = call(hook, data=data, record=record, request=request, config=config)
    findings += [finding for answer in reversed(answers) for finding in answer]
    if config.supersedes and not any(finding.check == "upgrade" for finding in findings):
        text = ("the upgrade by replace was not played",)
        findings += findings_about(Duty.STACK, "stack", Severity.UNCHECKED, record.name, text)
    return conclude(data, record, config.release, told_by_host(findings, record))


def _check_record(run: Run, record: PayloadRecord, image: bytes) -> None:
    """Refuse a record that speaks of another release or machine than the image's."""
    check_release(record.release, run.config.release, "the payload's record", "the hypervisor")
    machine = read_elf(image, "xen-syms").machine
    if record.machine not in {0, machine}:
        raise ConfigError(
            f"{record.name}: made for ELF machine {record.machine}, and the image is for "
            f"{machine}; give the image of the hypervisor it was made for"
        )


def _record_findings(data: bytes, record: PayloadRecord) -> list[Finding]:
    """Find that the record beside a payload is not that of the file, or not what it holds."""
    payload, severity = data[: record.size_bytes], Severity.ERROR
    if hashlib.sha256(payload).hexdigest() != record.digest:
        texts = ["the record beside the payload speaks of another file"]
    else:
        try:
            texts = list(_differences(payload, record))
        except ElfFormatError as error:
            texts, severity = (
                [f"its function records were not compared: {error}"],
                Severity.UNCHECKED,
            )
    advice = "; build it again, or take the record away"
    texts = [text + advice for text in texts]
    return list(findings_about(Duty.BASE, "record", severity, record.name, texts))


def _differences(payload: bytes, record: PayloadRecord) -> Iterator[str]:
    """Say which identities and functions of a payload are not what the record beside it lists."""
    elf = read_elf(payload, record.name)
    for name, what, listed in (
        (BUILD_ID_SECTION, "is", record.build_id),
        (DEPENDS_SECTION, "depends on", record.depends),
        (XEN_DEPENDS_SECTION, "is for Xen", record.xen_depends),
    ):
        section = elf.section_by_name.get(name)
        if section is not None and _identity(section.data) != listed:
            yield (
                f"the record beside it says that it {what} {listed or 'nothing'}, and the payload "
                f"says {_identity(section.data)}"
            )
    if not record.functions:  # of hooks alone, or of another tool
        return
    rows = read_funcs(elf)
    there = Counter((r.name, r.size_old_bytes, r.size_new_bytes, r.expect) for r in rows)
    known = {f.name: (f.size_old_bytes, f.size_new_bytes, f.expect) for f in record.functions}
    for name, (old, new, expect) in known.items():
        if not there[name, old, new, expect]:
            wants = f" and expects {expect} there" if expect else ""
            yield (
                f"the record beside it says that it replaces {old} bytes of `{name}` by {new}"
                f"{wants}, and the payload has no such record"
            )
    if len(rows) != len(known):
        yield f"{len(known)} functions are listed beside it, and the payload has {len(rows)}"


def _identity(note: bytes) -> str:
    """Return the build-id in a GNU note, in hex."""
    size = int.from_bytes(note[4:8], "little")
    return note[_NOTE_HEAD_BYTES : _NOTE_HEAD_BYTES + size].hex()


def _stack_findings(run: Run, name: str, beneath: Sequence[Path]) -> list[Finding]:
    """Judge payloads beneath by signature and record, as the one on top is; say if there is none.

    That its sources hold their patches was established when it was linked.
    """
    if not beneath:
        text = "nothing lies beneath it"
        return list(findings_about(Duty.STACK, "stack", Severity.EXEMPT, name, (text,)))
    found: list[Finding] = []
    for path in beneath:
        data = read_file(path, limit_bytes=PAYLOAD_SIZE_MAX)
        rows = [_signature_finding(run, path.stem, check_signature(run, data))]
        beside = path.with_suffix(".payload.json")
        if beside.is_file():
            record = artefacts.load(beside, PayloadRecord)
            check_release(record.release, run.config.release, str(beside), "the hypervisor")
            rows += [*_record_findings(data, record), *record.findings]
        found += [
            replace(
                row,
                obligation=Duty.STACK,
                text=f"{path.name}: {row.text}",
                question=row.question if row.severity is Severity.ACCEPTED else "",
            )
            for row in rows
            if row.severity not in {Severity.INFO, Severity.HELD, Severity.EXEMPT}
        ]
    return found


def _expectations(path: Path, record: PayloadRecord) -> list[Finding]:
    """Compare what a payload holds with a regression hot-patch's ``expected.json``."""
    try:
        expected = json.loads(read_file(path))
        wanted = {
            "verdict": expected.get("verdict", "accepted"),
            "replaced": sorted(expected.get("replaced", ())),
            "new": sorted(expected.get("new", ())),
            "hooks": sorted(expected.get("hooks", ())),
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path}: not an expected.json ({error!r}); see xen-patches/README.md"
        ) from error
    found = {
        "verdict": "accepted",
        "replaced": sorted(function.name for function in record.functions),
        "new": sorted(item.name for item in record.new if item.kind in _BROUGHT),
        "hooks": sorted(record.hooks),
    }
    return [
        Finding(
            check="expected",
            severity=Severity.ERROR,
            subject=record.name,
            text=f"{key}: expected {wanted[key]}, found {found[key]}",
        )
        for key in wanted
        if (key in expected or key == "verdict") and wanted[key] != found[key]
    ]


def _is_checkable(run: Run, check: SignatureCheck) -> bool:
    """Tell whether there was anything to check against."""
    has_trust = run.config.certificate is not None or run.config.build_dir is not None
    return has_trust or check.state not in {SignatureState.UNSIGNED, SignatureState.UNKNOWN_KEY}


def _signature_finding(run: Run, name: str, check: SignatureCheck) -> Finding:
    """Say what the signature came to; a signature that nobody checked proves nothing."""
    severity, text = Severity.HELD, f"{check.state}: {check.reason}"
    is_unsigned = check.state is SignatureState.UNSIGNED
    if run.config.signer == "none":
        severity, text = Severity.EXEMPT, "there is none, and none is wanted (SIGNER=none)"
        if not is_unsigned:
            severity = Severity.UNCHECKED
            text = "there is one, and it was not checked; give its certificate and signer"
    elif not _is_checkable(run, check):
        severity = Severity.UNCHECKED
        text = (
            "the file carries none; ask for SIGNER=none if none is wanted"
            if is_unsigned
            else "not checked; give the certificate that it must fit"
        )
    elif check.state is not SignatureState.GOOD:
        severity = Severity.ERROR
    is_bad = severity is Severity.ERROR
    return Finding(
        check="signature",
        severity=severity,
        subject=name,
        text=text,
        errno=errno.EPERM if is_bad else 0,
        step="signature" if is_bad else "",
    )
