# SPDX-License-Identifier: Apache-2.0
"""The files of a base's tree, each with what it held when the base was ready.

What objects read is on record beside them. Make reads more that decides how they are compiled:
makefiles, scripts, linker scripts, settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import read_file, write_file
from xsplice_plugins.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIST_FILE = "files.json"  #: beside the tree's folder
_OF_PYTHON = "__pycache__"  #: folders that scripts leave when they run


def content_of(file: str) -> str:
    """Return a digest of what a file holds, or where a link leads; "" for anything else.

    Args:
        file: Its path.
    """
    mode = os.lstat(file).st_mode
    if stat.S_ISLNK(mode):
        return f"-> {os.readlink(file)}"  # noqa: PTH115
    if not stat.S_ISREG(mode):
        return ""
    with open(file, "rb") as opened:  # noqa: PTH123  thousands of files
        return f"{mode & stat.S_IXUSR:o} {hashlib.file_digest(opened, 'sha256').hexdigest()}"


def list_files(tree: Path) -> dict[str, str]:
    """Return what each file and link of a tree holds, by its path below the tree's folder.

    Args:
        tree: The folder.
    """
    return {path: content_of(f"{tree}/{path}") for path in _paths(tree)}


def _paths(tree: Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(tree):
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
        folders[:] = [name for name in folders if name != _OF_PYTHON and name not in links]
        found += [os.path.relpath(f"{folder}/{name}", tree) for name in (*names, *links)]
    return sorted(found)


def keep_list(place: Path) -> str:
    """Write the list of the files of a base that is ready.

    Args:
        place: Of the base; the tree lies in it.

    Returns:
        The list's digest, for the base's record.
    """
    data = json.dumps(list_files(place / "tree"), indent=0).encode()
    write_file(place / LIST_FILE, data)
    return hashlib.sha256(data).hexdigest()


def read_list(place: Path, digest: str) -> dict[str, str]:
    """Return what the files of a base held when it was ready.

    Args:
        place: Of the base.
        digest: Of the list, as the base's record has it.

    Raises:
        CaptureError: It is not there, or is another one.
    """
    data = read_file(place / LIST_FILE, error=CaptureError, advice="add the base again")
    if hashlib.sha256(data).hexdigest() != digest:
        raise CaptureError(f"{place / LIST_FILE}: is not the list that was written; add it again")
    listed: dict[str, str] = json.loads(data)
    return listed


def stamps_digest(tree: Path, listed: Mapping[str, str]) -> str:
    """Return one digest of sizes and times of all listed files: the same if nothing was written.

    Args:
        tree: The folder.
        listed: What its files held.
    """
    digest = hashlib.sha256()
    for path in listed:
        try:
            row = os.lstat(f"{tree}/{path}")
            words = f"{row.st_size} {row.st_mtime_ns} {row.st_ctime_ns} {row.st_mode} {row.st_ino}"
        except OSError:
            words = "gone"
        digest.update(f"{words}\n".encode())
    return digest.hexdigest()


def differing(tree: Path, listed: Mapping[str, str]) -> dict[str, str]:
    """Return the listed files that hold something else now: "changed" or "gone", by path.

    Args:
        tree: The folder.
        listed: What its files held.
    """
    found = {}
    for path, content in listed.items():
        try:
            now = content_of(f"{tree}/{path}")
        except OSError:
            now = ""
        if now != content:
            found[path] = "changed" if os.path.lexists(f"{tree}/{path}") else "gone"
    return found


def added_to(tree: Path, listed: Mapping[str, str]) -> list[str]:
    """Return the files of a tree that are not listed, sorted.

    Args:
        tree: The folder.
        listed: What its files held.
    """
    return [path for path in _paths(tree) if path not in listed]
