# SPDX-License-Identifier: Apache-2.0
"""The README's examples are executed, so that they stay true."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.build import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line[2:].split("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
#: Not run here, and why.
ELSEWHERE = {
    "make test": "this is it",
    "make xen-tree": "a build of minutes; `make test-xen` runs it",
}
WITH_TREE = [command for command in COMMANDS if "XEN=" in command]
NEXT = [command for command in WITH_TREE if "a.livepatch" in command]
HERE = [c for c in COMMANDS if c not in ELSEWHERE and c not in WITH_TREE]

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


def run(command: str) -> str:
    """Run one line as a reader would, with the virtual environment's programs first."""
    here = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{here}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_first_screen_has_the_two_commands() -> None:
    first = "\n".join(README.splitlines()[:25])
    assert "$ make xsplice-verify" in first
    assert "$ make test" in first


def test_every_make_target_named_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"[$`] ?make ([a-z-]+)", README))
    assert named <= targets


def test_every_file_the_readme_links_to_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_console_examples_run() -> None:
    """In the order of the README: later ones look at what earlier ones built."""
    assert len(HERE) >= 4
    for command in HERE:
        assert run(command), command


@pytest.mark.xen
@pytest.mark.parametrize("command", [c for c in WITH_TREE if c not in NEXT])
def test_console_examples_with_a_tree_run(command: str, xen_tree: Path) -> None:
    patch = ROOT / "xen-patches/regression/4.17/extra-version/fix.patch"
    command = command.replace("XEN=/src/xen", f"XEN={shlex.quote(str(xen_tree))}")
    assert run(command.replace("PATCH=fix.patch", f"PATCH={patch}"))


@pytest.mark.xen
def test_examples_of_the_next_fix_run(xen_tree: Path, tmp_path: Path) -> None:
    """Two fixes that go with any tree of Debian's: the first payload is made, then the next."""
    series = ROOT / "xen-patches/regression/4.17"
    texts = [(series / name / "fix.patch").read_text() for name in ("extra-version", "string-only")]
    for name, text in zip(("a", "b", "both"), (*texts, "".join(texts)), strict=True):
        (tmp_path / f"{name}.patch").write_text(text)
    words = f"XEN={shlex.quote(str(xen_tree))} BUILD={tmp_path}/build"
    run(f"make xsplice {words} PATCH={tmp_path}/a.patch")
    shutil.copy(tmp_path / "build/a/a.livepatch", tmp_path)
    shutil.copy(tmp_path / "build/a/a.payload.json", tmp_path)
    assert len(NEXT) == 2
    for command in NEXT:
        there = re.sub(r"\b(a|b|both)\.(patch|livepatch)\b", rf"{tmp_path}/\1.\2", command)
        assert "PROVED" in run(there.replace("XEN=/src/xen", words))


def test_python_example_is_a_whole_scons_project(tmp_path: Path) -> None:
    """The example for SCons projects is proved as it stands, beside a source and a fix."""
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    (tmp_path / "SConstruct").write_text(example[1])
    script = re.search(r"```ld\n(.*?)```", README, re.DOTALL)
    assert script
    (tmp_path / "xen.lds").write_text(script[1])
    (tmp_path / "version.c").write_text(
        'const char *extra(void) { return ".0"; }\nvoid _start(void) { for (;;) extra(); }\n'
    )
    (tmp_path / "fix.patch").write_text(
        "--- a/version.c\n+++ b/version.c\n@@ -1 +1 @@\n"
        '-const char *extra(void) { return ".0"; }\n'
        '+const char *extra(void) { return ".1"; }\n'
    )
    (tmp_path / "site_scons").mkdir()
    (tmp_path / "site_scons" / "site_tools").symlink_to(ROOT / "site_scons" / "site_tools")

    def verify(status: int) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "SCons", "-Q", "xsplice-verify"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "PROVED" in verify(0)
    assert (tmp_path / "build" / "fix" / "fix.livepatch").exists()
    (tmp_path / "xen.lds").write_text(script[1].replace("__note_gnu_build_id_start = .;", ""))
    assert "does not set __note_gnu_build_id_start" in verify(5)
