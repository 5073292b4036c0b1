# SPDX-License-Identifier: Apache-2.0
"""`make xsplice` in Xen's own tree: the series applies, and its targets do what they say.

The tool itself is replaced by a script that writes down how it was called, but for one test.
Other releases are in test_other_releases.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
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


def make(tree: Path, tool: Path | str, goal: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one target; the environment of the test's own make does not count."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "-C", tree / "xen", "XEN_TARGET_ARCH=x86_64", f"XSPLICE={tool}", goal, *words],
        check=False,
        capture_output=True,
        text=True,
        env=plain | {"LC_ALL": "C", "PYTHONPATH": str(ROOT.parent)},
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


@pytest.mark.parametrize("name", ["extra-version", "two-objects"])
def test_real_tool_makes_and_proves_the_payload(name: str, tree: Path) -> None:
    patch = HOT_PATCHES / name / "fix.patch"
    words = f"XSPLICE_PATCH={patch}", f"XSPLICE_NAME=real-{name}"
    done = make(tree, f"{sys.executable} -m xsplice_plugins", "xsplice-verify", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PROVED: real-{name} on Xen 4.17" in done.stdout
    for function in json.loads((HOT_PATCHES / name / "expected.json").read_text())["replaced"]:
        assert f"{function} 0x" in done.stdout


def one_line_patch(tree: Path, path: str, old: str, new: str) -> str:
    """Return a patch that replaces the last line that reads `old`."""
    lines = (tree / path).read_text().splitlines()
    number = len(lines) - lines[::-1].index(old)
    return f"--- a/{path}\n+++ b/{path}\n@@ -{number} +{number} @@\n-{old}\n+{new}\n"


def test_source_that_is_read_through_a_link_is_compiled_as_patched(
    tree: Path, tool: Path, tmp_path: Path
) -> None:
    """`arch/x86/efi/runtime.c` is a link to `common/efi/runtime.c`; such a change once got lost."""
    patch = tmp_path / "efi.patch"
    patch.write_text(
        one_line_patch(
            tree, "xen/common/efi/runtime.c", "        return -ENOSYS;", "        return -ENODEV;"
        )
    )
    done = make(tree, tool, "xsplice", f"XSPLICE_PATCH={patch}", "XSPLICE_NAME=efi")
    assert done.returncode == 0, done.stdout + done.stderr
    diffed = [call[-2] for call in calls_of(tool) if call[0] == "diff"]
    assert "arch/x86/efi/runtime.o" in diffed


def test_new_source_file_is_named(tree: Path, tool: Path, tmp_path: Path) -> None:
    patch = tmp_path / "new.patch"
    patch.write_text(
        "--- a/xen/common/Makefile\n+++ b/xen/common/Makefile\n@@ -0,0 +1 @@\n+obj-y += new.o\n"
        "--- /dev/null\n+++ b/xen/common/new.c\n@@ -0,0 +1 @@\n+int new;\n"
    )
    done = make(tree, tool, "xsplice", f"XSPLICE_PATCH={patch}")
    assert done.returncode != 0
    assert "common/new.c: new source files cannot be live patched in" in done.stderr


def test_file_that_no_object_reads_is_not_left_out_in_silence(
    tree: Path, tool: Path, tmp_path: Path
) -> None:
    """Beside a change that counts, too; other architectures' files are no part of this build."""
    own, other = tmp_path / "own.patch", tmp_path / "other.patch"
    for patch, path in ((own, "common/coverage/gcc_5.c"), (other, "arch/arm/mm.c")):
        first = (tree / "xen" / path).read_text().splitlines()[0]
        patch.write_text(
            f"--- a/xen/{path}\n+++ b/xen/{path}\n@@ -1 +1 @@\n-{first}\n+{first} /*\n"
        )
    counts = HOT_PATCHES / "extra-version" / "fix.patch"
    done = make(tree, tool, "xsplice", f"XSPLICE_PATCH={own} {counts}")
    assert done.returncode != 0
    assert "no object of the last build reads common/coverage/gcc_5.c" in done.stderr
    done = make(tree, tool, "xsplice", f"XSPLICE_PATCH={other} {counts}", "XSPLICE_NAME=both")
    assert done.returncode == 0, done.stderr


def test_tree_that_is_built_elsewhere_is_refused(tree: Path, tool: Path, tmp_path: Path) -> None:
    for name in ("xen-syms", "include/config/auto.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / "xen" / name, tmp_path / name)
    done = subprocess.run(
        [
            "make", "-C", tmp_path, "-f", tree / "xen" / "scripts" / "Makefile.xsplice",
            f"srctree={tree / 'xen'}", "building_out_of_srctree=1", "TARGET=xen", f"XSPLICE={tool}",
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "make xsplice knows no O= builds" in done.stderr


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
