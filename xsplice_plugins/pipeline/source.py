# SPDX-License-Identifier: Apache-2.0
"""From a patch, or from hand-written C, to what the differ and the linker take."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import capture, patch
from xsplice_plugins.artefacts import (
    CompileJob,
    ObjectPair,
    PatchFile,
    PatchSet,
    Superseded,
    TouchedFile,
    TouchKind,
    read_file,
)
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import ET_REL
from xsplice_plugins.errors import (
    CaptureError,
    ConfigError,
    NoFunctionalChangeError,
    PatchError,
    RefusedError,
)
from xsplice_plugins.pipeline.payload import link_payload, refusal_line
from xsplice_plugins.pipeline.stack import Stack, record_of
from xsplice_plugins.pipeline.unseen import check_unchanged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import CapturePlan, Payload
    from xsplice_plugins.handmade import Handmade
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.pipeline.run import Run


class Sides(Struct, frozen=True, kw_only=True):
    """One object and the two copies of the sources that it is compiled from."""

    job: CompileJob
    pristine: Path  #: root of the copy before the fix, or the tree itself
    patched: Path
    tree_object: Path | None  #: the tree's own object, which the baseline must equal
    store: Path | None = None  #: folder of preprocessed texts that outlive the fix
    variables: tuple[tuple[str, str], ...] = ()  #: environment; empty: that of the process
    plain: Path | None = None  #: root of the copy without the patches of payloads beneath

    @property
    def environment(self) -> dict[str, str] | None:
        """Return the compiler's environment; ``None`` for that of the process."""
        return dict(self.variables) or None


def read_fix(
    files: Sequence[Path],
    *,
    name: str,
    source_root: Path,
    hypervisor_dir: str = "xen",
    is_line_neutral: bool = False,
    beneath: Sequence[Path] = (),
    superseded: Sequence[Path] = (),
) -> PatchSet:
    """Read a fix for some payloads beneath; check that it applies (see `patch.read_patch_set`).

    Where it comes in the place of other payloads, their sources are held against its own.

    Raises:
        PatchError: The patch cannot be read, or does not apply.
    """
    try:
        fix = patch.read_patch_set(
            files,
            name=name or None,
            source_root=source_root,
            hypervisor_dir=hypervisor_dir,
            is_line_neutral=is_line_neutral,
            is_stacked=bool(beneath),
        )
    except PatchError as error:
        if not beneath:
            raise
        names = ", ".join(path.name for path in beneath)
        raise PatchError(f"{error} (PATCH must begin with the patches of {names})") from error
    held = (_held_against(fix, path, source_root) for path in superseded)
    return replace(
        fix,
        superseded=tuple(row for row in held if row is not None),
        older=_older(fix, beneath, source_root),
    )


def _older(fix: PatchSet, beneath: Sequence[Path], source_root: Path) -> tuple[str, ...]:
    """Hold a fix against what ran before the payloads beneath it, as far as it has their patches.

    Whether it must have them is for `read_stack` to say.
    """
    digests = [row.sha256 for row in fix.digests]
    counts, done = [], 0
    for path in beneath:
        record = record_of(path)
        wanted = {row.sha256 for row in record.patches} if record is not None else set()
        done += 1 if record is None and done < len(digests) else 0  # one is named for it
        while done < len(digests) and digests[done] in wanted:
            done += 1
        counts.append(done)
    return capture.doubts_of_older(source_root, fix, counts) if done else ()


def _held_against(fix: PatchSet, path: Path, source_root: Path) -> Superseded | None:
    """Hold a fix against the payload in whose place it comes; ``None`` if it lacks its patches."""
    record = record_of(path)
    wanted = [row.sha256 for row in record.patches] if record is not None else []
    rest = iter(zip(fix.patches, (row.sha256 for row in fix.digests), strict=True))
    found = [next((file for file, digest in rest if digest == one), None) for one in wanted]
    patches = tuple(file for file in found if file is not None)
    if record is None or not wanted or len(patches) < len(wanted):
        return None
    try:
        texts = capture.doubts_between(source_root, replace(fix, patches=patches), fix)
    except PatchError:  # they are not the first ones, and stand on others
        return None
    return Superseded(digest=record.digest, doubts=texts)


def plan_fix(tree: XenTree, patch_set: PatchSet, *, store: Path) -> CapturePlan:
    """Say which objects are compiled again.

    Args:
        tree: The built tree.
        patch_set: The fix.
        store: Folder where answers that cost time are kept for the next run.

    Raises:
        RefusedError: The patch touches what no payload can carry; the message names each file.
            Or it touches nothing here, and may touch what only the shipped image has.
        NoFunctionalChangeError: Nothing that is part of the image is touched.
        CaptureError: The tree's records cannot be used.
    """
    try:
        plan = capture.plan(tree, patch_set, store=store)
    except NoFunctionalChangeError:
        check_unchanged(tree, patch_set)
        raise
    capture.forget_texts(store)
    if plan.refused:
        raise RefusedError(
            "\n".join(refusal_line(refusal.name, refusal) for refusal in plan.refused)
        )
    return plan


def capture_pair(
    sides: Sides, baseline: Path, new: Path, dest_prefix: Path, *, is_watched: bool = False
) -> ObjectPair:
    """Compare an object's two sides, and the layouts that their sources define.

    Args:
        sides: The object and its sources.
        baseline: Compiled from the pristine sources.
        new: Compiled from the patched ones.
        dest_prefix: ``.baseline`` and ``.new`` are added to it where the content differs.
        is_watched: Whether to note what was read for them and no record of the tree names.

    Raises:
        CaptureError: The baseline is not the tree's object, or preprocessing fails.
    """
    pair = capture.pair_objects(
        sides.job,
        baseline,
        new,
        _checked_tree(sides, dest_prefix),
        dest_prefix,
        layouts=capture.compare_layouts(
            sides.job, pristine=sides.pristine, patched=sides.patched, env=sides.environment
        ),
        moved=capture.lines_moved(sides.pristine, sides.patched),
        words=capture.words_edited(sides.pristine, sides.patched),
    )
    if is_watched:
        reads = capture.without_patched(capture.load_reads(baseline), sides.pristine)
        reads |= capture.load_reads(new)
        pair = replace(pair, reads=tuple(sorted(reads.items())))
    both = ((sides.job, sides.pristine), (sides.job, sides.patched))
    pair = capture.settle_layouts(both, pair, env=sides.environment)
    pair = capture.settle_constants(both, pair, env=sides.environment)
    return capture.pair_apart(both, pair, dest_prefix, env=sides.environment)


def compile_shifted(sides: Sides, out: Path) -> bytes | None:
    """Compile an object's new side once more, with all lines of the patched files shifted.

    Args:
        sides: The object and its sources.
        out: The object to write; `xsplice diff` finds it beside the pair's record.

    Raises:
        MachineError: The copy cannot be written, or there is no compiler.
    """
    return capture.compile_shifted(sides.job, sides.patched, out, env=sides.environment)


def capture_reached(sides: Sides, dest_prefix: Path) -> ObjectPair:
    """Preprocess an object that only a header reaches; compile it if that can matter.

    Raises:
        CaptureError: Preprocessing or compiling fails, or the baseline is not the tree's object.
    """
    tree_object = _checked_tree(sides, dest_prefix)
    return capture.capture_reached(
        sides.job,
        pristine=sides.pristine,
        patched=sides.patched,
        tree_object=tree_object,
        store=sides.store,
        dest_prefix=dest_prefix,
        env=sides.environment,
    )


def _checked_tree(sides: Sides, dest_prefix: Path) -> Path | None:
    """Return the tree's object if the baseline must equal it.

    Where the baseline holds patches of payloads beneath, the sources without them must.
    """
    if sides.plain is None or sides.tree_object is None:
        return sides.tree_object
    made = dest_prefix.with_name(f".{dest_prefix.name}.plain.o")
    try:
        capture.compile_object(sides.job, sides.plain, made, env=sides.environment)
        tree_object = read_file(sides.tree_object, error=CaptureError, advice="build it again")
        capture.check_drift(sides.job, made.read_bytes(), tree_object)
    finally:
        made.unlink(missing_ok=True)
    return None


def capture_made(
    tree: XenTree,
    plan: CapturePlan,
    patch_set: PatchSet,
    *,
    lower: PatchSet | None = None,
    workdir: Path,
    objects_dir: Path,
    jobs: int,
) -> tuple[ObjectPair, ...]:
    """Build the patched tree with make in a private copy; pair what differs.

    ``lower`` are the patches of payloads beneath, which the baseline is built with.

    Raises:
        CaptureError: It does not build, or the tree's objects cannot be made again.
    """
    return capture.make_route(tree, plan, patch_set, workdir, objects_dir, lower=lower, jobs=jobs)


def bare_pair(
    baseline: Path, new: Path, data: tuple[bytes, bytes], *, source: str = ""
) -> ObjectPair:
    """Return the record of two objects that come without their sources: layouts are unchecked.

    Args:
        baseline: The object before the fix.
        new: The object after it.
        data: Their content.
        source: The source file they come from, for messages.

    Raises:
        ElfFormatError: A file is not ELF.
        ConfigError: It is no object.
    """
    # A relative path tells two objects of one name apart; an absolute one is of this machine.
    name = new.name if new.is_absolute() else new.as_posix()
    name = name.removesuffix(".xsplice.new")  # `link` looks for it under that name
    for path, content in zip((baseline, new), data, strict=True):
        # Two equal files that are no objects are no equal objects.
        if read_elf(content, str(path)).type != ET_REL:
            raise ConfigError(f"{path}: not what a compiler makes of one source; give its .o")
    digests = [hashlib.sha256(content).hexdigest() for content in data]
    return ObjectPair(
        object_path=name,
        source_path=source,
        is_changed=data[0] != data[1],
        is_init=name.endswith(".init.o"),
        baseline=str(baseline),
        new=str(new),
        digest_baseline=digests[0],
        digest_new=digests[1],
        layouts="",
    )


def handmade_deltas(run: Run, tree: XenTree, sources: Sequence[Path]) -> Handmade:
    """Compile hand-written files and follow their declarations.

    Raises:
        ConfigError: A file is missing, or no C file.
        CaptureError: A file does not compile.
        LinkError: A declaration cannot be followed.
    """
    from xsplice_plugins import handmade  # noqa: PLC0415  no other fix pays for it

    made = handmade.prepare(tree, sources, run.config)
    first, *others = made.deltas
    return replace(made, deltas=(replace(first, notes=made.notes), *others))


def handmade_set(name: str, sources: Sequence[Path]) -> PatchSet:
    """Return hand-written files as the rest of the chain sees a fix: what it is made of."""
    return PatchSet(
        name=name,
        strip=0,
        patches=tuple(
            PatchFile(name=path.name, text=path.read_text("utf-8", "surrogateescape"))
            for path in sources
        ),
        touched=tuple(TouchedFile(path=path.name, kind=TouchKind.C) for path in sources),
    )


def build_handmade(run: Run, tree: XenTree, sources: Sequence[Path], name: str) -> Payload:
    """Make one unsigned payload of hand-written files.

    Raises:
        XspliceError: As `handmade_deltas` and `link_payload`.
    """
    made = handmade_deltas(run, tree, sources)
    stack = Stack(patches=handmade_set(name, sources).digests)
    image = tree.xen_syms.read_bytes()
    payload = link_payload(run, name, made.deltas, made.objects, image, stack)
    return replace(payload, record=replace(payload.record, notes=payload.record.notes + made.notes))
