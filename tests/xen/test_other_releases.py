# SPDX-License-Identifier: Apache-2.0
"""Xen 4.20.3 and 4.14.6: the series for Xen's own build, and our pipeline on such trees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.build import ROOT, scons
from tests.xen.trees import tree_like

PATCHES = ROOT / "xen-patches"
CASES = sorted(
    f"{path.parent.name}/{path.name}"
    for release in ("4.14", "4.20")
    for path in (PATCHES / "regression" / release).iterdir()
)
PARTS = ("xen", "config", "Config.mk", ".gitignore")

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]


def series_of(release: str) -> list[Path]:
    return sorted((PATCHES / "xen-build" / release).glob("*.patch"))


def patched_copy(release: str, folder: Path) -> Path:
    """Return a copy of a built tree with the series applied, older than the build."""
    source, root = tree_like(release, is_debians=True), folder / "tree"
    root.mkdir()
    for name in PARTS:
        subprocess.run(["cp", "-a", source / name, root / name], check=True)
    for patch in series_of(release):
        done = subprocess.run(
            ["patch", "-p1", "-F0", "--no-backup-if-mismatch", "-i", patch],
            cwd=root, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        assert "offset" not in done.stdout, done.stdout
        for path in re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE):
            shutil.copystat(source / "xen" / "COPYING", root / path)
    return root


def make(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one target with the real tool; the environment of the test's own make does not count."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    tool = f"XSPLICE={sys.executable} -m xsplice_plugins"
    return subprocess.run(
        ["make", "-C", tree / "xen", "XEN_TARGET_ARCH=x86_64", "HOSTCC=gcc", tool, *words],
        check=False, capture_output=True, text=True,
        env=plain | {"LC_ALL": "C", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def compiler_of(tree: Path) -> str:
    """Return the compiler that a tree was built with, from a record that every release leaves."""
    record = (tree / "xen" / "arch" / "x86" / ".clear_page.o.cmd").read_text()
    return record.split(" := ", 1)[1].split()[0]


@pytest.mark.parametrize("release", ["4.14", "4.17", "4.20"])
def test_series_is_applied_by_git_am(
    release: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = (
        request.getfixturevalue("xen_tree")
        if release == "4.17"
        else tree_like(release, is_debians=True)
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for patch in series_of(release):
        for path in re.findall(r"^--- a/(\S+)", patch.read_text(), re.MULTILINE):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, tmp_path / path)
    for words in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-qm", "pristine"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "am", "-q", *series_of(release)], check=True)
    count = subprocess.run(
        [*git, "rev-list", "--count", "HEAD"], check=True, capture_output=True, text=True
    )
    assert int(count.stdout) == 1 + len(series_of(release))


@pytest.mark.parametrize("case", CASES)
def test_hot_patch_is_built_and_proved(case: str, tmp_path: Path) -> None:
    folder = PATCHES / "regression" / case
    tree = tree_like(case.partition("/")[0], is_debians=True)
    expected = json.loads((folder / "expected.json").read_text())
    run = scons(
        "xsplice-verify", tmp_path, XEN=tree, PATCH=folder / "fix.patch", NAME="fix",
        EXPECT=folder / "expected.json",
    )  # fmt: skip
    run.assert_success()
    record = json.loads((tmp_path / "fix" / "fix.payload.json").read_text())
    assert sorted(item["name"] for item in record["functions"]) == expected["replaced"]
    report = json.loads((tmp_path / "fix" / "fix.verify.json").read_text())
    assert report["verdict"] == "proved"


def test_make_xsplice_works_in_4_20(tmp_path: Path) -> None:
    tree = patched_copy("4.20", tmp_path)
    patch = PATCHES / "regression" / "4.20" / "extra-version" / "fix.patch"
    done = make(tree, "xsplice-verify", f"XSPLICE_PATCH={patch}", "XSPLICE_NAME=fix")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROVED: fix on Xen 4.20" in done.stdout
    assert "xen_extra_version" in done.stdout
    assert (tree / "xen" / "fix.livepatch").is_file()


@pytest.mark.slow
def test_make_xsplice_works_in_4_14_built_for_it(tmp_path: Path) -> None:
    """Objects of the ordinary build stay the same; XSPLICE_BUILD=y leaves a record of each."""
    tree = patched_copy("4.14", tmp_path)
    compiler = f"CC={compiler_of(tree)}"
    xen, patch = tree / "xen", PATCHES / "regression" / "4.14" / "extra-version" / "fix.patch"
    goal = "xsplice-verify", f"XSPLICE_PATCH={patch}", "XSPLICE_NAME=fix"

    made = {path: (xen / path).read_bytes() for path in ("common/sort.o", "common/rbtree.o")}
    for path in made:
        (xen / path).unlink()
    done = make(tree, compiler, "build")
    assert done.returncode == 0, done.stderr
    assert "-ffunction-sections" not in done.stdout
    assert made == {path: (xen / path).read_bytes() for path in made}
    assert not (xen / "common" / ".sort.o.cmd").exists()

    for words in (goal, ("build",)):
        done = make(tree, compiler, "XSPLICE_BUILD=y", *words)
        assert "XSPLICE_BUILD=y wants all objects made so: make clean first" in done.stderr
    done = make(tree, compiler, *goal)
    assert "live patches need a build with XSPLICE_BUILD=y" in done.stderr

    assert make(tree, compiler, "clean").returncode == 0
    done = make(tree, compiler, "XSPLICE_BUILD=y", f"-j{os.cpu_count()}", "build")
    assert done.returncode == 0, done.stderr
    unrecorded = [
        str(path.relative_to(xen))
        for folder in ("common", "drivers", "xsm", "lib", "crypto", "arch/x86")
        for path in sorted((xen / folder).rglob("*.o"))
        if path.name != "built_in.o"
        and path.parent.name != "boot"
        and not path.with_name(f".{path.name}.cmd").exists()
    ]
    assert unrecorded == ["arch/x86/efi/check.o"]
    done = make(tree, *goal)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROVED: fix on Xen 4.14" in done.stdout
    run = scons("xsplice", tmp_path / "ours", XEN=tree, PATCH=patch, NAME="fix")
    run.assert_success()
    assert "compiled by recorded commands" in run.text
