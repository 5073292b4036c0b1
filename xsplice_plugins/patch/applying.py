# SPDX-License-Identifier: Apache-2.0
"""Apply changes to file contents in memory, with zero fuzz.

Every context line must be there. A hunk may lie at another line than its header says (the tree
has moved on) only if it fits in exactly one place: a nearest match could be another function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from xsplice_plugins.artefacts import PatchSet, read_file
from xsplice_plugins.csource.neutral import line_neutral
from xsplice_plugins.errors import PatchError
from xsplice_plugins.patch.parsing import FileChange, Hunk, parse


def patched_files(patch_set: PatchSet, source_root: Path) -> dict[str, bytes | None]:
    """Apply a whole patch set to a tree, in memory.

    Args:
        patch_set: What `read_patch_set` returned.
        source_root: The tree; it is only read.

    Returns:
        Content after the last patch by path relative to ``source_root``; ``None`` for a file that
        is gone.

    Raises:
        PatchError: A hunk does not apply; the message names file, hunk and what was found there.
    """
    files: dict[str, bytes | None] = {}
    read = tree_reader(source_root)
    before: dict[str, bytes | None] = {}
    for number, patch in enumerate(patch_set.patches):
        if number == patch_set.neutral_from:
            before = dict(files)
        changes = (stripped(change, patch_set.strip) for change in parse(patch.text, patch.name))
        apply_changes(changes, files, read, patch.name)
    if not patch_set.is_line_neutral or patch_set.neutral_from >= len(patch_set.patches):
        return files
    return {
        path: _neutral(path, before[path] if path in before else read(path), content)
        for path, content in files.items()
    }


def _neutral(path: str, old: bytes | None, new: bytes | None) -> bytes | None:
    if old is None or new is None or not path.endswith((".c", ".h")):
        return new
    return line_neutral(old.decode("latin-1"), new.decode("latin-1")).encode("latin-1")


def stripped(change: FileChange, strip: int, prefix: str = "") -> FileChange:
    """Return a change with leading components dropped from its paths and a folder put before."""

    def path(written: str | None) -> str | None:
        if written is None:
            return None
        rest = written.split("/", strip)[-1] if written.count("/") >= strip else ""
        return prefix + rest if rest else ""

    return replace(change, path_old=path(change.path_old), path_new=path(change.path_new))


def tree_reader(source_root: Path) -> Callable[[str], bytes | None]:
    """Return a function that reads a tree's file, or ``None`` where there is none."""

    def read(path: str) -> bytes | None:
        try:
            return read_file(source_root / path, error=PatchError, advice="look at it in the tree")
        except PatchError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    return read


def apply_changes(
    changes: Iterable[FileChange],
    files: dict[str, bytes | None],
    read: Callable[[str], bytes | None],
    name: str,
) -> None:
    """Apply one patch's changes on top of ``files``, which collects the results.

    Args:
        changes: With paths relative to the tree's root.
        files: Contents so far, by path; changed in place.
        read: Gives the tree's own content of a path that is not in ``files``.
        name: How messages shall call the patch.

    Raises:
        PatchError: A hunk does not apply, or a file is missing or in the way.
    """
    for change in changes:
        old, new = change.path_old, change.path_new
        content = None
        if old is not None:
            content = files[old] if old in files else read(old)
            if content is None:
                raise PatchError(
                    f"{name}: {old}: the tree has no such file; is the patch for another release?"
                )
        if new is not None and new != old:
            there = files[new] if new in files else read(new)
            if there is not None:
                raise PatchError(
                    f"{name}: {new}: the patch adds this file, but the tree has it already; "
                    "is the patch applied already?"
                )
        result = _apply_hunks(content or b"", change.hunks, change.path, name)
        if new is None:
            if result:
                raise PatchError(
                    f"{name}: {old}: the patch deletes this file, but lines are left over; "
                    "make the patch again from this tree"
                )
            assert old is not None, "a change has one path at least"
            files[old] = None
            continue
        if old is not None and old != new and not change.is_copy:
            files[old] = None
        files[new] = result


def _apply_hunks(content: bytes, hunks: tuple[Hunk, ...], path: str, name: str) -> bytes:
    lines = content.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    done: list[bytes] = []
    taken = 0  # lines of the old file that are behind us
    shift = 0  # how much further down than written the hunks lie
    for hunk in hunks:
        expected = [line.encode() for line in hunk.old]
        written = hunk.start_old - (1 if hunk.count_old else 0)
        place = _place(lines, expected, written + shift, taken)
        if place is None:
            subject = f"{name}: {path}: hunk {hunk.number} (line {hunk.start_old}) does not apply"
            raise PatchError(_does_not_fit(lines, expected, written + shift, subject))
        done += lines[taken:place]
        done += [line.encode() for line in hunk.new]
        taken = place + len(expected)
        shift = place - written
    return b"".join(done + lines[taken:])


def _place(lines: list[bytes], expected: list[bytes], wanted: int, least: int) -> int | None:
    """Find the line index where a hunk fits: the wanted one, or the only one."""

    def fits(place: int) -> bool:
        return lines[place : place + len(expected)] == expected

    if wanted >= least and wanted + len(expected) <= len(lines) and fits(wanted):
        return wanted
    if not expected:
        return None
    places = [
        place
        for place in range(least, len(lines) - len(expected) + 1)
        if lines[place] == expected[0] and fits(place)
    ]
    return places[0] if len(places) == 1 else None


def _does_not_fit(lines: list[bytes], expected: list[bytes], wanted: int, subject: str) -> str:
    """Say at which line the tree and the hunk part, in both sides' words."""
    advice = "make the patch again from this tree"
    first = expected[0] if expected else b""
    places = sum(
        lines[place : place + len(expected)] == expected
        for place in range(len(lines) - len(expected) + 1)
        if expected and lines[place] == first
    )
    if places:
        return (
            f"{subject}: its lines are found in {places} other places, none at the line it names; "
            f"{advice}"
        )
    for offset, line in enumerate(expected):
        at = wanted + offset
        found = lines[at] if 0 <= at < len(lines) else None
        if found == line:
            continue
        if found is not None and found.rstrip(b"\r\n") == line.rstrip(b"\r\n"):
            return f"{subject}: line {at + 1} has other line endings than the patch; {advice}"
        was = "the end of the file" if found is None else f"`{_shown(found)}`"
        return f"{subject}: line {at + 1} is {was}, expected `{_shown(line)}`; {advice}"
    return f"{subject}: it overlaps the hunk before it; {advice}"


def _shown(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r\n").strip()[:100]
