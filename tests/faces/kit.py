# SPDX-License-Identifier: Apache-2.0
"""The faces as functions: ``scons xsplice``, ``xsplice patch`` and ``make xsplice``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.kit.build import ROOT, Run, scons
from tests.kit.tiny_tree import TinyTree

HEADER = """
struct pair { int first; int second; };
static inline int twice(int a) { return a * 2; }
#define FILE_NAME __FILE__
"""
USER = """
#include <xen/lib.h>
struct pair pair;
unsigned int xen_major_version(void) { return 4; }
unsigned int xen_minor_version(void) { return 17; }
int first(struct pair *p) { return p->first * 3; }
int user(struct pair *p) { return twice(p->second) + first(p); }
int where(void) { return __LINE__; }
"""
FLAGS = "-fcf-protection=none -fno-asynchronous-unwind-tables "
Face = Callable[..., Run]


def run(command: list[object], **environ: str) -> Run:
    """Run a face's program in this checkout."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        | {"PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C"}
        | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return Run(status=done.returncode, out=done.stdout, err=done.stderr)


def with_scons(goal: str, folder: Path, **settings: object) -> Run:
    """Call ``scons xsplice``."""
    return scons(goal, settings.pop("BUILD", folder), **settings)  # type: ignore[arg-type]  # a path


def with_xsplice(goal: str, folder: Path, **settings: object) -> Run:
    """Call ``xsplice patch``."""
    fix = settings.pop("PATCH")
    words: list[object] = [sys.executable, "-m", "xsplice_plugins", "patch", fix]
    words += ["--build", settings.pop("BUILD", folder), "--out", folder / "out"]
    words += ["--verify"] if goal == "xsplice-verify" else []
    for name, value in settings.items():
        option = "--option" if name == "OPTIONS" else f"--{name.lower().replace('_', '-')}"
        words += [option] if value == "1" else [option, value]
    return run(words)


def with_make(goal: str, folder: Path, **settings: object) -> Run:
    """Call ``make xsplice``; its own status is 2, and it prints the one of what it called."""
    build = settings.pop("BUILD", folder)
    given = [f"{name}={value}" for name, value in settings.items()]
    ended = run(["make", goal, f"BUILD={build}", *given])
    if not ended.status:
        return ended
    assert ended.status == 2, ended.text
    shown = re.search(rf"make: \*\*\* \[Makefile:\d+: {goal}\] Error (\d+)", ended.err)
    assert shown is not None, ended.text
    return Run(status=int(shown[1]), out=ended.out, err=ended.err)


FACES = {"scons": with_scons, "xsplice": with_xsplice, "make": with_make}


def written(tree: TinyTree, folder: Path, path: str, old: str, new: str) -> Path:
    """Write the patch that replaces one text."""
    patch_set = tree.patch((path, old, new))
    file = folder / "fix.patch"
    file.write_text(patch_set.patches[0].text)
    return file


GOOD = "xen/common/user.c", "p->first * 3", "p->first * 5"
LAYOUT = "xen/include/xen/lib.h", "int first;", "int first; int between;"
BOOT = "xen/common/entry.S", "    ret", "    nop\n    ret"
MOVED = "xen/common/user.c", "struct pair pair;", "struct more;\n\nstruct pair pair;"
STARTS = "xen/common/setup.c", "setup text", "other text"
ALONE = "xen/common/boot.c", "return 0", "return 1"
NOTHING = "xen/common/user.c", "* 3", "* /* thrice */ 3"
