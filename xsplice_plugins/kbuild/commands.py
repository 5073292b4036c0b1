# SPDX-License-Identifier: Apache-2.0
"""Recorded shell command lines: find a word, put another in its place, run the line.

The line is run by the shell as it was recorded, so that ``ccache gcc``, quoted definitions and
environment assignments mean what they meant; only single words are exchanged.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from xsplice_plugins.errors import CaptureError, MachineError

_WORD = re.compile(r"""(?:[^\s'"\\;&|<>()]|\\.|'[^']*'|"(?:\\.|[^"\\])*")+""", re.DOTALL)
_DUPLICATE = re.compile(r"[<>]&|&>")
_NAMES_RULE = frozenset({"-MT", "-MQ"})
SHELL_NOT_FOUND = 127  #: the shell's own status where a command's program is not there
OUTPUT_LINES_MAX = 40  #: lines of a compiler's complaint that a message repeats


class Word(Struct, frozen=True, kw_only=True):
    """One word of a shell line."""

    start: int
    end: int
    text: str  #: without quotes


@lru_cache(maxsize=2048)
def words(command: str) -> tuple[Word, ...]:
    """Split a simple shell line into words with their places."""
    found = []
    for match in _WORD.finditer(command):
        raw = match[0]
        text = raw
        if any(mark in raw for mark in "'\"\\"):
            try:
                text = "".join(shlex.split(raw))
            except ValueError as error:
                raise CaptureError(
                    f"`{command[:80]}...`: the command line has an open quote ({error}); "
                    "build again"
                ) from error
        found.append(Word(start=match.start(), end=match.end(), text=text))
    return tuple(found)


def option_word(command: str, option: str) -> str | None:
    """Return the last value of an option that stands in a word of its own, e.g. ``-o``."""
    found = [after.text for before, after in pairwise(words(command)) if before.text == option]
    return found[-1] if found else None


def edited(command: str, changes: Mapping[int, str], appended: str = "", output: str = "") -> str:
    """Return a command line with words exchanged.

    Args:
        command: The line.
        changes: New text (not yet quoted) by the word's index; "" removes the word.
        appended: Text to put behind the line, as it is.
        output: If given, ``appended`` goes behind the step that writes it (``-o``).
    """
    line = words(command)
    end = len(compiling(command, output))
    if appended and end < len(command):
        changed = {index: text for index, text in changes.items() if line[index].end <= end}
        rest = {
            index - len(words(command[:end])): text
            for index, text in changes.items()
            if index not in changed
        }
        return edited(command[:end], changed, appended) + edited(command[end:], rest)
    parts: list[str] = []
    at = 0
    for index in sorted(changes):
        parts += [
            command[at : line[index].start],
            shlex.quote(changes[index]) if changes[index] else "",
        ]
        at = line[index].end
    parts.append(command[at:])
    return "".join(parts).rstrip() + (f" {appended}" if appended else "")


def is_or_extends(word: str, output: str) -> bool:
    """Tell whether a word names an output, or a file beside it such as ``OUTPUT.dis``."""
    return word == output or (word.startswith(f"{output}.") and "/" not in word[len(output) :])


def compiling(command: str, output: str) -> str:
    """Return a line without the steps behind the one that has ``-o OUTPUT``."""
    is_found = False
    for word, after in pairwise(words(command)):
        is_found = is_found or word.text == f"-o{output}"
        lead = _DUPLICATE.sub("", command[word.end : after.start])
        if is_found and re.search(r"[;&|\n]", lead):
            return command[: word.end]
        is_found = is_found or (word.text == "-o" and after.text == output)
    return command


def redirected(command: str, output: str, made: Path) -> dict[int, str]:
    """Return the words to exchange so that a compiler writes into another folder only.

    Args:
        command: The line.
        output: What follows its ``-o``.
        made: Where the output goes; a list of dependencies goes to ``depends`` beside it, and so
            does what steps behind the compiler make of the output under longer names.

    Raises:
        CaptureError: The line has no such output.
    """
    changes: dict[int, str] = {}
    line = words(command)
    found = False
    for index, word in enumerate(line):
        before = line[index - 1].text if index else ""
        if before == "-o" and word.text == output:
            changes[index] = str(made)
            found = True
        elif word.text == f"-o{output}":
            changes[index] = f"-o{made}"
            found = True
        elif found and before not in _NAMES_RULE and is_or_extends(word.text, output):
            changes[index] = f"{made}{word.text.removeprefix(output)}"
        elif before == "-MF":
            changes[index] = str(made.with_name("depends"))
        elif word.text.startswith("-MF") and len(word.text) > 3:
            changes[index] = f"-MF{made.with_name('depends')}"
        elif word.text.startswith(("-Wp,-MD,", "-Wp,-MMD,")):
            # A comma in the path would end the option; -MD -MF says the same.
            changes[index] = "-MD"
    if not found:
        raise CaptureError(f"{output}: its command has no `-o {output}`; build the tree again")
    return changes


def other_source(command: str, source: str, place: Path) -> dict[int, str]:
    """Return the words to exchange so that another file is compiled in the source's place.

    Args:
        command: The line.
        source: The recorded source, as the line spells it.
        place: The other file.

    Raises:
        CaptureError: The line does not name the source exactly once.
    """
    changes = {i: str(place) for i, word in enumerate(words(command)) if word.text == source}
    if len(changes) != 1:
        raise CaptureError(
            f"{source}: its recorded command names it {len(changes)} times, so it is no model for "
            "other files; build the tree again"
        )
    return changes


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return what a compiler's process shall see: the given or own environment, messages in C."""
    return {**(os.environ if env is None else env), "LC_ALL": "C"}


def run(command: str, cwd: Path, *, env: Mapping[str, str] | None, subject: str) -> bytes:
    """Run a shell line and return its standard output.

    The output goes to a file in memory: of a pipe, a megabyte of preprocessed text is read in
    hundreds of pieces, and the compiler waits for this process, which may be at work elsewhere.

    Raises:
        CaptureError: It fails; the message has its own last lines.
        MachineError: A program of the line is not there, or the disk is full.
    """
    try:
        with open(os.memfd_create("stdout"), "w+b", buffering=0) as out:  # noqa: PTH123  no path
            done = subprocess.run(  # noqa: S602  # the tree's own recorded line is a shell line
                command,
                shell=True,
                cwd=cwd,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                check=False,
            )
            out.seek(0)
            written = out.read()
    except OSError as error:
        raise MachineError(
            f"{subject}: the compiler cannot be started ({error.strerror}); check the tree's folder"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        lines = said[:OUTPUT_LINES_MAX] or [f"exit status {done.returncode}, no message"]
        if any("No space left on device" in line for line in said):
            raise MachineError(
                f"{subject}: the disk is full (No space left on device); make room and run again"
            )
        if done.returncode == SHELL_NOT_FOUND:
            raise MachineError(f"{subject}: {lines[-1]}; install the program that is missing")
        raise CaptureError(
            f"{subject}: does not compile; correct the source or the patch:\n" + "\n".join(lines)
        )
    return written
