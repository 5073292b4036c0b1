# SPDX-License-Identifier: Apache-2.0
"""Every regression hot-patch for 4.17, through the whole pipeline, against its expected.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.build import ROOT, scons

FOLDER = ROOT / "xen-patches" / "regression" / "4.17"
CASES = sorted(path.name for path in FOLDER.iterdir() if (path / "expected.json").exists())


def expected_of(case: str) -> dict[str, list[object]]:
    return json.loads((FOLDER / case / "expected.json").read_text())


def of_verdict(verdict: str) -> list[str]:
    return [case for case in CASES if expected_of(case)["verdict"] == verdict]


pytestmark = pytest.mark.xen


@pytest.mark.parametrize("case", of_verdict("accepted"))
def test_accepted_hot_patch_is_built_and_proved(case: str, xen_tree: Path, tmp_path: Path) -> None:
    expected = expected_of(case)
    run = scons(
        "xsplice-verify",
        tmp_path,
        XEN=xen_tree,
        PATCH=FOLDER / case / "fix.patch",
        NAME="fix",
        EXPECT=FOLDER / case / "expected.json",
    )
    run.assert_success()
    record = json.loads((tmp_path / "fix" / "fix.payload.json").read_text())
    assert sorted(f["name"] for f in record["functions"]) == expected["replaced"]
    brought = [n["name"] for n in record["new"] if n["kind"] not in {"string", "hook"}]
    assert sorted(brought) == sorted(expected["new"])
    assert sorted(record["hooks"]) == sorted(expected["hooks"])
    report = json.loads((tmp_path / "fix" / "fix.verify.json").read_text())
    assert report["verdict"] == "proved"


@pytest.mark.parametrize("case", of_verdict("refused"))
def test_refused_hot_patch_is_refused_by_name(case: str, xen_tree: Path, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / case / "fix.patch", NAME="fix")
    assert run.status == 2, run.text
    for code in expected_of(case)["refused"]:
        assert f"[{code}]" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("case", of_verdict("no-change"))
def test_patch_without_functional_change_says_so(case: str, xen_tree: Path, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / case / "fix.patch", NAME="fix")
    assert run.status in {2, 3}, run.text
    assert "no functional change" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))
