# SPDX-License-Identifier: Apache-2.0
"""A verdict as the screenful that a person reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xsplice_plugins.artefacts import Report, Severity, State, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.artefacts import Finding

_SHOWN_FUNCTIONS_MAX = 12
_SHOWN_SUBJECTS_MAX = 4
_UNSEEN = "what its sources have otherwise, and what compiled to the same, nobody knows"


def verdict_text(report: Report) -> str:
    """Return a report in words: the verdict, what is not held, every obligation, then the rest."""
    lines = [f"{report.verdict.upper()}: {report.name} on Xen {report.release}"]
    if report.verdict not in {Verdict.PROVED, Verdict.UNPROVED}:
        errno = f" (errno -{report.errno})" if report.errno else ""
        lines.append(f"  at {report.step or 'check'}{errno}: {report.reason}")
    lines += _unchecked(report)
    lines += _of_base(report.findings)
    lines += _accepted(report.findings)
    for row in report.obligations:
        text = "" if row.state is State.UNCHECKED else row.text  # it stands above
        lines.append(f"  {row.name:<10} {row.state:<15} {text}".rstrip())
    for finding in report.findings:
        if finding.check == "model" and finding.evidence and "payloads" in finding.evidence:
            lines += _proof_lines(finding.evidence)
    shown = "\n".join(row.text for row in report.obligations)
    rest: dict[str, None] = {}  # what is said of a header is said for each object that reads it
    for finding in report.findings:
        if finding.severity is Severity.ACCEPTED or _is_of_base(finding):
            continue  # said at the top
        if f"{finding.said} [{finding.check}]" not in shown:
            word = "not checked" if finding.severity is Severity.UNCHECKED else finding.severity
            rest[f"  {word}: {finding.said} [{finding.check}]"] = None
    lines += rest
    # Whoever wrote a finding: its text begins no line of ours.
    return "\n".join(" ".join(line.split("\n")) for line in lines) + "\n"


def _unchecked(report: Report) -> list[str]:
    """Return a line for each thing that was not checked, with the obligations that lack it."""
    lacking: dict[str, list[str]] = {}
    for row in report.obligations:
        if row.state is State.UNCHECKED:
            lacking.setdefault(row.text, []).append(row.name)
    return [f"  not checked: {', '.join(names)}: {text}" for text, names in lacking.items()]


def _is_of_base(finding: Finding) -> bool:
    return finding.check == "base" and finding.severity is Severity.WARNING


def _of_base(findings: Iterable[Finding]) -> list[str]:
    """Return what of a matched base's image is otherwise, and how far a proof reaches then."""
    rows = dict.fromkeys(row.text for row in findings if _is_of_base(row))
    if not rows:
        return []
    return [
        *(f"  matched base: {text}" for text in rows),
        f"  matched base: {_UNSEEN}",
    ]


def _accepted(findings: Iterable[Finding]) -> list[str]:
    """Return a line for each thing that was taken on a person's word, with all that it was for."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for row in findings:
        if row.severity is Severity.ACCEPTED:
            rows.setdefault((row.question, row.text), {})[row.subject] = None
    lines = []
    for (word, text), subjects in rows.items():
        shown = ", ".join(list(subjects)[:_SHOWN_SUBJECTS_MAX])
        more = len(subjects) - _SHOWN_SUBJECTS_MAX
        shown += f" and {more} more" if more > 0 else ""
        of = f" ({shown})" if len(subjects) > 1 else ""
        lines.append(f"  on a person's word: {word}: {text}{of}")
    return lines


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
