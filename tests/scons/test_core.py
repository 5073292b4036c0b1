# SPDX-License-Identifier: Apache-2.0
"""The embedded core through SCons, as a user runs it: every stage, end to end."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kit.build import ROOT, scons

FOLDER = ROOT / "xen-patches" / "regression" / "core"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/expected.json"))

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


def expected_of(case: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((FOLDER / case / "expected.json").read_text())
    return expected


def of_verdict(verdict: str) -> list[str]:
    return [case for case in CASES if expected_of(case)["verdict"] == verdict]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a key and its certificate, made by openssl."""
    folder = tmp_path_factory.mktemp("keys")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
            *("-subj", "/CN=xsplice test", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return {"KEY": key, "CERT": cert}


@pytest.mark.parametrize("case", of_verdict("accepted"))
def test_accepted_hot_patch_is_built_and_proved(case: str, tmp_path: Path) -> None:
    expected = expected_of(case)
    run = scons(
        "xsplice-verify",
        tmp_path,
        PATCH=FOLDER / case / "fix.patch",
        EXPECT=FOLDER / case / "expected.json",
    ).assert_success()
    record = json.loads((tmp_path / "fix" / "fix.payload.json").read_text())
    assert sorted(f["name"] for f in record["functions"]) == expected["replaced"]
    brought = [n["name"] for n in record["new"] if n["kind"] in {"function", "data", "bss"}]
    assert sorted(brought) == sorted(expected["new"])
    assert sorted(record["hooks"]) == sorted(expected["hooks"])
    report = json.loads((tmp_path / "fix" / "fix.verify.json").read_text())
    assert report["verdict"] == "proved"
    for function in expected["replaced"]:
        assert function in run.out


@pytest.mark.parametrize("case", of_verdict("refused"))
def test_refused_hot_patch_is_refused_by_name(case: str, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, PATCH=FOLDER / case / "fix.patch")
    assert run.status == 4, run.text
    for code in expected_of(case)["refused"]:
        assert f"[{code}]" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("case", of_verdict("boot-only"))
def test_boot_code_alone_waits_for_the_next_boot(case: str, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, PATCH=FOLDER / case / "fix.patch")
    assert (run.status, "takes effect at the next boot" in run.text) == (3, True), run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("case", of_verdict("no-change"))
def test_patch_without_functional_change_says_so(case: str, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, PATCH=FOLDER / case / "fix.patch")
    assert run.status == 3, run.text
    assert "no functional change" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


def test_second_run_does_nothing(tmp_path: Path) -> None:
    first = scons("xsplice-verify", tmp_path).assert_success()
    assert "PROVED" in first.out
    second = scons("xsplice-verify", tmp_path).assert_success()
    report = tmp_path / "extra-version" / "extra-version.verify.json"
    assert second.out.endswith(f"PROVED: extra-version on Xen 4.17.0: {report}\n")
    assert second.out.startswith("PROVED: extra-version on Xen 4.17.0\n  base ")
    assert first.out.endswith(second.out), "who repeats the command sees the warnings too"


def test_no_report_of_an_earlier_payload_lies_beside_a_newer_one(tmp_path: Path) -> None:
    patch, text = tmp_path / "fix.patch", (FOLDER / "extra-version" / "fix.patch").read_text()
    proved, failed = (tmp_path / f"b/fix/fix.verify.{end}" for end in ("json", "failed.json"))
    expected = tmp_path / "expected.json"
    expected.write_text('{"verdict": "accepted", "replaced": ["another"], "effect": []}')
    settings = {"PATCH": patch, "SIGNER": "none"}
    patch.write_text(text)
    scons("xsplice-verify", tmp_path / "b", **settings).assert_success()
    scons("xsplice", tmp_path / "b", **settings).assert_success()
    assert (proved.exists(), failed.exists()) == (True, False), "the payload is the same"
    assert scons("xsplice-verify", tmp_path / "b", EXPECT=expected, **settings).status == 5
    assert (proved.exists(), failed.exists()) == (False, True)
    scons("xsplice-verify", tmp_path / "b", **settings).assert_success()
    assert (proved.exists(), failed.exists()) == (True, False)
    patch.write_text(text.replace("-patched", "-patched-again"))
    scons("xsplice", tmp_path / "b", **settings).assert_success()
    assert (proved.exists(), failed.exists()) == (False, False)


def test_payload_is_the_same_in_every_folder_and_with_every_j(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    payloads = []
    for name, words, seed in (("a", ["-j1"], "1"), ("b with blank", ["-j4"], "2")):
        folder = tmp_path / name
        scons("xsplice", folder, *words, environ={"PYTHONHASHSEED": seed}, **keys).assert_success()
        made = folder / "extra-version"
        payloads.append(
            {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(made.rglob("*"))
                if path.is_file()
                and not path.is_symlink()
                and "copy" not in path.parts
                and not path.name.startswith(".")
            }
        )
    assert payloads[0].keys() == payloads[1].keys()
    assert "extra-version/extra-version.livepatch" in payloads[0]
    differing = [name for name in payloads[0] if payloads[0][name] != payloads[1][name]]
    assert differing == []


def test_explain_names_the_true_cause(tmp_path: Path) -> None:
    """An edited patch recompiles the patched side only, and says so."""
    patch = tmp_path / "fix.patch"
    text = (FOLDER / "extra-version" / "fix.patch").read_text()
    patch.write_text(text)
    scons("xsplice", tmp_path / "build", PATCH=patch).assert_success()
    patch.write_text(text.replace("-patched", "-patched-again"))
    run = scons("xsplice", tmp_path / "build", "--debug=explain", PATCH=patch).assert_success()
    assert "version.o.xsplice' because" in run.out
    assert "patch set" in run.out
    assert "core/common/version.o'" not in run.out, "the baseline was compiled again"


def test_clean_removes_what_was_built_and_dry_run_builds_nothing(tmp_path: Path) -> None:
    scons("xsplice-verify", tmp_path, "-n").assert_success()
    assert not (tmp_path / "extra-version").exists()
    scons("xsplice-verify", tmp_path).assert_success()
    assert (tmp_path / "extra-version" / "extra-version.livepatch").exists()
    scons("xsplice-verify", tmp_path, "-c").assert_success()
    assert not list(tmp_path.rglob("*.livepatch"))
    assert not list(tmp_path.rglob("*.json"))


def test_verbose_prints_lines_that_repeat_each_step(tmp_path: Path) -> None:
    run = scons("xsplice-verify", tmp_path, VERBOSE="1").assert_success()
    lines = [line for line in run.out.splitlines() if line.startswith("xsplice ")]
    assert [line.split()[1] for line in lines] == ["diff", "link", "sign", "verify"]
    folder = tmp_path / "extra-version"
    before = {path.name: path.read_bytes() for path in folder.glob("*.livepatch*")}
    for line in lines:
        command = [sys.executable, "-m", "xsplice_plugins", *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "PROVED" in done.stdout
    assert {path.name: path.read_bytes() for path in folder.glob("*.livepatch*")} == before
