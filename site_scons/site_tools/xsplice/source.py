# SPDX-License-Identifier: Apache-2.0
"""Hand-written C files as nodes: ``env.XspliceSource("name", ["hotfix.c"], xen="/src/xen")``."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SCons.Action import Action
from SCons.Builder import Builder
from SCons.Errors import StopError
from SCons.Tool import SourceFileScanner

from xsplice_plugins import artefacts, capture
from xsplice_plugins.artefacts import PatchFile, PatchSet, TouchedFile, TouchKind
from xsplice_plugins.errors import XspliceError

from . import settings
from .actions import translated
from .builders import XspliceNodes, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from SCons.Environment import Environment

Nodes = list[Any]

_BUILDER = "XspliceHandmade"


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
        The signed payload and the report; the aliases ``xsplice`` and ``xsplice-verify`` hold them.

    Raises:
        StopError: The tree or a file cannot be used; the message says why.
    """
    try:
        return _wire(env, name, sources, str(xen or env.get("XEN", "")))
    except XspliceError as error:
        raise StopError(str(error)) from error


def _wire(env: Environment, name: str, sources: object, xen: str) -> XspliceNodes:
    from xsplice_plugins import handmade  # noqa: PLC0415  no other fix pays for the linker's import

    if not xen:
        raise StopError("XEN is not set; give a built Xen tree: XEN=/src/xen")
    if _BUILDER not in env["BUILDERS"]:
        env.SetDefault(XSPLICEHANDMADECOMSTR="  CC      $TARGET")
        env["BUILDERS"][_BUILDER] = Builder(
            action=Action(compile_handmade, "$XSPLICEHANDMADECOMSTR"),
            source_scanner=SourceFileScanner,
        )
    tree = capture.locate_tree(Path(env.Dir(xen).get_abspath()))
    files = settings.files(env, sources, "sources")
    handmade.check_sources(files)
    patch_set = _as_patch_set(name, files)
    config = settings.config_from(env, release=tree.release, image=tree.xen_syms)
    wiring = start(env, name, patch_set, config, "the tree's flags (hand-written files)")
    image = env.File(str(tree.xen_syms))
    header = Path(handmade.__file__).parent / "include" / "xsplice.h"
    made = wiring.node(
        _BUILDER,
        ["handmade.diffs"],
        [env.File(str(path)) for path in files],
        carries=(wiring.fix, tree, tuple(files)),
        library=("handmade", "link", "capture"),
        values=[
            f"hand-written {patch_set.digest} for tree {capture.tree_digest(tree)}",
            f"xsplice.h {hashlib.sha256(header.read_bytes()).hexdigest()[:16]}",
            f"release {config.release}",
        ],
    )
    env.Depends(made, [image, *(env.File(str(path)) for path in (config.depends,) if path)])
    return wiring.rest(made, image)


def _as_patch_set(name: str, files: Sequence[Path]) -> PatchSet:
    """Return the files as the rest of the chain sees a fix: what it touches, and its digest."""
    return PatchSet(
        name=name,
        strip=0,
        patches=tuple(
            PatchFile(name=path.name, text=path.read_text("utf-8", "surrogateescape"))
            for path in files
        ),
        touched=tuple(TouchedFile(path=path.name, kind=TouchKind.C) for path in files),
    )


def compile_handmade(target: Nodes, source: Nodes, env: Environment) -> None:  # noqa: ARG001  # SCons calls it so
    """Compile hand-written files and follow their declarations."""
    from xsplice_plugins import handmade  # noqa: PLC0415  as above

    fix, tree, files = target[0].attributes.xsplice
    with translated(target):
        made = handmade.prepare(tree, files, fix.config)
        for delta, data in zip(made.deltas, made.objects, strict=True):
            place = fix.folder / "objects" / f"{delta.object_path}.xsplice.new"
            artefacts.write_file(place, data)
        for note in made.notes:
            sys.stdout.write(f"note: {note}\n")
        artefacts.save(Path(target[0].get_abspath()), made.deltas)
