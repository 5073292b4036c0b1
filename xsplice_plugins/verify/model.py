# SPDX-License-Identifier: Apache-2.0
"""The built-in verifier: the payload's whole life in the reference hypervisor core."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from xsplice_plugins import hypervisor
from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    Finding,
    PayloadRecord,
    Severity,
    SignatureState,
    VerifyRequest,
    load,
    plain,
    read_file,
    record_path,
)
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor import (
    OFF,
    BootedImage,
    BuildFacts,
    Probe,
    ProofReport,
    Release,
    SignaturePolicy,
    SignatureVerdict,
)
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.verify.effects import CHECK as CHECK_EFFECT
from xsplice_plugins.verify.effects import effect_findings
from xsplice_plugins.verify.saved import DECIDED, QEMU, TRIED, UNREAD, machine_of, with_saved_memory
from xsplice_plugins.verify.upgrade import play_upgrade

_SEVERITIES = {
    "proved": Severity.HELD,
    "refused": Severity.ERROR,
    "hazard": Severity.HAZARD,
    "unknown": Severity.UNCHECKED,
}


def verify_in_model(
    data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
) -> tuple[Finding, ...]:
    """Play a payload's whole life in the model.

    What depends on a running host is asked again with memory of the saved machine, if the verifier
    ``qemu`` is asked too: that one then holds the answer against a real Xen's.

    Args:
        data: The whole signed file.
        record: What it holds.
        request: Image, release, signature, expectations and what lies beneath.
        config: Settings of the run; its facts of the build count more than the release's name.

    Returns:
        What the model came to, with its whole report as evidence; a finding where the release is
        newer than the last one that was read; and remarks on what the payload reaches.

    Raises:
        XspliceError: The image cannot be used, or ``expected.json`` is not one.
    """
    release = release_of(request.release, config)
    image = hypervisor.boot(read_file(request.image_path), release=release)
    stack = [
        (plain(path.stem), read_file(path, limit_bytes=PAYLOAD_SIZE_MAX))
        for path in request.beneath
    ]
    probes = read_probes(request.expected) if request.expected else ()
    policy = _policy(data, request)
    vouched_for = {record.name: record.hooks_taken, **_beneath(request.beneath)}

    def upgraded(image: BootedImage) -> tuple[Finding, ...]:
        if not request.supersedes:
            return ()
        return play_upgrade(
            data, record, request.supersedes, image, release, probes=probes, signatures=policy
        )

    def proved(image: BootedImage) -> ProofReport:
        return hypervisor.prove(
            [*stack, (record.name, data)],
            image,
            release,
            probes=probes,
            compared=[hypervisor.release(name) for name in request.releases_compared],
            signatures=policy,
            vouched_for=vouched_for,
        )

    upgrade, report = upgraded(image), proved(image)
    text = _words(report)
    is_open = upgrade[:1] and upgrade[0].severity is Severity.UNCHECKED
    is_host_asked = report.verdict == "unknown" or bool(report.vouched)
    if QEMU in config.verifiers and (is_open or is_host_asked):
        machine = machine_of(request, config, image.build_id)
        host = with_saved_memory(image, machine.memory()) if machine.has_memory else None
        if host is None:
            text += f" ({UNREAD})"
        elif is_open:
            upgrade = _decided(upgrade, upgraded(host))
        if host is not None and is_host_asked:
            why, answer = report.reason or report.vouched[0][-1], proved(host)
            # Expected answers speak of the image as built; a host's need not be the same.
            is_other = answer.step == "probe" and report.step != "probe"
            report = report if is_other else answer
            how = TRIED if report.verdict == "unknown" else DECIDED
            text = f"{_words(report)} ({how}: {why})"
    findings = [*upgrade, _finding(record.name, report, text)]
    findings += [
        Finding(check="model", severity=Severity.WARNING, subject=record.name, text=remark)
        for remark in report.remarks
    ]
    if release.loader:
        text = f"judged by the loader of {release.loader}, not by upstream's"
        findings.append(
            Finding(check="model", severity=Severity.INFO, subject=record.name, text=text)
        )
    if release.note:
        findings.append(
            Finding(check="model", severity=Severity.INFO, subject=record.name, text=release.note)
        )
    if report.verdict in {"proved", "unknown"}:
        remarks = effect_findings(data, record, image)
        findings += [*remarks, _looked(record, len(remarks), image)]
    return tuple(findings)


def _finding(name: str, report: ProofReport, text: str) -> Finding:
    """Return what the model came to; that a person vouches for a hook establishes nothing yet."""
    severity = _SEVERITIES[report.verdict]
    if severity is Severity.HELD and report.vouched:
        rows = dict.fromkeys(f"the {kind} hook of {of} {why}" for of, kind, why in report.vouched)
        severity, text = Severity.UNCHECKED, f"{text}; on a person's word, {'; '.join(rows)}"
    return Finding(
        check="model",
        severity=severity,
        subject=name,
        text=text,
        errno=report.errno,
        step=report.step,
        evidence=msgspec.to_builtins(report),
    )


def _beneath(paths: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Return for which hooks of payloads beneath their makers vouched, by name."""
    records = {plain(path.stem): record_path(path) for path in paths}
    return {
        name: load(beside, PayloadRecord).hooks_taken
        for name, beside in records.items()
        if beside.is_file()
    }


def _looked(record: PayloadRecord, count: int, image: BootedImage) -> Finding:
    """Say that effects were looked at; remarks alone would not show it."""
    text = f"{len(record.functions)} replaced functions looked at, {count} remarks"
    if not image.arch.are_stores_read:
        text += "; constants that code stores are not read in this machine's code"
    is_read = image.arch.is_call_graph_read
    return Finding(
        check=CHECK_EFFECT,
        severity=Severity.HELD if is_read else Severity.UNCHECKED,
        subject=record.name,
        text=text if is_read else "calls are not followed in this machine's code",
    )


def _words(report: ProofReport) -> str:
    if report.verdict == "unknown":
        return f"cannot be told at {report.step}: {report.reason}"
    return report.reason or f"loads, applies and reverts on Xen {report.release}"


def _decided(before: Sequence[Finding], after: Sequence[Finding]) -> tuple[Finding, ...]:
    """Say of what an upgrade came to with a host's memory that it needed it, and for what."""
    how = TRIED if after[0].severity is Severity.UNCHECKED else DECIDED
    text = f"{after[0].text} ({how}: {before[0].text})"
    return (replace(after[0], text=text), *after[1:])


def release_of(name: str, config: Config) -> Release:
    """Return what a release does, with what the headers of this build define.

    Raises:
        ConfigError: No release with live patching, or a build that the model does not know.
    """
    facts = config.facts
    if facts is None:
        return hypervisor.release(name, loader=config.loader)
    built = BuildFacts(
        feature_words=facts.feature_words,
        record_version=facts.record_version,
        record_bytes=facts.record_size_bytes,
        alternative_bytes=facts.alternative.size_bytes,
        bug_instruction=bytes.fromhex(facts.bug_instruction),
    )
    return hypervisor.release(name, built, config.loader)


def _policy(data: bytes, request: VerifyRequest) -> SignaturePolicy:
    """Return the core's policy: what the signer said of this file, off where it was not asked."""
    check = request.signature
    if check is None:
        return OFF

    def judge(file: bytes) -> SignatureVerdict:
        if file != data:  # what lies beneath was accepted when it was loaded
            return SignatureVerdict(is_accepted=True, reason="loaded before")
        return SignatureVerdict(
            is_accepted=check.state is SignatureState.GOOD,
            reason=check.reason,
            payload_bytes=check.payload_size_bytes,
        )

    return SignaturePolicy(checker=judge)


def read_probes(path: Path) -> tuple[Probe, ...]:
    """Return the questions of a hot-patch's ``expected.json``.

    Args:
        path: A file with a list ``effect`` of ``probe``, ``args``, ``type``, ``before``,
            ``during``, ``after``.

    Raises:
        ConfigError: Not JSON, or not of this form.
    """
    try:
        effects: list[dict[str, Any]] = json.loads(read_file(path))["effect"]
        return tuple(
            Probe(
                function=effect["probe"],
                arguments=tuple(effect["args"]),
                kind=effect["type"],
                before=effect["before"],
                during=effect["during"],
                after=effect["after"],
            )
            for effect in effects
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not an expected.json ({error!r}); it needs a list `effect`, see "
            "xen-patches/README.md"
        ) from error
