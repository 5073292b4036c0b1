# SPDX-License-Identifier: Apache-2.0
"""Hand-written C files as nodes: ``env.XspliceSource("name", ["hotfix.c"], xen="/src/xen")``."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, capture, pipeline
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.kbuild.tree import tree_digest

from . import settings
from .builders import CAPTURING, XspliceNodes, start
from .healing import renew
from .rebuilding import Rebuild
from .xen_tree import base_node, tree_base

if TYPE_CHECKING:
    from SCons.Environment import Environment


def xsplice_source(
    env: Environment, name: str, sources: object, *, xen: object = None
) -> XspliceNodes:
    """Wire a payload of hand-written C files that include ``<xsplice.h>``.

    Args:
        env: The environment; ``SIGNER``, ``KEY``, ``CERT``, ``DEPENDS`` and so on apply.
        name: Name of the payload and of its folder below the build folder.
        sources: The C files.
        xen: A built Xen tree; default: ``XEN``.

    Returns:
        The signed payload and the report; the aliases ``xsplice`` and ``xsplice-verify`` hold
        them. What cannot be used ends SCons with the message and the documented status.
    """
    with settings.stopping():
        return _wire(env, name, sources, str(xen or env.get("XEN", "")))


def _wire(env: Environment, name: str, sources: object, xen: str) -> XspliceNodes:
    from xsplice_plugins import handmade  # noqa: PLC0415  no other fix pays for the linker's import

    if not xen:
        raise ConfigError("XEN is not set; give a built Xen tree: XEN=/src/xen")
    base = tree_base(env, xen)
    tree = base.tree
    assert tree is not None, "the base of a tree has one"
    files = settings.files(env, sources, "sources")
    handmade.check_sources(files)
    patch_set = pipeline.handmade_set(name, files)
    run = settings.open_run(env, base)
    stack = pipeline.Stack(patches=patch_set.digests)
    route = "the tree's flags (hand-written files)"
    wiring = start(env, patch_set, run, route, stack, tree, files=files)
    pipeline.check_payloads(run.config)
    image = env.File(str(tree.xen_syms))
    inputs = capture.InputDigests(tree, None)
    jobs = handmade.source_jobs(tree, files, release=run.config.release)
    header = Path(handmade.__file__).parent / "include" / "xsplice.h"
    made = wiring.node(
        "XspliceHandmade",
        ["handmade.diffs", "handmade.reads.json"],
        [env.File(str(path)) for path in files],
        carries=(wiring.fix_in("handmade"), tree, tuple(files)),
        library=("handmade", "link", *CAPTURING),
        values=[
            f"hand-written {patch_set.digest} for tree {tree_digest(tree)}",
            f"xsplice.h {hashlib.sha256(header.read_bytes()).hexdigest()[:16]}",
            *(text for job in jobs for text in inputs.texts(job, is_patched=False)),
        ],
        step="handmade",
    )
    renew(made, is_current=partial(_are_current, inputs, Path(made[-1].get_abspath())))
    env.Depends(made, image)
    doubts = pipeline.check_inputs(tree)
    rebuild = Rebuild(is_possible=False, doubts=doubts)
    return wiring.rest(made[:1], image, base_node(wiring, tree), rebuild)


def _are_current(inputs: capture.InputDigests, reads: Path) -> bool:
    """Tell whether all files that were read are as they were."""
    return inputs.are_current(artefacts.load(reads, dict[str, str]).items())
