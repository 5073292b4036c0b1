# SPDX-License-Identifier: Apache-2.0
"""The route through make: patch a copy of the whole tree and let its own rules work.

Taken for what recorded commands cannot show: new files, Makefiles, Kconfig, inputs of generators,
releases without records.
"""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import CompileJob, ObjectPair, Refusal
from xsplice_plugins.capture.apart import pair_apart
from xsplice_plugins.capture.compiling import compile_object, preprocess
from xsplice_plugins.capture.constants import settle_constants
from xsplice_plugins.capture.copying import full_disk_named
from xsplice_plugins.capture.layouts import IN_SOURCES, NOT_COMPARED, LayoutCheck
from xsplice_plugins.capture.pairing import (
    check_drift,
    check_same_compiler,
    differing,
    pair_objects,
)
from xsplice_plugins.capture.reaching import boot_object
from xsplice_plugins.capture.relinking import pair_links
from xsplice_plugins.capture.rules import is_ignored
from xsplice_plugins.capture.typed import settle_layouts
from xsplice_plugins.capture.whole import check_copyable, make_copy, recorded_job
from xsplice_plugins.csource.meaning import judge_texts
from xsplice_plugins.errors import CaptureError, ElfFormatError
from xsplice_plugins.kbuild.indexing import Index, init_name, read_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xsplice_plugins.artefacts import CapturePlan, PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

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
    check_copyable(tree, plan.reason)
    before = read_index(tree)
    try:
        with full_disk_named(workdir):
            shutil.rmtree(workdir, ignore_errors=True)
        after = make_copy(before, patch_set, workdir / "tree", jobs=jobs, env=env)
        if lower is not None:
            before = make_copy(before, lower, workdir / "lower", jobs=jobs, env=env)
        return _pairs(before, after, objects_dir, env)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)


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
    for target in _compiled(after):
        new = after.tree.build_root / target
        old = before.tree.build_root / target
        if not new.is_file() or (old.is_file() and old.read_bytes() == new.read_bytes()):
            continue
        pair = _pair(before, after, target, objects_dir, env)
        if pair is not None:
            pairs.append(pair)
    pairs += _outside_the_image(before, after)
    pairs += _gone(before, after)
    pairs += pair_links(before, after, are_equal=not pairs and _are_equal(before, after))
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
        job = recorded_job(after, target)
        if job is None or not old.is_file() or not new.is_file():
            continue
        if not _is_same(target, old.read_bytes(), new.read_bytes()):
            if name.endswith(".lds"):
                reason = "the patch changes the linker script, which places the running image"
                hint = "leave that part of the patch out"
                script = Refusal(name=target, reason=reason, code="GENERATED", hint=hint)
                pairs.append(_refused(job, script))
            else:
                row = boot_object(job.source_path, is_own=True)
                pairs.append(replace(_refused(job), note="boot only", boot=(row,)))
    return pairs


def _are_equal(before: Index, after: Index) -> bool:
    """Tell whether all that is linked is the same, also what no code uses."""
    sides = [[index.tree.build_root / name for name in after.members] for index in (before, after)]
    return before.members.keys() == after.members.keys() and all(
        old.is_file() and new.is_file() and _is_same(str(new), old.read_bytes(), new.read_bytes())
        for old, new in zip(*sides, strict=True)
    )


def _is_same(name: str, old: bytes, new: bytes) -> bool:
    """Tell whether two files say the same: debug information names the folder of the build."""
    try:
        return old == new or not differing(name, old, new)
    except ElfFormatError:  # a linker script, or boot code of another class
        return old == new


def _gone(before: Index, after: Index) -> list[ObjectPair]:
    """Refuse to leave an object out whose source is still there; a payload takes nothing out."""
    pairs = []
    for target in sorted(set(_compiled(before)) - set(_compiled(after))):
        job = recorded_job(before, target)
        if job is None or not (after.tree.hypervisor_source / job.source_path).exists():
            continue
        gone = Refusal(
            name=target,
            reason="the patched tree no longer makes it part of the image",
            code="REMOVED",
            hint="leave that part of the patch out; change the functions that shall do nothing",
        )
        pairs.append(_refused(job, gone))
    return pairs


def _compiled(index: Index) -> list[str]:
    """Return the objects of the image, an init object under the name that it is linked by."""
    init = {target for target in index.parts if target.endswith(".init.o")} & index.linked
    plain = {t for t in index.linked - index.parts.keys() if init_name(t) not in index.linked}
    return sorted((plain | init) - _NOT_CODE)


def _pair(
    before: Index,
    after: Index,
    target: str,
    objects_dir: Path,
    env: Mapping[str, str] | None,
) -> ObjectPair | None:
    now = recorded_job(after, target)
    if now is None:
        return None
    old, new = before.tree.build_root / target, after.tree.build_root / target
    if old.is_file() and _is_same(target, old.read_bytes(), new.read_bytes()):
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
    was = recorded_job(before, target)
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
        both = ((was, before.tree.root), (now, after.tree.root))
        pair = settle_layouts(both, pair, env=env)
        if was.command and now.command:
            pair = settle_constants(both, pair, env=env)
        pair = pair_apart(both, pair, prefix, env=env)
        return pair if pair.is_changed or pair.refused else None
    finally:
        scratch.unlink(missing_ok=True)


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


def _refused(job: CompileJob, *refused: Refusal) -> ObjectPair:
    return ObjectPair(
        object_path=job.object_path,
        source_path=job.source_path,
        is_changed=False,
        is_init=job.is_init,
        note="refused",
        layouts=IN_SOURCES,
        refused=refused,
    )
