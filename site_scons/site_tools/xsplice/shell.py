# SPDX-License-Identifier: Apache-2.0
"""The simple commands of a shell line, as far as it takes to know which programs it runs."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.commands import compiling, is_or_extends, words

from . import inputs

if TYPE_CHECKING:
    from collections.abc import Collection

_SEPARATOR = re.compile(r"[;&|()\n`]")
_DUPLICATE = re.compile(r"[<>]&|&>")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_SUBSTITUTION = re.compile(r"\$\((.*?)\)", re.DOTALL)
_BACKQUOTED = re.compile(r"`([^`]*)`")
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh"})
#: Words before a program's name.
_BEFORE = "if then else elif do while until ! { time exec env command nice ccache sccache distcc"
#: Programs that write what they name last.
_WRITERS = frozenset({"cp", "dd", "install", "ln", "mv", "objcopy", "rsync", "strip", "tee"})
_WITH_VALUE = frozenset({"-o", "-MF", "-MT", "-MQ", "-MJ"})
_NOT_ASKED = re.compile(r"-(?:[cSEP]|d[A-Z]+|MM?D?|M[PGV]|o.+|M[FTQ].+|Wp,-MM?D.*|save-temps.*)")
_WRITES = re.compile(r"-(?:MM?D|M[PGV]|o.+|M[FTQ].+|Wp,-MM?D.*|save-temps.*)")


class Command(Struct, frozen=True, kw_only=True):
    """One program and its words; what it writes by redirection is left out."""

    raw: tuple[str, ...]  #: as the shell takes them; what is read by redirection is ``<FILE``
    variables: tuple[str, ...] = ()  #: what is set for it alone

    @property
    def words(self) -> list[str]:
        """Return the words without quotes."""
        return [_plain(raw.removeprefix("<")) for raw in self.raw]

    @property
    def program(self) -> str:
        """Return the program's name without its folder."""
        return PurePath(self.words[0]).name

    @property
    def text(self) -> str:
        """Return the command as the shell takes it."""
        return " ".join(self.raw)

    def runs_text(self) -> bool:
        """Tell whether it is a shell that is given its commands as a word."""
        return self.program in _SHELLS and "-c" in self.words[:-1]

    def links(self) -> bool:
        """Tell whether a compiler's front only links: it is given no source and no language."""
        for raw, word in zip(self.raw[1:], self.words[1:], strict=True):
            if word in {"-c", "-S", "-E", "-", "-M", "-MM"} or word.startswith(("-x", "@")):
                return False
            if raw.startswith("<") or PurePath(word).suffix in inputs.SOURCES - {".s"}:
                return False
        return not self.program.endswith("cpp")

    def asking(self, outputs: Collection[str]) -> str | None:
        """Return a line that has a compiler say what it reads, and write nothing.

        Args:
            outputs: What the command writes, beside what follows ``-o``.

        Returns:
            The line; ``None`` if it reads what another program pipes into it.
        """
        asked = self._without(_NOT_ASKED, outputs)
        if "-" in self.words and not any(raw.startswith("<") for raw in asked):
            return None
        is_guessed = "-" in self.words and not any(word.startswith("-x") for word in self.words)
        front = ["-E"] if is_guessed else []  # it takes what it is fed for C
        return " ".join([*self.variables, *asked, *front, "-M", "-w"])

    def preprocessing(self, outputs: Collection[str]) -> str | None:
        """Return a line that has a compiler print the text that it makes, and write nothing.

        Args:
            outputs: As for `asking`.

        Returns:
            The line; ``None`` if what it makes is no text, or does not come from a file.
        """
        words = set(self.words)
        is_plain = words & {"-E", "-S"} or self.program.endswith("cpp")
        if not is_plain or self.asking(outputs) is None or words & {"-M", "-MM"}:
            return None
        printing = ["-o", "-"] if "-S" in words else []
        return " ".join([*self.variables, *self._without(_WRITES, outputs), *printing])

    def _without(self, left_out: re.Pattern[str], outputs: Collection[str]) -> list[str]:
        """Return the words but those that say what is written."""
        found: list[str] = []
        skips = False
        for raw, word in zip(self.raw, self.words, strict=True):
            if skips or word in _WITH_VALUE:
                skips = not skips
            elif not left_out.fullmatch(word) and word not in outputs:
                found.append(raw)
        return found


def _plain(raw: str) -> str:
    try:
        return "".join(shlex.split(raw))
    except ValueError:
        return raw


def commands(line: str) -> list[Command]:
    """Return the simple commands of a shell line, those of substitutions and ``sh -c`` too.

    Args:
        line: The line.
    """
    try:
        shlex.split(line)
        found = _split(line)
    except (CaptureError, ValueError):
        found = [["eval", line]]  # an open quote: nobody knows
    made = [command for raw in found if (command := _trimmed(raw)).raw]
    inner = [text for raw in found for word in raw for text in _substituted(word)]
    inner += _BACKQUOTED.findall(line)
    shells = [command.words for command in made if command.runs_text()]
    inner += [line[line.index("-c") + 1] for line in shells]
    return made + [command for text in inner for command in commands(text)]


def _substituted(raw: str) -> list[str]:
    return [] if raw.startswith("'") else _SUBSTITUTION.findall(raw)


def _trimmed(raw: list[str]) -> Command:
    """Leave out what stands before the program's name."""
    variables = []
    while raw and (raw[0] in _BEFORE.split() or _ASSIGNMENT.fullmatch(raw[0])):
        if raw[0] not in _BEFORE.split():
            variables.append(raw[0])
        raw = raw[1:]
    return Command(raw=tuple(raw), variables=tuple(variables))


def _split(line: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    end = 0
    for word in words(line):
        lead, raw = line[end : word.start], line[word.start : word.end]
        is_output = ">" in lead
        if is_output and not lead[0].isspace() and found[-1] and found[-1][-1].isdigit():
            found[-1].pop()
        if _SEPARATOR.search(_DUPLICATE.sub("", lead)):
            found.append([])
        if "<" in lead:
            found[-1].append(f"<{raw}")
        elif not is_output:
            found[-1].append(raw)
        end = word.end
    return [one for one in found if one]


def writes_elsewhere(line: str, output: str) -> str:
    """Return the step behind a compiler that may write another file; "" if none does.

    Args:
        line: The line that compiles an object and does more with it.
        output: The object.
    """
    rest = line[len(compiling(line, output)) :]
    found, end = words(rest), 0
    for word in found:
        lead = rest[end : word.start]
        if ">" in lead and ">&" not in lead and not _is_own(word.text, output):
            return rest.strip(" ;&|\n")
        end = word.end
    for command in commands(rest) if found else ():
        is_elsewhere = command.program == "ar" or any(
            word.startswith(("-t", "--target-dir")) for word in command.words
        )
        last = command.words[-1] if command.program in _WRITERS else output
        last = "" if is_elsewhere else last
        outputs = [after for word, after in pairwise(command.words) if word == "-o"]
        if not all(_is_own(word, output) for word in (last, *outputs)):
            return command.text
    return ""


def _is_own(word: str, output: str) -> bool:
    return word == "/dev/null" or is_or_extends(word, output)
