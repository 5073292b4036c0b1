# SPDX-License-Identifier: Apache-2.0
"""A build folder that outlives a header: what was read is looked at again, recorded or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.kit.build import Run, scons
from tests.kit.tiny_tree import TinyTree

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

FLAGS = "-fcf-protection=none -fno-asynchronous-unwind-tables "
BY_HAND = """#include <xsplice.h>
#define HEADER <xen/extra.h>
#include HEADER
static const char *mine(void) { return "a text of some length" + EXTRA; }
XSPLICE_REPLACE("xen_extra_version", mine);
"""
FIX = (
    ("xen/common/version.c", "<xen/lib.h>", "<xen/lib.h>\n#include <xen/extra.h>"),
    ("xen/common/version.c", "return FILE_NAME", "return FILE_NAME + EXTRA"),
)
#: The same through a header that the fix changes, whose readers are preprocessed first.
DEEP = (
    ("xen/include/xen/lib.h", "#define LIB_H", "#define LIB_H\n#include <xen/extra.h>"),
    ("xen/include/xen/lib.h", "FILE_NAME __FILE__", "FILE_NAME (__FILE__ + EXTRA)"),
)


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    made = TinyTree(tmp_path / "tree", flags=FLAGS)
    extra(made, 1)
    return made


def extra(tree: TinyTree, value: int) -> None:
    """Write a header that no object of the tree reads."""
    (tree.root / "xen/include/xen/extra.h").write_text(f"#define EXTRA {value}\n")


def make(tree: TinyTree, build: Path, kind: str, environ: dict[str, str] | None = None) -> Run:
    place = build.parent / ("fix.c" if kind == "HOTFIX" else "fix.patch")
    text = BY_HAND if kind == "HOTFIX" else ""
    if not text:
        text = tree.patch(*(FIX if kind == "PATCH" else DEEP)).patches[0].text
    if not place.exists():
        place.write_text(text)
    words = {"HOTFIX" if kind == "HOTFIX" else "PATCH": place, "SIGNER": "none"}
    ended = scons("xsplice", build, environ=environ, XEN=tree.root, **words)
    return ended.assert_success()


def payload(build: Path) -> bytes:
    return (build / "fix/fix.livepatch").read_bytes()


@pytest.mark.parametrize("kind", ["PATCH", "DEEP", "HOTFIX"])
def test_a_header_that_no_record_names_is_looked_at_again(
    tree: TinyTree, tmp_path: Path, kind: str
) -> None:
    make(tree, tmp_path / "b", kind)
    first = payload(tmp_path / "b")
    extra(tree, 2)
    make(tree, tmp_path / "b", kind)
    again = payload(tmp_path / "b")
    make(tree, tmp_path / "fresh", kind)
    assert first != again == payload(tmp_path / "fresh")
    ended = make(tree, tmp_path / "b", kind)
    assert "  CC " not in ended.out
    assert "  CAPTURE " not in ended.out


@pytest.mark.parametrize("kind", ["PATCH", "DEEP", "HOTFIX"])
def test_nothing_is_made_again_for_a_header_that_was_only_touched(
    tree: TinyTree, tmp_path: Path, kind: str
) -> None:
    make(tree, tmp_path / "b", kind)
    os.utime(tree.root / "xen/include/xen/extra.h", (1, 1))
    ended = make(tree, tmp_path / "b", kind)
    assert "up to date" in ended.out
    assert "  CC " not in ended.out
    assert "  CAPTURE " not in ended.out


def test_a_run_that_was_stopped_half_way_is_taken_up_again(tree: TinyTree, tmp_path: Path) -> None:
    """The new object is there, and what is known of it speaks of the old header."""
    make(tree, tmp_path / "b", "PATCH")
    record = tmp_path / "b/fix/objects/common/version.o.xsplice.pair.json"
    old, times = record.read_bytes(), record.stat()
    extra(tree, 2)
    make(tree, tmp_path / "b", "PATCH")
    new = payload(tmp_path / "b")
    record.write_bytes(old)
    os.utime(record, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "  CAPTURE " in make(tree, tmp_path / "b", "PATCH").out
    assert payload(tmp_path / "b") == new


def test_hand_written_files_are_compiled_again_by_another_compiler(
    tree: TinyTree, tmp_path: Path
) -> None:
    make(tree, tmp_path / "b", "HOTFIX")
    first = payload(tmp_path / "b")
    (tmp_path / "bin").mkdir()
    other = tmp_path / "bin/gcc"
    other.write_text(f'#!/bin/sh\nexec {shutil.which("gcc")} "$@" -fverbose-asm -DEXTRA=3\n')
    other.chmod(0o755)
    (tree.root / "xen/include/xen/extra.h").write_text("#ifndef EXTRA\n#define EXTRA 1\n#endif\n")
    environ = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    make(tree, tmp_path / "b", "HOTFIX")
    assert payload(tmp_path / "b") == first
    assert "  CC " in make(tree, tmp_path / "b", "HOTFIX", environ).out
    assert payload(tmp_path / "b") != first
