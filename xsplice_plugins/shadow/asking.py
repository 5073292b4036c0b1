# SPDX-License-Identifier: Apache-2.0
"""Ask the tree's own compiler: a copy with other text, and where it misses a member.

Who takes a member out of a structure is told of every place that uses it, with the type it has
there, macros and types of any shape included. So no reader of C stands between the fix and the
compiler that will build it.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins import capture, patch
from xsplice_plugins.artefacts import CapturePlan, CompileJob, Reach
from xsplice_plugins.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from xsplice_plugins.kbuild.tree import XenTree

#: gcc names the operator's place, clang the member's; gcc counts a tab as up to eight columns.
_MISSING = re.compile(
    r"^(?P<path>[^:\n]+):(?P<line>\d+):(?P<column>\d+): error: "
    r"(?:'(?P<of>[^'\n]+)'(?: \{aka '(?P<aka>[^'\n]+)'\})? has no member named '(?P<name>\w+)'"
    r"|no member named '(?P<name2>\w+)' in '(?P<of2>[^'\n]+)')",
    re.MULTILINE,
)
_COMPLAINT = re.compile(
    r"^(?P<path>[^:\n]+):(?P<line>\d+):\d+: (?:fatal )?(?:error|warning): [^\n]*", re.MULTILINE
)
_TAB = 8
_COPY = "copy"
_NO_NEWLINE = "\\ No newline at end of file\n"


class Missed(NamedTuple):
    """One use of a member that is not there."""

    path: str  #: as the patch names it
    start: int  #: where ``->`` or ``.`` stands in the file's text
    end: int  #: behind the member's name
    name: str


@contextmanager
def asking(
    tree: XenTree, texts: Mapping[str, str | None], work: Path
) -> Iterator[tuple[Path, tuple[CompileJob, ...]]]:
    """Lay out a private copy with other text, for as long as the compiler is asked.

    Args:
        tree: The built tree; it is only read.
        texts: What differs from it, by path; ``None`` for a file that is gone.
        work: A folder of one's own.

    Returns:
        The copy's root, and the jobs that between them read every text.

    Raises:
        NoFunctionalChangeError: Nothing of the image reads them.
        CaptureError: The tree's records cannot be used.
    """
    fix = work / "asked.patch"
    fix.write_text(patch_of(tree, texts), "latin-1")
    found = patch.read_patch_set(
        [fix], source_root=tree.source_root, hypervisor_dir=tree.hypervisor_source.name
    )
    copy = work / _COPY
    try:
        capture.copy_tree(tree, copy, found, is_merged=False)
        yield copy, _readers(tree, capture.plan(tree, found), texts)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _readers(
    tree: XenTree, plan: CapturePlan, texts: Mapping[str, str | None]
) -> tuple[CompileJob, ...]:
    """Return the objects whose own source is asked about, and one for each header left over."""
    if not plan.jobs:
        raise CaptureError(
            f"the fix needs a make of the tree ({plan.reason}), and the compiler is asked about "
            "single files; write the shadow by hand, or take that part into a fix of its own"
        )
    prefix = f"{tree.patch_root}/" if tree.patch_root else ""
    left = {prefix + path for path in texts}
    chosen = []
    sources = [job for job in plan.jobs if ".c" in job.source_path]
    for job in sorted(sources, key=lambda job: (job.reach is not Reach.DIRECT, job.object_path)):
        if job.reach is Reach.DIRECT or left & set(job.inputs):
            chosen.append(job)
            left -= set(job.inputs)
    return tuple(chosen)


def missed(
    tree: XenTree,
    texts: Mapping[str, str | None],
    structure: str,
    members: Collection[str],
    work: Path,
) -> set[Missed]:
    """Return where members of a structure are used that it does not have.

    Args:
        tree: The built tree.
        texts: What differs from it, by path.
        structure: How C calls it.
        members: Their names.
        work: A folder of one's own.

    Raises:
        CaptureError: The compiler names a place that no text has.
    """
    found = set()
    with asking(tree, texts, work) as (copy, jobs):
        for job in jobs:
            for match in _MISSING.finditer(capture.complaints(job, copy)):
                kind = match["aka"] or match["of"] or match["of2"]
                name = match["name"] or match["name2"]
                bare = re.sub(r"\b(?:const|volatile)\b\s*", "", kind).strip()
                if bare == structure and name in members:
                    found.add(_place(tree, texts, copy / job.cwd, match, name))
    return found


def _place(
    tree: XenTree,
    texts: Mapping[str, str | None],
    cwd: Path,
    match: re.Match[str],
    name: str,
) -> Missed:
    """Return the place in a text that a compiler names."""
    path = _path(tree, cwd, match["path"])
    text = texts.get(path)
    shown = f"{path}:{match['line']}"
    if text is None:
        raise CaptureError(
            f"{shown}: `{name}` is used by a macro of that file, which the fix does not touch "
            "(such as offsetof); write the place that uses the macro by hand before"
        )
    lines = text.splitlines(keepends=True)
    number, column = int(match["line"]), int(match["column"]) - 1
    before, line = sum(map(len, lines[: number - 1])), lines[number - 1]
    use = re.compile(rf"(?P<joint>->|\.)\s*(?P<name>{name})\b")
    rest = text[before:]
    for hit in use.finditer(rest, 0):
        if hit.start() > len(line):
            break
        places = {hit.start(), hit.start("name")}
        if column in {*places, *(len(line[:at].expandtabs(_TAB)) for at in places)}:
            return Missed(path, before + hit.start(), before + hit.end(), name)
    raise CaptureError(
        f"{shown}: `{name}` is used there otherwise than by -> or . (an initialiser, offsetof, or "
        "a macro that makes the name); write this place by hand before"
    )


def _path(tree: XenTree, cwd: Path, told: str) -> str:
    """Return as the patch names it the path that a compiler tells."""
    copy = next(place for place in (cwd, *cwd.parents) if place.name == _COPY)
    return os.path.relpath(os.path.normpath(cwd / told), copy / tree.patch_root)


class Complaint(NamedTuple):
    """One error or warning."""

    path: str  #: as the patch names it
    line: int
    text: str  #: all of it


def complaints_of(tree: XenTree, texts: Mapping[str, str | None], work: Path) -> list[Complaint]:
    """Return what the compiler says against the files that some texts reach first.

    Args:
        tree: The built tree.
        texts: What differs from it, by path.
        work: A folder of one's own.
    """
    found: dict[Complaint, None] = {}
    with asking(tree, texts, work) as (copy, jobs):
        for job in jobs:
            for match in _COMPLAINT.finditer(capture.complaints(job, copy)):
                path = _path(tree, copy / job.cwd, match["path"])
                found[Complaint(path, int(match["line"]), match[0])] = None
    return list(found)


def require_compiles(
    tree: XenTree, texts: Mapping[str, str | None], work: Path, subject: str
) -> None:
    """Refuse what was written if the compiler complains.

    Args:
        tree: The built tree.
        texts: What differs from it, by path.
        work: A folder of one's own.
        subject: The fix, and what it was written with.

    Raises:
        CaptureError: It does not compile, or not without a warning.
    """
    complaints = complaints_of(tree, texts, work)
    if complaints:
        raise CaptureError(
            f"{subject} it does not compile: {complaints[0].text}; write this place by hand before"
        )


def patch_of(tree: XenTree, texts: Mapping[str, str | None]) -> str:
    """Return the patch that turns the tree's files into some texts."""
    parts = []
    for path in sorted(texts):
        place, new = tree.source_root / path, texts[path]
        old = place.read_text("latin-1") if place.is_file() else None
        if old != new:
            names = (f"a/{path}" if old is not None else "/dev/null",
                     f"b/{path}" if new is not None else "/dev/null")  # fmt: skip
            rows = [text.splitlines(keepends=True) if text else [] for text in (old, new)]
            told = unified_diff(rows[0], rows[1], *names)
            parts += [row if row.endswith("\n") else f"{row}\n{_NO_NEWLINE}" for row in told]
    return "".join(parts)
