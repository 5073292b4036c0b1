# SPDX-License-Identifier: Apache-2.0
"""A built Xen tree as SCons nodes: one chain per object that the patch reaches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from SCons.Errors import StopError

from xsplice_plugins import artefacts, capture, patch
from xsplice_plugins.artefacts import Reach, Route
from xsplice_plugins.errors import NoFunctionalChangeError, XspliceError

from . import settings
from .actions import Both, Farm, Side
from .builders import Wiring, XspliceNodes, start

if TYPE_CHECKING:
    from SCons.Environment import Environment


def xen_fix(env: Environment) -> XspliceNodes:
    """Wire a fix for a built Xen tree: ``env.XspliceXen()``.

    ``XEN`` and ``PATCH`` say which tree and which patch; the other variables of ``add_variables``
    apply.

    Returns:
        The signed payload and the report; the aliases ``xsplice`` and ``xsplice-verify`` hold them.

    Raises:
        StopError: The tree or the patch cannot be used; the message says why.
        NoFunctionalChangeError: The patch touches nothing that is compiled.
    """
    try:
        return _wire(env)
    except NoFunctionalChangeError:
        raise
    except XspliceError as error:
        raise StopError(str(error)) from error


def _wire(env: Environment) -> XspliceNodes:
    tree = capture.locate_tree(Path(env.Dir(env["XEN"]).get_abspath()))
    if not env["PATCH"]:
        raise StopError("PATCH is not set; give the fix: PATCH=fix.patch")
    files = settings.files(env, env["PATCH"], "PATCH")
    patch_set = patch.read_patch_set(
        files,
        name=env["NAME"] or None,
        source_root=tree.source_root,
        is_line_neutral=settings.is_on(env, "LINE_NEUTRAL"),
    )
    store = Path(env.Dir(env.get("XSPLICE_BUILD", "#build")).get_abspath()) / "preprocessed"
    plan = capture.plan(tree, patch_set, store=store)
    capture.forget_texts(store)
    if plan.refused:
        raise StopError(
            "\n".join(f"{r.name}: {r.reason} [{r.code}]; {r.hint}" for r in plan.refused)
        )
    config = settings.config_from(env, release=tree.release, image=tree.xen_syms)
    route = f"{plan.route} ({plan.reason})"
    wiring = start(env, patch_set.name, patch_set, config, route)
    wiring.patch()
    if plan.route is Route.MAKE:
        made = wiring.node(
            "XspliceMade",
            ["made.json"],
            [],
            carries=(wiring.fix, tree, plan),
            library=("capture", "patch"),
            values=[f"patch set {patch_set.digest}", f"tree {capture.tree_digest(tree)}"],
        )[0]
        deltas = [wiring.diff("made.diffs", made, is_made=True)]
    else:
        deltas = _recorded(wiring, tree, plan)
    return wiring.rest(deltas, env.File(str(tree.xen_syms)))


def _recorded(wiring: Wiring, tree: capture.XenTree, plan: artefacts.CapturePlan) -> list[object]:
    """Wire one chain per object that the patch reaches, from the tree's recorded commands."""
    fix, env = wiring.fix, wiring.env
    pristine = fix.folder.parent / f"pristine-{capture.tree_digest(tree)}"
    patched = fix.folder / "copy"
    stamps = [
        wiring.copy(
            Farm(source_root=tree.root, tree=tree, copy=pristine, patch_set=None),
            f"../{pristine.name}.stamp",
            f"tree {tree.root}",
        ),
        wiring.copy(
            Farm(source_root=tree.root, tree=tree, copy=patched, patch_set=fix.patch_set),
            "copy.stamp",
            f"tree {tree.root} with patch set {fix.patch_set.digest}",
        ),
    ]
    inputs = capture.InputDigests(tree, fix.patch_set)
    deltas = []
    for job in plan.jobs:
        tree_object = tree.root / job.tree_object if job.tree_object else None
        both = Both(
            job=job,
            pristine=pristine,
            patched=patched,
            tree_object=tree_object,
            store=fix.folder.parent / "preprocessed",
        )
        before, after = inputs.texts(job, is_patched=False), inputs.texts(job, is_patched=True)
        pair_target = f"objects/{job.object_path}.xsplice.pair.json"
        if job.reach is Reach.DIRECT:
            baseline = wiring.node(
                "XspliceObject",
                [f"../{pristine.name}.objects/{job.object_path}"],
                [],
                carries=(fix, Side(job=job, copy=pristine)),
                library=("capture",),
                values=before,
            )
            new = wiring.node(
                "XspliceObject",
                [f"objects/{job.object_path}.xsplice"],
                [],
                carries=(fix, Side(job=job, copy=patched)),
                library=("capture",),
                values=after,
            )
            env.Requires([*baseline, *new], stamps)
            if tree_object is not None:
                env.Depends(baseline, env.File(str(tree_object)))
            pair = wiring.node(
                "XsplicePair",
                [pair_target],
                [*baseline, *new],
                carries=(fix, both),
                library=("capture",),
                values=after,
            )
        else:
            pair = wiring.node(
                "XspliceReached",
                [pair_target],
                [],
                carries=(fix, both),
                library=("capture",),
                values=[*before, *after],
            )
            env.Requires(pair, stamps)
        deltas.append(wiring.diff(f"objects/{job.object_path}.xsplice.diff", pair[0]))
    return deltas
