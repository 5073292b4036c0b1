# SPDX-License-Identifier: Apache-2.0
"""The C files of a tree, as text, and in which of them a name stands."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.capture.copying import origin_of
from xsplice_plugins.kbuild.records import NO_PART

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import CompileJob

SOURCES = (".c", ".h")
_ARCH = re.compile(r"(?:^|/)(?:arch/|asm-)(\w+)/")
_FOLDERS_LEFT_OUT = {*NO_PART, "tools", "test", "tests", "scripts"}
_WORDS_FEW = 8


def text_of(path: Path) -> str:
    """Return what a file holds; nothing of one that is not there, or is no file."""
    try:  # a pipe would wait for a writer
        return path.read_bytes().decode("latin-1") if path.is_file() else ""
    except OSError:
        return ""


def related(job: CompileJob, before: Path, names: frozenset[str]) -> tuple[str, ...]:
    """Return the C files of the tree, for an object's machine, in which some names stand."""
    if not names:
        return ()
    base = next((part for part in Path(job.cwd).parts if part not in {"/", ".", ".."}), "")
    arches = frozenset(match[1] for path in job.inputs for match in _ARCH.finditer(path))
    return _mentioning(origin_of(before).folder, base, arches, names)


def mentioning(root: Path, names: frozenset[str]) -> tuple[str, ...]:
    """Return the C files of a tree, of any machine, in which one of some names stands; or all."""
    return _mentioning(str(root), "", frozenset(), names or frozenset({""}))


@cache
def _mentioning(
    folder: str, base: str, arches: frozenset[str], names: frozenset[str]
) -> tuple[str, ...]:
    """Return those of `_files` in which one of some names stands: asked for every object."""
    search = re.compile("|".join(sorted(names))).search
    words = tuple(names)

    def holds(text: str) -> bool:
        if len(words) <= _WORDS_FEW:  # many times faster
            return any(word in text for word in words)
        return search(text) is not None

    return tuple(
        path for path in _files(folder, base, arches) if holds(text_of(Path(folder, path)))
    )


@cache
def _files(folder: str, base: str, arches: frozenset[str]) -> tuple[str, ...]:
    """Return the C files below a folder of a tree, without those of other machines."""
    found = []
    top = os.path.join(folder, base)  # noqa: PTH118  # thousands of files: a `Path` each is slow
    for place, folders, files in os.walk(top):
        here = os.path.relpath(place, folder)
        is_arch = os.path.basename(here) == "arch" and bool(arches)  # noqa: PTH119
        folders[:] = [
            name
            for name in folders
            if name not in _FOLDERS_LEFT_OUT
            and not (is_arch and name not in arches)
            and not (arches and name.startswith("asm-") and name[4:] not in {*arches, "generic"})
        ]
        names = (name for name in files if name.endswith(SOURCES))
        found += [os.path.normpath(os.path.join(here, name)) for name in names]  # noqa: PTH118
    return tuple(sorted(found))
