# SPDX-License-Identifier: Apache-2.0
"""The whole tree is held against its image once; a stale object is refused by name.

A build folder that outlives a change of the tree says what a fresh one says.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from SCons.Environment import Environment

from tests.kit.build import ROOT, Run, scons
from tests.kit.tiny_tree import TinyTree
from xsplice.base import objects_of_image
from xsplice_plugins.elf.reader import read_elf

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

FLAGS = "-fcf-protection=none -fno-asynchronous-unwind-tables "
FIX = "xen/common/version.c", "return FILE_NAME;", 'return "fixed";'
HELD = "functions and data of 6 objects lie in the image as the tree's objects have them"


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    return TinyTree(tmp_path / "tree", flags=FLAGS)


def verify(tree: TinyTree, build: Path, environ: dict[str, str] | None = None) -> Run:
    """Make and judge a fix of version.c, which reaches no other object."""
    patch = build.parent / "fix.patch"
    patch.write_text(tree.patch(FIX).patches[0].text)
    words = {"XEN": tree.root, "PATCH": patch, "SIGNER": "none"}
    return scons("xsplice-verify", build, environ=environ, **words)


def said_of_base(build: Path) -> list[tuple[str, str]]:
    """Return what the report says of the base."""
    [path] = [*build.glob("fix/fix.verify.json"), *build.glob("fix/fix.verify.failed.json")]
    report = json.loads(path.read_text())
    return [(f["severity"], f["text"]) for f in report["findings"] if f["check"] == "base"]


def object_of(tree: TinyTree, name: str) -> Path:
    return tree.root / "xen/common" / name


def flip(path: Path, section: str) -> None:
    """Change one byte of an object's code, as another compile might."""
    data = bytearray(path.read_bytes())
    data[read_elf(bytes(data), path.name).section_by_name[section].offset_file] ^= 1
    path.write_bytes(data)


def test_a_tree_that_is_what_its_image_holds_is_matched_once(
    tree: TinyTree, tmp_path: Path
) -> None:
    ended = verify(tree, tmp_path / "b")
    [(severity, text)] = said_of_base(tmp_path / "b")
    assert (severity, HELD in text) == ("held", True), ended.text
    assert "  BASE " in ended.out
    [report] = (tmp_path / "b").glob("fix/fix.verify*.json")
    report.unlink()
    ended = verify(tree, tmp_path / "b")
    assert "  BASE " not in ended.out
    assert said_of_base(tmp_path / "b") == [(severity, text)]


def test_a_stale_object_that_the_fix_does_not_reach_is_refused_by_name(
    tree: TinyTree, tmp_path: Path
) -> None:
    """Also where the match was done before; put back, it is held again."""
    verify(tree, tmp_path / "b")
    stale = object_of(tree, "user.o")
    before, times = stale.read_bytes(), stale.stat()
    flip(stale, ".text.user")
    for build in (tmp_path / "b", tmp_path / "fresh"):
        ended = verify(tree, build)
        assert (ended.status, "REFUSED: fix" in ended.out) == (5, True), ended.text
        assert "1 functions and data of 1 objects are not what the image holds: user (" in ended.out
    assert said_of_base(tmp_path / "b") == said_of_base(tmp_path / "fresh")
    stale.write_bytes(before)
    os.utime(stale, ns=(times.st_atime_ns, times.st_mtime_ns))
    verify(tree, tmp_path / "b")
    assert [severity for severity, _ in said_of_base(tmp_path / "b")] == ["held"]


def test_an_object_compiled_again_and_not_linked_is_refused_by_name(
    tree: TinyTree, tmp_path: Path
) -> None:
    """The source of another function was changed, and make stopped before the link."""
    verify(tree, tmp_path / "b")
    source = tree.root / "xen/common/user.c"
    source.write_text(source.read_text().replace("twice(a)", "twice(a) + 1"))
    shutil.copytree(tree.root, tmp_path / "other", symlinks=True)
    other = copy.copy(tree)
    other.root = tmp_path / "other"
    other.build()
    shutil.copy(object_of(other, "user.o"), object_of(tree, "user.o"))
    for build in (tmp_path / "b", tmp_path / "fresh"):
        ended = verify(tree, build)
        assert ended.status == 5
        assert "are not what the image holds: user (common/user.o)" in ended.out
    assert said_of_base(tmp_path / "b") == said_of_base(tmp_path / "fresh")
    tree.build()  # the link as well
    verify(tree, tmp_path / "b")
    assert [severity for severity, _ in said_of_base(tmp_path / "b")] == ["held"]


def test_the_image_of_another_build_is_refused_by_name(tree: TinyTree, tmp_path: Path) -> None:
    """Even with the shipped file of that build beside it."""
    verify(tree, tmp_path / "b")
    shutil.copytree(tree.root, tmp_path / "other", symlinks=True)
    other = copy.copy(tree)
    other.root = tmp_path / "other"
    source = other.root / "xen/common/user.c"
    source.write_text(source.read_text().replace("twice(a)", "twice(a) + 1"))
    other.build()
    for name in ("xen-syms", "xen"):
        shutil.copy(other.root / "xen" / name, tree.root / "xen" / name)
    for build in (tmp_path / "b", tmp_path / "fresh"):
        ended = verify(tree, build)
        assert ended.status == 5
        assert "are not what the image holds: user (common/user.o)" in ended.out
    assert said_of_base(tmp_path / "b") == said_of_base(tmp_path / "fresh")


def test_a_changed_source_that_no_object_has_seen_changes_nothing(
    tree: TinyTree, tmp_path: Path
) -> None:
    """The image is what runs; the fix does not reach that source."""
    verify(tree, tmp_path / "b")
    source = tree.root / "xen/common/user.c"
    source.write_text(source.read_text().replace("twice(a)", "twice(a) + 1"))
    for build in (tmp_path / "b", tmp_path / "fresh"):
        verify(tree, build)
    assert said_of_base(tmp_path / "b") == said_of_base(tmp_path / "fresh")
    made = [(tmp_path / name / "fix/fix.livepatch").read_bytes() for name in ("b", "fresh")]
    assert made[0] == made[1]


def test_a_header_that_is_newer_than_an_object_is_not_proved_until_it_is_put_back(
    tree: TinyTree, tmp_path: Path
) -> None:
    """Its members are used by the fix alone, so no object compiled again shows it."""
    header = tree.root / "xen/include/xen/lib.h"
    times, text = header.stat(), header.read_text()
    header.write_text(text + "#define UNUSED 2\n")
    environ = {"XSPLICE_CACHE": str(tmp_path / "cache")}
    for build in (tmp_path / "b", tmp_path / "b", tmp_path / "fresh"):
        ended = verify(tree, build, environ)
        assert (ended.status, "UNPROVED: fix" in ended.out) == (5, True), ended.text
        rows = [text for severity, text in said_of_base(build) if severity == "unchecked"]
        assert ["xen/include/xen/lib.h: newer than " in row for row in rows] == [True]
    header.write_text(text)
    os.utime(header, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.copytree(tree.root, tmp_path / "other", symlinks=True)
    tree.root = tmp_path / "other"  # built an hour ago, elsewhere: its times of change are lost
    for file in tree.root.rglob("*"):
        stamp = file.lstat().st_mtime_ns - 3600 * 10**9
        os.utime(file, ns=(stamp, stamp), follow_symlinks=False)
    verify(tree, tmp_path / "c", environ)
    assert [severity for severity, _ in said_of_base(tmp_path / "c")] == ["held"]


def test_a_header_with_another_content_than_before_is_refused_before_anything_is_built(
    tree: TinyTree, tmp_path: Path
) -> None:
    environ = {"XSPLICE_CACHE": str(tmp_path / "cache")}
    verify(tree, tmp_path / "b", environ)
    header = tree.root / "xen/include/xen/lib.h"
    times, text = header.stat(), header.read_text()
    for content, status in ((text + "#define UNUSED 2\n", 2), (text, 0)):
        header.write_text(content)
        os.utime(header, ns=(times.st_atime_ns, times.st_mtime_ns))
        for build in (tmp_path / "b", tmp_path / f"fresh{status}"):
            ended = verify(tree, build, environ)
            assert ("lib.h: changed since" in ended.err) == (status == 2), ended.text
            assert (build / "fix/fix.livepatch").exists() == (status == 0)


def test_hand_written_files_are_compiled_with_the_headers_of_the_image(
    tree: TinyTree, tmp_path: Path
) -> None:
    environ = {"XSPLICE_CACHE": str(tmp_path / "cache")}
    hotfix = tmp_path / "hotfix.c"
    hotfix.write_text("#include <xsplice.h>\n")
    words = {"XEN": tree.root, "HOTFIX": hotfix, "SIGNER": "none"}
    scons("xsplice-verify", tmp_path / "b", environ=environ, **words)
    header = tree.root / "xen/include/xen/lib.h"
    header.write_text(header.read_text() + "#define UNUSED 2\n")
    ended = scons("xsplice-verify", tmp_path / "b", environ=environ, **words)
    assert (ended.status, "lib.h: changed since" in ended.err) == (2, True), ended.text


def test_objects_that_are_gone_are_not_checked(tree: TinyTree, tmp_path: Path) -> None:
    verify(tree, tmp_path / "b")
    object_of(tree, "user.o").unlink()
    assert verify(tree, tmp_path / "b").status == 5
    [(severity, text)] = said_of_base(tmp_path / "b")
    assert (severity, "1 objects of the tree are gone: common/user.o" in text) == (
        "unchecked",
        True,
    )


def test_what_the_tree_said_goes_with_the_payload(tree: TinyTree, tmp_path: Path) -> None:
    """`xsplice verify` has no tree; it takes what lies beside, for that image alone."""
    verify(tree, tmp_path / "b")
    other = tmp_path / "xen-syms"
    other.write_bytes((tree.root / "xen/xen-syms").read_bytes() + b"\0")

    def said(image: Path) -> str:
        words = ["verify", tmp_path / "b/fix/fix.livepatch", "--xen-syms", image]
        done = subprocess.run(
            [sys.executable, "-m", "xsplice_plugins", *map(str, words), "--signer", "none"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    assert f"base: {HELD[:9]}" not in said(other)
    assert HELD in said(tree.root / "xen/xen-syms")
    assert "not checked: base: the objects of the tree were compared with another" in said(other)
    (tmp_path / "b/fix/fix.checks.json").unlink()
    nothing = said(tree.root / "xen/xen-syms")
    assert "not checked: base: " in nothing
    assert "the objects of the tree were not compared with the image; judge" in nothing


def test_the_core_is_what_its_objects_are(tmp_path: Path) -> None:
    """A project that SCons links itself."""
    fix = ROOT / "xen-patches/regression/core/extra-version/fix.patch"
    scons("xsplice-verify", tmp_path, PATCH=fix, NAME="fix", SIGNER="none").assert_success()
    [(severity, text)] = said_of_base(tmp_path)
    assert severity == "held"
    assert "functions and data of 12 objects lie in the image as" in text


def test_what_scons_links_into_an_image_is_known(tmp_path: Path) -> None:
    """Through steps and archives, and not what objects are made of in turn."""
    env = Environment(tools=[])
    one = env.Command(f"{tmp_path}/one.named.o", env.File(f"{tmp_path}/one.o"), "")
    archive = env.Command(f"{tmp_path}/lib.a", env.File(f"{tmp_path}/member.o"), "")
    first = env.Command(f"{tmp_path}/image.0", [*one, *archive], "")
    [image] = env.Command(f"{tmp_path}/image", [*first, env.File(f"{tmp_path}/two.o")], "")
    found = objects_of_image(image)
    assert [Path(path).name for path, _ in found.files] == ["member.o", "one.named.o", "two.o"]
    assert {Path(path).name for path in found.optional} == {"member.o"}
    assert found.is_told
    assert objects_of_image(env.File(f"{tmp_path}/xen-syms")).files == ()
