# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that SCons itself builds: its object nodes are the baseline."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SCons.Node.FS
from msgspec.structs import replace

from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import CompileJob, Reach, TouchKind
from xsplice_plugins.errors import ConfigError, NoFunctionalChangeError, XspliceError
from xsplice_plugins.patch import derived_name
from xsplice_plugins.pipeline import Sides
from xsplice_plugins.settings import is_on

from . import inputs, settings
from .base import compiled_for, objects_of_image
from .builders import CAPTURING, Wiring, XspliceNodes, start, wait
from .copies import Farm, Side, promise
from .others import Others, is_preprocessed
from .rebuilding import Rebuild
from .shell import writes_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import PatchSet

Node = Any


def xsplice(
    env: Environment,
    name: str,
    patch: object,
    *,
    image: str | Node,
    objects: Iterable[str | Node] | None = None,
    source_root: str | Node | None = None,
    file_symbols: Mapping[str, tuple[str, str]] | None = None,
    baselines: Mapping[str, str | Node] | None = None,
    release: str = "",
    accept: str | Iterable[str] | None = None,
) -> XspliceNodes:
    """Wire a fix for a hypervisor that this SCons project builds: ``env.Xsplice(...)``.

    Files and folders are texts or nodes, as SCons takes them everywhere. Settings are variables of
    the environment, such as ``env["SIGNER"]``, or of a clone for one fix.

    Args:
        env: The environment.
        name: Name of the fix and of its folder below the build folder; "" for the patch's own.
        patch: The diffs or a quilt series, in order of application.
        image: The linked image with its symbols (``xen-syms``).
        objects: The objects to consider; default: all that the image is linked from and
            that SCons' Object builders make; all of these if SCons does not link the image.
        source_root: Folder that the patches apply to; default: the SConscript's folder.
        file_symbols: STT_FILE text of an object, by the object's path: (as the compiler writes
            it, as the image spells it). Objects that are not listed keep the compiler's.
        baselines: The object with its STT_FILE renamed, by the path of the object in
            ``file_symbols``.
        release: The Xen release whose payload format and rules apply, where the image does not
            tell its own; it must agree.
        accept: Words for this fix, as its report asks for them; default: the variable ``ACCEPT``
            of the environment, or of SCons' command line, for all fixes.

    Returns:
        The signed payload and the report; the aliases ``xsplice`` and ``xsplice-verify`` hold
        them. What cannot be used ends SCons with the message and the documented status.
    """
    with settings.stopping(), inputs.forgotten(env):
        made = _nodes(env, image, "image")[0]
        if objects is None:
            chosen = compiled_for(made, env["XSPLICE_OBJECTS"])
        else:
            chosen = _nodes(env, objects, "objects")
        finished = {
            path: _nodes(env, one, "baselines")[0] for path, one in (baselines or {}).items()
        }
        try:
            return _wire(
                env,
                name,
                patch,
                image=made,
                chosen=chosen,
                root=_folder(env, source_root or "."),
                names=file_symbols or {},
                finished=finished,
                release=release,
                accept=accept if accept is None or isinstance(accept, str) else list(accept),
            )
        except XspliceError as error:
            payloads = settings.made_here(env)
            if not payloads:
                raise
            files = settings.files(env, patch, "PATCH")
            return wait(env, name or derived_name(files), payloads, error)


def _nodes(env: Environment, named: object, name: str) -> list[Node]:
    """Return the files that an argument names.

    Raises:
        ConfigError: It names none, or what is no file.
    """
    found = env.arg2nodes(named, env.File, [])
    if not found or not all(isinstance(node, SCons.Node.FS.Base) for node in found):
        said = ", ".join(map(str, found)) or "nothing"
        raise ConfigError(f"{name}={said}: no file; give the path or the node of a file")
    return list(found)


def _folder(env: Environment, named: str | Node) -> Path:
    """Return the folder of sources that an argument names.

    Raises:
        ConfigError: There is none.
    """
    if isinstance(named, str):
        path = settings.absolute(env, named, "source_root")
    else:
        path = Path(named.get_abspath())
    if not path.is_dir():
        raise ConfigError(f"source_root={named}: no such folder; give the one that holds sources")
    return path


def _wire(
    env: Environment,
    name: str,
    patch: object,
    *,
    image: Node,
    chosen: list[Node],
    root: Path,
    names: Mapping[str, tuple[str, str]],
    finished: Mapping[str, Node],
    release: str,
    accept: str | list[str] | None,
) -> XspliceNodes:
    """Wire a fix; errors are the library's."""
    top = Path(env.Dir("#").get_abspath())
    if not root.is_relative_to(top):
        raise ConfigError(f"source_root: {root} lies outside of the project {top}")
    base = pipeline.Base(image=Path(image.get_abspath()), release=release)
    run = settings.open_run(env, base, accept)
    pipeline.check_payloads(run.config)
    files = settings.files(env, patch, "PATCH")
    patch_set = pipeline.read_fix(
        files,
        name=name,
        source_root=root,
        hypervisor_dir=".",
        is_line_neutral=is_on(env.get("LINE_NEUTRAL", "")),
        beneath=run.config.depends,
        superseded=run.config.supersedes,
    )
    reached = _reached(chosen, root, patch_set, image)
    reads = {
        path.relative_to(root).as_posix()
        for node in reached
        for path in inputs.inputs(node)
        if path.is_relative_to(root)
    }
    is_known = not any(map(inputs.reads_more, reached))
    stack = pipeline.read_stack(run.config, patch_set, reads if is_known else None)
    jobs = _jobs(reached, root, names)
    twins = {
        file.path: inputs.twins(env, root / file.path)
        for file in (*patch_set.touched, *(stack.lower.touched if stack.lower else ()))
    }
    route = "SCons' own commands (the objects are nodes)"
    wiring = start(env, patch_set, run, route, stack, files=files)
    folder = wiring.fix.folder
    patch_root = "" if root == top else root.relative_to(top).as_posix()
    copied = Farm(
        source_root=top,
        patch_root=patch_root,
        twins=twins,
        copy=folder / "copy",
        patch_set=patch_set,
        is_merged=False,
    )
    plain = promise(replace(copied, copy=folder / "plain", patch_set=None))
    lower = folder / "lower"
    promise(copied)
    promise(replace(copied, copy=lower, patch_set=stack.lower))
    pristine = plain if stack.lower is None else lower
    true = {
        os.path.realpath(place): path
        for path, others in twins.items()
        for place in (root / path, *(top / other for other in others))
    }
    sides = {
        job.object_path: Side(
            job=job,
            copy=copied.copy,
            variables=inputs.variables(node),
            touched=true,
            known=frozenset(
                file.path for file in patch_set.touched if root / file.path in inputs.inputs(node)
            ),
        )
        for node, job in jobs
    }
    own = {job.object_path: finished.get(node.path, node) for node, job in jobs}
    wiring.patch()
    deltas = [
        _chain(wiring, sides[job.object_path], node, own[job.object_path], pristine, plain, image)
        for node, job in jobs
    ]
    inputs.keep(inputs.closure([image, *chosen]))
    others = wiring.others(
        Others(
            roots=(image, *chosen),
            objects=frozenset(chosen),
            compiled=frozenset(reached),
            root=root,
            top=top,
            copy=copied.copy,
            twins=twins,
            patch_set=patch_set,
        )
    )
    rebuild = Rebuild(
        others=Path(others.get_abspath()),
        farm=replace(
            copied, copy=folder / "still", patch_set=replace(patch_set, is_line_neutral=True)
        ),
        pristine=pristine,
        plain=plain,
        tree_objects={path: Path(node.get_abspath()) for path, node in own.items()},
        sides=sides,
        lower_objects={path: folder / "lower.objects" / path for path in own if stack.lower},
        reads=tuple(folder / f"objects/{path}.xsplice.reads" for path in own),
        asked=frozenset(f.path for f in patch_set.touched if inputs.may_be_read(f)),
    )
    name = hashlib.sha256(str(image.get_abspath()).encode()).hexdigest()[:16]
    matched = wiring.base(image, name, partial(objects_of_image, image))
    return wiring.rest(deltas, image, matched, rebuild)


def _reached(objects: Iterable[Node], root: Path, patch_set: PatchSet, image: Node) -> list[Node]:
    """Return the objects that are made of what the patch touches.

    Raises:
        NoFunctionalChangeError: The patch touches comments only.
        RefusedError: Something else of the image is made of it as well.
        ConfigError: No object is made of it.
    """
    if all(file.kind is TouchKind.COMMENTS for file in patch_set.touched):
        raise NoFunctionalChangeError(
            f"{patch_set.name}: no functional change (the patch touches comments only); "
            "nothing to build"
        )
    touched = inputs.places(patch_set, root).keys()
    # Who reads a header is known for sure only of what the compiler says: all are compiled.
    own = {path for node in objects for path in inputs.own_sources(node)}
    is_wide = any(inputs.may_be_read(f) and root / f.path not in own for f in patch_set.touched)
    reached = [
        node
        for node in objects
        if inputs.inputs(node) & touched
        or (inputs.is_compiled(node) and (is_wide or inputs.reads_more(node)))
    ]
    inputs.refuse_others([image, *objects], reached, root, patch_set, is_preprocessed)
    if not reached:
        raise ConfigError(
            f"{patch_set.name}: no object of this project is made of what the patch touches "
            f"({', '.join(file.path for file in patch_set.touched)}); "
            "check source_root and objects"
        )
    return reached


def _jobs(
    nodes: Iterable[Node], root: Path, renames: Mapping[str, tuple[str, str]]
) -> list[tuple[Node, CompileJob]]:
    """Return how object nodes are compiled, as the capture stage takes it."""
    jobs: dict[str, tuple[Node, CompileJob]] = {}
    for node in nodes:
        source = Path(os.path.relpath(node.sources[0].srcnode().get_abspath(), root))
        path = source.with_suffix(".o").as_posix()
        if path in jobs or path.startswith(".."):
            path = Path(node.path).as_posix().lstrip("/")
        line = inputs.command(node)
        if step := writes_elsewhere(line, node.path):
            raise ConfigError(
                f"{node}: what follows its compiler may write another file (`{step[:60]}`), and is "
                "done in private copies as well; make that file by a command of its own"
            )
        job = CompileJob(
            object_path=path,
            source_path=source.as_posix(),
            cwd="",
            command=inputs.telling(line, node.path),
            output=node.path,
            file_symbol=renames.get(node.path),
            reach=Reach.DIRECT,
        )
        jobs[path] = node, job
    return list(jobs.values())


def _chain(
    wiring: Wiring,
    side: Side,
    node: Node,
    own: Node,
    pristine: Path,
    plain: Path,
    image: Node,
) -> Node:
    """Wire one object: compile both sides in copies, hold them against the project's own, diff.

    Both are compiled whenever one is: what SCons does not see of an object's inputs shows in the
    side before the patch. Where payloads lie beneath, that side has their patches.
    """
    env, fix, job = wiring.env, wiring.fix, side.job
    digest = f"patch set {fix.patch_set.digest}"
    new, before, _ = made = wiring.node(
        "XspliceObject",
        [
            f"objects/{job.object_path}.xsplice",
            f"{pristine.name}.objects/{job.object_path}",
            f"objects/{job.object_path}.xsplice.reads",
        ],
        node.sources,
        carries=(fix, side, replace(side, copy=pristine)),
        library=CAPTURING,
        values=[digest, *inputs.texts(node, job.command)],
        like=node,
    )
    env.Clean(made, [str(place) for place in (side.copy, pristine, plain)])
    env.Depends(made, own)
    if fix.patch_set.may_read_anew:
        env.AlwaysBuild(made)  # nobody knows yet what the new line reads
    env.Requires(made, image)  # by then all is there that the project generates
    sides = Sides(
        job=job,
        pristine=pristine,
        patched=side.copy,
        tree_object=Path(own.get_abspath()),
        variables=side.variables,
        plain=None if fix.stack.lower is None else plain,
    )
    pair = wiring.node(
        "XsplicePair",
        [f"objects/{job.object_path}.xsplice.pair.json"],
        [before, new],
        carries=(fix, sides),
        library=CAPTURING,
        values=[digest],
    )
    env.Depends(pair, own)
    return wiring.diff(f"objects/{job.object_path}.xsplice.diff", pair[0], sides, [digest])
