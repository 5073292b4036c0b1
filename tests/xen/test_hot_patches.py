# SPDX-License-Identifier: Apache-2.0
"""Every regression hot-patch for 4.17, through the whole pipeline, against its expected.json."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
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
    brought = [n["name"] for n in record["new"] if n["kind"] in {"function", "data", "bss"}]
    assert sorted(brought) == sorted(expected["new"])
    assert sorted(record["hooks"]) == sorted(expected["hooks"])
    report = json.loads((tmp_path / "fix" / "fix.verify.json").read_text())
    assert report["verdict"] == "proved"


@pytest.mark.parametrize("case", of_verdict("unproved"))
def test_what_memory_does_not_fit_is_not_proved(case: str, xen_tree: Path, tmp_path: Path) -> None:
    run = scons(
        "xsplice-verify", tmp_path, XEN=xen_tree, PATCH=FOLDER / case / "fix.patch", NAME="fix"
    )
    assert run.status == 5, run.text
    record = json.loads((tmp_path / "fix" / "fix.payload.json").read_text())
    assert sorted(f["name"] for f in record["functions"]) == expected_of(case)["replaced"]
    report = json.loads((tmp_path / "fix" / "fix.verify.failed.json").read_text())
    assert report["verdict"] == "unproved"
    assert {"name": "data", "state": "not checked"}.items() <= next(
        row for row in report["obligations"] if row["name"] == "data"
    ).items()


@pytest.mark.parametrize("case", of_verdict("refused"))
def test_refused_hot_patch_is_refused_by_name(case: str, xen_tree: Path, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / case / "fix.patch", NAME="fix")
    assert run.status == 4, run.text
    for code in expected_of(case)["refused"]:
        assert f"[{code}]" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


def test_boot_code_alone_waits_for_the_next_boot(xen_tree: Path, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / "boot-only/fix.patch")
    assert (run.status, "takes effect at the next boot" in run.text) == (3, True), run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("case", of_verdict("no-change"))
def test_patch_without_functional_change_says_so(case: str, xen_tree: Path, tmp_path: Path) -> None:
    run = scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / case / "fix.patch", NAME="fix")
    assert run.status == 3, run.text
    assert "no functional change" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


def test_new_source_file_takes_the_route_through_make(xen_tree: Path, tmp_path: Path) -> None:
    """A new file and its Makefile line: only make knows what to do with them."""
    source = (xen_tree / "xen/common/version.c").read_text()
    makefile = (xen_tree / "xen/common/Makefile").read_text()
    old, new = tmp_path / "a/xen/common", tmp_path / "b/xen/common"
    for folder in (old, new):
        folder.mkdir(parents=True)
    (old / "version.c").write_text(source)
    (old / "Makefile").write_text(makefile)
    (new / "version.c").write_text(
        source.replace(
            "const char *xen_extra_version(void)\n{\n    return XEN_EXTRAVERSION;",
            "const char *xsplice_extra(void);\n\n"
            "const char *xen_extra_version(void)\n{\n    return xsplice_extra();",
        )
    )
    (new / "Makefile").write_text(
        makefile.replace("obj-y += version.o", "obj-y += version.o\nobj-y += extra.o")
    )
    (new / "extra.c").write_text(
        "const char *xsplice_extra(void);\n\n"
        'const char *xsplice_extra(void)\n{\n    return ".5-made";\n}\n'
    )
    diff = subprocess.run(
        ["diff", "-ruN", "a", "b"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (tmp_path / "fix.patch").write_text(diff.stdout)
    (tmp_path / "expected.json").write_text(
        json.dumps(
            {
                "effect": [
                    {
                        "probe": "xen_extra_version",
                        "args": [],
                        "type": "string",
                        "before": ".5",
                        "during": ".5-made",
                        "after": ".5",
                    }
                ]
            }
        )
    )
    run = scons(
        "xsplice-verify",
        tmp_path / "build",
        XEN=xen_tree,
        PATCH=tmp_path / "fix.patch",
        EXPECT=tmp_path / "expected.json",
    ).assert_success()
    assert "make in a private copy" in run.out
    record = json.loads((tmp_path / "build/fix/fix.payload.json").read_text())
    assert [f["name"] for f in record["functions"]] == ["xen_extra_version"]
    assert [n["name"] for n in record["new"] if n["kind"] == "function"] == ["xsplice_extra"]


def digest_of(folder: Path) -> str:
    """Return the identity of a folder: every path with its size, mode and time."""
    lines = []
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        lines.append(f"{path} {stat.st_size} {stat.st_mode} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_tree_is_untouched_by_success_refusal_and_make(xen_tree: Path, tmp_path: Path) -> None:
    before = digest_of(xen_tree)
    scons("xsplice-verify", tmp_path, XEN=xen_tree, PATCH=FOLDER / "extra-version/fix.patch")
    scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / "boot-only/fix.patch")
    scons("xsplice", tmp_path, XEN=xen_tree, PATCH=FOLDER / "refused-assembler/fix.patch")
    assert digest_of(xen_tree) == before


def test_second_run_does_nothing_and_says_so(xen_tree: Path, tmp_path: Path) -> None:
    settings = {"XEN": xen_tree, "PATCH": FOLDER / "two-objects/fix.patch"}
    first = scons("xsplice-verify", tmp_path, **settings).assert_success()
    run = scons("xsplice-verify", tmp_path, **settings).assert_success()
    lines = run.out.splitlines()
    assert [lines[n].split(":")[0] for n in (0, -1)] == ["PROVED", "PROVED"]
    assert first.out.endswith(run.out), "the verdict again, and nothing is made"


def test_payload_is_the_same_in_two_folders_and_with_every_j(
    xen_tree: Path, tmp_path: Path
) -> None:
    found = set()
    for name, word, seed in (("a", "-j1", "1"), ("b c", "-j4", "77")):
        scons(
            "xsplice",
            tmp_path / name,
            word,
            environ={"PYTHONHASHSEED": seed},
            XEN=xen_tree,
            PATCH=FOLDER / "header-inline/fix.patch",
            SIGNER="none",
        ).assert_success()
        found.add((tmp_path / name / "fix/fix.livepatch").read_bytes())
    assert len(found) == 1


def test_explain_names_the_patched_file(xen_tree: Path, tmp_path: Path) -> None:
    text = (FOLDER / "extra-version/fix.patch").read_text()
    patch = tmp_path / "fix.patch"
    patch.write_text(text)
    scons("xsplice", tmp_path / "build", XEN=xen_tree, PATCH=patch).assert_success()
    patch.write_text(text.replace("-xsplice", "-xsplice2"))
    run = scons("xsplice", tmp_path / "build", "--debug=explain", XEN=xen_tree, PATCH=patch)
    run.assert_success()
    assert "version.o.xsplice' because" in run.out
    assert "patched xen/common/version.c" in run.out
    assert "rebuilding `" + str(tmp_path / "build" / "pristine") not in run.out


def test_drifted_compiler_stops_the_run(xen_tree: Path, tmp_path: Path) -> None:
    """A gcc that compiles otherwise: the message names the object and both compilers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcc", "x86_64-linux-gnu-gcc"):
        (folder / name).write_text(
            '#!/bin/sh\n[ "$1" = --version ] && { echo "gcc (drifted) 99"; exit; }\n'
            'exec /usr/bin/gcc "$@" -fno-tree-vrp -O1\n'
        )
        (folder / name).chmod(0o755)
    run = scons(
        "xsplice",
        tmp_path / "build",
        environ={"PATH": f"{folder}:{os.environ['PATH']}"},
        XEN=xen_tree,
        PATCH=FOLDER / "two-objects/fix.patch",
    )
    assert run.status == 2, run.text
    assert "Debian" in run.text
    assert not list(tmp_path.rglob("*.livepatch*"))


@pytest.mark.parametrize("switch", ["0", "1"])
def test_line_neutral_patch_leaves_no_line_numbers_to_see(
    switch: str, xen_tree: Path, tmp_path: Path
) -> None:
    """Two prototypes at the top of a file with BUG_ONs: nothing else changes."""
    source = (xen_tree / "xen/common/tasklet.c").read_text().splitlines()
    line = next(i for i, text in enumerate(source, 1) if text.startswith("static"))
    patch = tmp_path / "fix.patch"
    patch.write_text(
        "--- a/xen/common/tasklet.c\n+++ b/xen/common/tasklet.c\n"
        f"@@ -{line - 1},0 +{line},2 @@\n+void xsplice_one(void);\n+void xsplice_two(void);\n"
    )
    run = scons("xsplice", tmp_path / "b", XEN=xen_tree, PATCH=patch, LINE_NEUTRAL=switch)
    assert "no functional change" in run.text
    (delta,) = json.loads((tmp_path / "b/fix/objects/common/tasklet.o.xsplice.diff").read_text())
    assert delta["changed"] == []
    assert bool(delta["line_only"]) == (switch == "0")


def test_hand_written_file_takes_the_same_way(xen_tree: Path, tmp_path: Path) -> None:
    """The README's example, through ``HOTFIX=``."""
    example = re.search(r"```c\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example
    (tmp_path / "hotfix.c").write_text(example[1])
    run = scons(
        "xsplice-verify", tmp_path / "b", XEN=xen_tree, HOTFIX=tmp_path / "hotfix.c"
    ).assert_success()
    assert "PROVED: hotfix" in run.out
    record = json.loads((tmp_path / "b/hotfix/hotfix.payload.json").read_text())
    assert [f["name"] for f in record["functions"]] == ["xen_extra_version"]


def test_hand_written_file_without_a_tree_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "hotfix.c").write_text("")
    run = scons("xsplice", tmp_path / "b", HOTFIX=tmp_path / "hotfix.c")
    assert run.status == 2
    assert "XEN is not set" in run.text
