# SPDX-License-Identifier: Apache-2.0
"""The release that an image says it is, on images of two machines made here."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import Compiler, every_compiler
from xsplice_plugins.elf.banner import release_of_image, told_by_image
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import ET_REL

pytestmark = pytest.mark.toolchain

SOURCE = """
{front}
unsigned int xen_major_version(void) {{ return {major}; }}
unsigned int xen_minor_version(void) {{ return {minor}; }}
const char *xen_extra_version(void) {{ return "{extra}"; }}
void _start(void) {{ }}
"""


def image(
    folder: Path, text: str, compiler: str = "gcc", flags: tuple[str, ...] = ("-O2",)
) -> ElfFile:
    """Compile and link a text."""
    source, made = folder / "version.c", folder / "image"
    source.write_text(text)
    line = [compiler, "-fpic", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id", *flags]
    subprocess.run([*line, "-o", made, source], check=True)
    return read_elf(made.read_bytes(), "image")


def said(major: str = "4", minor: str = "17", extra: str = ".5", front: str = "") -> str:
    """Return a source that says a release."""
    return SOURCE.format(major=major, minor=minor, extra=extra, front=front)


@every_compiler()
def test_the_release_is_read_from_the_code(compiler: Compiler, tmp_path: Path) -> None:
    elf = image(tmp_path, said(), compiler.command)
    assert release_of_image(elf) == "4.17.5"


@pytest.mark.parametrize(
    "flags",
    [
        ("-O1", "-fno-omit-frame-pointer"),
        ("-O0", "-fcf-protection=branch"),
        ("-O2", "-fcf-protection=branch"),
    ],
)
def test_landing_pads_and_frames_are_stepped_over(flags: tuple[str, ...], tmp_path: Path) -> None:
    assert release_of_image(image(tmp_path, said(), flags=flags)) == "4.17.5"


@pytest.mark.parametrize(
    ("minor", "extra", "release"),
    [
        ("22", ".0-rc2", "4.22.0"),
        ("17", ".12-vendor", "4.17.12"),
        ("23", "-unstable", "4.23.0"),
        ("300", ".1", "4.300.1"),
        ("17", "-vendor", None),
        ("17", "", None),
        ("17", ".5000", None),
    ],
)
def test_the_point_release_is_in_front_of_the_rest(
    minor: str, extra: str, release: str | None, tmp_path: Path
) -> None:
    assert release_of_image(image(tmp_path, said(minor=minor, extra=extra))) == release


def test_what_does_not_tell_is_not_guessed(tmp_path: Path) -> None:
    computed = said(minor="number", front="extern volatile unsigned int number;")
    assert release_of_image(image(tmp_path, computed + "volatile unsigned int number;")) is None
    assert release_of_image(image(tmp_path, said().replace("xen_minor", "minor"))) is None
    (tmp_path / "version.c").write_text(said())
    subprocess.run(["gcc", "-c", "version.c", "-o", "version.o"], cwd=tmp_path, check=True)
    assert release_of_image(read_elf((tmp_path / "version.o").read_bytes(), "version.o")) is None


@every_compiler()
def test_texts_that_functions_answer_with(compiler: Compiler, tmp_path: Path) -> None:
    more = 'const char *told(void) { return "who"; }\nint odd(int a) { return a * 3; }\n'
    more += 'const char *empty(void) { return ""; }\n'
    more += f'const char *far(void) {{ return "{"x" * 99}"; }}\n'
    elf = image(tmp_path, said() + more, compiler.command)
    names = ("told", "odd", "empty", "far", "none")
    assert told_by_image(elf, names) == {"told": "who", "empty": ""}
    assert told_by_image(dataclasses.replace(elf, type=ET_REL), names) == {}
