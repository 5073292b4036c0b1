# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH115, PTH118  # thousands of entries: a Path each is slow
"""The commands that Xen's build system leaves beside everything it makes (``.foo.o.cmd``).

Source: xen/tools/fixdep.c and xen/scripts/Kbuild.include (4.17): ``cmd_dir/foo.o := command`` with
paths relative to the build folder, followed by ``deps_dir/foo.o``. In 4.16 the name has no folder,
paths are relative to the object's folder, and the inputs are in ``.foo.o.d``.
"""

from __future__ import annotations

import os
import re

from msgspec import Struct

from xsplice_plugins.artefacts import read_file
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.commands import option_word

FILES_MAX = 1_000_000  #: directory entries of one tree; ten times a Linux tree

_COMMAND = re.compile(r"\Acmd_(\S+) := (.*)$", re.MULTILINE)
_SOURCE = re.compile(r"^source_\S+ := (\S+)$", re.MULTILINE)
_DEPS = re.compile(r"^deps_\S+ := ((?:.*\\\n)*.*)$", re.MULTILINE)
_WILDCARD = re.compile(r"\$\(wildcard [^)]*\)")
_WORD = re.compile(r"""[^\s;&|<>()"'`]+""")


class Listing(Struct, frozen=True, kw_only=True):
    """What lies in a build folder."""

    records: tuple[tuple[str, str], ...]  #: (folder, target's name) of every ``.cmd`` file
    links: dict[str, str]  #: symbolic links: path -> text of the link
    files: frozenset[str]  #: every file and link, relative to the folder


class Record(Struct, frozen=True, kw_only=True):
    """How one target was made."""

    target: str  #: relative to the build folder
    command: str  #: a shell command line
    folder: str  #: where it runs, relative to the build folder; "" for the build folder itself
    source: str  #: as recorded, relative to ``folder``; "" where none is recorded
    inputs: tuple[str, ...]  #: as recorded; for unlisted inputs, the words of the command

    @property
    def output(self) -> str:
        """Return what the command writes, as recorded.

        Raises:
            CaptureError: The command names no output.
        """
        output = option_word(self.command, "-o")
        if output is None:
            raise CaptureError(
                f"{self.target}: its recorded command names no output; build the tree again"
            )
        return output


#: Folders of a tree that no build is made of; ours is where `make xsplice` keeps a second tree.
NO_PART = frozenset({".git", ".xsplice"})


def scan(build_root: str) -> Listing:
    """List a build folder in one walk; sockets, pipes and devices are no files of a build.

    Raises:
        CaptureError: It cannot be read, or is far too large to be a hypervisor's.
    """
    records: list[tuple[str, str]] = []
    links: dict[str, str] = {}
    files: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(build_root, folder)))
        except OSError as error:
            raise CaptureError(
                f"{os.path.join(build_root, folder)}: cannot be read ({error.strerror}); "
                "look at its permissions"
            ) from error
        for entry in entries:
            name = entry.name
            path = f"{folder}/{name}" if folder else name
            if entry.is_symlink():
                links[path] = os.readlink(entry.path)
                files.append(path)
            elif entry.is_dir(follow_symlinks=False):
                if name not in NO_PART:
                    pending.append(path)
            elif entry.is_file(follow_symlinks=False):
                files.append(path)
                if name.endswith(".cmd") and name.startswith("."):
                    records.append((folder, name[1:-4]))
        if len(files) > FILES_MAX:
            raise CaptureError(f"{build_root}: more than {FILES_MAX} files; name a Xen tree")
    return Listing(records=tuple(sorted(records)), links=links, files=frozenset(files))


def read_text(path: str) -> str:
    """Read a small text file whole; "" if it is missing.

    Bytes that are no UTF-8 come as lone surrogates, as in Python's own file names.

    Raises:
        CaptureError: It is no regular file, cannot be read, or holds a NUL as no text does.
    """
    try:
        data = read_file(path, error=CaptureError, advice="look at it and build again")
    except CaptureError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return ""
        raise
    if b"\0" in data:
        raise CaptureError(f"{path}: damaged (a NUL byte in a text); remove it and build again")
    return data.decode("utf-8", "surrogateescape")


def record_text(build_root: str, folder: str, name: str) -> str:
    """Read the text of one ``.cmd`` file, with the separate dependency file of 4.16."""
    base = f"{build_root}/{folder}/" if folder else f"{build_root}/"
    text = read_text(f"{base}.{name}.cmd")
    if folder and folder_of(text, folder, name):
        depends = read_text(f"{base}.{name}.d")
        if depends:
            # `target: a b \` up to the first empty rule that -MP adds.
            rule = depends.split(":", 1)[-1].replace("\\\n", " ").split("\n", 1)[0]
            text += f"\ndeps_{name} := {rule}\n"
    return text


def folder_of(text: str, folder: str, name: str) -> str:
    """Return where the paths of a record count from, relative to the build folder.

    Up to 4.16 that is the folder in which make ran: `common/compat/.domain.o.cmd` says
    `compat/domain.o`, so it ran in `common`.

    Args:
        text: What `record_text` gave.
        folder: The ``.cmd`` file's folder, relative to the build folder.
        name: The target's name without a folder.
    """
    match = _COMMAND.search(text)
    path = f"{folder}/{name}"
    return path[: -len(match[1]) - 1] if match and path.endswith("/" + match[1]) else ""


def parse_record(text: str, folder: str, name: str) -> Record | None:
    """Read one record.

    Args:
        text: What `record_text` gave.
        folder: The ``.cmd`` file's folder, relative to the build folder.
        name: The target's name without a folder.

    Returns:
        The record; ``None`` if the file holds no command (only dependencies, as in 4.15).
    """
    match = _COMMAND.search(text)
    if match is None:
        return None
    path = f"{folder}/{name}" if folder else name
    command = match[2].replace("$(pound)", "#").replace("$$", "$")
    depends = _DEPS.search(text)
    if depends:
        inputs = tuple(_WILDCARD.sub(" ", depends[1]).replace("\\\n", " ").split())
    else:
        inputs = tuple(_WORD.findall(command))
    source = _SOURCE.search(text)
    if source and source[1] not in inputs:
        inputs = (source[1], *inputs)
    return Record(
        target=path,
        command=command,
        folder=folder_of(text, folder, name),
        source=source[1] if source else (inputs[0] if depends and inputs else ""),
        inputs=inputs,
    )


def read_record(build_root: str, target: str) -> Record | None:
    """Read how one target was made.

    Returns:
        The record; ``None`` if there is none, or one without a command.

    Raises:
        CaptureError: The record cannot be read.
    """
    folder, _, name = target.rpartition("/")
    return parse_record(record_text(build_root, folder, name), folder, name)
