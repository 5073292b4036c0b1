# SPDX-License-Identifier: Apache-2.0
"""`make xsplice` in Xen's own tree: the series applies, and every gate of the pipeline is passed.

Other releases are in test_other_releases.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from xsplice_plugins.kbuild.tree import locate_tree

ROOT = Path(__file__).resolve().parents[2] / "xen-patches"
SERIES = sorted((ROOT / "xen-build" / "4.17").glob("*.patch"))
HOT_PATCHES = ROOT / "regression" / "4.17"

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]


@pytest.fixture(scope="module")
def tree(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the built tree with the series applied, in git."""
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
    for words in (["init", "-q"], ["add", "xen"], ["commit", "-q", "-m", "as built"]):
        identity = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"]
        subprocess.run(["git", *identity, *words], cwd=root, check=True)
    return root


@cache
def settings() -> tuple[tuple[str, ...], dict[str, str]]:
    """Return what make was told when the tree was built: variables, and its environment."""
    base = locate_tree(Path(os.environ["XSPLICE_XEN_TREE"])).base
    if base is None:
        return ("XEN_TARGET_ARCH=x86_64",), {}
    return base.make, dict(base.environment)


def make(tree: Path, goal: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one target as the tree was built; the environment of the test's own make is none."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    tool = f"XSPLICE={sys.executable} -m xsplice_plugins"
    variables, environ = settings()
    done = subprocess.run(
        ["make", "-C", tree / "xen", *variables, tool, goal, *words],
        check=False,
        capture_output=True,
        text=True,
        env=plain | environ | {"LC_ALL": "C", "PYTHONPATH": str(ROOT.parent)},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def status_of(done: subprocess.CompletedProcess[str]) -> int:
    """Return the status of what make called: make itself ends with 2."""
    if not done.returncode:
        return 0
    shown = re.search(r"Makefile\.xsplice:\d+: \S+\] Error (\d+)", done.stderr)
    assert shown is not None, done.stdout + done.stderr
    return int(shown[1])


def digests_of(tree: Path) -> dict[str, str]:
    """Return the digests of the tree's sources and ordinary objects."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for suffix in ("*.c", "*.h", "*.o")
        for path in sorted((tree / "xen" / "common").rglob(suffix))
    }


@pytest.mark.parametrize("name", ["extra-version", "header-inline", "two-objects"])
def test_patch_becomes_a_proved_payload(name: str, tree: Path) -> None:
    expected = json.loads((HOT_PATCHES / name / "expected.json").read_text())
    before = digests_of(tree)
    words = f"XSPLICE_PATCH={HOT_PATCHES / name / 'fix.patch'}", f"XSPLICE_NAME={name}"
    done = make(tree, "xsplice-verify", *words, "XSPLICE_SIGNER=cms")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PROVED: {name} on Xen 4.17" in done.stdout
    record = json.loads((tree / "xen" / f"{name}.payload.json").read_text())
    assert sorted(row["name"] for row in record["functions"]) == expected["replaced"]
    assert (tree / "xen" / f"{name}.livepatch").is_file()
    assert (tree / "xen" / f"{name}.verify.json").is_file()
    assert digests_of(tree) == before
    again = make(tree, "xsplice-verify", *words)
    assert again.returncode == 0
    assert "  CC " not in again.stdout


def test_edited_sources_are_compared_with_the_last_build(tree: Path) -> None:
    source = tree / "xen" / "common" / "version.c"
    kept, status = source.read_text(), source.stat()
    source.write_text(kept.replace("return XEN_EXTRAVERSION;", 'return "edited";'))
    subprocess.run(["git", "-C", tree, "config", "diff.noprefix", "true"], check=True)
    subprocess.run(["git", "-C", tree, "config", "color.ui", "always"], check=True)
    try:
        done = make(tree, "xsplice-verify", "XSPLICE_NAME=edited")
    finally:
        source.write_text(kept)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROVED: edited on Xen 4.17" in done.stdout
    assert b"edited\0" in (tree / "xen" / "edited.livepatch").read_bytes()
    assert b"edited\0" not in (tree / "xen" / "common" / "version.o").read_bytes()
    patch = f"XSPLICE_PATCH={HOT_PATCHES / 'extra-version' / 'fix.patch'}"
    after = make(tree, "xsplice-verify", patch, "XSPLICE_NAME=after")
    assert "PROVED: after on Xen 4.17" in after.stdout, "the copy is none of the tree"


def test_nothing_edited_is_said(tree: Path) -> None:
    done = make(tree, "xsplice")
    assert (done.returncode, "nothing was edited" in done.stdout) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("comment-only", 3, "no functional change"),
        ("refused-assembler", 4, "[ASSEMBLER]"),
        ("refused-layout", 4, "[LAYOUT]"),
        ("boot-only", 3, "takes effect at the next boot"),
        ("refused-layout-header", 4, "[LAYOUT]"),
    ],
)
def test_what_cannot_become_a_live_patch_stops_with_a_reason(
    name: str, status: int, message: str, tree: Path
) -> None:
    patch = f"XSPLICE_PATCH={HOT_PATCHES / name / 'fix.patch'}"
    done = make(tree, "xsplice-verify", patch, "XSPLICE_NAME=refused")
    said = done.stdout + done.stderr
    assert (status_of(done), message in said) == (status, True), said
    assert not (tree / "xen" / "refused.livepatch").exists()


def test_wrong_use_is_refused(tree: Path, tmp_path: Path) -> None:
    good = f"XSPLICE_PATCH={HOT_PATCHES / 'extra-version' / 'fix.patch'}"
    for word in ("XSPLICE_ON=qmeu", "XSPLICE_SIGNER=nobody", "XSPLICE_OPTION=pin=1"):
        done = make(tree, "xsplice-verify", good, word)
        assert status_of(done) == 2, done.stdout + done.stderr
    patch = tmp_path / "tools.patch"
    patch.write_text("--- a/tools/x.c\n+++ b/tools/x.c\n@@ -1 +1 @@\n-a\n+b\n")
    assert status_of(make(tree, "xsplice", f"XSPLICE_PATCH={patch}")) == 2


def test_source_that_is_read_through_a_link_is_compiled_as_patched(
    tree: Path, tmp_path: Path
) -> None:
    """`arch/x86/efi/runtime.c` is a link to `common/efi/runtime.c`; such a change once got lost."""
    path, old = "xen/common/efi/runtime.c", "        return -ENOSYS;"
    lines = (tree / path).read_text().splitlines()
    number = len(lines) - lines[::-1].index(old)
    patch = tmp_path / "efi.patch"
    patch.write_text(
        f"--- a/{path}\n+++ b/{path}\n@@ -{number} +{number} @@\n-{old}\n+        return -ENODEV;\n"
    )
    done = make(tree, "xsplice", f"XSPLICE_PATCH={patch}", "XSPLICE_NAME=efi")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tree / "xen" / "efi.payload.json").read_text())
    assert "arch/x86/efi/runtime.o" in {row["object_path"] for row in record["functions"]}


def test_ordinary_build_gives_the_same_objects(tree: Path, xen_tree: Path) -> None:
    """Kbuild compiles anew what has another command; with the series, nothing has.

    Only what carries the date of the build is made again. (Runs last: it makes a new image.)
    """
    shutil.rmtree(tree / ".git")  # Xen would stamp the commit into what it builds
    done = make(tree, "build")
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
