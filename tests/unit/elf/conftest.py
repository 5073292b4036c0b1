# SPDX-License-Identifier: Apache-2.0
"""Inputs of the ELF tests: one object and one image, made by gcc and ld."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEXT = r"""
static int hidden = 3;
int shown[4] = {1, 2, 3, 4};
int room[100];
extern int other(int);
static int __attribute__((noinline)) local(int x) { return other(x) + hidden++; }
int visible(int x) { room[x] = x; return local(x) + shown[x & 3]; }
const char *text(void) { return "text"; }
int __attribute__((weak)) soft(void) { return 1; }
"""


@pytest.fixture(scope="session")
def object_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elf")
    (folder / "file.c").write_text(TEXT, encoding="utf-8")
    flags = ["-O2", "-g", "-fpic", "-ffunction-sections", "-fdata-sections"]
    subprocess.run(["gcc", *flags, "-c", "file.c", "-o", "file.o"], cwd=folder, check=True)
    return folder / "file.o"


@pytest.fixture(scope="session")
def image_path(object_path: Path) -> Path:
    folder = object_path.parent
    (folder / "other.c").write_text("int other(int x) { return x; }", encoding="utf-8")
    subprocess.run(["gcc", "-O2", "-c", "other.c", "-o", "other.o"], cwd=folder, check=True)
    subprocess.run(
        ["ld", "--build-id=sha1", "-e", "visible", "-o", "image", "file.o", "other.o"],
        cwd=folder,
        check=True,
    )
    return folder / "image"
