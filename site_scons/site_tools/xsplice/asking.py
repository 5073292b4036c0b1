# SPDX-License-Identifier: Apache-2.0
"""A compiler or preprocessor of a command line is asked what it reads, and what it makes of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from xsplice_plugins import capture
from xsplice_plugins.errors import CaptureError, MachineError
from xsplice_plugins.kbuild.commands import run

from . import inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .shell import Command

Node = Any

#: Line markers and empty lines.
_MARKER = re.compile(rb"^(?:#(?:line)? \d+ .*)?\n", re.MULTILINE)


class Step(Struct, frozen=True, kw_only=True):
    """A shell line, and what is known of who gives it to the shell."""

    subject: str  #: what messages call it
    line: str
    outputs: frozenset[str] = frozenset()  #: what it writes, as its words name it
    variables: tuple[tuple[str, str], ...] = ()  #: the environment that it runs in
    given: frozenset[Path] = frozenset()  #: what SCons holds it to read
    makes_image: bool = True  #: whether what it writes is in the image for sure


def step_of(node: Node, line: str) -> Step:
    """Return what is known of a line that makes a node."""
    if folder := inputs.folder_of(node):
        line = f"cd {shlex.quote(folder)} && {line}"
    return Step(
        subject=str(node),
        line=line,
        outputs=frozenset(target.path for target in [node, *getattr(node, "target_peers", [])]),
        variables=inputs.variables(node),
        given=frozenset(inputs.inputs(node)),
    )


def read_by_compiler(
    step: Step, command: Command, before: Sequence[str], top: Path
) -> set[Path] | None:
    """Ask a compiler what it reads; it writes nothing.

    Args:
        step: The line that it is of.
        command: Its command.
        before: What the line does before it, such as to change the folder.
        top: Where the line runs.

    Returns:
        The files as they are named, and where links lead; ``None``: it does not tell.
    """
    told = _told(step, command.asking(step.outputs), before, top)
    if told is None:
        return None
    folder, _, rule = told.decode("utf-8", "surrogateescape").partition("\n")
    words = capture.files_of_rule(rule)
    words += [_fed(raw) for raw in command.raw if raw.startswith("<")]
    if not words:
        return None
    found = [Path(folder, word) for word in words]
    return {Path(os.path.normpath(path)) for path in found} | {path.resolve() for path in found}


def comes_out_equal(
    step: Step,
    command: Command,
    before: Sequence[str],
    read: Collection[Path],
    top: Path,
    copy: Callable[[], Path],
) -> bool:
    """Tell whether a preprocessor writes the same text with the patched files.

    Args:
        step: The line that it is of.
        command: Its command.
        before: What the line does before it.
        read: The files of the patch that it reads, by their own paths.
        top: Where the line runs.
        copy: Lays out a copy of that folder with the patched files, and tells its place.
    """
    line = command.preprocessing(step.outputs)
    if line is None:
        return False
    patched = copy()
    there = read_by_compiler(step, command, before, patched)
    own = {path for path in read if path.is_relative_to(top)}
    moved = {patched / path.relative_to(top) for path in own}
    if there is None or there & set(read) or not moved or not moved <= there:
        return False
    texts = [_told(step, line, before, folder) for folder in (top, patched)]
    if None in texts:
        return False
    old, new = (_MARKER.sub(b"", (text or b"").partition(b"\n")[2]) for text in texts)
    return old == new


def _fed(raw: str) -> str:
    return raw.removeprefix("<").strip("'\"")


def _told(step: Step, line: str | None, before: Sequence[str], folder: Path) -> bytes | None:
    """Return the folder that a line ends up in, and what it prints; ``None`` if it fails."""
    if line is None:
        return None
    line = " && ".join([*before, "pwd", line])
    try:
        return run(line, folder, env=dict(step.variables), subject=step.subject)
    except (CaptureError, MachineError, subprocess.SubprocessError):
        return None
