# SPDX-License-Identifier: Apache-2.0
"""A patched copy of a whole tree, and that its make does not outlive who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.processes import running_with, wait_for_running
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import capture
from xsplice_plugins.artefacts import CapturePlan, Route
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree

pytestmark = pytest.mark.toolchain

MAKING = """
import sys
from pathlib import Path
from xsplice_plugins import capture
from xsplice_plugins.artefacts import CapturePlan, Route
from xsplice_plugins.kbuild.indexing import read_index
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.patch import read_patch_set
tree = locate_tree(Path(sys.argv[1]))
fix = read_patch_set([Path(sys.argv[2])], source_root=tree.source_root)
capture.make_copy(read_index(tree), fix, Path(sys.argv[3]), jobs=2)
"""
#: A recipe in a shell of a make of a make: an end of the first one alone would not reach it.
SLOW = (
    "common/version.o: slow\nslow:\n\t$(MAKE) slower; :\nslower:\n\ttail -f $(CURDIR)/.config; :\n"
)


@pytest.fixture
def tree(own_tree: TinyTree) -> TinyTree:
    add_makefile(own_tree)
    own_tree.build()
    return own_tree


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_us_ends_make_and_all_that_it_started(
    number: signal.Signals, tree: TinyTree, tmp_path: Path
) -> None:
    (tree.root / "xen/common/extra.mk").write_text(SLOW)
    tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    words = [sys.executable, "-c", MAKING, tree.root, tmp_path / "fix.patch", tmp_path / "copy"]
    process = subprocess.Popen([str(word) for word in words], stderr=subprocess.DEVNULL)
    slow = f"tail -f {tmp_path}/copy"
    wait_for_running(slow, is_there=True)
    os.kill(process.pid, number)
    assert process.wait(20) != 0
    wait_for_running(slow, is_there=False)
    wait_for_running(f"make -C {tmp_path}/copy", is_there=False)
    assert running_with(slow) == []


def test_a_copy_that_was_made_leaves_nothing_running(tree: TinyTree, tmp_path: Path) -> None:
    fix = tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    index = read_index(locate_tree(tree.root))
    made = capture.make_copy(index, fix, tmp_path / "copy").tree
    assert b"hello\0" in made.xen_syms.read_bytes()
    assert made.root == tmp_path / "copy"
    assert running_with(f"make -C {tmp_path}/copy") == []


def test_the_last_lines_of_a_failed_make_are_shown(tree: TinyTree, tmp_path: Path) -> None:
    noise = "".join(f"\techo line {number} >&2\n" for number in range(99))
    (tree.root / "xen/common/extra.mk").write_text(f"common/version.o: bad\nbad:\n{noise}\tfalse\n")
    fix = tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    with pytest.raises(CaptureError) as said:
        capture.make_copy(read_index(locate_tree(tree.root)), fix, tmp_path / "copy")
    assert "line 98\n" in str(said.value)
    assert "line 5\n" not in str(said.value)
    assert str(said.value).endswith("Error 1")


def test_a_build_from_the_future_is_refused(tree: TinyTree, tmp_path: Path) -> None:
    """Make would leave such an object as it is, and a fix of it would seem to change nothing."""
    fix = tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    late = time.time() + 1000
    os.utime(tree.root / "xen/common/version.o", (late, late))
    with pytest.raises(CaptureError, match=r"common/version\.o: is newer than today"):
        capture.make_copy(read_index(locate_tree(tree.root)), fix, tmp_path / "copy")


def test_nothing_is_written_through_a_link_into_the_tree(tree: TinyTree, tmp_path: Path) -> None:
    outside = tree.root / "xen/common/real.c"
    (tree.root / "xen/common/unused.c").rename(outside)
    (tree.root / "xen/common/unused.c").symlink_to(outside)
    fix = tree.patch(("xen/common/unused.c", "return 0", "return 1"))
    kept = outside.read_text()
    with pytest.raises(CaptureError, match=r"xen/common/unused\.c: leads out of the copy"):
        capture.make_copy(read_index(locate_tree(tree.root)), fix, tmp_path / "copy")
    assert outside.read_text() == kept


def test_absolute_paths_in_records_lead_into_the_copy(tree: TinyTree, tmp_path: Path) -> None:
    """As up to Xen 4.16; without a name space of its own make would link the tree's objects."""
    probe = ["unshare", "--map-root-user", "--mount", "mount", "--bind", tmp_path, tmp_path]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    record = tree.root / "xen/common/.built_in.o.cmd"
    absolute = f"{tree.root}/xen/common/version.o"
    record.write_text(record.read_text().replace("common/version.o", absolute))
    before = {path: path.lstat().st_mtime_ns for path in tree.root.rglob("*")}
    fix = tree.patch(("xen/common/version.c", "FILE_NAME", '"hello"'))
    made = capture.make_copy(read_index(locate_tree(tree.root)), fix, tmp_path / "copy")
    assert b"hello\0" in made.tree.xen_syms.read_bytes()
    assert "common/version.o" in made.linked
    assert {path: path.lstat().st_mtime_ns for path in tree.root.rglob("*")} == before
    job = capture.recorded_job(made, "common/version.o")
    assert job is not None
    capture.compile_object(job, tmp_path / "copy", tmp_path / "again.o")
    assert (tmp_path / "again.o").read_bytes() == (
        tmp_path / "copy/xen/common/version.o"
    ).read_bytes()


def test_boot_code_that_make_changes_is_compared_as_it_is_linked(
    tree: TinyTree, tmp_path: Path
) -> None:
    """The object under its other name has no renamed sections, and is no drift."""
    fix = tree.patch(
        ("xen/common/setup.c", '"setup text"', '"other text"'),
        ("xen/common/version.c", "FILE_NAME", '"hello"'),
    )
    found = locate_tree(tree.root)
    plan = CapturePlan(route=Route.MAKE, reason="asked for", jobs=())
    pairs = capture.make_route(found, plan, fix, tmp_path / "work", tmp_path / "objects")
    assert [(pair.object_path, pair.is_init) for pair in pairs] == [
        ("common/setup.init.o", True),
        ("common/version.o", False),
    ]
    assert all(pair.is_changed and not pair.refused for pair in pairs)
