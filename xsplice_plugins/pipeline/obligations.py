# SPDX-License-Identifier: Apache-2.0
"""The verdict: what must hold of a payload, what became of each, and what that comes to.

Every finding speaks of exactly one obligation. The worst of them decides; none softens another,
and an obligation of which nobody speaks is not held: a check that is dropped is missed here.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Obligation, Report, Severity, State, Verdict
from xsplice_plugins.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import Finding, PayloadRecord

#: What a check speaks of where its findings do not say; all others' speak of the loader.
_DUTY_OF_CHECK = {
    "record": Duty.BASE,
    "base": Duty.BASE,
    "rebuild": Duty.COMPLETE,
    "whole": Duty.COMPLETE,
    "expected": Duty.COMPLETE,
    "stack": Duty.STACK,
    "upgrade": Duty.STACK,
    "effect": Duty.EFFECT,
    "signature": Duty.SIGNATURE,
}
#: Who must have spoken of an obligation before it holds, whoever else does.
_NEEDED = {
    Duty.BASE: {"base", "rebuild"},
    Duty.COMPLETE: {"rebuild"},
    Duty.LINES: {"rebuild"},
    Duty.LAYOUT: {"differ"},
    Duty.DATA: {"differ", "linker"},
    Duty.STACK: {"stack"},
    Duty.LOADER: {"model"},
    Duty.EFFECT: {"effect"},
    Duty.SIGNATURE: {"signature"},
}
#: What is bad, from the worst on, and what the verdict then is.
_BAD = {
    Severity.HAZARD: Verdict.HAZARD,
    Severity.ERROR: Verdict.REFUSED,
    Severity.UNCHECKED: Verdict.UNPROVED,
}
_SPEAKING = {Severity.HELD, Severity.EXEMPT}
_GOOD = {State.HELD, State.NONE}


def conclude(
    data: bytes, record: PayloadRecord, release: str, findings: Sequence[Finding]
) -> Report:
    """Return the report: a payload is proved only if all obligations that apply are held.

    Args:
        data: The file that was judged.
        record: What it holds; what its makers found counts.
        release: The hypervisor's release.
        findings: Of all verifiers.

    Raises:
        PluginError: A finding speaks of an obligation that does not exist.
    """
    found = (*record.findings, *findings)
    obligations, worst = weigh(found), _worst(found)
    left = next((row for row in obligations if row.state not in _GOOD), None)
    verdict, reason = Verdict.PROVED, ""
    if left is not None:
        verdict, reason = Verdict.UNPROVED, f"{left.name}: {left.text}"
    if worst is not None:
        verdict, reason = _BAD[worst.severity], worst.said
    return Report(
        name=record.name,
        verdict=verdict,
        obligations=obligations,
        errno=worst.errno if worst else 0,
        step=worst.step if worst else "",
        reason=reason,
        digest=hashlib.sha256(data).hexdigest(),
        release=release,
        findings=found,
    )


def weigh(findings: Sequence[Finding]) -> tuple[Obligation, ...]:
    """Say what became of each obligation.

    Args:
        findings: All there are.

    Returns:
        Every obligation once, in the order of `Duty`.

    Raises:
        PluginError: A finding speaks of an obligation that does not exist.
    """
    of: dict[Duty, list[Finding]] = {duty: [] for duty in Duty}
    for finding in findings:
        of[duty_of(finding)].append(finding)
    return tuple(_became(duty, rows) for duty, rows in of.items())


def duty_of(finding: Finding) -> Duty:
    """Return the obligation that a finding speaks of: what it says, else its check's.

    Raises:
        PluginError: There is no such obligation.
    """
    if not finding.obligation:
        return _DUTY_OF_CHECK.get(finding.check, Duty.LOADER)
    try:
        return Duty(finding.obligation)
    except ValueError as error:
        raise PluginError(
            f"{finding.check}: there is no obligation {finding.obligation!r}; "
            f"name one of {', '.join(Duty)}"
        ) from error


def _worst(findings: Sequence[Finding]) -> Finding | None:
    order = list(_BAD)
    bad = (finding for finding in findings if finding.severity in _BAD)
    return min(bad, key=lambda finding: order.index(finding.severity), default=None)


def _became(duty: Duty, findings: Sequence[Finding]) -> Obligation:
    """Weigh the findings about one obligation."""
    worst = _worst(findings)
    if worst is not None:
        is_open = worst.severity is Severity.UNCHECKED
        state = State.UNCHECKED if is_open else State.FAILED
        # Beside what failed, it counts less what was not checked.
        kinds = {Severity.UNCHECKED} if is_open else {Severity.ERROR, Severity.HAZARD}
        others = sum(finding.severity in kinds for finding in findings) - 1
        more = f" (and {others} more)" if others else ""
        return Obligation(name=duty, state=state, text=f"{_said(worst)}{more}")
    spoken = [finding for finding in findings if finding.severity in _SPEAKING]
    if missing := sorted(_NEEDED[duty] - {finding.check for finding in spoken}):
        text = f"nothing was said of it by the check {' and '.join(missing)}"
        return Obligation(name=duty, state=State.UNCHECKED, text=text)
    is_held = any(finding.severity is Severity.HELD for finding in spoken)
    words = (row.question for row in findings if row.severity is Severity.ACCEPTED)
    said = [_said(finding) for finding in spoken]
    return Obligation(
        name=duty,
        state=State.HELD if is_held else State.NONE,
        text="; ".join(dict.fromkeys((*(f"on a person's word {w}" for w in words), *said))),
    )


def _said(finding: Finding) -> str:
    return f"{finding.said} [{finding.check}]"
