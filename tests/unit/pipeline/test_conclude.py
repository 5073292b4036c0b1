# SPDX-License-Identifier: Apache-2.0
"""`conclude` decides what "proved" means: each way in which a payload is not."""

from __future__ import annotations

import hashlib
from itertools import permutations

import pytest

from xsplice_plugins.artefacts import Finding, PayloadRecord, Severity, Verdict
from xsplice_plugins.pipeline import conclude, is_proved
from xsplice_plugins.report.verdict import verdict_text

DATA = b"payload"


def record(*unchecked: str) -> PayloadRecord:
    return PayloadRecord(
        name="fix",
        release="4.17.5",
        machine=62,
        build_id="",
        depends="",
        xen_depends="",
        digest=hashlib.sha256(DATA).hexdigest(),
        size_bytes=len(DATA),
        functions=(),
        new=(),
        hooks=(),
        references=(),
        unchecked=unchecked,
    )


def finding(severity: Severity, check: str = "other", *, errno: int = 0) -> Finding:
    return Finding(
        check=check, severity=severity, subject="fix", text=f"{severity} of {check}", errno=errno
    )


GOOD = finding(Severity.INFO, "model")


def test_proved_needs_the_model_and_nothing_against_it() -> None:
    report = conclude(DATA, record(), "4.17.5", [GOOD, finding(Severity.WARNING)])
    assert report.verdict is Verdict.PROVED
    assert is_proved(report)
    assert (report.errno, report.step, report.reason) == (0, "", "")
    assert report.digest == hashlib.sha256(DATA).hexdigest()
    assert verdict_text(report).startswith("PROVED: fix on Xen 4.17.5\n")


@pytest.mark.parametrize(
    ("severity", "verdict"),
    [
        (Severity.UNCHECKED, Verdict.UNPROVED),
        (Severity.ERROR, Verdict.REFUSED),
        (Severity.HAZARD, Verdict.HAZARD),
    ],
)
def test_one_bad_finding_is_enough(severity: Severity, verdict: Verdict) -> None:
    bad = finding(severity, errno=22)
    report = conclude(DATA, record(), "4.17.5", [GOOD, bad])
    assert (report.verdict, report.errno, report.reason) == (verdict, 22, bad.text)
    assert not is_proved(report)


def test_the_worst_decides_in_every_order() -> None:
    found = [
        GOOD,
        finding(Severity.UNCHECKED),
        finding(Severity.ERROR),
        finding(Severity.HAZARD),
        finding(Severity.WARNING),
    ]
    verdicts = {conclude(DATA, record(), "4.17.5", order).verdict for order in permutations(found)}
    assert verdicts == {Verdict.HAZARD}


def test_without_the_model_nothing_is_proved() -> None:
    for findings in ([], [finding(Severity.INFO, "acme")]):
        report = conclude(DATA, record(), "4.17.5", findings)
        assert report.verdict is Verdict.UNPROVED
        assert "not asked" in report.reason


def test_what_the_makers_could_not_check_is_said_first() -> None:
    """A finding of an early stage is lost by no later one."""
    report = conclude(DATA, record("a.o: layouts were not compared"), "4.17.5", [GOOD])
    assert report.verdict is Verdict.UNPROVED
    lines = verdict_text(report).splitlines()
    assert lines[0] == "UNPROVED: fix on Xen 4.17.5"
    assert lines[1] == "  not checked: record: a.o: layouts were not compared"


def test_no_finding_is_dropped() -> None:
    found = [GOOD, finding(Severity.WARNING), finding(Severity.UNCHECKED)]
    assert conclude(DATA, record(), "4.17.5", found).findings == tuple(found)
