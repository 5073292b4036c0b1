# SPDX-License-Identifier: Apache-2.0
"""The series for `xl` applies to the pristine tree and says what it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "xen-patches" / "xl"
PATCHES = sorted(FOLDER.glob("*.patch"))
COMMANDS = ("load", "list", "revert", "unload", "replace")


def touched_by(patch: Path) -> tuple[set[str], set[str]]:
    """Return the paths a patch changes, and those it adds."""
    text = patch.read_text()
    changed = set(re.findall(r"^--- a/(\S+)", text, re.MULTILINE))
    return changed, set(re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)) - changed


@pytest.fixture
def tree(xen_tree: Path, tmp_path: Path) -> Path:
    """Return a repository that holds the files the series changes, as they are in the tree."""
    root = tmp_path / "tree"
    for path in sorted({path for patch in PATCHES for path in touched_by(patch)[0]}):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(xen_tree / path, root / path)
    return root


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.name[:4])
def test_patch_names_its_licence_and_carries_one_line_of_context(patch: Path) -> None:
    words, _, hunks = patch.read_text().partition("\ndiff --git ")
    assert re.search(r"^SPDX-License-Identifier: (LGPL-2\.1|GPL-2\.0)-only$", words, re.MULTILINE)
    context = 0
    for line in hunks.splitlines():
        context = context + 1 if line.startswith(" ") else 0
        assert context <= 2, line


@pytest.mark.xen
def test_series_applies_without_fuzz(tree: Path) -> None:
    for patch in PATCHES:
        done = subprocess.run(
            ["patch", "-p1", "-F0", "-i", patch],
            cwd=tree,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        assert "offset" not in done.stdout, done.stdout


@pytest.mark.xen
def test_series_applies_with_git_am(tree: Path) -> None:
    me = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for role in ("AUTHOR", "COMMITTER"):
        me |= {f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@localhost"}
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-q", "-m", "tree"],
        ["am", "-q", *map(str, PATCHES)],
    ):
        subprocess.run(["git", *words], cwd=tree, check=True, env=os.environ | me)
    for patch in PATCHES:
        for path in touched_by(patch)[1]:
            assert (tree / path).is_file()


@pytest.mark.xen
def test_each_command_is_in_table_header_and_manual(tree: Path) -> None:
    for patch in PATCHES:
        subprocess.run(["patch", "-s", "-p1", "-F0", "-i", patch], cwd=tree, check=True)
    table = (tree / "tools/xl/xl_cmdtable.c").read_text()
    header = (tree / "tools/xl/xl.h").read_text()
    manual = (tree / "docs/man/xl.1.pod.in").read_text()
    for command in COMMANDS:
        assert f'{{ "livepatch-{command}",\n      &main_livepatch_{command},' in table
        assert f"int main_livepatch_{command}(int argc, char **argv);" in header
        assert f"=item B<livepatch-{command}>" in manual
    assert "#define LIBXL_HAVE_LIVEPATCH 1\n" in (tree / "tools/include/libxl.h").read_text()
