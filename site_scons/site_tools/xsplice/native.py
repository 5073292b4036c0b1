# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that SCons itself builds: its object nodes are the baseline."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SCons.Tool
from SCons.Action import CommandAction, CommandGeneratorAction
from SCons.Subst import escape_list

from xsplice_plugins import capture, pipeline
from xsplice_plugins.artefacts import CompileJob, Reach, TouchKind
from xsplice_plugins.errors import ConfigError, NoFunctionalChangeError
from xsplice_plugins.pipeline import Sides
from xsplice_plugins.settings import is_on

from . import settings
from .actions import Farm, Side
from .base import objects_of_image
from .builders import CAPTURING, Wiring, XspliceNodes, start
from .rebuilding import Rebuild

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import PatchSet

Node = Any

_HIDDEN_FOLDER = re.compile(r"(?<!\S)-(?:I|include|imacros|iquote|isystem|idirafter)")
_MACRO_INCLUDE = re.compile(r"^\s*#\s*include(?:_next)?\s+[A-Za-z_]", re.MULTILINE)


def xsplice(
    env: Environment,
    name: str,
    patch: object,
    *,
    image: Node,
    objects: Iterable[Node] | None = None,
    source_root: Node | None = None,
    file_symbols: Mapping[str, tuple[str, str]] | None = None,
    baselines: Mapping[str, Node] | None = None,
    release: str = "",
) -> XspliceNodes:
    """Wire a fix for a hypervisor that this SCons project builds: ``env.Xsplice(...)``.

    Args:
        env: The environment.
        name: Name of the fix and of its folder below the build folder; "" for the patch's own.
        patch: The diffs or a quilt series, in order of application.
        image: The linked image with its symbols (``xen-syms``).
        objects: The object nodes to consider; default: all that this environment built.
        source_root: Folder that the patches apply to; default: the SConscript's folder.
        file_symbols: STT_FILE text of an object, by the object's path: (as the compiler writes
            it, as the image spells it). Objects that are not listed keep the compiler's.
        baselines: The object with its STT_FILE renamed, by the path of the object in
            ``file_symbols``.
        release: The Xen release whose payload format and rules apply, where the image does not
            tell its own; it must agree.

    Returns:
        The signed payload and the report; the aliases ``xsplice`` and ``xsplice-verify`` hold
        them. What cannot be used ends SCons with the message and the documented status.
    """
    [image] = env.Flatten([image])
    root = source_root or env.Dir(".").srcnode()
    root_path = Path(root.get_abspath())
    with settings.stopping():
        base = pipeline.Base(image=Path(image.get_abspath()), release=release)
        run = settings.open_run(env, base)
        pipeline.check_payloads(run.config)
        files = settings.files(env, patch, "PATCH")
        patch_set = pipeline.read_fix(
            files,
            name=name,
            source_root=root_path,
            hypervisor_dir=".",
            is_line_neutral=is_on(env.get("LINE_NEUTRAL", "")),
            beneath=run.config.depends,
        )
        chosen = env["XSPLICE_OBJECTS"] if objects is None else env.Flatten(objects)
        reached = _reached(chosen, root_path, patch_set)
        reads = {
            path.relative_to(root_path).as_posix()
            for node in reached
            for path in _inputs(node)
            if path.is_relative_to(root_path)
        }
        is_known = not any(map(_reads_more, reached))
        stack = pipeline.read_stack(run.config, patch_set, reads if is_known else None)
        names, finished = file_symbols or {}, baselines or {}
        jobs = [(node, _job(node, root_path, names.get(node.path))) for node in reached]
    route = "SCons' own commands (the objects are nodes)"
    with settings.stopping():
        wiring = start(env, patch_set, run, route, stack, files=files)
    stamps = [_copy(wiring, root_path, "copy", patch_set)]
    if stack.lower is not None:
        stamps.append(_copy(wiring, root_path, "lower", stack.lower))
    wiring.patch()
    deltas = [
        _chain(wiring, job, node, finished.get(node.path, node), stamps) for node, job in jobs
    ]
    still = replace(patch_set, is_line_neutral=True)
    farm = _farm(wiring, root_path, "still", still)
    sides = {
        job.object_path: Side(job=job, copy=wiring.fix.folder / "copy", variables=_variables(node))
        for node, job in jobs
    }
    rebuild = Rebuild(
        farm=farm,
        pristine=farm.source_root if stack.lower is None else wiring.fix.folder / "lower",
        plain=farm.source_root,
        tree_objects={
            job.object_path: Path(finished.get(node.path, node).get_abspath()) for node, job in jobs
        },
        sides=sides,
        lower_objects={
            job.object_path: wiring.fix.folder / "lower.objects" / job.object_path
            for _, job in jobs
            if stack.lower is not None
        },
    )
    name = hashlib.sha256(str(image.get_abspath()).encode()).hexdigest()[:16]
    matched = wiring.base(image, name, partial(objects_of_image, image))
    return wiring.rest(deltas, image, matched, rebuild)


def _reached(objects: Iterable[Node], root: Path, patch_set: PatchSet) -> list[Node]:
    """Return the objects that are made of what the patch touches.

    Raises:
        NoFunctionalChangeError: The patch touches comments only.
        ConfigError: No object is made of it.
    """
    if all(file.kind is TouchKind.COMMENTS for file in patch_set.touched):
        raise NoFunctionalChangeError(
            f"{patch_set.name}: no functional change (the patch touches comments only); "
            "nothing to build"
        )
    touched = {root / file.path for file in patch_set.touched}
    reached = [node for node in objects if _inputs(node) & touched or _reads_more(node)]
    if not reached:
        raise ConfigError(
            f"{patch_set.name}: no object of this project is made of what the patch touches "
            f"({', '.join(file.path for file in patch_set.touched)}); "
            "check source_root and objects"
        )
    return reached


def _copy(wiring: Wiring, root: Path, name: str, patch_set: PatchSet) -> Node:
    """Wire a patched copy of the source folder, seen from where SCons runs its commands."""
    farm = _farm(wiring, root, name, patch_set)
    content = capture.patched_content(patch_set, root)
    return wiring.copy(farm, f"{name}.stamp", f"{farm.only} with patched content {content}")


def _farm(wiring: Wiring, root: Path, name: str, patch_set: PatchSet) -> Farm:
    """Say what a private copy of the project holds."""
    top = Path(wiring.env.Dir("#").get_abspath())
    only = root.relative_to(top).as_posix()
    copy = wiring.fix.folder / name
    only = "" if only == "." else only
    is_merged = wiring.fix.stack.lower is None
    return Farm(source_root=top, only=only, copy=copy, patch_set=patch_set, is_merged=is_merged)


def _variables(node: Node) -> tuple[tuple[str, str], ...]:
    """Return the environment that an object's command runs in."""
    return tuple(sorted((key, str(value)) for key, value in node.get_build_env()["ENV"].items()))


def _inputs(node: Node) -> set[Path]:
    """Return the absolute paths of an object's source and of every header it reaches."""
    env = node.get_build_env()
    found = {Path(source.srcnode().get_abspath()) for source in node.sources}
    for source in node.sources:
        for header in source.get_implicit_deps(
            env,
            SCons.Tool.SourceFileScanner,
            lambda scanner, node=node: scanner.path(env, node.cwd),
        ):
            found.add(Path(header.srcnode().get_abspath()))
    return found


def _reads_more(node: Node) -> bool:
    """Tell whether an object may read headers that SCons' scanner does not see.

    It sees CPPPATH only: not folders or files that the flags or the environment name, and no
    ``#include`` of a macro. Such an object is compiled, whatever the patch touches.
    """
    env = node.get_build_env()
    if any(env["ENV"].get(name) for name in ("CPATH", "C_INCLUDE_PATH")):
        return True
    if _HIDDEN_FOLDER.search(_command(node).replace(_seen_folders(env), "")):
        return True
    return any(
        path.is_file() and _MACRO_INCLUDE.search(path.read_text("latin-1"))
        for path in _inputs(node)
    )


def _seen_folders(env: Environment) -> str:
    """Return the words of a command line that CPPPATH stands for."""
    return str(env.subst("$_CPPINCFLAGS"))


def _command(node: Node) -> str:
    """Return the shell line that builds a node, as SCons would give it to the shell."""
    env, executor = node.get_build_env(), node.get_executor()
    lines = []
    for listed in executor.get_action_list():
        action = listed
        if isinstance(action, CommandGeneratorAction):  # a lazy `$CCCOM` is one
            action = action._generate([node], node.sources, env, False, executor)  # noqa: SLF001, FBT003  SCons offers no public way
        if not isinstance(action, CommandAction):
            raise ConfigError(
                f"{node}: it is made by a Python function, not by a command line; "
                "leave it out of objects="
            )
        commands, _ignore, _silent = action.process([node], node.sources, env, executor)
        lines += [" ".join(escape_list(words, env["ESCAPE"])) for words in commands]
    return " && ".join(lines)


def _job(node: Node, root: Path, rename: tuple[str, str] | None) -> CompileJob:
    """Return how an object node is compiled, as the capture stage takes it."""
    source = Path(node.sources[0].srcnode().get_abspath()).relative_to(root)
    return CompileJob(
        object_path=source.with_suffix(".o").as_posix(),
        source_path=source.as_posix(),
        cwd="",
        command=_command(node),
        output=node.path,
        file_symbol=rename,
        reach=Reach.DIRECT,
    )


def _chain(wiring: Wiring, job: CompileJob, node: Node, baseline: Node, stamps: list[Node]) -> Node:
    """Wire one object: compile in the copy, pair with the project's own object, diff.

    Where payloads lie beneath, their patches are compiled in a copy too, for the baseline.
    """
    env, fix, lower = wiring.env, wiring.fix, wiring.fix.stack.lower
    variables = _variables(node)

    def compiled(target: str, copy: Path, patch_set: PatchSet) -> list[Node]:
        made = wiring.node(
            "XspliceObject",
            [target],
            node.sources,
            carries=(fix, Side(job=job, copy=copy, variables=variables)),
            library=CAPTURING,
            values=[f"command {job.command}", f"patch set {patch_set.digest}"],
        )
        env.Requires(made, stamps)
        return made

    new = compiled(f"objects/{job.object_path}.xsplice", fix.folder / "copy", fix.patch_set)
    own = baseline
    if lower is not None:
        [baseline] = compiled(f"lower.objects/{job.object_path}", fix.folder / "lower", lower)
    sides = Sides(
        job=job,
        pristine=Path(env.Dir("#").get_abspath()) if lower is None else fix.folder / "lower",
        patched=fix.folder / "copy",
        tree_object=None,
        variables=variables,
    )
    pair = wiring.node(
        "XsplicePair",
        [f"objects/{job.object_path}.xsplice.pair.json"],
        [baseline, *new],
        carries=(fix, sides),
        library=CAPTURING,
        values=[f"patch set {fix.patch_set.digest}"],
    )
    env.Depends(pair, own)  # the check reads it, too
    node.attributes.xsplice_object = new[0]
    inputs = [f"patch set {fix.patch_set.digest}"]
    return wiring.diff(f"objects/{job.object_path}.xsplice.diff", pair[0], sides, inputs)
