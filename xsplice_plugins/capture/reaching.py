# SPDX-License-Identifier: Apache-2.0
"""Objects that only a header reaches: preprocess first, compile only if that can matter."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import BootOnly, ObjectPair, Reach, Refusal, write_file
from xsplice_plugins.capture.apart import pair_apart
from xsplice_plugins.capture.compiling import compile_object, preprocess
from xsplice_plugins.capture.constants import settle_constants
from xsplice_plugins.capture.copying import MERGED
from xsplice_plugins.capture.edited import words_edited
from xsplice_plugins.capture.layouts import IN_SOURCES, LayoutCheck
from xsplice_plugins.capture.pairing import pair_objects, same_content
from xsplice_plugins.capture.reads import Reads, without_patched
from xsplice_plugins.capture.shifting import lines_moved
from xsplice_plugins.capture.typed import settle_layouts
from xsplice_plugins.csource.meaning import TextVerdict, judge_merged, judge_texts
from xsplice_plugins.csource.merging import OPTIONS
from xsplice_plugins.errors import CaptureError, ElfFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import CompileJob

log = logging.getLogger(__name__)

_EQUAL = "compiled, content equal"
#: What keeps a fix right where assembler code reads the same headers.
_FOR_C = (
    "leave that part of the patch out, or change the headers so that assembler code reads what it "
    "did: new names for C code beside the old ones, new fields as shadow variables"
)
#: Copies and layouts that changed some object's code: no other need be compiled for them.
_hopeless: set[tuple[Path, tuple[Refusal, ...]]] = set()


def capture_reached(
    job: CompileJob,
    *,
    pristine: Path,
    patched: Path,
    tree_object: Path | None,
    store: Path | None,
    dest_prefix: Path,
    env: Mapping[str, str] | None = None,
) -> ObjectPair:
    """Find out whether a header's change can reach one object; compile it if it can.

    Args:
        job: How the object is compiled.
        pristine: Root of the pristine copy (or the tree itself).
        patched: Root of the patched copy; its merged sibling is used where there is one.
        tree_object: The tree's own object for the drift check.
        store: Folder where the pristine side's preprocessed texts are kept for the next fix;
            ``None`` to keep none.
        dest_prefix: ``.baseline`` and ``.new`` are added to it where the content differs.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        The pair's record; its ``note`` says why the object was not compiled, or why it was.

    Raises:
        CaptureError: Preprocessing or compiling fails, or the baseline is not the tree's object.
    """
    reads: Reads = {}
    pair = _captured(
        job,
        reach_verdict(job, pristine=pristine, patched=patched, store=store, env=env, reads=reads),
        pristine=pristine,
        patched=patched,
        tree_object=tree_object,
        dest_prefix=dest_prefix,
        env=env,
    )
    return replace(pair, reads=tuple(sorted(reads.items())))


def _captured(
    job: CompileJob,
    verdict: TextVerdict,
    *,
    pristine: Path,
    patched: Path,
    tree_object: Path | None,
    dest_prefix: Path,
    env: Mapping[str, str] | None,
) -> ObjectPair:
    """Compile an object if its text says that this can matter (see `capture_reached`)."""
    log.debug("%s: %s", job.object_path, verdict.note)
    if _is_boot_object(job) and (verdict.is_affected or verdict.refused):
        row = boot_object(job.source_path, is_own=job.reach is Reach.DIRECT)
        return replace(_untouched(job, verdict), refused=(), boot=(row,))
    if not _is_c_object(job):
        if verdict.is_affected or verdict.refused:
            verdict = _judged_output(job, pristine, patched, dest_prefix, env)
        return _untouched(job, verdict)
    if verdict.refused:
        if (patched, verdict.refused) in _hopeless:
            return _untouched(job, verdict)
        equal = _as_built(job, patched, tree_object, dest_prefix, env)
        if equal:
            return replace(_untouched(job, verdict), note=_EQUAL, digest_new=equal)
    elif not verdict.is_affected:
        return _untouched(job, verdict)
    pair = compile_pair(
        job,
        pristine=pristine,
        patched=patched,
        tree_object=tree_object,
        dest_prefix=dest_prefix,
        layouts=LayoutCheck(how=IN_SOURCES, refused=verdict.refused),
        env=env,
    )
    if pair.is_changed and pair.refused:
        _hopeless.add((patched, verdict.refused))
    return pair


def reach_verdict(
    job: CompileJob,
    *,
    pristine: Path,
    patched: Path,
    store: Path | None = None,
    env: Mapping[str, str] | None = None,
    reads: Reads | None = None,
) -> TextVerdict:
    """Compare both sides' preprocessed texts; one pass if the headers could be merged.

    ``reads`` gets the files that no record names and that were read for them.
    """
    reads = {} if reads is None else reads
    merged = patched.with_name(patched.name + MERGED)
    if job.reach is Reach.HEADER and merged.is_dir():
        text = preprocess(job, merged, env=env, options=OPTIONS, reads=reads, contents=patched)
        return judge_merged(text)
    before: Reads = {}
    old = _pristine_text(job, pristine, store, env, before)
    reads.update(without_patched(before, pristine))
    return judge_texts(old, preprocess(job, patched, env=env, reads=reads))


def compile_pair(
    job: CompileJob,
    *,
    pristine: Path,
    patched: Path,
    tree_object: Path | None,
    dest_prefix: Path,
    layouts: LayoutCheck,
    env: Mapping[str, str] | None = None,
) -> ObjectPair:
    """Compile both sides of an object and compare them (see `pair_objects`)."""
    sides = [dest_prefix.with_name(f".{dest_prefix.name}.{side}.o") for side in ("old", "now")]
    try:
        compile_object(job, pristine, sides[0], env=env)
        compile_object(job, patched, sides[1], env=env)
        pair = pair_objects(
            job,
            sides[0],
            sides[1],
            tree_object,
            dest_prefix,
            layouts=layouts,
            moved=lines_moved(pristine, patched),
            words=words_edited(pristine, patched),
        )
        both = ((job, pristine), (job, patched))
        pair = settle_layouts(both, pair, env=env)
        pair = settle_constants(both, pair, env=env)
        return pair_apart(both, pair, dest_prefix, env=env)
    finally:
        for side in sides:
            side.unlink(missing_ok=True)


def _as_built(
    job: CompileJob,
    patched: Path,
    tree_object: Path | None,
    dest_prefix: Path,
    env: Mapping[str, str] | None,
) -> str:
    """Return the digest of an object whose new side is the tree's own object, else ""."""
    if tree_object is None or not tree_object.is_file():
        return ""
    made = dest_prefix.with_name(f".{dest_prefix.name}.now.o")
    try:
        compile_object(job, patched, made, env=env)
        new = made.read_bytes()
    finally:
        made.unlink(missing_ok=True)
    is_equal = same_content(job, tree_object.read_bytes(), new)
    return hashlib.sha256(new).hexdigest() if is_equal else ""


def _untouched(job: CompileJob, verdict: TextVerdict) -> ObjectPair:
    return ObjectPair(
        object_path=job.object_path,
        source_path=job.source_path,
        is_changed=False,
        is_init=job.is_init,
        note=verdict.note,
        layouts=IN_SOURCES,
        refused=verdict.refused,
    )


def boot_object(source_path: str, *, is_own: bool) -> BootOnly:
    """Return the row of an object that is linked on its own and runs once."""
    return BootOnly(
        name=source_path,
        reason=f"{source_path} is part of the boot code only, which has run already",
        code="INIT_CODE",
        is_own=is_own,
    )


def _is_boot_object(job: CompileJob) -> bool:
    is_c = job.source_path.endswith(".c")
    return is_c and job.object_path.endswith(".o") and not job.tree_object


def _is_c_object(job: CompileJob) -> bool:
    return bool(job.tree_object) and job.source_path.endswith(".c")


def _changed_inputs(job: CompileJob, pristine: Path, patched: Path) -> list[str]:
    """Return what of a job's inputs the patch changes."""
    sides = ((path, pristine / path, patched / path) for path in job.inputs)
    return [
        path
        for path, old, new in sides
        if old.is_file() and new.is_file() and old.read_bytes() != new.read_bytes()
    ]


def _is_made_alike(
    job: CompileJob,
    pristine: Path,
    patched: Path,
    dest_prefix: Path,
    env: Mapping[str, str] | None,
) -> bool:
    """Tell whether both sides of a target give the same; not if that cannot be told."""
    end = Path(job.object_path).suffix
    sides = [dest_prefix.with_name(f".{dest_prefix.name}.{side}{end}") for side in ("old", "now")]
    try:
        for root, side in zip((pristine, patched), sides, strict=True):
            compile_object(job, root, side, env=env)
        old, new = (side.read_bytes() for side in sides)
        return old == new or (end == ".o" and same_content(job, old, new))
    except (CaptureError, ElfFormatError):
        if end != ".o":
            raise
        return False
    finally:
        for side in sides:
            side.unlink(missing_ok=True)


def _judged_output(
    job: CompileJob,
    pristine: Path,
    patched: Path,
    dest_prefix: Path,
    env: Mapping[str, str] | None,
) -> TextVerdict:
    """Judge a target that is no C object of the image, whose preprocessed text has changed."""
    end = Path(job.object_path).suffix
    if end != ".lds" and _is_made_alike(job, pristine, patched, dest_prefix, env):
        return TextVerdict(is_affected=False, note="generated again, the same content")
    if end == ".lds":
        code, reason = "LINK", "the patch changes the linker script"
        hint = "leave that part of the patch out"
    elif job.source_path.endswith(".S"):
        headers = ", ".join(_changed_inputs(job, pristine, patched)) or "what it includes"
        code, hint = "ASSEMBLER", _FOR_C
        reason = f"it is an assembler object, which no payload replaces, and {headers} changes it"
    else:
        code, hint = "GENERATED", _FOR_C
        reason = "the patch changes this generated file, which assembler code was made with"
    refusal = Refusal(
        name=job.source_path if job.object_path.endswith(".o") else job.object_path,
        reason=reason,
        code=code,
        hint=hint,
    )
    return TextVerdict(is_affected=False, note="refused, not compiled", refused=(refusal,))


def _pristine_text(
    job: CompileJob,
    pristine: Path,
    store: Path | None,
    env: Mapping[str, str] | None,
    reads: Reads,
) -> str:
    """Preprocess the pristine side, or take the text that an earlier fix left."""
    if store is None or not job.inputs:
        return preprocess(job, pristine, env=env, reads=reads)
    key = hashlib.blake2b(
        f"{job.cwd}\0{job.command}".encode("utf-8", "surrogateescape"), digest_size=20
    )
    for path in job.inputs:
        try:
            key.update(hashlib.blake2b((pristine / path).read_bytes()).digest())
        except OSError:
            key.update(b"missing")
    kept = store / f"{key.hexdigest()}.i.z"
    try:
        return zlib.decompress(kept.read_bytes()).decode("latin-1")
    except (OSError, zlib.error):
        text = preprocess(job, pristine, env=env)
    write_file(kept, zlib.compress(text.encode("latin-1"), 1))
    return text


def forget_texts(store: Path, *, files_max: int = 4000) -> None:
    """Keep a store of preprocessed texts from growing for ever: remove the oldest files.

    Args:
        store: The folder.
        files_max: How many files may stay (about 100 KB each).
    """
    try:
        entries = sorted(os.scandir(store), key=lambda entry: entry.stat().st_mtime_ns)
    except FileNotFoundError:
        return
    for entry in entries[: max(0, len(entries) - files_max)]:
        os.unlink(entry.path)  # noqa: PTH108  # an entry is no Path
