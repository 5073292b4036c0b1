# SPDX-License-Identifier: Apache-2.0
"""Prediction against observation, and the verifier's findings; the machine is a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from xsplice_plugins.artefacts import Severity
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.realxen.machine import Machine
from xsplice_plugins.realxen.results import RunResult, Step, StepResult
from xsplice_plugins.verify import qemu as plugin
from xsplice_plugins.verify import saved
from xsplice_plugins.verify.model import read_probes
from xsplice_plugins.verify.predict import Agreement, Prediction, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

MACHINE = Machine(folder=Path("none"), packages=("kernel_1",), qemu="QEMU 7")
APPLY = Step(verb="apply", name="x")
OURS = Prediction(state="APPLIED", version="4.17", extra="new")
REAL = StepResult(step=APPLY, outcome="done", state="APPLIED", version="4.17", extra="new", tries=1)


def run_of(steps: Sequence[StepResult], crash: str = "") -> RunResult:
    return RunResult(steps=tuple(steps), restored=True, crash=crash, seconds=1.0, console="")


def test_equal_sides_agree() -> None:
    assert compare([OURS], [REAL]) == (Agreement.AGREE, "")


@pytest.mark.parametrize(
    "real",
    [
        replace(REAL, error=22),
        replace(REAL, state="CHECKED"),
        replace(REAL, rc=-22),
        replace(REAL, version="4.18"),
        replace(REAL, extra="old"),
    ],
    ids=["error", "state", "rc", "version", "extra"],
)
def test_each_difference_is_a_disagreement_in_words(real: StepResult) -> None:
    agreement, text = compare([OURS], [replace(real, console=("(XEN) why",))])
    assert agreement is Agreement.DISAGREE
    assert "step 0 (apply x)" in text
    assert "(XEN) why" in text


def test_a_crash_is_predicted_or_not() -> None:
    crashed = replace(REAL, outcome="crashed")
    hazard = Prediction(hazard="apply: jumps into the weeds")
    assert compare([hazard], [crashed])[0] is Agreement.CRASH_PREDICTED
    assert compare([OURS], [crashed])[0] is Agreement.CRASH_UNPREDICTED
    assert compare([hazard], [REAL])[0] is Agreement.HAZARD_SURVIVED


@pytest.mark.parametrize("outcome", ["done", "crashed"])
def test_what_the_model_cannot_tell_is_no_disagreement(outcome: str) -> None:
    unknown = Prediction(unknown="apply-hook: depends on domain_list")
    agreement, text = compare([unknown], [replace(REAL, outcome=outcome)])
    assert agreement is Agreement.UNKNOWN
    assert text.endswith("depends on domain_list")


def test_a_crash_later_than_its_cause_was_predicted_too() -> None:
    hazard = Prediction(hazard="apply: half an instruction is left")
    later = StepResult(step=Step(verb="revert", name="x"), outcome="crashed")
    assert compare([hazard], [REAL, later])[0] is Agreement.CRASH_PREDICTED


def test_bytes_that_a_console_cannot_carry_are_no_disagreement() -> None:
    ours = replace(OURS, extra="a\xe9\x01")
    assert compare([ours], [replace(REAL, extra="a??")])[0] is Agreement.AGREE
    assert compare([ours], [replace(REAL, extra="a?")])[0] is Agreement.DISAGREE


def test_a_life_on_top_of_others_is_taken_down_in_reverse() -> None:
    life = plugin.life_of("fix", b"f", [("below", b"b")])
    assert [f"{step.verb} {step.name}".strip() for step in life.steps] == [
        "extra",
        "upload below",
        "apply below",
        "upload fix",
        "apply fix",
        "revert fix",
        "unload fix",
        "revert below",
        "unload below",
    ]
    assert (life.steps[life.during].verb, life.steps[life.after].verb) == ("apply", "unload")
    assert life.payloads == {"0": b"b", "1": b"f"}


def test_the_image_that_boots_must_be_of_the_same_build(tmp_path: Path) -> None:
    syms = tmp_path / "xen-syms"
    with pytest.raises(ConfigError, match="OPTIONS=qemu-xen=PATH"):
        saved.boot_image(syms, {}, b"id" * 10)
    (tmp_path / "xen").write_bytes(b"\x7fELF" + b"id" * 10)
    assert saved.boot_image(syms, {}, b"id" * 10) == tmp_path / "xen"
    with pytest.raises(ConfigError, match="not of the same build"):
        saved.boot_image(syms, {}, b"no" * 10)
    other = tmp_path / "other"
    other.write_bytes(b"\x7fELF" + b"no" * 10)
    assert saved.boot_image(syms, {"qemu-xen": str(other)}, b"no" * 10) == other


@pytest.mark.parametrize(
    ("raw", "tool", "severity", "errno", "words"),
    [
        (REAL, REAL, Severity.HELD, 0, "real Xen uploaded"),
        (replace(REAL, error=22, status=1), REAL, Severity.ERROR, 22, "refused apply"),
        (replace(REAL, rc=-22), REAL, Severity.ERROR, 22, "refused apply"),
        (replace(REAL, outcome="crashed"), REAL, Severity.HAZARD, 0, "did not survive"),
        (REAL, replace(REAL, status=1, error=16), Severity.ERROR, 16, "xen-livepatch refused"),
    ],
    ids=["good", "errno", "rc", "crash", "tool"],
)
def test_the_verdict_says_what_happened(
    raw: StepResult, tool: StepResult, severity: Severity, errno: int, words: str
) -> None:
    finding = plugin._verdict("fix", MACHINE, [OURS], run_of([raw]), run_of([tool]))
    assert (finding.check, finding.severity, finding.errno) == ("qemu", severity, errno)
    assert words in finding.text
    assert finding.evidence is not None
    (row,) = finding.evidence["steps"]
    assert row["predicted"]["extra"] == "new"
    assert row["observed"]["state"] == raw.state


def test_a_wrong_model_is_a_finding_of_its_own() -> None:
    real = replace(REAL, extra="other")
    (finding,) = plugin._disagreements("fix", [OURS], run_of([real]), run_of([real]))
    assert (finding.check, finding.severity) == ("qemu.agreement", Severity.ERROR)
    assert "the model is wrong" in finding.text
    assert plugin._disagreements("fix", [OURS], run_of([REAL]), run_of([REAL])) == []


def test_the_tool_and_the_hypercalls_must_end_in_the_same_state() -> None:
    other = replace(REAL, state="CHECKED")
    (finding,) = plugin._disagreements("fix", [OURS], run_of([REAL]), run_of([other]))
    assert "APPLIED after the raw hypercall, CHECKED after xen-livepatch" in finding.text


def test_expected_effects_are_compared_as_dom0_sees_them(tmp_path: Path) -> None:
    expected = tmp_path / "expected.json"
    expected.write_text(
        '{"effect": [{"probe": "xen_extra_version", "args": [], "type": "string",'
        ' "before": ".5", "during": "Hello Again World!", "after": ".6"},'
        ' {"probe": "invisible", "args": [], "type": "int",'
        ' "before": 1, "during": 2, "after": 1}]}'
    )
    life = plugin.life_of("fix", b"f", [])
    probes = read_probes(expected)
    steps = plugin.watched_steps(life, probes)
    assert [f"{step.verb} {step.name}".strip() for step in steps] == [
        "extra",
        "read /sys/hypervisor/version/extra",
        "upload fix",
        "apply fix",
        "read /sys/hypervisor/version/extra",
        "revert fix",
        "unload fix",
        "read /sys/hypervisor/version/extra",
    ]
    said = iter([".5", "Hello Again Wor", ".5"])
    results = [
        replace(REAL, step=step, output=(next(said),) if step.verb == "read" else ())
        for step in steps
    ]
    told, tool = plugin.split_watched(run_of(results))
    assert tuple(result.step for result in tool.steps) == life.steps
    found = plugin._effects("fix", probes, told)
    assert [finding.severity for finding in found] == [
        Severity.INFO,
        Severity.INFO,
        Severity.ERROR,
    ]
    assert "expected '.6', real Xen says '.5'" in found[2].text


def test_what_a_file_does_not_say_is_no_answer_that_passes() -> None:
    read = Step(verb="read", name="/sys/hypervisor/properties/changeset")
    results = [
        replace(REAL, step=read, output=()),
        replace(REAL, step=read, output=("cat: cannot open it",), status=1),
        replace(REAL, step=read, outcome="not-run"),
    ]
    told, _ = plugin.split_watched(run_of(results))
    assert told == {"properties/changeset": ["", "(no answer: cat: cannot open it)"]}
