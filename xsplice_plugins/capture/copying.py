# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH100, PTH103, PTH115, PTH117, PTH118, PTH120, PTH211
"""A private copy of the sources: real folders, every file a link, patched files real.

Nothing is ever written through a link: a compiler's outputs are redirected out of the copy, and
patched files take the place of their link. (There are many links: a `Path` for each is slow.)
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.csource.merging import merged_files
from xsplice_plugins.errors import CaptureError, MachineError
from xsplice_plugins.kbuild.indexing import folders_that_lead_to, read_index
from xsplice_plugins.kbuild.records import NO_PART
from xsplice_plugins.patch.applying import patched_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

ORIGIN = ".xsplice-origin"  #: file in a copy's root that names the folder it was made from
MERGED = ".merged"  #: added to a copy's name: the copy whose headers hold both versions

SHIFTED = ".shifted"  #: added likewise: the copy in which every patched file's lines are shifted

# What a build leaves behind and no compiler reads. Compiled files would be picked up by nothing,
# but there are more than a thousand of them.
_LEFT_OUT = (".o", ".a", ".cmd", ".d", ".livepatch", ".tmp", ".gcno", ".pyc")
_FOLDERS_LEFT_OUT = {*NO_PART, "__pycache__"}
_VENV = "pyvenv.cfg"  #: file in the root of a virtual environment of Python
_NAMES = re.compile(r"(?:\\[ #]|\S)+")
_DOTTED = re.compile(r"[^\s\"]+/\.\./[^\s\"]*")


class Origin(Struct, frozen=True, kw_only=True):
    """What a private copy was made from."""

    folder: str  #: absolute
    patched: frozenset[str]  #: files that differ, relative to the copy's root


class _Shape(Struct, frozen=True, kw_only=True):
    """What of a tree goes into a copy, relative to its root."""

    only: tuple[str, ...]
    leaving_out: frozenset[str]  #: absolute folders
    real: frozenset[str] | None  #: folders that must not be links; ``None``: all of them


def prepare_copy(
    source_root: Path,
    dest: Path,
    patch_set: PatchSet | None = None,
    *,
    only: Sequence[str] = ("",),
    real: Iterable[str] | None = None,
    patch_root: str = "",
    twins: Mapping[str, Sequence[str]] | None = None,
    leaving_out: Iterable[Path] = (),
    is_merged: bool = True,
) -> None:
    """Lay out a private copy of a source tree, patched or as it is.

    An earlier copy at the same place is replaced. If headers are patched, a second copy beside it
    (its name with ``.merged``) holds both versions of what changed, for `capture_reached`. A
    shifted copy beside it belonged to the earlier one and goes too.

    Args:
        source_root: The folder to copy; it is only read.
        dest: The copy's root; its parent is made if need be.
        patch_set: What to apply; ``None`` for the pristine side.
        only: Folders to copy, relative to ``source_root``; "" for all.
        real: Folders from which a ``..`` or a link leads to a patched file. If given, folders
            that are neither these nor on the way to a patched file are links as a whole;
            if ``None``, every folder is real and every file a link.
        patch_root: Where the patch set applies, relative to ``source_root``.
        twins: By a patched file's path as the patch names it: where else a build reads it,
            relative to ``source_root``.
        leaving_out: Absolute folders that are no part of the tree; copies never are.
        is_merged: Whether to make that second copy; not where the other side is patched too.

    Raises:
        PatchError: The patch does not apply.
        CaptureError: A patched file's folder leads out of the tree.
        MachineError: The copy cannot be written (disk full, no permission).
    """
    source_root = Path(os.path.abspath(source_root))
    shutil.rmtree(dest.with_name(dest.name + SHIFTED), ignore_errors=True)
    changed: dict[str, bytes | None] = {}
    merged: dict[str, bytes] = {}
    if patch_set is not None:
        base = source_root / patch_root
        prefix = f"{patch_root}/" if patch_root else ""
        files = patched_files(patch_set, base)

        def places(path: str) -> Iterable[str]:
            return prefix + path, *(twins or {}).get(path, ())

        changed = {place: text for path, text in files.items() for place in places(path)}
        if is_merged:
            both = merged_files(base, files)
            merged = {place: text for path, text in both.items() for place in places(path)}
    shape = _Shape(
        only=tuple(only),
        leaving_out=frozenset(map(str, leaving_out)),
        real=None if real is None else _with_parents([*real, *map(os.path.dirname, changed)]),
    )
    _lay_out(source_root, dest, shape, changed)
    beside = dest.with_name(dest.name + MERGED)
    if merged:
        _lay_out(source_root, beside, shape, {**changed, **merged})
    elif beside.exists():
        shutil.rmtree(beside)


def copy_tree(
    tree: XenTree, dest: Path, patch_set: PatchSet | None = None, *, is_merged: bool = True
) -> None:
    """Lay out a private copy of a built Xen tree: its sources and its build folder.

    Only the folders that matter to the patch are real, about a hundred links in place of two
    thousand: making a link costs up to half a millisecond on a busy disk.

    Args:
        tree: The tree.
        dest: The copy's root; a job's paths are relative to it.
        patch_set: What to apply; ``None`` for the pristine side.
        is_merged: As in `prepare_copy`.

    Raises:
        PatchError: The patch does not apply.
        MachineError: The copy cannot be written.
    """
    prefix = tree.patch_root + "/" if tree.patch_root else ""
    touched = {prefix + file.path for file in patch_set.touched} if patch_set else set()
    prepare_copy(
        tree.root,
        dest,
        patch_set,
        only=sorted({tree.source_dir, tree.build_dir}),
        real=folders_that_lead_to(read_index(tree), touched) if touched else (),
        patch_root=tree.patch_root,
        is_merged=is_merged,
    )


def origin_of(copy_root: Path) -> Origin:
    """Return what a copy was made from; of a folder that is no copy, the folder itself."""
    try:
        text = (copy_root / ORIGIN).read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return Origin(folder=str(copy_root), patched=frozenset())
    folder, *patched = text.split("\0")
    return Origin(folder=folder, patched=frozenset(patched))


def files_of_rule(text: str) -> list[str]:
    """Return the files that a compiler's rule for make names, without those of ``-MP``."""
    rule = text.replace("\\\n", " ").partition(": ")[2].split("\n", 1)[0]
    return [re.sub(r"\\([ #])", r"\1", word).replace("$$", "$") for word in _NAMES.findall(rule)]


def check_reads(copy_root: Path, cwd: str, text: str, subject: str) -> None:
    """Check that a compiler did not read the tree's version of a patched file.

    A linked folder's ``..`` leads into the tree. `copy_tree` makes the folders real from which
    that happens today; an ``#include`` that only the patch brings could still do it.

    Args:
        copy_root: The copy.
        cwd: Where the compiler ran, relative to it.
        text: Names of the files it read, among other words.
        subject: How a message shall call the object.

    Raises:
        CaptureError: It did; the message names the file.
    """
    patched = origin_of(copy_root).patched
    if not patched:
        return
    for word in sorted(set(_DOTTED.findall(text))):
        path = os.path.normpath(os.path.join(cwd, word))
        if path not in patched:
            continue
        real = os.path.realpath(copy_root / cwd / word)
        if not real.startswith(os.path.realpath(copy_root) + "/"):
            raise CaptureError(
                f"{subject}: includes the patched file {path} as {word}, which leads out of the "
                "private copy; write the #include without `..`"
            )


def _with_parents(folders: Iterable[str]) -> frozenset[str]:
    """Return folders with every folder above them; "" is the root."""
    result = {""}
    for folder in folders:
        path = folder
        while path and path not in result:
            result.add(path)
            path = os.path.dirname(path)
    return frozenset(result)


def _lay_out(
    source_root: Path, dest: Path, shape: _Shape, changed: Mapping[str, bytes | None]
) -> None:
    """Write one copy beside its place, then move it there in one step."""
    with full_disk_named(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", dir=dest.parent))
        try:
            for folder in shape.only:
                _link_folder(str(source_root), str(temporary), folder, shape, str(dest.resolve()))
            for path, content in sorted(changed.items()):
                _put(temporary, path, content)
            record = "\0".join([str(source_root), *sorted(changed)])
            (temporary / ORIGIN).write_bytes(os.fsencode(record))
            temporary.chmod(0o755)
            if dest.exists():
                shutil.rmtree(dest)
            temporary.rename(dest)
        finally:
            # Also after Ctrl-C: nothing half-written stays.
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn what the system says about writing below a path into an error that names it."""
    try:
        yield
    except OSError as error:
        # `shutil.copytree` collects (from, to, reason) of all files instead.
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        is_full = os.strerror(errno.ENOSPC) in str(why)
        advice = "make room" if is_full else "choose another folder"
        raise MachineError(f"{path}: cannot be written ({why}); {advice} and run again") from error


def _put(copy: Path, path: str, content: bytes | None) -> None:
    place = copy / path
    if not os.path.realpath(place.parent).startswith(os.path.realpath(copy)):
        raise CaptureError(
            f"{path}: its folder is a link that leads out of the tree; give the patch with the "
            "true path"
        )
    # A link inside the tree leads to another file of the copy, which is patched itself.
    place.unlink(missing_ok=True)
    if content is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _link_folder(source: str, copy: str, folder: str, shape: _Shape, final: str) -> None:
    """Mirror a folder; what needs to be real is, everything else is a link."""
    os.makedirs(os.path.join(copy, os.path.dirname(folder)), exist_ok=True)
    if shape.real is not None and folder not in shape.real:
        _link(os.path.join(source, folder), os.path.join(copy, folder))
        return
    pending = [folder]
    while pending:
        path = pending.pop()
        there = os.path.join(copy, path)
        os.makedirs(there, exist_ok=True)
        for entry in sorted(os.scandir(os.path.join(source, path)), key=lambda entry: entry.name):
            name = entry.name
            inner = f"{path}/{name}" if path else name
            if entry.is_symlink():
                text = os.readlink(entry.path)
                if os.path.isabs(text) and text.startswith(source + "/"):
                    text = final + text[len(source) :]
                _link(text, os.path.join(there, name))
            elif not entry.is_dir(follow_symlinks=False):
                if not name.endswith(_LEFT_OUT):
                    _link(entry.path, os.path.join(there, name))
            elif _is_left_out(entry, shape):
                continue
            elif entry.path not in {final, copy}:
                if shape.real is None or inner in shape.real:
                    pending.append(inner)
                else:
                    _link(entry.path, os.path.join(there, name))


def _is_left_out(entry: os.DirEntry[str], shape: _Shape) -> bool:
    """Tell whether a folder is none of the tree's: history, caches, and other copies."""
    if entry.name in _FOLDERS_LEFT_OUT or entry.path in shape.leaving_out:
        return True
    return any(os.path.lexists(f"{entry.path}/{mark}") for mark in (ORIGIN, _VENV))


def _link(text: str, place: str) -> None:
    try:
        os.symlink(text, place)
    except FileExistsError:
        return  # two given folders overlap: the build folder lies in the source folder
