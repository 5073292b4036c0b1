# SPDX-License-Identifier: Apache-2.0
"""The route through make: patch a copy of the whole tree and let its own rules work.

Taken for what recorded commands cannot show: new files, Makefiles, Kconfig, inputs of generators,
releases without records. Time stamps are kept and everything that a build stamps into Xen is
pinned, so that make compiles only what the patch reaches.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import CompileJob, ObjectPair, Refusal
from xsplice_plugins.capture.compiling import compile_object, preprocess
from xsplice_plugins.capture.copying import full_disk_named, special_files
from xsplice_plugins.capture.layouts import IN_SOURCES, NOT_COMPARED, LayoutCheck
from xsplice_plugins.capture.pairing import (
    check_drift,
    check_same_compiler,
    pair_objects,
)
from xsplice_plugins.capture.rules import is_ignored
from xsplice_plugins.csource.meaning import judge_texts
from xsplice_plugins.errors import CaptureError, MachineError
from xsplice_plugins.kbuild.commands import environment, words
from xsplice_plugins.kbuild.indexing import Index, canonical_in, init_name, job_of, read_index
from xsplice_plugins.kbuild.records import parse_record, read_text
from xsplice_plugins.patch.applying import patched_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import CapturePlan, PatchSet
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
# Holds the configuration as data for tools to read back; no code uses it.
_NOT_CODE = {"common/config_data.o"}


def make_route(
    tree: XenTree,
    plan: CapturePlan,
    patch_set: PatchSet,
    workdir: Path,
    objects_dir: Path,
    *,
    lower: PatchSet | None = None,
    jobs: int = 1,
    env: Mapping[str, str] | None = None,
) -> tuple[ObjectPair, ...]:
    """Build the patched tree in a private copy and pair its objects with the tree's.

    Args:
        tree: The built tree; it is only read.
        plan: The plan that asked for this route.
        patch_set: What to apply.
        workdir: Folder for the copy; it is removed afterwards, also after an error.
        objects_dir: ``<object>.xsplice.baseline`` and ``.new`` of changed objects go below it.
        lower: Patches that the baseline holds too; it is built with them first.
        jobs: For ``make -j``.
        env: The environment of make; this process's own if ``None``.

    Returns:
        One record per object that differs, in the order of names.

    Raises:
        CaptureError: The patched tree does not build, or the tree's own object cannot be made
            again.
        MachineError: The copy cannot be written, or there is no make.
        PatchError: The patch does not apply.
    """
    if tree.is_out_of_source and tree.build_root.parent != tree.hypervisor_source:
        raise CaptureError(
            f"{tree.build_root}: {plan.reason}, so make must run, and an O= build outside the "
            "source folder records absolute paths; build the tree in its source folder"
        )
    before = read_index(tree)
    try:
        with full_disk_named(workdir):
            shutil.rmtree(workdir, ignore_errors=True)
        after = _built(before, patch_set, workdir / "tree", jobs, env)
        if lower is not None:
            before = _built(before, lower, workdir / "lower", jobs, env)
        return _pairs(before, after, objects_dir, env)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)


def _built(
    index: Index, patch_set: PatchSet, copy: Path, jobs: int, env: Mapping[str, str] | None
) -> Index:
    """Build a patched copy of the tree and read its records."""
    tree = index.tree
    with full_disk_named(copy.parent):
        _copy(tree, copy)
        for path, content in sorted(patched_files(patch_set, tree.source_root).items()):
            _put(copy / path, content)
        _pin_changeset(tree, copy)
    if any(PurePosixPath(file.path).name.startswith("Kconfig") for file in patch_set.touched):
        # A new setting takes its default; asking for it would need a terminal.
        _make(tree, index, copy, jobs, env, target="olddefconfig")
    _make(tree, index, copy, jobs, env)
    built = replace(
        tree,
        root=copy,
        source_root=copy,
        hypervisor_source=copy / tree.hypervisor_source.name,
        build_root=copy / tree.build_root.relative_to(tree.source_root),
    )
    return read_index(built)


def _copy(tree: XenTree, copy: Path) -> None:
    """Copy the hypervisor and what its Makefiles include; time stamps are kept."""
    copy.mkdir(parents=True)
    for entry in sorted(os.scandir(tree.source_root), key=lambda entry: entry.name):
        place = copy / entry.name
        if entry.is_symlink():
            place.symlink_to(os.readlink(entry.path))  # noqa: PTH115  # an entry is no Path
        elif entry.is_file():
            shutil.copy2(entry.path, place)
        elif entry.name == "tools":
            policy = Path(entry.path) / "flask"
            if policy.is_dir():
                shutil.copytree(policy, place / "flask", symlinks=True)
        elif entry.is_dir() and entry.name not in _NOT_NEEDED:
            shutil.copytree(entry.path, place, symlinks=True, ignore=special_files)


def _put(place: Path, content: bytes | None) -> None:
    if content is None:
        place.unlink(missing_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    mode = place.stat().st_mode if place.exists() else 0o644
    place.write_bytes(content)
    place.chmod(mode)


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
    source = copy / tree.hypervisor_source.name
    command = ["make", "-C", str(source), f"-j{jobs}", *_variables(tree, index)]
    if tree.is_out_of_source:
        command.append(f"O={copy / tree.build_root.relative_to(tree.source_root)}")
    if target:
        command.append(target)
    log.debug("%s", command)
    settings = {
        name: value
        for name, value in environment(env).items()
        if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    try:
        done = subprocess.run(
            command,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise MachineError(f"make: cannot be started ({error.strerror}); install it") from error
    if done.returncode != 0:
        if b"No space left on device" in done.stderr:
            raise MachineError(f"{copy}: the disk is full; make room and run again")
        text = done.stderr.decode("utf-8", "replace").replace(f"{copy}/", "")
        lines = text.strip().splitlines()[:_LINES_MAX]
        raise CaptureError(
            "the patched tree does not build; correct the source or the patch:\n" + "\n".join(lines)
        )


def _variables(tree: XenTree, index: Index) -> list[str]:
    """Return the settings of the tree's own build, from what it recorded."""
    settings = dict(tree.config)
    bits = "64" if f"{tree.arch.upper()}_64" in settings else "32"
    variables = {"XEN_TARGET_ARCH": f"{tree.arch}{'_' if tree.arch == 'x86' else ''}{bits}"}
    for (_, name), text in sorted(index.texts.items()):
        if not name.endswith(".o") or " -c " not in text:
            continue
        command = text.split(":=", 1)[1].strip()
        front = command[: next(w.start for w in words(command) if w.text.startswith("-"))].strip()
        match = _COMPILER.match(front.split()[-1])
        if match is None or name.startswith(("fixdep", "conf", "symbols")):
            continue
        if match[1]:
            variables["CROSS_COMPILE"] = match[1]
        if front != match[1] + "gcc":
            variables["CC"] = front
        break
    text = index.texts.get(("include/xen", "compile.h"), "")
    for _, name, value in _STAMP.findall(text):
        if name in _STAMP_VARIABLES:
            variables[_STAMP_VARIABLES[name]] = value
    if not text:  # 4.14 and 4.15 leave no record of it: what it says is taken as it is
        made = read_text(str(tree.build_root / "include" / "xen" / "compile.h"))
        for name, value in _STAMP_DEFINES.findall(made):
            variables[_STAMP_VARIABLES[name.lower()]] = value
    return [f"{name}={value}" for name, value in sorted(variables.items())]


def _pairs(
    before: Index, after: Index, objects_dir: Path, env: Mapping[str, str] | None
) -> tuple[ObjectPair, ...]:
    """Compare every object that is linked into the image."""
    if not after.linked:
        raise CaptureError(
            f"{before.tree.build_root}: nothing tells which objects the image is linked from (no "
            "record of prelink.o or of any built_in.o); build the tree again with its own Makefile"
        )
    pairs = []
    for target in sorted(after.linked - after.parts.keys() - _NOT_CODE | _init_objects(after)):
        new = after.tree.build_root / target
        old = before.tree.build_root / target
        if not new.is_file() or (old.is_file() and old.read_bytes() == new.read_bytes()):
            continue
        pair = _pair(before, after, target, objects_dir, env)
        if pair is not None:
            pairs.append(pair)
    pairs += _outside_the_image(before, after)
    return tuple(sorted(pairs, key=lambda pair: pair.object_path))


def _outside_the_image(before: Index, after: Index) -> list[ObjectPair]:
    """Refuse what make changed that no object of the image shows: linker scripts, boot code."""
    pairs = []
    for folder, name in sorted(after.texts):
        target = f"{folder}/{name}" if folder else name
        if is_ignored(target) or not name.endswith((".o", ".lds")):
            continue
        if target in after.linked or init_name(target) in after.linked:
            continue
        old, new = (index.tree.build_root / target for index in (before, after))
        job = _recorded_job(after, target)
        if job is None or not old.is_file() or not new.is_file():
            continue
        if old.read_bytes() != new.read_bytes():
            is_script = name.endswith(".lds")
            refusal = Refusal(
                name=target if is_script else job.source_path,
                reason="the patch changes the linker script, which places the running image"
                if is_script
                else "it is part of the boot code only, which has run already",
                code="GENERATED" if is_script else "INIT_CODE",
                hint="leave that part of the patch out",
            )
            pairs.append(_refused(job, refusal))
    return pairs


def _init_objects(index: Index) -> set[str]:
    return {target for target in index.parts if target.endswith(".init.o")} & index.linked


def _pair(
    before: Index,
    after: Index,
    target: str,
    objects_dir: Path,
    env: Mapping[str, str] | None,
) -> ObjectPair | None:
    now = _recorded_job(after, target)
    if now is None:
        return None
    prefix = objects_dir / f"{target}.xsplice"
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if now.source_path.endswith(".S"):
        return _refused(
            now,
            Refusal(
                name=now.source_path,
                reason="the patch changes this assembler object, and a payload replaces whole C "
                "functions",
                code="ASSEMBLER",
                hint="leave that part of the patch out",
            ),
        )
    was = _recorded_job(before, target)
    old, new = before.tree.build_root / target, after.tree.build_root / target
    scratch = prefix.with_name(f".{prefix.name}.old")
    try:
        if was is None or not old.is_file():
            # A new object: everything in it is new compared with an empty one.
            empty = _empty_source(now, after.tree)
            compile_object(empty, after.tree.root, scratch, env=env)
            # Nothing of it exists yet, so nothing in memory has another layout.
            return pair_objects(
                now, scratch, new, None, prefix, layouts=LayoutCheck(how=IN_SOURCES)
            )
        if was.command:
            compile_object(was, before.tree.root, scratch, env=env)
            check_drift(was, scratch.read_bytes(), old.read_bytes())
        else:
            check_same_compiler(target, old.read_bytes(), new.read_bytes())
        layouts = NOT_COMPARED
        if was.command and now.command:
            texts = [
                preprocess(job, root, env=env)
                for job, root in ((was, before.tree.root), (now, after.tree.root))
            ]
            layouts = LayoutCheck(how=IN_SOURCES, refused=judge_texts(texts[0], texts[1]).refused)
        pair = pair_objects(now, old, new, None, prefix, layouts=layouts)
        return pair if pair.is_changed or pair.refused else None
    finally:
        scratch.unlink(missing_ok=True)


def _recorded_job(index: Index, target: str) -> CompileJob | None:
    """Return how an object was made; without a command where the release records none."""
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


def _empty_source(job: CompileJob, tree: XenTree) -> CompileJob:
    """Return a job that compiles nothing with an object's own options."""
    empty = tree.root / "xsplice-empty.c"
    empty.write_text("")
    front = job.command.split(" -c ", 1)[0] if " -c " in job.command else "gcc"
    return replace(
        job,
        command=f"{front} -c {shlex.quote(str(empty))} -o empty.o",
        output="empty.o",
        file_symbol=(empty.name, job.source_path),
        renames=(),
    )


def _refused(job: CompileJob, refusal: Refusal) -> ObjectPair:
    return ObjectPair(
        object_path=job.object_path,
        source_path=job.source_path,
        is_changed=False,
        is_init=job.is_init,
        note="refused",
        layouts=IN_SOURCES,
        refused=(refusal,),
    )
