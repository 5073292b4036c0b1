# SPDX-License-Identifier: Apache-2.0
"""What a compile depends on, as short texts that a build system can compare."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from xsplice_plugins.capture.reads import digest_of
from xsplice_plugins.kbuild.commands import words
from xsplice_plugins.kbuild.records import NO_PART
from xsplice_plugins.kbuild.tree import tree_digest
from xsplice_plugins.patch.applying import patched_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob, PatchSet
    from xsplice_plugins.kbuild.tree import XenTree


def patched_content(patch_set: PatchSet, base: Path) -> str:
    """Return the digest of what a patch makes of the files that it touches, as they are today.

    A private copy holds that content: where a touched file changes otherwise, the copy must follow.

    Args:
        patch_set: The patch.
        base: The folder that it applies to.
    """
    digest = hashlib.sha256()
    for path, content in sorted(patched_files(patch_set, base).items()):
        digest.update(f"{path}\0{_digest(content)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def tree_state(tree: XenTree) -> str:
    """Return the digest of which files a tree holds, how large they are and when they changed."""
    digest = hashlib.sha256(tree_digest(tree).encode())
    for folder in sorted({str(tree.hypervisor_source), str(tree.build_root)}):
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if name not in NO_PART)
            for name in sorted(names):
                stat = os.lstat(os.path.join(place, name))  # noqa: PTH118  thousands of files
                text = f"{place}/{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
                digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


class InputDigests:
    """Digests of recorded inputs, each distinct file read once.

    The state is a cache: the same questions have the same answers as long as the tree stands
    still. Not for use from several threads.
    """

    def __init__(self, tree: XenTree, patch_set: PatchSet | None) -> None:
        """Read nothing but the patched files yet."""
        self._root = str(tree.root)
        prefix = f"{tree.patch_root}/" if tree.patch_root else ""
        self._patched = {
            prefix + path: _digest(content)
            for path, content in (
                patched_files(patch_set, tree.source_root) if patch_set else {}
            ).items()
        }
        self._files: dict[str, str] = {}
        self._programs: dict[str, str] = {}

    def texts(self, job: CompileJob, *, is_patched: bool) -> list[str]:
        """Return what one side of an object depends on, in words that explain a rebuild.

        Args:
            job: How the object is compiled.
            is_patched: Whether the side with the patch is asked for.
        """
        touched = self._patched if is_patched else {}
        rest = hashlib.sha256()
        own: list[str] = []
        for path in job.inputs:
            if path in touched:
                own.append(f"patched {path} {touched[path]}")
            else:
                rest.update(f"{path}\0{self._file(path)}\0".encode("utf-8", "surrogateescape"))
        return [
            f"command of {job.object_path} {_digest(_command(job))}",
            f"compiler {self._program(job.command)}",
            f"other inputs of {job.object_path} {rest.hexdigest()}",
            *own,
        ]

    def are_current(self, reads: Iterable[tuple[str, str]]) -> bool:
        """Tell whether files that a compile of the patched side read are today as they were."""
        return all(
            (self._patched.get(path) or self._file(path)) == digest for path, digest in reads
        )

    def _file(self, path: str) -> str:
        found = self._files.get(path)
        if found is None:
            found = self._files[path] = digest_of(os.path.join(self._root, path))  # noqa: PTH118  # hot
        return found

    def _program(self, command: str) -> str:
        """Return the identity of the programs at the front of a command line."""
        front = command.split(" -", 1)[0]
        found = self._programs.get(front)
        if found is None:
            parts = []
            for word in words(front):
                place = shutil.which(word.text)
                if place is not None:
                    stat = os.stat(place)  # noqa: PTH116  # follows links, as the shell does
                    parts.append(f"{word.text} {stat.st_size} {stat.st_mtime_ns}")
            found = self._programs[front] = "; ".join(parts)
        return found


def _command(job: CompileJob) -> bytes:
    steps = "\0".join([job.command, job.output, *(job.file_symbol or ()), *job.renames])
    return steps.encode("utf-8", "surrogateescape")


def _digest(content: bytes | None) -> str:
    return "missing" if content is None else hashlib.sha256(content).hexdigest()[:32]
