# SPDX-License-Identifier: Apache-2.0
"""`make xsplice` in Xen's own tree: the series applies, and its targets do what they say.

The tool itself is replaced by a script that writes down how it was called.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "xen-patches"
SERIES = sorted((ROOT / "xen-build" / "4.17").glob("*.patch"))
HOT_PATCHES = ROOT / "regression" / "4.17"

TOOL = """#!/bin/sh
echo "$*" >> "$0.log"
while [ $# -gt 0 ]; do [ "$1" = --out ] && echo made > "$2"; shift; done
exit 0
"""

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]


@pytest.fixture(scope="module")
def tree(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the built tree with the series applied and older than the build."""
    root = tmp_path_factory.mktemp("build") / "tree"
    root.mkdir()
    for name in ("xen", "config", "Config.mk", ".gitignore"):
        subprocess.run(["cp", "-a", xen_tree / name, root / name], check=True)
    for patch in SERIES:
        done = subprocess.run(
            ["patch", "-p1", "-F0", "--no-backup-if-mismatch", "-i", patch],
            cwd=root,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        assert "offset" not in done.stdout, done.stdout
    for name in ("Makefile", "scripts/Makefile.xsplice"):
        shutil.copystat(root / "xen" / "Rules.mk", root / "xen" / name)
    return root


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "tool"
    path.write_text(TOOL)
    path.chmod(0o755)
    return path


def make(tree: Path, tool: Path, goal: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one target; the environment of the test's own make does not count."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "-C", tree / "xen", "XEN_TARGET_ARCH=x86_64", f"XSPLICE={tool}", goal, *words],
        check=False,
        capture_output=True,
        text=True,
        env=plain | {"LC_ALL": "C"},
    )


def calls_of(tool: Path) -> list[list[str]]:
    return [line.split() for line in Path(f"{tool}.log").read_text().splitlines()]


def digests_of(tree: Path) -> dict[str, str]:
    """Return the digests of the tree's sources and ordinary objects."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for suffix in ("*.c", "*.h", "*.o")
        for path in sorted((tree / "xen" / "common").rglob(suffix))
    }


@pytest.mark.parametrize("name", ["extra-version", "header-inline", "two-objects"])
def test_patch_gives_the_objects_that_the_regression_file_names(
    name: str, tree: Path, tool: Path
) -> None:
    expected = json.loads((HOT_PATCHES / name / "expected.json").read_text())
    before = digests_of(tree)
    words = f"XSPLICE_PATCH={HOT_PATCHES / name / 'fix.patch'}", f"XSPLICE_NAME={name}"
    done = make(tree, tool, "xsplice", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = calls_of(tool)
    assert sorted(call[-2] for call in calls if call[0] == "diff") == expected["objects"]
    assert [call[0] for call in calls[-2:]] == ["link", "sign"]
    assert (tree / "xen" / f"{name}.livepatch").is_file()
    assert digests_of(tree) == before
    again = make(tree, tool, "xsplice", *words)
    assert "Nothing to be done" in again.stdout
    assert calls_of(tool) == calls


def test_edited_sources_are_compared_with_the_last_build(tree: Path, tool: Path) -> None:
    source = tree / "xen" / "common" / "version.c"
    kept, status = source.read_text(), source.stat()
    source.write_text(kept.replace("return XEN_EXTRAVERSION;", 'return "edited";'))
    try:
        done = make(tree, tool, "xsplice-verify", "XSPLICE_NAME=edited")
    finally:
        source.write_text(kept)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [call[0] for call in calls_of(tool)] == ["diff", "link", "sign", "verify"]
    assert b"edited\0" in (tree / "xen" / "common" / "version.o.xsplice").read_bytes()
    assert b"edited\0" not in (tree / "xen" / "common" / "version.o").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing was edited since xen-syms was built"),
        (("comment-only",), "no functional change"),
        (("refused-assembler",), "arch/x86/clear_page.S: only C sources"),
    ],
    ids=["no-change", "comment", "assembler"],
)
def test_what_cannot_become_a_live_patch_stops_with_a_reason(
    words: tuple[str, ...], message: str, tree: Path, tool: Path
) -> None:
    patches = [f"XSPLICE_PATCH={HOT_PATCHES / name / 'fix.patch'}" for name in words]
    done = make(tree, tool, "xsplice", *patches, "XSPLICE_NAME=refused")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not Path(f"{tool}.log").exists()
    assert not (tree / "xen" / "refused.livepatch").exists()


def test_patch_outside_the_hypervisor_is_named(tree: Path, tool: Path, tmp_path: Path) -> None:
    patch = tmp_path / "tools.patch"
    patch.write_text("--- a/tools/x.c\n+++ b/tools/x.c\n@@ -1 +1 @@\n-a\n+b\n")
    done = make(tree, tool, "xsplice", f"XSPLICE_PATCH={patch}")
    assert done.returncode != 0
    assert "b/tools/x.c: live patches change files below xen/ only" in done.stderr


def test_code_of_boot_time_is_named(tree: Path, tool: Path, tmp_path: Path) -> None:
    """Objects that are nothing but boot code are judged where they changed, not where touched."""
    patch = tmp_path / "boot.patch"
    path = "xen/arch/x86/dom0_build.c"
    lines = (tree / path).read_text().splitlines()
    number = lines.index('custom_param("dom0_mem", parse_dom0_mem);') + 1
    patch.write_text(
        f"--- a/{path}\n+++ b/{path}\n@@ -{number} +{number} @@\n-{lines[number - 1]}\n"
        '+custom_param("dom0_memory", parse_dom0_mem);\n'
    )
    done = make(tree, tool, "xsplice", f"XSPLICE_PATCH={patch}", "XSPLICE_NAME=boot")
    assert done.returncode != 0
    assert "arch/x86/dom0_build.init.o: code that is gone after boot" in done.stdout
    assert not (tree / "xen" / "boot.livepatch").exists()


def test_ordinary_build_gives_the_same_objects(tree: Path, tool: Path, xen_tree: Path) -> None:
    """Kbuild compiles anew what has another command; with the series, nothing has.

    Only what carries the date of the build is made again. (Runs last: it makes a new image.)
    """
    done = make(tree, tool, "build")
    assert done.returncode == 0, done.stderr
    compiled = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  CC ")}
    sources = {path for path in compiled if not Path(path).name.startswith(".")}
    assert sources <= {"common/version.o", "arch/x86/efi/boot.o"}
    differing = {
        str(path.relative_to(xen_tree / "xen"))
        for path in sorted((xen_tree / "xen").rglob("*.o"))
        if path.read_bytes() != (tree / path.relative_to(xen_tree)).read_bytes()
    }
    assert differing <= {"common/version.o", "common/built_in.o", "prelink.o"}
