# SPDX-License-Identifier: Apache-2.0
"""What counts as a difference between two objects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xsplice_plugins import capture
from xsplice_plugins.artefacts import CompileJob
from xsplice_plugins.capture.layouts import IN_SOURCES, LayoutCheck
from xsplice_plugins.errors import CaptureError

pytestmark = pytest.mark.toolchain

LAYOUTS = LayoutCheck(how=IN_SOURCES)
JOB = CompileJob(
    object_path="a.o", source_path="a.c", cwd="", command="gcc -c a.c -o a.o", output="a.o"
)
BASE = "int one(void); int two(void); int f(void) { return one() + 1; }"


def compiled(folder: Path, name: str, text: str, *flags: str) -> Path:
    path = folder / f"{name}.o"
    command = ["gcc", "-O2", "-xc", "-c", *flags, "-", "-o", str(path)]
    subprocess.run(command, input=text, text=True, check=True)
    return path


@pytest.mark.parametrize(
    ("new", "is_changed"),
    [
        (BASE, False),
        (BASE.replace("one() +", "two() +"), True),  # one relocation's symbol, no byte of code
        (BASE.replace("+ 1", "+ 2"), True),
        ("#define X\n\n" + BASE, False),
    ],
    ids=["same", "relocation only", "byte", "lines without use"],
)
def test_a_difference_in_relocations_alone_is_one(
    new: str, *, is_changed: bool, tmp_path: Path
) -> None:
    """A call of another function changes no byte of the code: only the relocation names it."""
    old_object, new_object = compiled(tmp_path, "old", BASE), compiled(tmp_path, "new", new)
    pair = capture.pair_objects(
        JOB, old_object, new_object, None, tmp_path / "a.o.xsplice", layouts=LAYOUTS
    )
    assert pair.is_changed == is_changed
    assert (tmp_path / "a.o.xsplice.new").exists() == is_changed


def test_an_addend_alone_is_a_difference(tmp_path: Path) -> None:
    """Bug frames keep the line number in the addend of a relocation."""
    text = 'asm(".pushsection .frames,\\"a\\"; .long x + %d - .; .popsection"); int x;'
    objects = [compiled(tmp_path, str(n), text % n) for n in (1, 2)]
    pair = capture.pair_objects(JOB, *objects, None, tmp_path / "a.o.xsplice", layouts=LAYOUTS)
    assert pair.is_changed


def test_drift_in_a_relocation_alone_stops_the_run(tmp_path: Path) -> None:
    mine = compiled(tmp_path, "mine", BASE)
    other = compiled(tmp_path, "tree", BASE.replace("one() +", "two() +"))
    with pytest.raises(CaptureError, match=r"a\.o"):
        capture.pair_objects(JOB, mine, mine, other, tmp_path / "a.o.xsplice", layouts=LAYOUTS)
