# SPDX-License-Identifier: Apache-2.0
"""Unified diffs as values: parse them strictly, write them in one canonical form.

A patch parser from a package registry would have to be wrapped for every message (file, hunk and
what was found there), for binary and escaping paths, and for the canonical form that makes a
changed commit message not count as a changed fix; what is left of it is this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from xsplice_plugins.errors import PatchError

_EPOCH = re.compile(r"(1969-12-31|1970-01-01) \d\d:\d\d:00(\.0+)?( |$)")
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_ESCAPE = re.compile(rb'\\([0-3][0-7]{2}|[abtnvfr"\\])')
_ESCAPED = dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))
_NO_NEWLINE = "\\"
LINES_MAX = 2_000_000  #: lines of one patch; the whole of Xen has fewer


class Hunk(Struct, frozen=True, kw_only=True):
    """One run of changed lines with its context.

    ``lines`` hold the mark (space, minus, plus), the text, and the line feed; a line without the
    final line feed is the last one of its side of the file.
    """

    number: int  #: 1 for the first hunk of its file
    start_old: int  #: line number, 1 for the first line; 0 in an empty file
    count_old: int
    start_new: int
    count_new: int
    lines: tuple[str, ...]

    @property
    def old(self) -> tuple[str, ...]:
        """Return the lines the hunk expects."""
        return tuple(line[1:] for line in self.lines if line[0] != "+")

    @property
    def new(self) -> tuple[str, ...]:
        """Return the lines the hunk leaves."""
        return tuple(line[1:] for line in self.lines if line[0] != "-")


class FileChange(Struct, frozen=True, kw_only=True):
    """What one patch does to one file; a path is ``None`` for ``/dev/null``."""

    path_old: str | None
    path_new: str | None
    is_copy: bool = False  #: git's ``copy from``: the old file stays
    hunks: tuple[Hunk, ...] = ()

    @property
    def path(self) -> str:
        """Return the path that names the change."""
        path = self.path_new or self.path_old
        assert path is not None, "a change of no file is not made by the parser"
        return path


class _Reader:
    """A cursor over a patch's lines."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.lines = text.removesuffix("\n").split("\n")
        if len(self.lines) > LINES_MAX:
            raise PatchError(f"{name}: more than {LINES_MAX} lines; split the patch")
        self.at = 0

    def peek(self, ahead: int = 0) -> str | None:
        place = self.at + ahead
        return self.lines[place] if place < len(self.lines) else None

    def damaged(self, what: str) -> PatchError:
        return PatchError(f"{self.name}: {what}; the patch is damaged, make it again")


def parse(text: str, name: str) -> tuple[FileChange, ...]:
    """Read a unified diff, with or without git's extended headers and prose around it.

    Returns:
        The changes in order, paths as written (nothing stripped).

    Raises:
        PatchError: Empty, not a patch, cut short, binary, or a path that cannot be read.
    """
    if not text.strip():
        raise PatchError(f"{name}: the patch is empty; give a unified diff")
    changes = tuple(_changes(_Reader(text, name)))
    if not changes:
        raise PatchError(
            f"{name}: not a patch (no `---`/`+++` header was found); give a unified diff"
        )
    return changes


def _changes(reader: _Reader) -> Iterator[FileChange]:
    git: dict[str, str] = {}
    while (line := reader.peek()) is not None:
        if line.startswith("diff --git "):
            yield from _git_only(reader, git)
            git = _git_header(reader)
        elif line.startswith(("GIT binary patch", "Binary files ")):
            raise PatchError(
                f"{reader.name}: line {reader.at + 1}: a binary change cannot be live patched; "
                "leave that file out"
            )
        elif line.startswith("--- ") and (reader.peek(1) or "").startswith("+++ "):
            if git.keys() <= {"diff"} and _is_prose(reader.peek(2)):
                reader.at += 2
            else:
                yield _file(reader, git)
                git = {}
        elif line.startswith("@@ -"):
            what = (
                "a hunk without a file header" if _HUNK.match(line) else "no readable hunk header"
            )
            raise reader.damaged(f"line {reader.at + 1}: {what}")
        else:
            reader.at += 1
    yield from _git_only(reader, git)


def _is_prose(after: str | None) -> bool:
    """Tell whether two lines like a file's header are a mail's text, by the line behind them.

    As git does, which asks for a hunk; a header at the end or before another one is damaged.
    """
    return after not in {None, ""} and not str(after).startswith(
        ("@@ -", "diff ", "--- ", "Index: ")
    )


def _git_header(reader: _Reader) -> dict[str, str]:
    """Read the extended header after ``diff --git``; values are kept by their first words."""
    header = {"diff": reader.lines[reader.at]}
    reader.at += 1
    words = ("rename from ", "rename to ", "copy from ", "copy to ", "new file mode ",
             "deleted file mode ", "old mode ", "new mode ", "similarity index ",
             "dissimilarity index ", "index ")  # fmt: skip
    while (line := reader.peek()) is not None:
        word = next((word for word in words if line.startswith(word)), None)
        if word is None:
            break
        header[word.strip()] = line[len(word) :].rstrip("\r")
        reader.at += 1
    return header


def _git_only(reader: _Reader, git: dict[str, str]) -> Iterator[FileChange]:
    """Yield what an extended header says without hunks: renames, copies, empty files, modes."""
    for word in ("rename", "copy"):
        sides = [git[key] for key in (f"{word} from", f"{word} to") if key in git]
        if len(sides) == 1:
            raise reader.damaged(f"{sides[0]}: one of `{word} from` and `{word} to` is missing")
        if sides:
            old, new = (_unquoted(reader, side) for side in sides)
            yield FileChange(path_old=f"a/{old}", path_new=f"b/{new}", is_copy=word == "copy")
            return
    if git.keys() & {"new file mode", "deleted file mode", "old mode"}:
        # Of two equal halves "a/x b/x"; a name with " b/" in it needs no more than this.
        names = git["diff"].removeprefix("diff --git ").rstrip("\r")
        half = len(names) // 2
        old, new = _unquoted(reader, names[:half]), _unquoted(reader, names[half + 1 :])
        if names[half : half + 1] != " " or old.partition("/")[2] != new.partition("/")[2]:
            raise reader.damaged(f"`diff --git {names}` does not name one file twice")
        yield FileChange(
            path_old=None if "new file mode" in git else old,
            path_new=None if "deleted file mode" in git else new,
        )


def _unquoted(reader: _Reader, name: str) -> str:
    """Return a file name that may be written as a C string; source: git, quote.c."""
    if name[:1] != '"':
        return name

    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) if code[:1].isdigit() else _ESCAPED[code[0]]])

    raw = _ESCAPE.sub(byte, name[1:-1].encode())
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if len(name) < 2 or name[-1] != '"' or not text.isprintable() or text.endswith(" "):
        raise PatchError(
            f"{reader.name}: the quoted file name {name} is not one of printable characters in "
            "UTF-8; rename the file"
        )
    return text


def _file(reader: _Reader, git: dict[str, str]) -> FileChange:
    path_old = _path(reader, "--- ")
    path_new = _path(reader, "+++ ")
    if path_old is None and path_new is None:
        raise PatchError(f"{reader.name}: line {reader.at}: a change of no file; make it again")
    if "new file mode" in git:
        path_old = None
    if "deleted file mode" in git:
        path_new = None
    hunks: list[Hunk] = []
    while (line := reader.peek()) is not None and (match := _HUNK.match(line)):
        reader.at += 1
        hunks.append(_hunk(reader, match, len(hunks) + 1, path_new or path_old or ""))
    if not hunks:
        raise reader.damaged(f"{path_new or path_old}: a file header without a hunk")
    return FileChange(
        path_old=path_old, path_new=path_new, is_copy="copy to" in git, hunks=tuple(hunks)
    )


def _path(reader: _Reader, mark: str) -> str | None:
    """Read one header line's path; a tab starts the time stamp."""
    line = reader.lines[reader.at]
    reader.at += 1
    path, _, stamp = line[len(mark) :].partition("\t")
    path = _unquoted(reader, path.rstrip("\r").rstrip(" "))
    # `diff -N` writes the epoch, in the author's time zone, for a file that is not there.
    is_absent = path == "/dev/null" or _EPOCH.match(stamp) is not None
    return None if is_absent else path


def _hunk(reader: _Reader, match: re.Match[str], number: int, path: str) -> Hunk:
    start_old, count_old, start_new, count_new = (
        int(group) if group is not None else 1 for group in match.groups()
    )
    lines: list[str] = []
    left_old, left_new = count_old, count_new
    while left_old > 0 or left_new > 0:
        line = reader.peek()
        # Mailers strip the single space of an empty context line.
        line = " " if line == "" else line
        if line is None or line[0] not in " +-\\":
            raise reader.damaged(
                f"{path}: hunk {number} ends early (line {reader.at + 1}, "
                f"{left_old} old and {left_new} new lines missing)"
            )
        reader.at += 1
        if line[0] == _NO_NEWLINE:
            _cut_newline(lines, reader, path, number)
            continue
        left_old -= line[0] != "+"
        left_new -= line[0] != "-"
        lines.append(line + "\n")
    if left_old < 0 or left_new < 0:
        raise reader.damaged(f"{path}: hunk {number} has more lines than its header says")
    if (line := reader.peek()) is not None and line.startswith(_NO_NEWLINE):
        reader.at += 1
        _cut_newline(lines, reader, path, number)
    return Hunk(
        number=number,
        start_old=start_old,
        count_old=count_old,
        start_new=start_new,
        count_new=count_new,
        lines=tuple(lines),
    )


def _cut_newline(lines: list[str], reader: _Reader, path: str, number: int) -> None:
    if not lines:
        raise reader.damaged(f"{path}: hunk {number} starts with a `\\` line")
    lines[-1] = lines[-1].removesuffix("\n")


def render(changes: tuple[FileChange, ...]) -> str:
    """Write changes as one canonical diff with ``a/`` and ``b/`` in front of every path.

    Time stamps, index lines and prose are left out, so that a patch's digest is that of the
    change.
    """
    return "".join(_render_one(change) for change in changes)


def _render_one(change: FileChange) -> str:
    old, new = change.path_old, change.path_new
    parts = [f"diff --git a/{old or new} b/{new or old}\n"]
    if old is None:
        parts.append("new file mode 100644\n")
    elif new is None:
        parts.append("deleted file mode 100644\n")
    elif old != new:
        word = "copy" if change.is_copy else "rename"
        parts.append(f"{word} from {old}\n{word} to {new}\n")
    elif not change.hunks:
        parts.append("old mode 100644\nnew mode 100644\n")  # modes say nothing of the content
    if change.hunks:
        parts.append(f"--- {'a/' + old if old else '/dev/null'}\n")
        parts.append(f"+++ {'b/' + new if new else '/dev/null'}\n")
    for hunk in change.hunks:
        parts.append(
            f"@@ -{hunk.start_old},{hunk.count_old} +{hunk.start_new},{hunk.count_new} @@\n"
        )
        parts += (
            line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
            for line in hunk.lines
        )
    return "".join(parts)
