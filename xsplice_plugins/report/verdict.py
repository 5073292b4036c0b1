# SPDX-License-Identifier: Apache-2.0
"""From the verifiers' findings to one verdict, and to the screenful that a person reads."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from xsplice_plugins.artefacts import Finding, PayloadRecord, Report, Severity, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN_FUNCTIONS_MAX = 12


def conclude(
    data: bytes, record: PayloadRecord, release: str, findings: Sequence[Finding]
) -> Report:
    """Return the report: the worst finding decides, and no finding can soften another.

    Args:
        data: The file that was judged.
        record: What it holds.
        release: The hypervisor's release.
        findings: Of all verifiers; at least the built-in one's.
    """
    assert findings, "the built-in verifier always has a finding"
    order = {Severity.HAZARD: 0, Severity.ERROR: 1}
    worst = min(findings, key=lambda finding: order.get(finding.severity, 2))
    verdicts = {Severity.HAZARD: Verdict.HAZARD, Severity.ERROR: Verdict.REFUSED}
    verdict = verdicts.get(worst.severity, Verdict.PROVED)
    is_bad = verdict is not Verdict.PROVED
    return Report(
        name=record.name,
        verdict=verdict,
        errno=worst.errno if is_bad else 0,
        step=worst.step if is_bad else "",
        reason=worst.text if is_bad else "",
        digest=hashlib.sha256(data).hexdigest(),
        release=release,
        findings=tuple(findings),
    )


def verdict_text(report: Report) -> str:
    """Return a report in words: the verdict first, then what each verifier saw."""
    lines = [f"{report.verdict.upper()}: {report.name} on Xen {report.release}"]
    if report.verdict is not Verdict.PROVED:
        errno = f" (errno -{report.errno})" if report.errno else ""
        lines.append(f"  at {report.step or 'check'}{errno}: {report.reason}")
    for finding in report.findings:
        lines.append(f"  {finding.check}: {finding.text}")
        if finding.evidence and "payloads" in finding.evidence:
            lines += _proof_lines(finding.evidence)
    return "\n".join(lines) + "\n"


def _proof_lines(proof: dict[str, Any]) -> list[str]:
    """Put what the model saw into a few lines."""
    lines = []
    functions = proof["functions"]
    for function in functions[:_SHOWN_FUNCTIONS_MAX]:
        same = function["bytes_after"] == function["bytes_before"]
        after = "as before" if same else function["bytes_after"] or "not reverted"
        name, before, during = function["name"], function["bytes_before"], function["bytes_during"]
        lines.append(f"    {name} {function['old_virt']} -> {function['new_virt']}")
        lines.append(f"      before {before[:20]}  during {during[:20]}  after {after}")
    if len(functions) > _SHOWN_FUNCTIONS_MAX:
        lines.append(f"    and {len(functions) - _SHOWN_FUNCTIONS_MAX} more functions")
    for probe in proof["probes"]:
        answer = probe["problem"] or repr(probe["found"])
        is_good = not probe["problem"] and probe["expected"] in {None, probe["found"]}
        mark = "" if is_good else f", expected {probe['expected']!r}"
        lines.append(f"    {probe['function']}() {probe['moment']}: {answer}{mark}")
    lines += [
        f"    memory {memory['moment']:<9} code {memory['code'][:16]}  "
        f"{memory['allocations']} bytes of payloads"
        for memory in proof["memory"]
    ]
    lines += [f"    note: {note}" for note in proof["notes"]]
    for other in proof["differences"]:
        errno = f" -{other['errno']}" if other["errno"] else ""
        lines.append(f"    Xen {other['release']}: {other['verdict']}{errno} {other['reason']}")
    return lines
