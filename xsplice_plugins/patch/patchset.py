# SPDX-License-Identifier: Apache-2.0
"""From the paths a user gives to a checked, classified patch set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from xsplice_plugins.artefacts import PatchFile, PatchSet, TouchedFile, TouchKind, read_file
from xsplice_plugins.errors import PatchError
from xsplice_plugins.patch.applying import apply_changes, stripped, tree_reader
from xsplice_plugins.patch.classify import classify
from xsplice_plugins.patch.netting import net_lines
from xsplice_plugins.patch.parsing import FileChange, parse, render

PATCHES_MAX = 1000  #: patches of one fix; a longer series is a mistake in the path
NAME_LENGTH_MAX = 127  #: characters of a payload's name: XEN_LIVEPATCH_NAME_SIZE less its NUL


def read_patch_set(
    paths: Sequence[Path],
    *,
    name: str | None = None,
    source_root: Path,
    hypervisor_dir: str = "xen",
    is_line_neutral: bool = False,
    is_stacked: bool = False,
) -> PatchSet:
    """Read diffs and quilt series, check that they apply, and say what they touch.

    Args:
        paths: Unified diffs, quilt ``series`` files, or folders that hold one; order is kept.
        name: Name of the fix; derived from the paths if ``None``.
        source_root: The tree the patches apply to; it is only read.
        hypervisor_dir: The hypervisor's folder below it ("." if the root is the hypervisor).
        is_line_neutral: Whether unchanged declarations of C files keep their line numbers.
        is_stacked: Whether earlier patches may be applied already: what a later one puts back is
            touched too.

    Returns:
        The set. Its diffs are rewritten relative to ``source_root`` whatever the author's
        starting folder was, without prose and time stamps.

    Raises:
        PatchError: Empty, not a patch, binary, escaping the tree, or it does not apply.
    """
    if not paths:
        raise PatchError("PATCH: no patch was given; name a unified diff or a quilt series")
    found = [item for path in paths for item in _expand(path)]
    if len(found) > PATCHES_MAX:
        raise PatchError(f"PATCH: more than {PATCHES_MAX} patches; give fewer")
    read = tree_reader(source_root)
    files: dict[str, bytes | None] = {}
    patches: list[PatchFile] = []
    steps: list[TouchedFile | None] = []
    for file, strip in found:
        label = file.name
        changes = _located(parse(_text(file), label), strip, files, source_root, hypervisor_dir)
        for change in changes:
            _check_inside(change, label, source_root)
        before = dict(files)
        apply_changes(changes, files, read, label)
        both = {path for change in changes for path in (change.path_old, change.path_new)}
        names = tuple(sorted(path for path in both if path is not None))
        patches.append(PatchFile(name=label, text=render(changes), files=names))
        for path in names:
            was = before[path] if path in before else read(path)
            steps.append(classify(path, was, files[path], hypervisor_dir))
    wholes = (classify(path, read(path), files[path], hypervisor_dir) for path in sorted(files))
    touched = {file.path: file for file in wholes if file is not None}
    if is_stacked:
        for step in filter(None, steps):
            if step.path not in touched or touched[step.path].kind is TouchKind.COMMENTS:
                touched[step.path] = step
    return PatchSet(
        name=clean_name(name) if name else derived_name(paths),
        strip=1,
        patches=tuple(patches),
        touched=tuple(touched[path] for path in sorted(touched)),
        is_line_neutral=is_line_neutral,
        net=net_lines({path: (read(path), content) for path, content in files.items()}),
    )


def derived_name(paths: Sequence[Path]) -> str:
    """Return the name of a fix after its first file, or after the folder of its series."""
    path = paths[0]
    if path.name == "series":
        path = path.parent
    if path.name == "patches":  # quilt's usual folder says nothing
        path = path.resolve().parent
    return clean_name(path.name.removesuffix(".diff").removesuffix(".patch").removesuffix(".c"))


def clean_name(name: str) -> str:
    """Return a name that is good for file names and for ``.modinfo``."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")
    if not name:
        raise PatchError("NAME: nothing is left of the fix's name; give one of letters and digits")
    if len(name) > NAME_LENGTH_MAX:
        raise PatchError(
            f"NAME: {name[:20]}... has {len(name)} characters, a payload's name at most "
            f"{NAME_LENGTH_MAX}; give a shorter one"
        )
    return name


def _expand(path: Path) -> list[tuple[Path, int | None]]:
    """Turn one given path into patches, each with the ``-p`` its series asks for."""
    if path.is_dir():
        for series in (path / "series", path / "patches" / "series"):
            if series.is_file():
                return _series(series)
        raise PatchError(f"{path}: a folder without a quilt `series` file; name the patches")
    if path.name == "series":
        return _series(path)
    return [(path, None)]


def _series(path: Path) -> list[tuple[Path, int | None]]:
    result: list[tuple[Path, int | None]] = []
    for line in _text(path).splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        strip = None
        for option in words[1:]:
            match = re.fullmatch(r"-p(\d{1,3}|ab)", option)
            if match is None:
                raise PatchError(
                    f"{path}: {words[0]}: the option {option} is not supported (only -pN is); "
                    "remove it"
                )
            strip = 1 if match[1] == "ab" else int(match[1])
        result.append((path.parent / words[0], strip))
    if not result:
        raise PatchError(f"{path}: the series is empty; list patches in it")
    return result


def _text(path: Path) -> str:
    data = read_file(path, error=PatchError)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PatchError(
            f"{path}: not a text in UTF-8 (byte {error.start}); give a unified diff"
        ) from error


def _located(
    changes: tuple[FileChange, ...],
    strip: int | None,
    files: dict[str, bytes | None],
    source_root: Path,
    hypervisor_dir: str,
) -> tuple[FileChange, ...]:
    """Find out from which folder a patch was made, and return its changes relative to the root.

    The first way in which every changed file exists (and every added file's folder) is taken:
    ``-p1`` as git writes, ``-p0``, then both below the hypervisor's folder, then deeper ones.
    """

    def exists(path: str) -> bool:
        if path in files:
            return files[path] is not None
        return (source_root / path).is_file()

    strips = (1, 0, 2, 3) if strip is None else (strip,)
    folder = "" if hypervisor_dir == "." else hypervisor_dir + "/"
    ways = [(1, "")] if strip is None else []
    ways += [(number, prefix) for prefix in dict.fromkeys(("", folder)) for number in strips]
    for number, prefix in ways:
        moved = tuple(stripped(change, number, prefix) for change in changes)
        if all(_fits(change, exists, files, source_root) for change in moved):
            return moved
    # Nothing fits: say so for the usual way, and let `apply_changes` name the missing file.
    return tuple(stripped(change, 1 if strip is None else strip) for change in changes)


def _fits(
    change: FileChange,
    exists: Callable[[str], bool],
    files: dict[str, bytes | None],
    source_root: Path,
) -> bool:
    paths = [path for path in (change.path_old, change.path_new) if path is not None]
    if "" in paths or any(".." in PurePosixPath(path).parts for path in paths):
        return False
    if change.path_old is not None:
        return exists(change.path_old)
    parent = PurePosixPath(change.path).parent
    known = {str(PurePosixPath(path).parent) for path in files}
    return (source_root / parent).is_dir() or str(parent) in known


def _check_inside(change: FileChange, label: str, source_root: Path) -> None:
    """Refuse a path that leaves the tree, by its spelling or through a link."""
    root = source_root.resolve()
    for path in (change.path_old, change.path_new):
        if path is None:
            continue
        parts = PurePosixPath(path).parts
        if (
            not parts
            or path.startswith("/")
            or ".." in parts
            or not (source_root / path).resolve().is_relative_to(root)
        ):
            raise PatchError(
                f"{label}: the path `{path}` leads out of the tree; make the patch again "
                "from the tree's top folder"
            )
