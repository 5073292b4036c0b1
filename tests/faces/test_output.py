# SPDX-License-Identifier: Apache-2.0
"""What stands where something shall be written, and disks that take no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import xsplice
from tests.faces.kit import GOOD, run, with_scons, with_xsplice, written
from tests.kit.tiny_tree import TinyTree

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small disk, or skip the test."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(words, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "file"])
def test_patch_replaces_regular_files_only(kind: str, tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.write_text("kept")
    place = out / "fix.livepatch"
    {
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
        "link": lambda: place.symlink_to(other),
        "file": lambda: place.write_text("old"),
    }[kind]()
    before = place.lstat().st_mode
    ended = with_xsplice("xsplice", tmp_path, XEN=tree.root, PATCH=patch)
    assert other.read_text() == "kept"
    if kind == "file":
        assert (ended.status, place.read_bytes()[:4]) == (0, b"\x7fELF"), ended.text
        return
    assert (ended.status, f"{place}: is " in ended.text) == (2, True), ended.text
    assert (place.lstat().st_mode, list(out.iterdir())) == (before, [place])


@pytest.mark.parametrize(("size", "status"), [("8k", 6), ("900k", 0)])
def test_patch_leaves_all_files_or_none_on_a_full_disk(
    size: str, status: int, tree: TinyTree, tmp_path: Path
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    with disk(tmp_path / "out", size) as out:
        ended = with_xsplice("xsplice-verify", tmp_path, XEN=tree.root, PATCH=patch)
        assert ended.status == status, ended.text
        assert ("cannot be written" in ended.text, len(list(out.iterdir()))) == (
            (True, 0) if status else (False, 6)
        )


def test_a_folder_made_for_nothing_is_taken_away(tree: TinyTree, tmp_path: Path) -> None:
    words = {"XEN": tree.root, "PATCH": written(tree, tmp_path, *GOOD)}
    ended = with_xsplice("xsplice", tmp_path / "new", BUILD=tmp_path / "b$v2", **words)
    assert (ended.status, "$" in ended.text) == (2, True), ended.text
    assert not (tmp_path / "new").exists()
    (tmp_path / "out").mkdir()
    assert with_xsplice("xsplice", tmp_path, BUILD=tmp_path / "b$v2", **words).status == 2
    assert (tmp_path / "out").exists(), "it was the user's"
    assert with_xsplice("xsplice", tmp_path / "new", **words).status == 0
    assert (tmp_path / "new/out/fix.livepatch").exists()


def test_a_name_that_is_not_utf_8_is_refused(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    words = {"XEN": tree.root}
    for name, status in (("b\udcff.patch", 2), ("исправ.patch", 0)):
        odd = tmp_path / name
        odd.write_bytes(patch.read_bytes())
        for face in (with_scons, with_xsplice):
            ended = face("xsplice", tmp_path / "b", PATCH=odd, NAME="fix", **words)
            said = "not a name in UTF-8" in ended.text
            assert (ended.status, said) == (status, bool(status)), ended.text


def test_scons_says_that_its_disk_is_full(tree: TinyTree, tmp_path: Path) -> None:
    """The disk fills while a stage is at work; then there is room again."""
    patch = written(tree, tmp_path, *GOOD)
    with disk(tmp_path / "disk", "20m") as build:
        plugin = tmp_path / "filling.py"
        plugin.write_text(
            "from xsplice_plugins import hookimpl\n"
            "@hookimpl\n"
            "def xsplice_check_delta(delta, config):\n"
            f"    with open({str(build / 'fill')!r}, 'wb', buffering=0) as file:\n"
            "        try:\n"
            "            while file.write(bytes(4096)): pass\n"
            "        except OSError:\n"
            "            pass\n"
            "    return ()\n"
        )
        environ = {"XSPLICE_PLUGINS": f"filling={plugin}"}
        ended = with_scons("xsplice", build, XEN=tree.root, PATCH=patch, environ=environ)
        assert (ended.status, "cannot be written" in ended.text) == (6, True), ended.text
        assert "dblite" not in ended.text
        (build / "fill").unlink()
        ended = with_scons("xsplice", build, XEN=tree.root, PATCH=patch)
        assert ended.status == 0, ended.text


def test_an_empty_build_is_the_default(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    project = Path(xsplice.__file__).parent / "SConstruct"
    for build, made in (("", "build"), ("other", "other")):
        done = subprocess.run(
            [sys.executable, "-m", "SCons", "-Q", "-f", project, "xsplice", f"BUILD={build}"]
            + [f"XEN={tree.root}", f"PATCH={patch}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / made / "fix/fix.livepatch").exists()
        assert not (tmp_path / "fix").exists()


def test_a_standard_output_that_takes_no_more(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    assert with_xsplice("xsplice", tmp_path, XEN=tree.root, PATCH=patch).status == 0
    words = [sys.executable, "-m", "xsplice_plugins", "inspect", tmp_path / "out/fix.livepatch"]
    assert run(words).status == 0
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(word) for word in words], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, b"Traceback" in done.stderr) == (6, False), done.stderr
    assert b"the standard output: cannot be written" in done.stderr
