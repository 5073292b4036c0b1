# SPDX-License-Identifier: Apache-2.0
"""Which objects does a patch reach, and how are they compiled again?"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import (
    CapturePlan,
    CompileJob,
    PatchSet,
    Reach,
    Refusal,
    Route,
    TouchedFile,
    TouchKind,
)
from xsplice_plugins.capture.rules import changed_outputs, is_ignored
from xsplice_plugins.errors import NoFunctionalChangeError
from xsplice_plugins.kbuild.indexing import Index, canonical_in, init_name, job_of, read_index
from xsplice_plugins.kbuild.records import Record, parse_record, read_text
from xsplice_plugins.patch.applying import patched_files, tree_reader

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.kbuild.tree import XenTree

_SOURCES = {TouchKind.C, TouchKind.ASSEMBLER}
_VERSION = re.compile(
    rb"^[ \t]*(?:export\s+)?(XEN_\w*VERSION)[ \t]*[?:+]*=[ \t]*([^#\n]*[^#\s])?", re.MULTILINE
)


def plan(
    tree: XenTree,
    patch_set: PatchSet,
    *,
    route: Route | None = None,
    store: Path | None = None,
) -> CapturePlan:
    """Say which objects are compiled again, and by which route.

    Args:
        tree: The built tree.
        patch_set: What the fix touches.
        route: `Route.MAKE` to take that route in any case.
        store: Folder where answers that cost time are kept for the next run.

    Raises:
        NoFunctionalChangeError: Nothing that is part of the image is touched.
        CaptureError: The records cannot be used.
    """
    inside = [file for file in patch_set.touched if file.kind is not TouchKind.OUTSIDE]
    touched = [file for file in inside if file.kind is not TouchKind.COMMENTS]
    if not inside:
        raise NoFunctionalChangeError(_nothing(patch_set))
    index = read_index(tree)
    prefix = f"{tree.patch_root}/" if tree.patch_root else ""
    wanted = {prefix + file.path: file for file in inside}
    jobs, refused, seen, generated = _reached(index, wanted)
    refused += _versions(tree, patch_set)
    why_make = _why_make(index, touched, route) if touched else ""
    why_make = why_make or _why_generated(index, patch_set, generated, store)
    if not touched and not why_make:
        raise NoFunctionalChangeError(_nothing(patch_set))
    unseen = [file for path, file in sorted(wanted.items()) if path not in seen]
    unseen = [file for file in unseen if file.kind is not TouchKind.COMMENTS]
    why_make = why_make or _why_unseen(index, unseen)
    if why_make:
        # Refused files stay refused: make would build them, and no payload can carry them.
        return CapturePlan(
            route=Route.MAKE,
            reason=why_make,
            jobs=(),
            build_root=tree.build_dir,
            refused=tuple(refused),
        )
    unseen = [file for file in unseen if not file.is_added]
    if not jobs and not refused:
        raise NoFunctionalChangeError(
            f"{patch_set.name}: no object of this build reads "
            f"{', '.join(file.path for file in unseen)}; nothing would change in the image"
        )
    reason = "every touched file is an input of a recorded command"
    if unseen:
        names = ", ".join(file.path for file in unseen)
        reason += f"; not compiled in this configuration: {names}"
    return CapturePlan(
        route=Route.RECORDED,
        reason=reason,
        jobs=tuple(sorted(jobs, key=lambda job: job.object_path)),
        build_root=tree.build_dir,
        refused=tuple(refused),
    )


def _nothing(patch_set: PatchSet) -> str:
    kinds = sorted({str(file.kind) for file in patch_set.touched})
    what = " and ".join(kinds) if kinds else "nothing"
    return f"{patch_set.name}: no functional change (the patch touches {what}); nothing to build"


def _why_make(index: Index, touched: list[TouchedFile], route: Route | None) -> str:
    """Say why the patch as such asks for the route through make; "" if it does not."""
    if route is Route.MAKE:
        return "asked for"
    for file in touched:
        if file.kind in {TouchKind.BUILD, TouchKind.GENERATED_INPUT}:
            return f"{file.path} is {_article(file.kind)}"
        if file.is_removed:
            return f"{file.path} is removed"
        if file.is_added and not file.path.endswith(".h"):
            return f"{file.path} is new, so no command is recorded for it"
        if file.is_added and (twin := _twin(index, file.path)):
            return f"{file.path} is new and could hide {twin}"
    if not any("\ndeps_" in text for text in index.texts.values()):
        return f"Xen {index.tree.release} records no compile commands"
    return ""


def _why_generated(
    index: Index, patch_set: PatchSet, generated: dict[str, str], store: Path | None
) -> str:
    """Say which generated file's content changes, if any does."""
    if not generated:
        return ""
    changed = changed_outputs(index, patch_set, set(generated), store=store)
    if not changed:
        return ""
    origin = generated.get(changed[0]) or min(generated.values())
    return f"{changed[0]} is generated from {origin} and its content changes"


def _article(kind: TouchKind) -> str:
    return {"M": "a ", "i": "an "}[str(kind)[0]] + str(kind)


def _twin(index: Index, path: str) -> str:
    """Find a header that the same ``#include`` could mean; "" if there is none."""
    tail = "/" + "/".join(PurePosixPath(path).parts[-2:])
    return next((file for file in sorted(index.listing.files) if file.endswith(tail)), "")


def _why_unseen(index: Index, unseen: list[TouchedFile]) -> str:
    """Say whether a touched file that no record names is compiled all the same."""
    for file in unseen:
        path = file.path.removeprefix("xen/")
        stem = path.removesuffix(PurePosixPath(path).suffix)
        if file.kind is TouchKind.OTHER:
            return f"{file.path} is not an input of any recorded command"
        if any(stem + end in index.listing.files for end in (".o", ".bin", ".lnk")):
            return f"no command is recorded for the object that {file.path} is compiled to"
    return ""


def _reached(
    index: Index, wanted: dict[str, TouchedFile]
) -> tuple[list[CompileJob], list[Refusal], set[str], dict[str, str]]:
    """Go through the records that may name a touched file.

    A changed comment is an input only of what is generated: a script may read comments, as Xen's
    tools/gen-cpuid.py does.

    Returns:
        Objects, refused files, touched files that were found, and generated files with the
        touched file that they are made from.
    """
    generated: dict[str, str] = {}
    names = {PurePosixPath(path).name for path in wanted}
    names |= {
        PurePosixPath(link).name
        for link, text in index.listing.links.items()
        if PurePosixPath(text).name in names
    }
    mention = re.compile("|".join(re.escape(name) for name in sorted(names)))
    jobs: list[CompileJob] = []
    refused: dict[str, Refusal] = {}
    seen: set[str] = set()
    for (folder, name), text in index.texts.items():
        if not mention.search(text):
            continue
        record = parse_record(text, folder, name)
        if record is None:
            continue
        inputs = tuple(canonical_in(index, record.folder, word) for word in record.inputs)
        hits = [wanted[path] for path in inputs if path in wanted]
        if not hits:
            continue
        kind = _record_kind(index, record)
        if kind == "ignored":
            continue
        seen |= set(inputs) & wanted.keys()
        if kind == "generated":
            generated[record.target] = hits[0].path
            continue
        hits = [hit for hit in hits if hit.kind is not TouchKind.COMMENTS]
        if not hits:
            continue
        is_direct = any(hit.kind in _SOURCES for hit in hits)
        if is_direct and record.source.endswith((".S", ".s")):
            # A header counts for what else reads it: without this file the fix may keep it.
            refused |= {hit.path: _not_replaceable(hit) for hit in hits if hit.kind in _SOURCES}
            continue
        jobs.append(job_of(index, record, inputs, kind, is_direct=is_direct))
    if (job := _asm_offsets(index, wanted, jobs)) is not None:
        jobs.append(job)
    return jobs, [refused[path] for path in sorted(refused)], seen, generated


def _record_kind(index: Index, record: Record) -> str:
    """Sort a target.

    Returns:
        "object" (of the image), "boot" (an object that is linked on its own and runs once),
        "text" (the linker script), "generated" (any other file), or "ignored".
    """
    target = record.target
    if is_ignored(target):
        return "ignored"
    if target.endswith(".o"):
        is_linked = target in index.linked or init_name(target) in index.linked
        is_gone = not is_linked and target not in index.listing.files  # a step of the link itself
        if not record.source or is_gone:
            return "ignored"
        return "object" if is_linked else "boot"
    return "text" if target.endswith(".lds") else "generated"


def _not_replaceable(file: TouchedFile) -> Refusal:
    if file.path.endswith(".lds.S"):
        return Refusal(
            name=file.path,
            reason="it is the linker script, and a payload links nothing again",
            code="LINK",
            hint="leave this file out",
        )
    return Refusal(
        name=file.path,
        reason="it is assembler source, and a payload replaces whole C functions",
        code="ASSEMBLER",
        hint="leave this file out, but not the headers that C code reads as well; or replace the C "
        "function that calls it",
    )


def _versions(tree: XenTree, patch_set: PatchSet) -> list[Refusal]:
    """Refuse another version in the hypervisor's Makefile, before anything is made.

    What holds it is compiled from ``compile.h``: boot code and the functions that tell it. Tools
    and payloads go by what the running image calls itself.
    """
    path = f"{tree.hypervisor_source.name}/Makefile"
    if not any(file.path == path and file.kind is TouchKind.BUILD for file in patch_set.touched):
        return []
    texts = (tree_reader(tree.source_root)(path), patched_files(patch_set, tree.source_root)[path])
    old, new = (dict(_VERSION.findall(text or b"")) for text in texts)
    names = sorted(
        name.decode() for name in old.keys() | new.keys() if old.get(name) != new.get(name)
    )
    return (
        [
            Refusal(
                name=path,
                reason=f"it changes {', '.join(names)}: the version that the build stamps into the "
                "image (compile.h), which stays the one that was booted",
                code="VERSION",
                hint="leave these lines out; to show that a fix is in force, let it change what "
                "xen_extra_version() of common/version.c returns",
            )
        ]
        if names
        else []
    )


def _asm_offsets(
    index: Index, wanted: dict[str, TouchedFile], jobs: list[CompileJob]
) -> CompileJob | None:
    """Return the job of ``asm-offsets.s``, the offsets of C structures for assembler.

    Its command is not recorded, only its inputs (4.17: ``.asm-offsets.s.d``); it takes the flags
    of every C object. Source: xen/build.mk (4.17).
    """
    text = read_text(str(index.tree.build_root / ".asm-offsets.s.d"))
    if not text or not jobs:
        return None
    words = text.split(":", 1)[-1].replace("\\\n", " ").split("\n", 1)[0].split()
    inputs = tuple(sorted({canonical_in(index, "", word) for word in words}))
    model = next((j for j in jobs if j.source_path.endswith(".c") and j.tree_object), None)
    if model is None or not wanted.keys() & set(inputs):
        return None
    command = re.sub(r" -c \S+ -o \S+( -MQ \S+)?", "", model.command)
    if command == model.command:
        return None
    return CompileJob(
        object_path="asm-offsets.s",
        source_path=canonical_in(index, "", words[0]).removeprefix(index.tree.source_dir + "/"),
        cwd=index.tree.build_dir,
        command=f"{command} -S -g0 -c {words[0]} -o asm-offsets.s",
        output="asm-offsets.s",
        reach=Reach.HEADER,
        inputs=inputs,
    )
