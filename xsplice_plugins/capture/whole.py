# SPDX-License-Identifier: Apache-2.0
"""A patched copy of the whole tree, made with the tree's own Makefiles.

Time stamps are kept and everything that a build stamps into Xen is pinned, so that make compiles
only what the patch reaches. Whatever ends this process ends its make, and all that make started.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import re
import shutil
import subprocess
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msgspec import structs

from xsplice_plugins.artefacts import CompileJob, TouchKind
from xsplice_plugins.capture.copying import ORIGIN, full_disk_named
from xsplice_plugins.capture.guarded import run_guarded
from xsplice_plugins.errors import CaptureError, MachineError
from xsplice_plugins.kbuild.commands import environment, words
from xsplice_plugins.kbuild.indexing import Index, canonical_in, job_of, read_index
from xsplice_plugins.kbuild.records import parse_record, read_text
from xsplice_plugins.patch.applying import patched_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

log = logging.getLogger(__name__)

_LINES_MAX = 40  #: lines of make's complaint that a message repeats
# Top-level folders that the hypervisor's own Makefiles never enter.
_NOT_NEEDED = {".git", ".hg", "docs", "stubdom", "debian", "extras", "dist", "automation"}
_STAMP = re.compile(r"s(.)@@(\w+)@@\1(.*?)\1g")
_STAMP_DEFINES = re.compile(
    r'^#define XEN_COMPILE_(DATE|TIME|BY|DOMAIN|HOST)\s+"(.*)"', re.MULTILINE
)
#: What a build stamps into Xen, by the words of the record and of compile.h.
_STAMP_VARIABLES = {
    "date": "XEN_BUILD_DATE",
    "time": "XEN_BUILD_TIME",
    "whoami": "XEN_WHOAMI",
    "by": "XEN_WHOAMI",
    "domain": "XEN_DOMAIN",
    "hostname": "XEN_BUILD_HOST",
    "host": "XEN_BUILD_HOST",
}
_COMPILER = re.compile(r"(.*?)(?:gcc|clang|cc)(?:-[\d.]+)?$")
#: make's words for a program that is not there (the shell's status, and Kconfig's own check).
_MISSING = re.compile(r"^.*(?:Error 127\b|compiler .* not found).*$", re.MULTILINE)
#: Arguments of ``unshare``: mount a folder over another for a command alone.
_OWN_PLACE = ("--map-root-user", "--mount", "sh", "-c",
              'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh")  # fmt: skip
_NO_MOUNT = re.compile(r"^(?:unshare|mount): .*$", re.MULTILINE)


def make_copy(
    index: Index,
    patch_set: PatchSet,
    copy: Path,
    *,
    jobs: int = 1,
    env: Mapping[str, str] | None = None,
) -> Index:
    """Make a patched copy of a built tree, and read the records of what was made.

    Args:
        index: The tree's records; the tree is only read.
        patch_set: What to apply.
        copy: The copy's root; nothing may be there.
        jobs: For ``make -j``.
        env: The environment of make; this process's own if ``None``.

    Raises:
        CaptureError: The patched tree does not build; the message has make's last lines.
        MachineError: The copy cannot be written, or make or a compiler is missing.
        PatchError: The patch does not apply.
    """
    tree = index.tree
    lay_out_copy(tree, patch_set, copy)
    if any(PurePosixPath(file.path).name.startswith("Kconfig") for file in patch_set.touched):
        # A new setting takes its default; asking for it would need a terminal.
        _make(tree, index, copy, jobs, env, target="olddefconfig")
    _make(tree, index, copy, jobs, env)
    return read_copy(tree, copy)


def read_copy(tree: XenTree, copy: Path) -> Index:
    """Read the records of a whole copy, made or being made; it is what links name by path.

    Raises:
        CaptureError: A record cannot be read.
    """
    index = read_index(_copied(tree, copy))
    texts = {
        key: text if " -c " in text else text.replace(f"{tree.source_root}/", f"{copy}/")
        for key, text in index.texts.items()
    }
    return dataclasses.replace(index, texts=texts)


def lay_out_copy(tree: XenTree, patch_set: PatchSet, copy: Path) -> None:
    """Copy a whole built tree with its time stamps and patch the copy, ready for make.

    Raises:
        CaptureError: A copy could not repeat the build.
        MachineError: The copy cannot be written.
        PatchError: The patch does not apply.
    """
    check_copyable(tree)
    _check_times(tree, time.time_ns())
    with full_disk_named(copy.parent):
        _copy(tree, copy)
        put_patched(tree, patch_set, copy)
        if any(file.kind is TouchKind.BUILD for file in patch_set.touched):
            # No rule makes the image again because a Makefile says how it is linked.
            _copied(tree, copy).xen_syms.unlink(missing_ok=True)
        _pin_changeset(tree, copy)
        # What is compiled in it by hand must say that it is the tree's.
        touched = sorted(file.path for file in patch_set.touched)
        (copy / ORIGIN).write_bytes(os.fsencode("\0".join([str(tree.source_root), *touched])))


def _copied(tree: XenTree, copy: Path) -> XenTree:
    """Return a whole copy of a tree as a tree; nobody knows its build-id."""
    build_root = copy / tree.build_root.relative_to(tree.source_root)
    return structs.replace(
        tree,
        root=copy,
        source_root=copy,
        hypervisor_source=copy / tree.hypervisor_source.name,
        build_root=build_root,
        xen_syms=build_root / "xen-syms",
        build_id="",
    )


def make_again(
    index: Index, copy: Path, *, jobs: int = 1, env: Mapping[str, str] | None = None
) -> None:
    """Run make once more in a copy whose files were changed.

    Args:
        index: The records of the tree that it is a copy of.
        copy: The copy's root.
        jobs: For ``make -j``.
        env: The environment of make; this process's own if ``None``.

    Raises:
        CaptureError: It does not build.
        MachineError: The disk is full, or a program is missing.
    """
    _make(index.tree, index, copy, jobs, env)


def check_copyable(tree: XenTree, reason: str = "the whole tree is asked for") -> None:
    """Refuse a build that a copy could not repeat in its own place.

    Args:
        tree: The tree.
        reason: Why make must run.

    Raises:
        CaptureError: It was made with ``O=`` outside the folder of the sources.
    """
    if tree.is_out_of_source and tree.build_root.parent != tree.hypervisor_source:
        raise CaptureError(
            f"{tree.build_root}: {reason}, so make must run, and an O= build outside the "
            "source folder records absolute paths; build the tree in its source folder"
        )


def put_patched(tree: XenTree, patch_set: PatchSet, copy: Path) -> bool:
    """Write into a copy what a patch set makes of the tree's files.

    Returns:
        Whether any file of the copy was another before.

    Raises:
        PatchError: The patch does not apply.
    """
    is_other = False
    for path, content in sorted(patched_files(patch_set, tree.source_root).items()):
        place = copy / path
        there = place.read_bytes() if place.is_file() else None
        if there != content:
            is_other = True
            _put(copy, path, content)
    return is_other


def recorded_job(index: Index, target: str) -> CompileJob | None:
    """Return how an object was made; without a command where the release records none.

    Args:
        index: The build folder's records.
        target: The object, relative to the build folder.
    """
    recorded = target.replace(".init.o", ".o")
    folder, _, name = recorded.rpartition("/")
    record = parse_record(index.texts.get((folder, name), ""), folder, name)
    if record is not None and record.source:
        inputs = tuple(canonical_in(index, record.folder, word) for word in record.inputs)
        return job_of(index, record, inputs, "object", is_direct=True)
    for suffix in (".c", ".S"):
        source = recorded.removesuffix(".o") + suffix
        if source in index.listing.files:
            return CompileJob(
                object_path=target, source_path=source, cwd="", command="", output="",
                is_init=target != recorded,
            )  # fmt: skip
    return None


def _copy(tree: XenTree, copy: Path) -> None:
    """Copy the hypervisor and what its Makefiles include; time stamps are kept."""
    copy.mkdir(parents=True)
    wanted = [
        entry.path
        for entry in os.scandir(tree.source_root)
        if entry.is_symlink()
        or entry.is_file()
        or (entry.is_dir() and entry.name not in _NOT_NEEDED | {"tools"})
    ]
    _copy_into(copy, sorted(wanted))
    policy = tree.source_root / "tools" / "flask"
    if policy.is_dir() and not (copy / "tools").exists():
        (copy / "tools").mkdir()
        _copy_into(copy / "tools", [str(policy)])


def _copy_into(folder: Path, paths: list[str]) -> None:
    """Copy files and folders as ``cp`` does: five times as fast as `shutil.copytree`."""
    # No `-d`: a file with two names must become two files, for one may be patched.
    command = ["cp", "-R", "-P", "--preserve=mode,timestamps", "--", *paths, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        raise OSError(errno.EIO, last.rpartition(": ")[2])


def _put(copy: Path, path: str, content: bytes | None) -> None:
    place = copy / path
    if not place.resolve().is_relative_to(copy.resolve()):
        raise CaptureError(
            f"{path}: leads out of the copy; give the patch with the path of the file itself"
        )
    if content is None:
        place.unlink(missing_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = place.stat().st_mode if place.exists() else 0o644
    place.write_bytes(content)
    place.chmod(mode)


def _check_times(tree: XenTree, now: int) -> None:
    """Refuse a build from the future: make would take it for newer than the patch.

    Args:
        tree: The tree.
        now: When the copy was begun, nanoseconds.

    Raises:
        CaptureError: A file of the build is newer than the copy.
    """
    for folder, _, names in os.walk(tree.build_root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  thousands of files
            if os.lstat(path).st_mtime_ns > now:
                raise CaptureError(
                    f"{path}: is newer than today, so make would not make again what the patch "
                    "reaches; set the clock right, or `touch` the tree and build it again"
                )


def _pin_changeset(tree: XenTree, copy: Path) -> None:
    """Let the copy, which has no history, answer the tree's own changeset."""
    text = read_text(str(tree.build_root / "include" / "xen" / "compile.h"))
    match = re.search(r'XEN_CHANGESET\s+"(.*)"', text)
    script = copy / tree.hypervisor_source.name / "tools" / "scmversion"
    if match and script.is_file():
        kept = script.stat()
        script.write_text(f"#!/bin/sh\necho '{match[1]}'\n")
        os.utime(script, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def _make(
    tree: XenTree,
    index: Index,
    copy: Path,
    jobs: int,
    env: Mapping[str, str] | None,
    *,
    target: str = "",
) -> None:
    command = _command(tree, index, copy, jobs, target)
    log.debug("%s", command)
    settings = {
        name: value
        for name, value in environment(env).items()
        if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    if tree.base is not None:
        settings |= dict(tree.base.environment)
    for program in {command[0], "make"}:
        if shutil.which(program, path=settings.get("PATH")) is None:
            raise MachineError(f"{program}: is not there; install it")
    status, said = run_guarded(command, settings)
    if status != 0:
        if command[0] == "unshare" and (found := _NO_MOUNT.search(said)):
            raise MachineError(
                f"{tree.source_root}: its records hold absolute paths, so its copy must take its "
                f"place for make, and nobody may mount here ({found[0]}); run as root"
            )
        if "No space left on device" in said:
            raise MachineError(f"{copy}: the disk is full; make room and run again")
        text = said.replace(f"{copy}/", "")
        lines = "\n".join(text.strip().splitlines()[-_LINES_MAX:])
        if found := _MISSING.search(text):
            raise MachineError(
                f"make: a program that the tree was built with is missing ({found[0].strip()}); "
                f"install it:\n{lines}"
            )
        raise CaptureError(
            f"the patched tree does not build; correct the source or the patch:\n{lines}"
        )


def _command(tree: XenTree, index: Index, copy: Path, jobs: int, target: str) -> list[str]:
    """Return the command that makes a copy.

    Releases up to 4.16 put absolute paths into commands, and so into ``__FILE__``. There make sees
    the copy in the place of the tree, in a name space of its own.
    """
    is_absolute = any(f"{tree.source_root}/" in text for text in index.texts.values())
    place = tree.source_root if is_absolute else copy
    command = ["make", "-C", str(place / tree.hypervisor_source.name), f"-j{jobs}"]
    command += _variables(tree, index)
    if tree.is_out_of_source:
        command.append(f"O={place / tree.build_root.relative_to(tree.source_root)}")
    if target:
        command.append(target)
    if not is_absolute:
        return command
    return ["unshare", *_OWN_PLACE, str(copy), str(place), *command]


def _variables(tree: XenTree, index: Index) -> list[str]:
    """Return the settings of the tree's own build, from what it recorded."""
    settings = dict(tree.config)
    bits = "64" if f"{tree.arch.upper()}_64" in settings else "32"
    variables = {"XEN_TARGET_ARCH": f"{tree.arch}{'_' if tree.arch == 'x86' else ''}{bits}"}
    # The record of a base says it all.
    known = tree.base.make if tree.base is not None else ()
    variables |= dict(word.split("=", 1) for word in known) or _compiler(index)
    text = index.texts.get(("include/xen", "compile.h"), "")
    for _, name, value in _STAMP.findall(text):
        if name in _STAMP_VARIABLES:
            variables[_STAMP_VARIABLES[name]] = value
    if not text:  # 4.14 and 4.15 leave no record of it: what it says is taken as it is
        made = read_text(str(tree.build_root / "include" / "xen" / "compile.h"))
        for name, value in _STAMP_DEFINES.findall(made):
            variables[_STAMP_VARIABLES[name.lower()]] = value
    return [f"{name}={value}" for name, value in sorted(variables.items())]


def _compiler(index: Index) -> dict[str, str]:
    """Return how make was told of the compiler, from the first object that was compiled."""
    for (_, name), text in sorted(index.texts.items()):
        if not name.endswith(".o") or " -c " not in text:
            continue
        command = text.split(":=", 1)[1].strip()
        front = command[: next(w.start for w in words(command) if w.text.startswith("-"))].strip()
        match = _COMPILER.match(front.split()[-1])
        if match is None or name.startswith(("fixdep", "conf", "symbols")):
            continue
        named = {"CROSS_COMPILE": match[1]} if match[1] else {}
        return named if front == match[1] + "gcc" else named | {"CC": front}
    return {}
