# SPDX-License-Identifier: Apache-2.0
"""What runs share and leave behind: build folders, outputs, the cache, processes, names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faces.kit import GOOD, LAYOUT, NOTHING, Face, run, with_scons, with_xsplice, written
from tests.kit.build import ROOT
from tests.kit.processes import SECONDS_MAX, number_in, wait_for_end
from tests.kit.tiny_tree import TinyTree

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]


def test_two_fixes_of_one_name_do_not_get_each_others_payload(
    tree: TinyTree, tmp_path: Path
) -> None:
    """They share a build folder, so they work one after the other."""
    edits = [GOOD, ("xen/common/user.c", "twice(p->second)", "twice(p->second + 1)")]
    started = []
    for number, edit in enumerate(edits * 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        patch = written(tree, folder, *edit)
        words = ["patch", patch, "--xen", tree.root, "--build", tmp_path / "build", "--out", folder]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "xsplice_plugins", *map(str, words)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for number, process in enumerate(started):
        said, _ = process.communicate()
        assert process.returncode == 0, said
        record = json.loads((tmp_path / str(number) / "fix.payload.json").read_text())
        assert {row["name"] for row in record["functions"]} == [{"first", "user"}, {"user"}][
            number % 2
        ]


@pytest.mark.parametrize("setting", ["DEPENDS", "SUPERSEDES"])
def test_a_payload_that_is_read_is_neither_written_over_nor_taken_away(
    face: Face, setting: str, tree: TinyTree, tmp_path: Path
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    face("xsplice", tmp_path, XEN=tree.root, PATCH=patch).text  # noqa: B018  made below
    below = next(p for p in sorted(tmp_path.rglob("fix.livepatch")) if p.parent.name != "build")
    there = below.read_bytes()
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, **{setting: below})
    assert (ended.status, "would be written over it" in ended.text) == (2, True), ended.text
    assert below.read_bytes() == there


@pytest.mark.parametrize(
    ("setting", "made"),
    [
        ("EXPECT", "fix.verify.json"),
        ("KEY", "objects/common/user.o.xsplice.diff"),
        ("CERT", "fix.signature.json"),
        ("DEPENDS", "fix.livepatch.unsigned"),
        ("PATCH", "fix.patch.json"),
    ],
)
def test_what_a_fix_makes_is_not_what_it_is_made_of(
    face: Face, setting: str, made: str, tree: TinyTree, tmp_path: Path
) -> None:
    """SCons would find a circle, or write over it; what is there says so, made or not."""
    settings = {"XEN": tree.root, "PATCH": written(tree, tmp_path, *GOOD), "NAME": "fix"}
    place = tmp_path / "fix" / made
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    ended = face("xsplice-verify", tmp_path, **{**settings, setting: place})
    assert (ended.status, "would be written over it" in ended.text) == (2, True), ended.text
    assert place.read_text() == "mine"


@pytest.mark.parametrize("place", ["fix/checked/fix.verify.json"])
def test_what_lies_beside_may_be_read(
    face: Face, place: str, tree: TinyTree, tmp_path: Path
) -> None:
    patch, expected = written(tree, tmp_path, *GOOD), tmp_path / place
    expected.parent.mkdir(parents=True)
    expected.write_text('{"effect": []}')
    settings = {"XEN": tree.root, "PATCH": patch, "EXPECT": expected}
    ended = face("xsplice-verify", tmp_path, **settings)
    assert ended.status == 0, ended.text


@pytest.mark.parametrize("place", ["fix/objects/fix.c", "fix/made.c"])
def test_hand_written_files_are_not_written_over(
    place: str, tree: TinyTree, tmp_path: Path
) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("#include <xsplice.h>\n")
    settings = {"XEN": tree.root, "HOTFIX": tmp_path / place, "NAME": "fix"}
    ended = with_scons("xsplice", tmp_path, **settings)
    assert (ended.status, "would be written over it" in ended.text) == (2, True), ended.text


@pytest.mark.parametrize("setting", ["DEPENDS", "SUPERSEDES"])
def test_a_payload_that_is_none_is_said_whatever_the_fix_is(
    setting: str, face: Face, tree: TinyTree, tmp_path: Path
) -> None:
    """A patch of comments alone needs no payload beneath; what is named is wrong all the same."""
    patch, below = written(tree, tmp_path, *NOTHING), tmp_path / "below.livepatch"
    below.write_bytes(b"garbage")
    settings = {"XEN": tree.root, "PATCH": patch}
    ended = face("xsplice", tmp_path, **settings, **{setting: below})
    assert (ended.status, "not an ELF file" in ended.text) == (2, True), ended.text
    assert face("xsplice", tmp_path, **settings).status == 3


@pytest.mark.parametrize(("edit", "status"), [(GOOD, 0), (LAYOUT, 4), (NOTHING, 3)])
def test_relative_paths_count_from_where_the_user_stands(
    edit: tuple[str, str, str], status: int, tree: TinyTree, tmp_path: Path
) -> None:
    """From any folder, and nothing is written but where it is said."""
    here = tmp_path / "here"
    here.mkdir()
    written(tree, here, *edit)
    (here / "expected.json").write_text('{"effect": []}')
    before = set(ROOT.iterdir())
    words = ["patch", "fix.patch", "--xen", os.path.relpath(tree.root, here), "--build", "../b"]
    done = subprocess.run(
        [sys.executable, "-m", "xsplice_plugins", *words, "--verify", "--expect", "expected.json"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    made = {path.name for path in here.iterdir()}
    assert ("fix.livepatch" in made, "fix.verify.json" in made) == (not status, not status)
    assert (tmp_path / "b").is_dir()
    assert set(ROOT.iterdir()) == before


def test_what_is_not_proved_stays_in_the_build_folder_also_if_that_is_named(
    tree: TinyTree, tmp_path: Path
) -> None:
    patch, expected = written(tree, tmp_path, *GOOD), tmp_path / "expected.json"
    probe = {"probe": "xen_minor_version", "args": [], "type": "int"}
    row = {**probe, "before": 17, "during": 18, "after": 17}
    expected.write_text(json.dumps({"effect": [row]}))
    words = [
        sys.executable,
        "-m",
        "xsplice_plugins",
        "patch",
        patch,
        "--xen",
        tree.root,
        "--verify",
    ]
    words += ["--build", tmp_path / "b", "--expect", expected]
    for out, is_there in ((tmp_path / "b/fix", True), (tmp_path / "out", False)):
        ended = run([*words, "--out", out])
        assert (ended.status, "is not put into" in ended.err) == (5, not is_there), ended.text
        assert (out / "fix.livepatch").is_file() is is_there
        assert (out / "fix.verify.failed.json").is_file()
    assert (tmp_path / "b/fix/fix.livepatch").is_file()


@pytest.mark.parametrize("build", ["", "another"])
def test_wrong_use_takes_nothing_away(build: str, tree: TinyTree, tmp_path: Path) -> None:
    words = {"XEN": tree.root, "PATCH": written(tree, tmp_path, *GOOD)}
    assert with_xsplice("xsplice", tmp_path, **words).status == 0
    before = sorted((tmp_path / "out").iterdir())
    ended = with_xsplice("xsplice", tmp_path, **words, BUILD=tmp_path / build, SIGNER="nobody")
    assert ended.status == 2
    assert sorted((tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize("build", ["", "another"])
@pytest.mark.parametrize("wrong", ["broken", "p->first * 4"])
def test_a_fix_that_fails_takes_away_what_was_made_of_it(
    wrong: str, build: str, tree: TinyTree, tmp_path: Path
) -> None:
    """It does not compile, or not apply: what an earlier run made is not what this one made."""
    _, old, new = GOOD
    patch = written(tree, tmp_path, *GOOD)
    words = {"XEN": tree.root, "PATCH": patch}
    assert with_xsplice("xsplice-verify", tmp_path, **words).status == 0
    (tmp_path / "out/other.livepatch").write_text("of another fix")
    text = patch.read_text()
    patch.write_text(text.replace(new, wrong) if wrong == "broken" else text.replace(old, wrong))
    ended = with_xsplice("xsplice-verify", tmp_path, **words, BUILD=tmp_path / build)
    assert ended.status == 2, ended.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other.livepatch"]
    assert not list(tmp_path.rglob(".stands"))


def test_a_switch_says_yes_or_no(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    if face is with_xsplice:
        pytest.skip("there it is an option without a value")
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, LINE_NEUTRAL="perhaps")
    assert (ended.status, "neither yes nor no" in ended.text) == (2, True), ended.text
    assert face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, LINE_NEUTRAL="no").status == 0


def test_a_name_that_no_payload_can_have(face: Face, tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, NAME="n" * 300)
    assert (ended.status, "300 characters" in ended.text) == (2, True), ended.text
    assert face("xsplice", tmp_path, XEN=tree.root, PATCH=patch, NAME="it's").status == 0


def test_patch_ends_what_it_started(tree: TinyTree, tmp_path: Path) -> None:
    patch = written(tree, tmp_path, *GOOD)
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    words = ["patch", patch, "--xen", tree.root, "--build", tmp_path / "b", "--out", tmp_path]
    with subprocess.Popen(
        [sys.executable, "-m", "xsplice_plugins", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"XSPLICE_PLUGINS": f"slow={slow}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        worker = number_in(tmp_path / "pid")
        process.terminate()
        assert process.wait(SECONDS_MAX) != 0
    wait_for_end(worker)


def test_the_cache_folder_is_where_it_is_named(tree: TinyTree, tmp_path: Path) -> None:
    """A relative one counts from where the user stands, not from where SCons runs."""
    patch = written(tree, tmp_path, *GOOD)
    words = [sys.executable, "-m", "xsplice_plugins", "patch", patch, "--xen", tree.root]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=tmp_path,
        env=os.environ | {"XSPLICE_CACHE": "here", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "here").iterdir()} >= {"patch"}


def test_a_cache_folder_that_cannot_be(
    face: Face, tree: TinyTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = written(tree, tmp_path, *GOOD)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for place in (loop, tmp_path / ("a" * 300)):
        monkeypatch.setenv("XSPLICE_CACHE", str(place))
        ended = face("xsplice", tmp_path, XEN=tree.root, PATCH=patch)
        assert (ended.status, "set XSPLICE_CACHE" in ended.text) == (6, True), ended.text
