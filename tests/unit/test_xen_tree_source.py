# SPDX-License-Identifier: Apache-2.0
"""A Xen tree's source from a commit of a clone; the clone is made by the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xen.make_xen_tree import arguments, job_of
from tests.xen.source import commit_of, export_commit
from tests.xen.xen_tree import TreeRecipe
from xsplice_plugins.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[1] / "xen" / "make_xen_tree.py"
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def git(clone: Path, *words: str) -> None:
    """Run git in a clone."""
    subprocess.run(["git", *IDENTITY, "-C", clone, *words], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone with a tag and a later commit."""
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init")
    (folder / "Makefile").write_text("one\n")
    git(folder, "add", "Makefile")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "RELEASE-1")
    (folder / "Makefile").write_text("two\n")
    git(folder, "commit", "-am", "two")
    return folder


def test_a_tag_is_exported_without_history(clone: Path, tmp_path: Path) -> None:
    commit = commit_of(clone, "RELEASE-1")
    assert len(commit) == 40
    assert commit != commit_of(clone, "HEAD")
    export_commit(clone, commit, tmp_path / "tree", log=tmp_path / "log")
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["Makefile"]
    assert (tmp_path / "tree/Makefile").read_text() == "one\n"
    assert not (tmp_path / "tree.tar").exists()


@pytest.mark.parametrize("ref", ["none", "--all", ""])
def test_a_name_that_is_no_commit_is_refused(ref: str, clone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no commit"):
        commit_of(clone, ref)
    with pytest.raises(ConfigError, match="has no commit"):
        commit_of(tmp_path / "none", "HEAD")


def test_a_trees_folder_follows_commit_machine_compiler_and_configuration(tmp_path: Path) -> None:
    recipe = TreeRecipe(version="RELEASE-1", commit="1" * 40, config=(), compiler="gcc 12")
    other = [
        TreeRecipe(version="RELEASE-1", commit="2" * 40, config=(), compiler="gcc 12"),
        TreeRecipe(version="RELEASE-1", commit="1" * 40, config=("CONFIG_A=y",), compiler="gcc 12"),
        TreeRecipe(version="RELEASE-1", commit="1" * 40, config=(), compiler="gcc 13"),
        TreeRecipe(
            version="RELEASE-1", commit="1" * 40, config=(), compiler="gcc 12", machine="arm64"
        ),
    ]
    assert len({made.folder(tmp_path) for made in [recipe, *other]}) == 5
    same = TreeRecipe(version="master", commit="1" * 40, config=(), compiler="gcc 12")
    assert same.key == recipe.key


def test_the_command_line_names_a_commit(clone: Path, tmp_path: Path) -> None:
    for words in (["--git", str(clone)], ["--ref", "RELEASE-1"]):
        with pytest.raises(ConfigError, match="one without the other"):
            job_of(arguments(words), tmp_path)
    with pytest.raises(SystemExit):
        arguments(["--arch", "ppc"])


def test_a_commit_that_is_not_built_says_so(clone: Path, tmp_path: Path) -> None:
    words = ["--git", str(clone), "--ref", "RELEASE-1", "--print-path"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={"PATH": os.environ["PATH"], "XSPLICE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "is not built yet" in done.stderr or "apt-get install" in done.stderr
