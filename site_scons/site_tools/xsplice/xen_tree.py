# SPDX-License-Identifier: Apache-2.0
"""A built Xen tree as SCons nodes: one chain per object that the patch reaches."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from xsplice_plugins import artefacts, capture, pipeline
from xsplice_plugins.artefacts import ObjectPair, Reach, Route
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.kbuild.tree import tree_digest
from xsplice_plugins.patch import clean_name, derived_name
from xsplice_plugins.pipeline import Sides
from xsplice_plugins.settings import is_on

from . import settings
from .actions import forgetting
from .builders import CAPTURING, Wiring, XspliceNodes, start
from .copies import Farm, Side
from .healing import renew
from .rebuilding import Rebuild

if TYPE_CHECKING:
    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import CapturePlan, CompileJob, PatchSet
    from xsplice_plugins.kbuild.tree import XenTree


def xen_fix(env: Environment) -> XspliceNodes:
    """Wire a fix for a built Xen tree: ``env.XspliceXen()``.

    ``XEN`` and ``PATCH`` say which tree and which patch; the other variables of ``add_variables``
    apply. What cannot be used ends SCons with the message and the status that the library
    documents.

    Returns:
        The signed payload and the report; the aliases ``xsplice`` and ``xsplice-verify`` hold them.
    """
    with settings.stopping():
        return _wire(env)


def _wire(env: Environment) -> XspliceNodes:
    if not env.get("PATCH"):
        raise ConfigError("PATCH is not set; give the fix: PATCH=fix.patch")
    base = tree_base(env, env.get("XEN", ""))
    tree = base.tree
    assert tree is not None, "the base of a tree has one"
    run = settings.open_run(env, base)
    build, files = settings.build_folder(env), settings.files(env, env["PATCH"], "PATCH")
    name = clean_name(str(env.get("NAME", ""))) if env.get("NAME") else derived_name(files)
    pipeline.check_outputs(build / name, name, run.config, files)
    pipeline.check_payloads(run.config)
    with forgetting(build / name, name):
        patch_set = pipeline.read_fix(
            files,
            name=name,
            source_root=tree.source_root,
            is_line_neutral=is_on(env.get("LINE_NEUTRAL")),
            beneath=run.config.depends,
            superseded=run.config.supersedes,
        )
    with forgetting(build / patch_set.name, patch_set.name):
        plan = pipeline.plan_fix(tree, patch_set, store=build / "preprocessed")
        prefix = f"{tree.patch_root}/" if tree.patch_root else ""
        reads = {path.removeprefix(prefix) for job in plan.jobs for path in job.inputs}
        is_known = plan.route is Route.RECORDED
        doubts = pipeline.check_inputs(
            tree,
            patch_set,
            plan.jobs if is_known else None,
            is_made_again=not is_known or "rebuild" in run.config.verifiers,
        )
        stack = pipeline.read_stack(run.config, patch_set, reads if is_known else None)
    route = f"{plan.route} ({plan.reason})"
    wiring = start(env, patch_set, run, route, stack, tree, is_rebuildable=True)
    wiring.patch()
    if plan.route is Route.MAKE:
        made = wiring.node(
            "XspliceMade",
            ["made.json"],
            [],
            carries=(wiring.fix, tree, plan),
            library=CAPTURING,
            values=[
                f"patch set {patch_set.digest}",
                f"beneath it {stack.lower.digest if stack.lower else None}",
                f"tree {capture.tree_state(tree)}",
            ],
        )[0]
        deltas = [wiring.diff("made.diffs", made)]
    else:
        deltas = _recorded(wiring, tree, plan)
    image = env.File(str(tree.xen_syms))
    rebuild = replace(_rebuild(wiring, tree, plan), doubts=doubts)
    nodes = wiring.rest(deltas, image, base_node(wiring, tree), rebuild)
    checks = wiring.fix.folder / f"{wiring.fix.name}.checks.json"  # it asks the patch itself
    env.Depends(str(checks), env.Value(f"patched {_content(tree, patch_set)}"))
    return nodes


def base_node(wiring: Wiring, tree: XenTree) -> object:
    """Wire the match of the whole tree with its image."""
    image = wiring.env.File(str(tree.xen_syms))
    return wiring.base(image, tree_digest(tree), partial(pipeline.objects_of_tree, tree))


def _rebuild(wiring: Wiring, tree: XenTree, plan: CapturePlan) -> Rebuild:
    """Say where objects can be compiled once more for the check."""
    still = replace(wiring.fix.patch_set, is_line_neutral=True)
    if plan.route is Route.MAKE:
        return Rebuild()
    folder, before = wiring.fix.folder, _before(wiring, tree)
    beneath = _lower_jobs(wiring, tree, plan)
    return Rebuild(
        farm=Farm(source_root=tree.root, tree=tree, copy=folder / "still", patch_set=still),
        pristine=before,
        plain=_pristine(wiring, tree),
        tree_objects={
            job.object_path: tree.root / job.tree_object for job in plan.jobs if job.tree_object
        },
        sides={job.object_path: Side(job=job, copy=folder / "copy") for job in plan.jobs},
        lower_objects={
            job.object_path: before.with_name(f"{before.name}.objects") / job.object_path
            for job in beneath
            if job.tree_object
        },
        lower_texts={job.object_path: folder / _judged(job) for job in beneath if _is_text(job)},
    )


def _is_text(job: CompileJob) -> bool:
    """Tell whether a target is no object: offsets for assembler, or the linker script."""
    return not job.tree_object and not job.object_path.endswith(".o")


def _judged(job: CompileJob) -> str:
    """Return where lies, below the fix's folder, what payloads beneath make of such a target."""
    return f"beneath/{job.object_path}.xsplice.pair.json"


def _before(wiring: Wiring, tree: XenTree) -> Path:
    """Return the folder of the copy before the fix; those on the same payloads share it."""
    lower = wiring.fix.stack.lower
    if lower is None:
        return _pristine(wiring, tree)
    name = hashlib.sha256(_content(tree, lower).encode()).hexdigest()[:16]
    return wiring.fix.folder.parent / f"lower-{name}"


def _lower_jobs(wiring: Wiring, tree: XenTree, plan: CapturePlan) -> list[CompileJob]:
    """Return what of a plan the patches of payloads beneath reach."""
    lower = wiring.fix.stack.lower
    if lower is None:
        return []
    below = capture.plan(tree, lower, store=wiring.fix.folder.parent / "preprocessed")
    reached = {job.object_path for job in below.jobs}
    is_known = below.route is Route.RECORDED
    return [job for job in plan.jobs if job.object_path in reached or not is_known]


def _pristine(wiring: Wiring, tree: XenTree) -> Path:
    """Return the folder of the copy that all fixes of a tree share."""
    return wiring.fix.folder.parent / f"pristine-{tree_digest(tree)}"


def tree_base(env: Environment, xen: object) -> pipeline.Base:
    """Describe the hypervisor of a built tree; the build folder must lie outside of it.

    Raises:
        ConfigError: No tree is named, or it is none.
    """
    if not xen:
        raise ConfigError("XEN is not set; give a built Xen tree: XEN=/src/xen")
    folder = Path(env.Dir(env.get("XSPLICE_BUILD", "#build")).get_abspath())
    tree = settings.tree_at(env, xen)
    return pipeline.base_of_tree(tree, build_dir=folder)


def _lay_out(wiring: Wiring, tree: XenTree) -> tuple[Path, list[object]]:
    """Wire the copies that objects are compiled in; return the baseline's, and all stamps."""
    fix, lower = wiring.fix, wiring.fix.stack.lower
    pristine = _pristine(wiring, tree)
    stamps = [
        wiring.copy(
            Farm(source_root=tree.root, tree=tree, copy=pristine, patch_set=None),
            f"../{pristine.name}.stamp",
            f"tree {tree.root} {tree_digest(tree)}",
        )
    ]
    before, sides = _before(wiring, tree), [("copy", fix.patch_set)]
    if lower is not None:
        sides.append((f"../{before.name}", lower))
    for name, patch_set in sides:
        farm = Farm(
            source_root=tree.root,
            tree=tree,
            copy=fix.folder / name if patch_set is fix.patch_set else before,
            patch_set=patch_set,
            is_merged=lower is None,
        )
        stamps.append(wiring.copy(farm, f"{name}.stamp", _content(tree, patch_set)))
    return before, stamps


def _recorded(wiring: Wiring, tree: XenTree, plan: CapturePlan) -> list[object]:
    """Wire one chain per object that the patch reaches, from the tree's recorded commands."""
    fix, lower = wiring.fix, wiring.fix.stack.lower
    baseline_copy, stamps = _lay_out(wiring, tree)
    inputs = old = capture.InputDigests(tree, fix.patch_set)
    if lower is not None:
        old = capture.InputDigests(tree, lower)
    deltas, reached = [], _lower_jobs(wiring, tree, plan)
    for job in plan.jobs:
        sides = Sides(
            job=job,
            pristine=baseline_copy,
            patched=fix.folder / "copy",
            tree_object=tree.root / job.tree_object if job.tree_object else None,
            # A header that only the patches beneath bring is no recorded input.
            store=None if lower is not None else fix.folder.parent / "preprocessed",
            plain=None if lower is None else _pristine(wiring, tree),
        )
        before = old.texts(job, is_patched=lower is not None)
        after = inputs.texts(job, is_patched=True)
        if lower is not None:
            before += [f"with patch set {lower.digest}", *inputs.texts(job, is_patched=False)]
        pair, is_old = _pair(wiring, sides, before, after, stamps, inputs)
        deltas.append(wiring.diff(f"objects/{job.object_path}.xsplice.diff", pair, sides, after))
        if job in reached and _is_text(job):
            below = replace(sides, pristine=_pristine(wiring, tree), patched=baseline_copy)
            _pair(wiring, below, before, [], stamps, old, _judged(job))
        if job in reached and job.tree_object and not _is_compiled(job):
            made = _compiled(
                wiring,
                f"../{baseline_copy.name}.objects/{job.object_path}",
                Side(job=job, copy=baseline_copy),
                before,
                stamps,
            )
            if is_old:
                made[0].set_always_build()
    return deltas


def _pair(
    wiring: Wiring,
    sides: Sides,
    before: list[str],
    after: list[str],
    stamps: list[object],
    inputs: capture.InputDigests,
    target_path: str = "",
) -> tuple[object, bool]:
    """Wire the capture of one object; ``before`` and ``after`` stand for the sides' content.

    The record goes beside the fix's other ones, unless ``target_path`` says where.

    Returns:
        The record's node, and whether other files that were read for it have changed.
    """
    fix, env, job = wiring.fix, wiring.env, sides.job
    builder, carries, compiled = "XspliceReached", (fix, sides), []
    if _is_compiled(job):
        builder = "XsplicePair"
        for target, copy, values in (
            (f"../{sides.pristine.name}.objects/{job.object_path}", sides.pristine, before),
            (f"objects/{job.object_path}.xsplice", sides.patched, after),
        ):
            compiled += _compiled(wiring, target, Side(job=job, copy=copy), values, stamps)
        if sides.tree_object is not None:
            env.Depends(compiled[0], env.File(str(sides.tree_object)))
    pair = wiring.node(
        builder,
        [target_path or f"objects/{job.object_path}.xsplice.pair.json"],
        compiled,
        carries=carries,
        library=CAPTURING,
        values=[*before, *after],
    )
    env.Requires(pair, stamps)
    place = Path(pair[0].get_abspath())

    def is_current() -> bool:
        return inputs.are_current(artefacts.load(place, ObjectPair).reads)

    return pair[0], renew([*compiled, *pair], is_current=is_current)


def _is_compiled(job: CompileJob) -> bool:
    """Tell whether an object is compiled whatever its text says, and is linked on its own."""
    return job.reach is Reach.DIRECT and bool(job.tree_object)


def _compiled(
    wiring: Wiring, target: str, side: Side, values: list[str], stamps: list[object]
) -> list[Any]:
    """Wire the compile of one object in a private copy."""
    made = wiring.node(
        "XspliceObject", [target], [], carries=(wiring.fix, side), library=CAPTURING, values=values
    )
    wiring.env.Requires(made, stamps)
    return made


def _content(tree: XenTree, patch_set: PatchSet) -> str:
    """Return the identity of a patched copy."""
    content = capture.patched_content(patch_set, tree.source_root)
    return f"tree {tree.root} {tree_digest(tree)} with patched content {content}"
