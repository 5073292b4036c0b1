# SPDX-License-Identifier: Apache-2.0
"""A proof in words: what a person reads in ten seconds."""

from itertools import groupby

from xsplice_plugins.hypervisor.proof.proof import ProofReport, ReleaseAnswer


def _answers(differences: tuple[ReleaseAnswer, ...]) -> list[str]:
    """One line per run of releases that say the same."""
    lines = []
    for _, group in groupby(differences, key=lambda a: (a.verdict, a.errno, a.step, a.reason)):
        run = list(group)
        names = run[0].release if len(run) == 1 else f"{run[0].release} to {run[-1].release}"
        errno = f" -{run[0].errno}" if run[0].errno else ""
        text = f": {run[0].reason}" if run[0].reason else ""
        lines.append(f"  Xen {names}: {run[0].verdict}{errno}{text}")
    return lines


def summary(report: ProofReport) -> str:
    """Put a report into words.

    Args:
        report: what ``prove`` returned.

    Returns:
        A few lines, the verdict first.
    """
    names = ", ".join(payload.name for payload in report.payloads) or "payload"
    lines = [f"{report.verdict.upper()}: {names} on Xen {report.release} ({report.cpu})"]
    if report.verdict != "proved":
        errno = f" with -{report.errno_name} (-{report.errno})" if report.errno else ""
        lines.append(f"  at {report.step}{errno}: {report.reason}")
    for function in report.functions:
        lines.append(f"  {function.name} {function.old_virt} -> {function.new_virt}")
        lines.append(f"    before {function.bytes_before}")
        lines.append(f"    during {function.bytes_during}")
        if function.bytes_after:
            same = function.bytes_after == function.bytes_before
            lines.append(f"    after  {'as before' if same else function.bytes_after}")
    for probe in report.probes:
        answer = probe.problem or repr(probe.found)
        mark = "" if probe.is_good else f", expected {probe.expected!r}"
        lines.append(f"  {probe.function}() {probe.moment}: {answer}{mark}")
    lines.extend(
        f"  memory {memory.moment}: code {memory.code[:16]}, {memory.allocations} bytes of payloads"
        for memory in report.memory
    )
    lines.extend(f"  note: {note}" for note in report.notes)
    if report.differences:
        lines.append("Other releases:")
        lines.extend(_answers(report.differences))
    return "\n".join(lines) + "\n"
