# SPDX-License-Identifier: Apache-2.0
"""A verdict as the screenful that a person reads."""

from __future__ import annotations

from typing import Any

from xsplice_plugins.artefacts import Report, Severity, Verdict

_SHOWN_FUNCTIONS_MAX = 12


def verdict_text(report: Report) -> str:
    """Return a report in words: the verdict first, then what each verifier saw."""
    lines = [f"{report.verdict.upper()}: {report.name} on Xen {report.release}"]
    unchecked = [f for f in report.findings if f.severity is Severity.UNCHECKED]
    if report.verdict not in {Verdict.PROVED, Verdict.UNPROVED}:
        errno = f" (errno -{report.errno})" if report.errno else ""
        lines.append(f"  at {report.step or 'check'}{errno}: {report.reason}")
    lines += [f"  not checked: {finding.check}: {finding.text}" for finding in unchecked]
    for finding in report.findings:
        if finding in unchecked:
            continue
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
