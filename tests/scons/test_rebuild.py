# SPDX-License-Identifier: Apache-2.0
"""A payload that loads and does not do what a rebuild would do is refused, on the way of scons."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.kit.build import ROOT, scons
from tests.xen.mutations import sections_of
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import Severity
from xsplice_plugins.pipeline import NewObject
from xsplice_plugins.pipeline.checking import findings_of, shares_sections

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]

CORE = ROOT / "xen-patches" / "regression" / "core"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("rebuild")
    fix = CORE / "extra-version" / "fix.patch"
    scons("xsplice-verify", build, PATCH=fix, NAME="fix", SIGNER="none").assert_success()
    return build


def check(build: Path, payload: bytes) -> set[Severity]:
    """Hold a payload against the objects of the build."""
    [image] = (build / "core").rglob("xen-syms")
    run = pipeline.open_run({}, pipeline.base_of_image(image, image.read_bytes()), environ={})
    objects = [
        NewObject(
            path=new.name.removesuffix(".xsplice.new"),
            new=new.read_bytes(),
            baseline=new.with_suffix(".baseline").read_bytes(),
        )
        for new in sorted((build / "fix" / "objects").rglob("*.xsplice.new"))
    ]
    assert objects
    found = pipeline.check_rebuild(run, "fix", payload, image.read_bytes(), [], objects)
    return {finding.severity for finding in found.findings if finding.obligation == "complete"}


def test_the_right_payload_is_what_a_rebuild_has(folder: Path) -> None:
    payload = (folder / "fix/fix.livepatch.unsigned").read_bytes()
    assert check(folder, payload) == {Severity.HELD}
    content = json.loads((folder / "fix/fix.checks.json").read_text())
    rows = {(row["obligation"], row["severity"]) for row in content["findings"]}
    assert rows == {("base", "held"), ("complete", "held"), ("lines", "held")}


@pytest.mark.parametrize("section", [".text", ".rodata.str"])
def test_another_byte_is_not_what_a_rebuild_has(folder: Path, section: str) -> None:
    data = bytearray((folder / "fix/fix.livepatch.unsigned").read_bytes())
    [place] = [s for s in sections_of(bytes(data)) if s.name.startswith(section)][:1]
    data[place.offset] ^= 1
    assert Severity.ERROR in check(folder, bytes(data))


def test_the_function_left_out_is_not_what_a_rebuild_has(folder: Path) -> None:
    data = bytearray((folder / "fix/fix.livepatch.unsigned").read_bytes())
    [funcs] = [s for s in sections_of(bytes(data)) if s.name == ".livepatch.funcs"]
    names = bytes(data).index(b".livepatch.funcs\0", 0x40)
    data[names + 1 : names + 10] = b"elsewhere"  # nobody takes it for records any more
    assert funcs.size == 104
    assert Severity.ERROR in check(folder, bytes(data))


def test_what_was_not_compared_is_not_held(folder: Path) -> None:
    found = findings_of(None, "fix", "0", ())
    assert {finding.severity for finding in found} == {Severity.UNCHECKED}
    assert [finding.obligation for finding in found] == ["base", "complete", "lines"]


def test_a_constant_that_can_be_written_is_not_what_a_rebuild_has(folder: Path) -> None:
    data = bytearray((folder / "fix/fix.livepatch.unsigned").read_bytes())
    [texts] = [s for s in sections_of(bytes(data)) if s.name == ".rodata.str"]
    data[texts.at + 8] |= 1  # SHF_WRITE
    assert Severity.ERROR in check(folder, bytes(data))


def test_functions_that_share_a_section_are_told_by_those_that_stay(tmp_path: Path) -> None:
    """What runs at boot lies in one section whatever the compiler is told."""
    boot = '__attribute__((section(".init.text")))'
    for source, flag, is_shared in (
        (f"{boot} int a(void) {{ return 1; }} {boot} int b(void) {{ return 2; }}", "", False),
        ("int a(void) { return 1; } int b(void) { return 2; }", "-ffunction-sections", False),
        ("int a(void) { return 1; } int b(void) { return 2; }", "-fno-function-sections", True),
    ):
        (tmp_path / "a.c").write_text(source)
        words = ["gcc", *([flag] if flag else []), "-c", "a.c", "-o", "a.o"]
        subprocess.run(words, cwd=tmp_path, check=True)
        row = NewObject(path="a.o", new=(tmp_path / "a.o").read_bytes())
        assert shares_sections(row) == is_shared, (source, flag)
