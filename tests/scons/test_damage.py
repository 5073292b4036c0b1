# SPDX-License-Identifier: Apache-2.0
"""Files of the build folder that something changed are made again."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from tests.kit.build import scons
from xsplice_plugins.sign.keys import development_identity

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

NAME = "extra-version"


def damage(path: Path, data: bytes) -> None:
    """Change a file some time after it was made."""
    path.write_bytes(data)
    later = time.time() + 5
    os.utime(path, (later, later))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the build folder of the demo."""
    folder = tmp_path_factory.mktemp("damage") / "build"
    scons("xsplice-verify", folder).assert_success()
    return folder


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (".livepatch", "a bit"),
        (".livepatch.unsigned", "cut"),
        (".payload.json", "not UTF-8"),
        (".signature.json", "a bit"),
        (".checks.json", "not UTF-8"),
    ],
)
def test_what_was_damaged_is_made_again(end: str, how: str, built: Path) -> None:
    path = built / NAME / f"{NAME}{end}"
    whole = path.read_bytes()
    bad = {
        "a bit": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
        "cut": whole[: len(whole) // 2],
        "not UTF-8": whole[:100] + b"\xff" + whole[101:],
    }[how]
    damage(path, bad)
    run = scons("xsplice-verify", built)
    assert (run.status, "PROVED" in run.out) == (0, True), run.text
    assert path.read_bytes() == whole


def test_a_payload_is_known_by_its_content_alone(built: Path) -> None:
    path = built / NAME / f"{NAME}.livepatch"
    whole, times = path.read_bytes(), path.stat()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "SIGN" in scons("xsplice", built).assert_success().out
    assert path.read_bytes() == whole


@pytest.mark.parametrize("gone", ["development.key.pem", "development.crt.pem"])
def test_another_development_key_signs_and_is_judged_again(gone: str, built: Path) -> None:
    payload, key = built / NAME / f"{NAME}.livepatch", built / "keys" / gone
    before, other = payload.read_bytes(), built.parent / f"other-{gone}"
    development_identity(other)
    key.write_bytes((other / "keys" / gone).read_bytes())
    run = scons("xsplice-verify", built).assert_success()
    assert {"SIGN"} <= set(re.findall(r"^  ([A-Z]+) ", run.out, re.MULTILINE)), run.out
    is_other_key = gone == "development.key.pem"
    assert (payload.read_bytes() != before, "up to date" not in run.out) == (is_other_key, True)
    report = json.loads((built / NAME / f"{NAME}.verify.json").read_text())
    assert report["verdict"] == "proved"
    again = scons("xsplice-verify", built).assert_success()
    assert not re.findall(r"^  [A-Z]+ ", again.out, re.MULTILINE), again.out


def test_what_was_only_touched_is_not_made_again(built: Path) -> None:
    scons("xsplice-verify", built).assert_success()
    for path in (built / NAME).iterdir():
        if path.is_file():
            damage(path, path.read_bytes())
    run = scons("xsplice-verify", built).assert_success()
    made = [line for line in run.out.splitlines() if re.match(r"  [A-Z]+ ", line)]
    assert made == [], run.out


@pytest.mark.parametrize("end", ["new", "baseline"])
def test_a_damaged_object_is_wrong_input_and_compiled_anew_by_the_next_run(
    end: str, built: Path
) -> None:
    """Neither is a target: the stage that reads it finds out."""
    scons("xsplice-verify", built).assert_success()
    (path,) = (built / NAME / "objects").rglob(f"*.{end}")
    whole = path.read_bytes()
    damage(path, whole[:1000])
    (delta,) = (built / NAME / "objects").rglob("*.diff")
    if end == "baseline":
        delta.unlink()
    else:
        (built / NAME / f"{NAME}.livepatch.unsigned").unlink()
    run = scons("xsplice-verify", built)
    assert (run.status, f"{path}: it is not what was compiled" in run.text) == (2, True), run.text
    scons("xsplice-verify", built).assert_success()
    assert path.read_bytes() == whole


def test_where_the_payload_lies_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / NAME / f"{NAME}.livepatch"
    out = scons("xsplice", tmp_path).assert_success().out
    assert (f"written to {path}\n" in out, "up to date" in out) == (True, False), out
    assert scons("xsplice", tmp_path).assert_success().out == f"up to date: {path}\n"
    assert "up to date: " not in scons("xsplice-verify", tmp_path).assert_success().out
