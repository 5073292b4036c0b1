# SPDX-License-Identifier: Apache-2.0
"""`conclude` decides what "proved" means: each way in which a payload is not."""

from __future__ import annotations

import hashlib
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from xsplice_plugins.artefacts import (
    Duty,
    Finding,
    PayloadRecord,
    Report,
    Severity,
    State,
    Verdict,
)
from xsplice_plugins.errors import PluginError
from xsplice_plugins.pipeline import conclude, is_proved
from xsplice_plugins.report.verdict import verdict_text

DATA = b"payload"
#: Who establishes what, as on the way of a fix through scons.
SPEAKERS = (
    ("base", Duty.BASE),
    ("rebuild", Duty.BASE),
    ("rebuild", Duty.COMPLETE),
    ("rebuild", Duty.LINES),
    ("differ", Duty.LAYOUT),
    ("differ", Duty.DATA),
    ("linker", Duty.DATA),
    ("stack", Duty.STACK),
    ("model", Duty.LOADER),
    ("effect", Duty.EFFECT),
    ("signature", Duty.SIGNATURE),
)
BAD = {
    Severity.UNCHECKED: (Verdict.UNPROVED, State.UNCHECKED),
    Severity.ERROR: (Verdict.REFUSED, State.FAILED),
    Severity.HAZARD: (Verdict.HAZARD, State.FAILED),
}
#: From the best to the worst.
RANKS = [Verdict.PROVED, Verdict.UNPROVED, Verdict.REFUSED, Verdict.HAZARD]


def record(*findings: Finding) -> PayloadRecord:
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
        findings=findings,
    )


def finding(
    severity: Severity, check: str = "other", duty: str = "", *, errno: int = 0, text: str = ""
) -> Finding:
    return Finding(
        check=check,
        severity=severity,
        subject="fix",
        text=text or f"{severity} of {check}",
        errno=errno,
        obligation=duty,
    )


GOOD = [finding(Severity.HELD, check, duty) for check, duty in SPEAKERS]


def concluded(*findings: Finding) -> Report:
    return conclude(DATA, record(), "4.17.5", findings)


def state_of(report: Report, duty: Duty) -> State:
    (state,) = [row.state for row in report.obligations if row.name is duty]
    return state


def test_all_held_is_proved() -> None:
    report = concluded(*GOOD, finding(Severity.WARNING), finding(Severity.INFO))
    assert report.verdict is Verdict.PROVED
    assert is_proved(report)
    assert (report.errno, report.step, report.reason) == (0, "", "")
    assert report.digest == hashlib.sha256(DATA).hexdigest()
    assert [row.name for row in report.obligations] == list(Duty)
    assert {row.state for row in report.obligations} == {State.HELD}
    assert verdict_text(report).startswith("PROVED: fix on Xen 4.17.5\n")


@pytest.mark.parametrize("number", range(len(SPEAKERS)), ids=[f"{c}-{d}" for c, d in SPEAKERS])
def test_an_obligation_of_which_one_check_says_nothing_is_not_held(number: int) -> None:
    check, duty = SPEAKERS[number]
    report = concluded(*GOOD[:number], *GOOD[number + 1 :])
    assert report.verdict is Verdict.UNPROVED
    assert [row.name for row in report.obligations if row.state is State.UNCHECKED] == [duty]
    assert report.reason == f"{duty}: nothing was said of it by the check {check}"
    assert verdict_text(report).splitlines()[1] == f"  not checked: {report.reason}"


@pytest.mark.parametrize("number", range(len(SPEAKERS)), ids=[f"{c}-{d}" for c, d in SPEAKERS])
@pytest.mark.parametrize("severity", [Severity.INFO, Severity.WARNING])
def test_a_remark_establishes_nothing(severity: Severity, number: int) -> None:
    left = [*GOOD[:number], *GOOD[number + 1 :], replace(GOOD[number], severity=severity)]
    assert concluded(*left).verdict is Verdict.UNPROVED


@pytest.mark.parametrize("duty", Duty)
def test_nobody_stands_in_for_the_check_that_must_speak(duty: Duty) -> None:
    left = [row for row in GOOD if row.obligation != duty]
    report = concluded(*left, finding(Severity.HELD, "acme.policy", duty))
    assert (report.verdict, state_of(report, duty)) == (Verdict.UNPROVED, State.UNCHECKED)


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize("severity", BAD)
def test_one_bad_finding_is_enough(severity: Severity, duty: Duty) -> None:
    bad = finding(severity, duty=duty, errno=22)
    report = concluded(*GOOD, bad)
    verdict, state = BAD[severity]
    assert (report.verdict, report.errno, report.reason) == (verdict, 22, bad.text)
    assert state_of(report, duty) is state
    assert not is_proved(report)
    others = {row.state for row in report.obligations if row.name is not duty}
    assert others == {State.HELD}


def test_the_worst_decides_in_every_order() -> None:
    found = [
        finding(Severity.HELD),
        finding(Severity.UNCHECKED),
        finding(Severity.ERROR),
        finding(Severity.HAZARD),
        finding(Severity.WARNING),
    ]
    reports = [concluded(*GOOD, *order) for order in permutations(found)]
    assert {report.verdict for report in reports} == {Verdict.HAZARD}
    assert {state_of(report, Duty.LOADER) for report in reports} == {State.FAILED}


def test_without_any_check_nothing_is_proved() -> None:
    report = concluded()
    assert report.verdict is Verdict.UNPROVED
    assert {row.state for row in report.obligations} == {State.UNCHECKED}


def test_what_does_not_apply_is_said_and_is_no_obstacle() -> None:
    rows = [
        replace(row, severity=Severity.EXEMPT, text="hand-written")
        if row.check == "rebuild"
        else row
        for row in GOOD
    ]
    report = concluded(*rows)
    assert report.verdict is Verdict.PROVED
    none = [row for row in report.obligations if row.state is State.NONE]
    assert [row.name for row in none] == [Duty.COMPLETE, Duty.LINES]
    assert {row.text for row in none} == {"hand-written [rebuild]"}
    assert state_of(report, Duty.BASE) is State.HELD, "somebody else established it"


def test_what_the_makers_could_not_check_is_said_first() -> None:
    """A finding of an early stage is lost by no later one."""
    missing = finding(Severity.UNCHECKED, "differ", Duty.LAYOUT, text="a.o: not compared")
    report = conclude(DATA, record(missing), "4.17.5", GOOD)
    assert report.verdict is Verdict.UNPROVED
    lines = verdict_text(report).splitlines()
    assert lines[0] == "UNPROVED: fix on Xen 4.17.5"
    assert lines[1] == "  not checked: layout: a.o: not compared [differ]"


def test_the_text_shows_every_obligation_and_every_finding() -> None:
    bad = [finding(Severity.ERROR, duty=Duty.BASE, text=text) for text in ("one", "two", "three")]
    seen = finding(Severity.WARNING, "effect", text="runs only at boot")
    report = concluded(*GOOD, *bad, seen)
    (base, *_) = report.obligations
    assert (base.state, base.text) == (State.FAILED, "one [other] (and 2 more)")
    text = verdict_text(report)
    for row in report.obligations:
        assert f"  {row.name:<10} {row.state:<15} {row.text}\n" in text
    for said in ("  error: two [other]", "  error: three [other]", "  warning: runs only at boot"):
        assert said in text
    assert text.count("one [other]") == 1


def test_a_text_begins_no_line_of_the_report() -> None:
    row = finding(Severity.WARNING, text="a\nPROVED: other on Xen 4.17.5")
    lines = verdict_text(concluded(*GOOD, row)).splitlines()
    assert [line for line in lines if line.startswith("PROVED")] == [lines[0]]


def test_equal_reasons_are_said_once() -> None:
    same = [finding(Severity.UNCHECKED, "rebuild", duty, text="not compared")
            for duty in (Duty.BASE, Duty.COMPLETE, Duty.LINES)]  # fmt: skip
    lines = verdict_text(concluded(*GOOD[4:], *same)).splitlines()
    assert lines[1] == "  not checked: base, complete, lines: not compared [rebuild]"
    assert lines[2].split() == ["base", "not", "checked"]


def test_what_was_not_checked_hides_nothing_that_failed() -> None:
    rows = [finding(Severity.UNCHECKED, "rebuild"), finding(Severity.ERROR, "rebuild", text="no")]
    report = concluded(*GOOD, *rows)
    assert state_of(report, Duty.COMPLETE) is State.FAILED
    assert report.obligations[1].text == "no [rebuild]"
    assert "  not checked: unchecked of rebuild [rebuild]" in verdict_text(report)


@pytest.mark.parametrize(
    ("check", "duty"),
    [
        ("acme.size", Duty.LOADER),
        ("qemu.agreement", Duty.LOADER),
        ("record", Duty.BASE),
        ("base", Duty.BASE),
        ("rebuild", Duty.COMPLETE),
        ("whole", Duty.COMPLETE),
        ("expected", Duty.COMPLETE),
        ("upgrade", Duty.STACK),
        ("effect", Duty.EFFECT),
        ("signature", Duty.SIGNATURE),
    ],
)
def test_a_finding_speaks_of_what_it_says_or_of_what_its_check_is_for(
    check: str, duty: Duty
) -> None:
    bad = finding(Severity.ERROR, check)
    assert state_of(concluded(*GOOD, bad), duty) is State.FAILED
    told = replace(bad, obligation=Duty.LAYOUT)
    report = concluded(*GOOD, told)
    assert [row.name for row in report.obligations if row.state is State.FAILED] == [Duty.LAYOUT]


def test_an_obligation_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(PluginError, match=r"acme: there is no obligation 'loadre'; name one of"):
        concluded(*GOOD, finding(Severity.INFO, "acme", "loadre"))


def test_no_finding_is_dropped() -> None:
    found = [*GOOD, finding(Severity.WARNING), finding(Severity.UNCHECKED)]
    own = finding(Severity.INFO, "linker", Duty.DATA)
    assert conclude(DATA, record(own), "4.17.5", found).findings == (own, *found)


ANY = st.builds(
    finding,
    st.sampled_from(list(Severity)),
    st.sampled_from([*{check for check, _ in SPEAKERS}, "qemu", "acme.policy", "base"]),
    st.sampled_from(["", *Duty]),
)


@given(st.lists(ANY, max_size=12), st.lists(st.sampled_from(GOOD), max_size=10), ANY)
@settings(max_examples=400, deadline=None)
def test_one_more_finding_never_improves_a_verdict(
    some: list[Finding], good: list[Finding], more: Finding
) -> None:
    """Only what was missing may be added: what somebody found stays what it is."""
    before, after = concluded(*some, *good), concluded(*some, *good, more)
    is_worse = RANKS.index(after.verdict) >= RANKS.index(before.verdict)
    if more.severity in {Severity.HELD, Severity.EXEMPT}:
        decided = [RANKS.index(BAD[f.severity][0]) for f in [*some, *good] if f.severity in BAD]
        assert RANKS.index(after.verdict) >= max(decided, default=0)
    else:
        assert is_worse
    for old, new in zip(before.obligations, after.obligations, strict=True):
        assert new.state is not State.NONE or old.state is not State.HELD
        assert old.state is not State.FAILED or new.state is State.FAILED


@given(st.lists(ANY, max_size=12))
@settings(max_examples=200, deadline=None)
def test_proved_is_what_every_obligation_says(some: list[Finding]) -> None:
    report = concluded(*GOOD, *some)
    states = {row.state for row in report.obligations}
    assert is_proved(report) == (states <= {State.HELD, State.NONE})
    assert is_proved(report) == all(row.severity not in BAD for row in some)
