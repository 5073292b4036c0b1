# SPDX-License-Identifier: Apache-2.0
"""One report at most lies beside a payload, and that one is about it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Report, Verdict
from xsplice_plugins.pipeline import save_report, save_report_as
from xsplice_plugins.pipeline.reports import forget_reports

DATA = b"payload"


def report(verdict: Verdict) -> Report:
    return Report(
        name="fix",
        verdict=verdict,
        obligations=(),
        errno=0,
        step="",
        reason="",
        digest=hashlib.sha256(DATA).hexdigest(),
        release="4.17.5",
        findings=(),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("bad", [Verdict.REFUSED, Verdict.HAZARD, Verdict.UNPROVED])
def test_a_newer_verdict_takes_the_place_of_an_older_one(bad: Verdict, tmp_path: Path) -> None:
    path = tmp_path / "fix.verify.json"
    for verdict, name in (
        (Verdict.PROVED, "fix.verify.json"),
        (bad, "fix.verify.failed.json"),
        (Verdict.PROVED, "fix.verify.json"),
    ):
        assert save_report(report(verdict), path) == tmp_path / name
        assert names(tmp_path) == [name]
        assert artefacts.load(tmp_path / name, Report).verdict is verdict


@pytest.mark.parametrize("named", ["fix.verify.json", "fix.verify.failed.json"])
def test_a_name_that_says_a_verdict_is_true_of_it(named: str, tmp_path: Path) -> None:
    for verdict, name in (
        (Verdict.HAZARD, "fix.verify.failed.json"),
        (Verdict.PROVED, "fix.verify.json"),
        (Verdict.UNPROVED, "fix.verify.failed.json"),
    ):
        assert save_report_as(report(verdict), tmp_path / named) == tmp_path / name
        assert names(tmp_path) == [name]


@pytest.mark.parametrize("verdict", [Verdict.PROVED, Verdict.HAZARD])
def test_any_other_name_is_kept(verdict: Verdict, tmp_path: Path) -> None:
    assert save_report_as(report(verdict), tmp_path / "report") == tmp_path / "report"
    assert names(tmp_path) == ["report"]


@pytest.mark.parametrize("end", ["verify.json", "verify.failed.json"])
def test_the_report_of_another_file_does_not_stay(end: str, tmp_path: Path) -> None:
    payload, path = tmp_path / "fix.livepatch", tmp_path / f"fix.{end}"
    artefacts.save(path, report(Verdict.PROVED))
    artefacts.save(tmp_path / f"other.{end}", report(Verdict.PROVED))
    forget_reports(payload, DATA)
    assert path.exists(), "it is about this file"
    forget_reports(payload, DATA + b"!")
    assert names(tmp_path) == [f"other.{end}"]
    path.write_text('{"schema": 1, "verdict": "proved"}')
    forget_reports(payload, DATA)
    assert names(tmp_path) == [f"other.{end}"], "nobody knows what it is about"
