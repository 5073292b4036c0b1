# SPDX-License-Identifier: Apache-2.0
"""Commands that read files which none of their words names: they walk a folder."""

from __future__ import annotations

import glob
import os
import re
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import is_there

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .shell import Command

_PLAIN = """
: [ awk basename bc break case cat cd chmod cmp comm cp cut date diff dirname done echo egrep esac
exit export expr false fgrep fi file for gawk git grep gunzip gzip head hexdump hostname id
install ln ls mawk md5sum mkdir mktemp mv od paste printf pwd read readlink realpath rm rmdir sed
set sha1sum sha256sum shift size sleep sort split stat strings tac tail tee test touch tr true
truncate umask uname uniq unset wc which whoami xxd xz zstd }
"""
#: Programs that read what their words name, and nothing else.
PLAIN = frozenset(_PLAIN.split())
_NO_READERS = """
: [ basename break chmod date dirname done echo esac exit export expr false fi hostname id ls mkdir
mktemp printf pwd readlink realpath rm rmdir set shift size sleep stat test touch true truncate
umask uname unset which whoami }
"""
#: Those of them that read no file which a word names.
_READING_NONE = frozenset(_NO_READERS.split())
#: Those of them that may walk a folder.
_WALKERS = frozenset({"cp", "diff", "egrep", "fgrep", "git", "grep", "ls"})
#: Others that read nothing of a folder.
_OTHERS = frozenset({"chgrp", "chown", "df", "popd", "pushd", "sudo", "unzip"})
#: What makes a program walk; all others that are given a folder may.
_ONLY_WITH = {
    "cp": re.compile(r"-[a-zA-Z]*[rRa][a-zA-Z]*|--recursive|--archive"),
    **dict.fromkeys(
        ("egrep", "fgrep", "grep"),
        re.compile(r"-[a-zA-Z]*[rR][a-zA-Z]*|--(?:deref.*-)?recursive|-d.*recurse|--dir.*rec.*"),
    ),
    "git": re.compile(r"archive|checkout-index|diff|grep|hash-object|ls-files|ls-tree|stash"),
}
_NOT_WITH = {
    "git": re.compile(r"--quiet|--exit-code"),
    "ls": re.compile(r"-[a-zA-Z]*d[a-zA-Z]*|--directory"),
    "tar": re.compile(r"-?[a-zA-Z]*[xt][a-zA-Z]*|--extract|--get|--list"),
}
#: What walks the folder that it runs in where no word names another.
_IN_PLACE = frozenset(
    {"ack", "ag", "du", "egrep", "fgrep", "find", "git", "grep", "ls", "rg", "rgrep", "tree"}
)
#: Those of them whose words are all of files and folders, but for options.
_NAMING = frozenset({"du", "ls", "tree"})
#: What walks all below, so that a word of the shell's own making may be any folder.
_DEEP = frozenset({"cp", "find", "grep", "rgrep", "rsync", "tar"})
#: Programs that write to the folder that they name last.
_WITH_TARGET = frozenset({"cp", "rsync", "scp"})
#: Options before a folder that is written, or searched for what a text names.
_NOT_READ = frozenset({"-I", "-i", "-isystem", "-iquote", "-o", "--out", "--outdir", "--output"})
_WILD = re.compile(r"[*?\[]")
_OPTION = re.compile(r"--[\w-]+=|-[A-HJ-Za-z](?=[\w./])")


def folders_of(before: Iterable[Command], line: str, top: Path) -> list[Path]:
    """Return the folders that a command may run in.

    Args:
        before: The commands before it.
        line: The shell line; where it has parentheses, a change of folder may end.
        top: Where the line runs.
    """
    found = [top]
    for command in before:
        if command.program in {"cd", "pushd"}:
            word = command.words[1] if len(command.words) > 1 else "-"
            place = top if word == "-" or "$" in word else found[-1] / word
            found.append(Path(os.path.normpath(place)))
    return list(dict.fromkeys(found)) if re.search(r"[(`]|cd -", line) else found[-1:]


def walked(command: Command, files: Collection[Path], folders: Iterable[Path]) -> str:
    """Return the folder that a command may walk, and that holds a file; "" for none.

    Args:
        command: The command; no compiler.
        files: The absolute paths of files, also where links lead.
        folders: Where it may run.
    """
    program, words = command.program, command.words[1:]
    if program in (PLAIN - _WALKERS) | _OTHERS or _leaves_out(command, files):
        return ""
    needs, ends = _ONLY_WITH.get(program), _NOT_WITH.get(program)
    if program == "git":
        words, folders = _of_git(words, folders)
    verbs = words[:1] if program == "git" else words
    if needs is not None and not any(map(needs.fullmatch, verbs)):
        return ""
    if ends is not None and any(map(ends.fullmatch, words[:1] + _options(words))):
        return ""
    raws = [
        raw
        for before, raw in pairwise(command.raw)
        if not raw.startswith("<") and before not in _NOT_READ
    ]
    if program in _WITH_TARGET and not any(word.startswith(("-t", "--target")) for word in words):
        raws = raws[:-1]
    is_named = program in _NAMING and any(not word.startswith("-") for word in words)
    for raw, word in zip(raws, map(_value, raws), strict=True):
        if "$" in raw or "`" in raw:
            is_named = True
            if program in _DEEP:
                return word
        for folder in folders:
            found = _expanded(folder, raw, word)
            is_named = is_named or bool(found)
            if any(_holds(place, files) for place in found):
                return word
    if program in _IN_PLACE and not is_named:
        return next((str(folder) for folder in folders if _holds(folder, files)), "")
    return ""


def patterned(command: Command, files: Collection[Path], folders: Iterable[Path]) -> str:
    """Return the word of a command that the shell puts the name of a file for; "" for none.

    Args:
        command: The command.
        files: As for `walked`.
        folders: As for `walked`.
    """
    names = {path.name for path in files}
    for raw in command.raw[1:]:
        if "$" in raw:
            if any(is_pattern_of(raw, name) for name in names):
                return raw
        elif any(place in files for f in folders for place in _expanded(f, raw, _value(raw))):
            return raw
    return ""


def may_read_made(command: Command) -> bool:
    """Tell whether a command may read a file whose name the shell makes: ``cat $(cat list)``.

    Args:
        command: The command.
    """
    raws = (re.sub(r"'[^']*'", "", raw) for raw in command.raw[1:])
    is_reading = command.program not in _READING_NONE
    return any(re.search(r"[$`]", raw) for raw in raws if is_reading or raw.startswith("<"))


def is_pattern_of(raw: str, name: str) -> bool:
    """Tell whether a word is a pattern that the shell may put a file's name for."""
    is_pattern = any(mark in raw for mark in "*?[") and not raw.startswith(("'", '"'))
    return is_pattern and fnmatch(name, raw.rsplit("/", 1)[-1])


def _of_git(words: list[str], folders: Iterable[Path]) -> tuple[list[str], list[Path]]:
    """Return what git does with its words, and where."""
    places = list(folders)
    while words and words[0].startswith("-"):
        if words[0] == "-C":
            places = [place / words[1] for place in places if words[1:]]
        words = words[2 if words[0] in {"-C", "-c"} else 1 :]
    return words, places


def _options(words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith("-")]


def _value(raw: str) -> str:
    """Return a word without quotes and without the option that it is the value of."""
    return _OPTION.sub("", raw.replace("'", "").replace('"', ""), count=1)


def _expanded(folder: Path, raw: str, word: str) -> list[Path]:
    """Return what a word names that is there."""
    if not word or word.startswith("-"):
        return []
    place = os.path.normpath(folder / word)
    if _WILD.search(word) and not raw.startswith(("'", '"')):
        return [Path(path) for path in glob.glob(place)]  # noqa: PTH207  it may be absolute
    return [Path(place)] if is_there(Path(place)) else []


def _holds(place: Path, files: Iterable[Path]) -> bool:
    if not place.is_dir():
        return False
    true = place.resolve()
    return any(path.is_relative_to(place) or path.is_relative_to(true) for path in files)


def _leaves_out(command: Command, files: Iterable[Path]) -> bool:
    """Tell whether a command's own patterns leave out all of some files."""
    words = command.words
    patterns = [word.removeprefix("--include=") for word in words if word.startswith("--include=")]
    if command.program == "find" and not {"!", "-not", "-o", "-or", "-exec"} & set(words):
        pairs = list(pairwise(words))
        if ("-type", "d") in pairs:
            return True
        patterns += [value for word, value in pairs if word in {"-name", "-iname"}]
    names = {path.name.lower() for path in files}
    return bool(patterns) and not any(
        fnmatch(name, pattern.lower()) for name in names for pattern in patterns
    )
