# SPDX-License-Identifier: Apache-2.0
"""A commit of a clone is what the clone has, whatever the user's own git says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.bases.test_keeping import USER, edit, steps_of
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.system.git import git_environment

pytestmark = pytest.mark.toolchain

ME = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=m")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *ME, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def committed(folder: Path) -> Path:
    for words in (["init", "-q"], ["add", "-Af"], ["commit", "-qm", "one"]):
        git(folder, *words)
    return folder


def test_variables_of_git_lead_to_no_other_repository(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git sets some for its hooks, and for what a rebase runs."""
    other = committed(shutil.copytree(own, tmp_path / "other", symlinks=True))
    edit(other, "twice(a)", "twice(a) + 1")
    git(other, "commit", "-qam", "two")
    wanted = git(committed(own), "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git/objects"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    monkeypatch.setenv("GIT_NAMESPACE", "other")
    assert add_base(Order(name="fleet", source=own, ref="HEAD")).differs == ()
    assert "+ 1" not in (store.tree_of("base:fleet") / USER).read_text()
    assert wanted in (store.folder_of("fleet") / "order.json").read_text()


def test_git_is_run_without_its_variables_and_with_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS", "GIT_CEILING_DIRECTORIES"):
        monkeypatch.setenv(name, "1")
    known = git_environment()
    own = {"GIT_ATTR_NOSYSTEM": "1", "GIT_NO_REPLACE_OBJECTS": "1"}
    assert {name: value for name, value in known.items() if name.startswith("GIT_")} == own
    assert known["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("how", ["autocrlf", "eol", "attributes", "replaced"])
def test_a_commit_has_the_files_that_were_committed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Line ends of another system, files left out or another commit's are another hypervisor."""
    if how == "eol":
        (own / ".gitattributes").write_text("*.c text\n")
    committed(own)
    good = (own / USER).read_bytes()
    if how == "autocrlf":
        git(own, "config", "core.autocrlf", "true")
    elif how == "eol":
        git(own, "config", "core.eol", "crlf")
    elif how == "attributes":
        (tmp_path / "attributes").write_text("user.c export-ignore\n")
        git(own, "config", "core.attributesFile", str(tmp_path / "attributes"))
    else:
        first = git(own, "rev-parse", "HEAD")
        edit(own, "twice(a)", "twice(a) + 1")
        git(own, "commit", "-qam", "two")
        git(own, "replace", first, "HEAD")
    ref = first if how == "replaced" else "HEAD"
    order = Order(name="fleet", source=own, ref=ref)
    record = add_base(order)
    assert (store.tree_of("base:fleet") / USER).read_bytes() == good
    assert steps_of(order) == (record, [])


def test_attributes_of_the_clones_own_are_refused(own: Path) -> None:
    """Git has no option that switches them off."""
    path = committed(own) / ".git/info/attributes"
    path.parent.mkdir(exist_ok=True)
    order = Order(name="fleet", source=own, ref="HEAD")
    path.write_text("*.c text eol=crlf\n")
    with pytest.raises(ConfigError, match=r"info/attributes changes what git writes of a commit"):
        add_base(order)
    path.write_text("# none\n\n")
    assert add_base(order).matched > 0


@pytest.mark.parametrize("kind", ["commit", "tarball"])
def test_options_for_tar_leave_nothing_out(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (own / "xen/more.h").write_text("/* more */\n")
    order = Order(name="fleet", source=committed(own), ref="HEAD")
    if kind == "tarball":
        subprocess.run(["tar", "-cf", tmp_path / "xen.tar", "-C", tmp_path, own.name], check=True)
        order = Order(name="fleet", source=tmp_path / "xen.tar")
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=more.h")
    add_base(order)
    assert (store.tree_of("base:fleet") / "xen/more.h").is_file()
