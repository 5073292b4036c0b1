# SPDX-License-Identifier: Apache-2.0
"""What ends a face ends what it started, and at once: a make of the whole tree takes minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faces.kit import FLAGS, GOOD, HEADER, USER, written
from tests.kit.build import ROOT
from tests.kit.processes import SECONDS_MAX, wait_for_running
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

#: A recipe in a shell of a make of a make; it ends by itself long after any test.
SLOW = "common/user.o: slow\nslow:\n\t$(MAKE) slower; :\nslower:\n\tsleep 120; : $(CURDIR)\n"


@pytest.fixture
def tree(tmp_path: Path) -> TinyTree:
    """Return a built tree whose make does not end when its patched copy is made."""
    tiny = TinyTree(tmp_path / "tree", flags=FLAGS)
    (tiny.root / "xen/include/xen/lib.h").write_text(HEADER)
    (tiny.root / "xen/common/user.c").write_text(USER)
    add_makefile(tiny)
    (tiny.root / "xen/common/extra.mk").write_text(SLOW)
    tiny.build()
    return tiny


def command(face: str, tree: TinyTree, folder: Path) -> list[str]:
    """Return the words that prove a fix by a rebuild."""
    patch = written(tree, folder, *GOOD)
    build = folder / "build"
    words = [sys.executable, "-m", "xsplice_plugins", "patch", patch, "--xen", tree.root]
    words += ["--build", build, "--out", folder / "out", "--verify", "--on", "rebuild"]
    if face == "scons":
        words = [sys.executable, "-m", "SCons", "-Q", "xsplice-verify", f"BUILD={build}"]
        words += [f"XEN={tree.root}", f"PATCH={patch}", "ON=rebuild"]
    return [str(word) for word in words]


@pytest.mark.parametrize(
    ("face", "number", "status"),
    [
        ("xsplice", signal.SIGINT, 130),
        ("xsplice", signal.SIGTERM, 143),
        ("xsplice", signal.SIGKILL, -9),
        ("scons", signal.SIGINT, 2),
        ("scons", signal.SIGTERM, 2),
        ("scons", signal.SIGKILL, -9),
    ],
)
def test_what_ends_a_face_ends_its_make(
    face: str, number: signal.Signals, status: int, tree: TinyTree, tmp_path: Path
) -> None:
    slow = f": {tmp_path}/build"
    with subprocess.Popen(
        command(face, tree, tmp_path),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for_running(slow, is_there=True)
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(SECONDS_MAX) == status
    wait_for_running(str(tmp_path / "build"), is_there=False)
    assert time.monotonic() - started < SECONDS_MAX
    assert not list((tmp_path / "out").glob("*"))


def test_a_run_that_nobody_ends_ends_by_itself(tree: TinyTree, tmp_path: Path) -> None:
    (tree.root / "xen/common/extra.mk").write_text(SLOW.replace("sleep 120", "sleep 1"))
    done = subprocess.run(command("xsplice", tree, tmp_path), cwd=ROOT, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out/fix.verify.json").exists()
