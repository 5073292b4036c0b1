# SPDX-License-Identifier: Apache-2.0
"""From a patch, or from hand-written C, to what the differ and the linker take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xsplice_plugins import capture, patch
from xsplice_plugins.artefacts import CompileJob, ObjectPair
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.pipeline.payload import link_payload, refusal_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import CapturePlan, PatchSet, Payload
    from xsplice_plugins.handmade import Handmade
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.pipeline.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """One object and the two copies of the sources that it is compiled from."""

    job: CompileJob
    pristine: Path  #: root of the pristine copy, or the tree itself
    patched: Path
    tree_object: Path | None  #: the tree's own object, which the baseline must equal
    store: Path | None = None  #: folder of preprocessed texts that outlive the fix
    variables: tuple[tuple[str, str], ...] = ()  #: environment; empty: that of the process

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
) -> PatchSet:
    """Read a fix and check that it applies (see `patch.read_patch_set`).

    Raises:
        PatchError: The patch cannot be read, or does not apply.
    """
    return patch.read_patch_set(
        files,
        name=name or None,
        source_root=source_root,
        hypervisor_dir=hypervisor_dir,
        is_line_neutral=is_line_neutral,
    )


def plan_fix(tree: XenTree, patch_set: PatchSet, *, store: Path) -> CapturePlan:
    """Say which objects are compiled again.

    Args:
        tree: The built tree.
        patch_set: The fix.
        store: Folder where answers that cost time are kept for the next run.

    Raises:
        RefusedError: The patch touches what no payload can carry; the message names each file.
        NoFunctionalChangeError: Nothing that is part of the image is touched.
        CaptureError: The tree's records cannot be used.
    """
    plan = capture.plan(tree, patch_set, store=store)
    capture.forget_texts(store)
    if plan.refused:
        raise RefusedError(
            "\n".join(refusal_line(refusal.name, refusal) for refusal in plan.refused)
        )
    return plan


def capture_pair(sides: Sides, baseline: Path, new: Path, dest_prefix: Path) -> ObjectPair:
    """Compare an object's two sides, and the layouts that their sources define.

    Args:
        sides: The object and its sources.
        baseline: Compiled from the pristine sources.
        new: Compiled from the patched ones.
        dest_prefix: ``.baseline`` and ``.new`` are added to it where the content differs.

    Raises:
        CaptureError: The baseline is not the tree's object, or preprocessing fails.
    """
    return capture.pair_objects(
        sides.job,
        baseline,
        new,
        sides.tree_object,
        dest_prefix,
        layouts=capture.compare_layouts(
            sides.job, pristine=sides.pristine, patched=sides.patched, env=sides.environment
        ),
        moved=capture.lines_moved(sides.pristine, sides.patched),
    )


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
    return capture.capture_reached(
        sides.job,
        pristine=sides.pristine,
        patched=sides.patched,
        tree_object=sides.tree_object,
        store=sides.store,
        dest_prefix=dest_prefix,
        env=sides.environment,
    )


def capture_made(
    tree: XenTree,
    plan: CapturePlan,
    patch_set: PatchSet,
    *,
    workdir: Path,
    objects_dir: Path,
    jobs: int,
) -> tuple[ObjectPair, ...]:
    """Build the patched tree with make in a private copy; pair what differs.

    Raises:
        CaptureError: It does not build, or the tree's objects cannot be made again.
    """
    return capture.make_route(tree, plan, patch_set, workdir, objects_dir, jobs=jobs)


def bare_pair(
    baseline: Path, new: Path, data: tuple[bytes, bytes], *, source: str = ""
) -> ObjectPair:
    """Return the record of two objects that come without their sources: layouts are unchecked.

    Args:
        baseline: The object before the fix.
        new: The object after it.
        data: Their content.
        source: The source file they come from, for messages.
    """
    # A relative path tells two objects of one name apart; an absolute one is of this machine.
    name = new.name if new.is_absolute() else new.as_posix()
    name = name.removesuffix(".xsplice.new")  # `link` looks for it under that name
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


def build_handmade(run: Run, tree: XenTree, sources: Sequence[Path], name: str) -> Payload:
    """Make one unsigned payload of hand-written files.

    Raises:
        XspliceError: As `handmade_deltas` and `link_payload`.
    """
    made = handmade_deltas(run, tree, sources)
    payload = link_payload(run, name, made.deltas, made.objects, tree.xen_syms.read_bytes())
    return replace(payload, record=replace(payload.record, notes=payload.record.notes + made.notes))
