# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a project are made of: files, command, compiler, environment."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SCons.Node.FS
from SCons.Action import CommandAction, CommandGeneratorAction
from SCons.Subst import escape_list

from xsplice_plugins.artefacts import TouchKind
from xsplice_plugins.errors import ConfigError, RefusedError
from xsplice_plugins.kbuild.commands import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import PatchSet, TouchedFile

Node = Any

_HIDDEN_FOLDER = re.compile(
    r"(?<!\S)(?:-(?:I|-?include|-?imacros|iquote|isystem|iprefix|iwithprefix|idirafter|B|-sysroot)"
    r"|-Wp,|-Xpreprocessor|-specs|@)"
)
#: Prose that a build may read all the same.
_DATA = (".txt", ".dts")
_MACRO_INCLUDE = re.compile(r"^\s*#\s*include(?:_next)?\s+[A-Za-z_]", re.MULTILINE)
_COMPILER = re.compile(r"(?:.*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(?:-[\d.]+)?")


@contextmanager
def at_top(env: Environment) -> Iterator[None]:
    """Name nodes as SCons does when it builds: from the top, not from the SConscript's folder."""
    here = env.fs.getcwd()
    env.fs.chdir(env.fs.Top)
    try:
        yield
    finally:
        env.fs.chdir(here)


def inputs(node: Node) -> set[Path]:
    """Return the absolute paths of all that SCons holds a node to be made of, as far as it knows.

    A file that SCons duplicates for a variant is named by both places.
    """
    found = set()
    for child in _children(node):
        if hasattr(child, "get_abspath"):
            found |= {Path(child.get_abspath()), Path(child.srcnode().get_abspath())}
    return found | {path.resolve() for path in found}


def _children(node: Node) -> list[Node]:
    """Return a node's sources, headers, dependencies and programs.

    What the scan finds is not kept: headers may still be generated before SCons builds the node.
    """
    if not node.has_builder() or node.implicit is not None:
        return list(node.all_children(scan=False))
    try:
        return list(node.all_children())
    finally:
        for target in node.get_executor().get_all_targets():
            target.implicit = None
            target.implicit_set = set()
            target._children_reset()  # noqa: SLF001  as its own scan does


def refuse_others(
    roots: Iterable[Node], reached: Iterable[Node], root: Path, patch_set: PatchSet
) -> None:
    """Refuse a patch that reaches more of the image than the objects that are compiled again.

    Args:
        roots: The image, and the objects to consider.
        reached: The objects that are compiled again.
        root: Where the patch applies.
        patch_set: The patch.

    Raises:
        RefusedError: Something else is made of a touched file, or the patch changes how things
            are built.
    """
    for file in patch_set.touched:
        if file.kind is TouchKind.BUILD:
            raise RefusedError(
                f"{file.path}: it says how the project is built, and the fix is compiled as the "
                "running image was; leave that part of the patch out"
            )
    touched = {root / file.path: file.path for file in patch_set.touched}
    touched |= {path.resolve(): name for path, name in touched.items()}
    headers = [file.path for file in patch_set.touched if is_header(file)]
    pending, seen, compiled = list(roots), set(), set(reached)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending += (children := _children(node))
        folders = [Path(x.get_abspath()) for x in children if isinstance(x, SCons.Node.FS.Dir)]
        read = set() if node in compiled else inputs(node)
        if headers and node not in compiled and (is_of_c(node) or _generates(node)):
            advice = "name the object in objects=" if is_of_c(node) else "leave it out of the patch"
            raise RefusedError(
                f"{node}: whether it reads {headers[0]} shows only if it is compiled for the fix; "
                + advice
            )
        for path, name in touched.items():
            if path not in read and not any(map(path.is_relative_to, folders)):
                continue
            raise RefusedError(
                f"{name}: {node} is made of it as well, and is not compiled for the fix; "
                "no payload carries that change; leave that part of the patch out, or name the "
                "object in objects="
            )


def reads_more(node: Node) -> bool:
    """Tell whether an object may read headers that SCons' scanner does not see.

    It sees CPPPATH only: not folders or files that the flags or the environment name, and no
    ``#include`` of a macro. Such an object is compiled, whatever the patch touches.
    """
    env = node.get_build_env()
    if any(env["ENV"].get(name) for name in ("CPATH", "C_INCLUDE_PATH")):
        return True
    with at_top(env):
        seen = str(env.subst("$_CPPINCFLAGS", target=[node], source=node.sources))
    if _HIDDEN_FOLDER.search(command(node).replace(seen, "")):
        return True
    return any(
        path.suffix and path.is_file() and _MACRO_INCLUDE.search(path.read_text("latin-1"))
        for path in inputs(node)
    )


def may_be_read(file: TouchedFile) -> bool:
    """Tell whether a build may read a file of a patch: comments and prose are out."""
    if file.kind is TouchKind.OUTSIDE:
        return file.path.endswith(_DATA)
    return file.kind is not TouchKind.COMMENTS


def is_header(file: TouchedFile) -> bool:
    """Tell whether C sources may include a file of a patch, whatever it is called."""
    return may_be_read(file) and not file.path.endswith((".c", ".S"))


def is_of_c(node: Node) -> bool:
    """Tell whether a node is an object that is compiled from C."""
    return str(node).endswith(".o") and any(str(source).endswith(".c") for source in node.sources)


def _generates(node: Node) -> bool:
    """Tell whether a node may be made from C with headers that SCons does not look for."""
    if not any(str(source).endswith(".c") for source in node.sources):
        return False
    try:
        return reads_more(node)
    except ConfigError:  # a Python function makes it: nobody knows
        return True


def command(node: Node) -> str:
    """Return the shell line that builds a node, as SCons would give it to the shell.

    Raises:
        ConfigError: A Python function builds it.
    """
    env, executor = node.get_build_env(), node.get_executor()
    lines = []
    with at_top(env):
        for listed in executor.get_action_list():
            action = listed
            if isinstance(action, CommandGeneratorAction):  # a lazy `$CCCOM` is one
                action = action._generate([node], node.sources, env, False, executor)  # noqa: SLF001, FBT003  SCons offers no public way
            if not isinstance(action, CommandAction):
                raise ConfigError(
                    f"{node}: it is made by a Python function, not by a command line; "
                    "leave it out of objects="
                )
            made, _ignore, _silent = action.process([node], node.sources, env, executor)
            lines += [" ".join(escape_list(line, env["ESCAPE"])) for line in made]
    return " && ".join(lines)


def telling(line: str, output: str) -> str:
    """Have a compiler tell what it reads; what is no known compiler's line stays as it is."""
    for word in words(line):
        if word.text in {output, f"-o{output}"}:
            before = re.split(r"&&|[;|]", line[: word.start])[-1]
            if any(_COMPILER.fullmatch(front.text) for front in words(before)):
                return f"{line[: word.end]} -MD -MF depends{line[word.end :]}"
    return line


def variables(node: Node) -> tuple[tuple[str, str], ...]:
    """Return the environment that an object's command runs in."""
    env = node.get_build_env()["ENV"]
    return tuple(
        sorted(
            (key, os.pathsep.join(map(str, value)) if isinstance(value, list) else str(value))
            for key, value in env.items()
        )
    )


def texts(node: Node, line: str) -> list[str]:
    """Return what a compile depends on beside files, in words that explain a rebuild."""
    env = dict(variables(node))
    programs = []
    for word in words(line.split(" -", 1)[0]):
        place = shutil.which(word.text, path=env.get("PATH"))
        if place is not None:
            stat = Path(place).stat()
            programs.append(f"{os.path.realpath(place)} {stat.st_size} {stat.st_mtime_ns}")
    digest = hashlib.sha256(repr(sorted(env.items())).encode("utf-8", "surrogateescape"))
    return [
        f"command {line}",
        f"compiler {'; '.join(programs)}",
        f"environment {digest.hexdigest()[:16]}",
    ]


def twins(env: Environment, path: Path) -> tuple[str, ...]:
    """Return where SCons' variants hold a source file of their own, relative to the top.

    Raises:
        ConfigError: A variant lies outside of the project.
    """
    top = Path(env.Dir("#").get_abspath())
    found, pending = {}, [env.File(str(path))]
    while pending:
        node = pending.pop()
        folder, below = node.dir, node.name
        while folder is not None:
            for variant in folder.variant_dirs:
                place = Path(variant.get_abspath()) / below
                if str(place) in found or not (variant.duplicate or place.exists()):
                    continue
                twin = env.File(str(place))
                if twin.is_derived():
                    continue
                if not place.is_relative_to(top):
                    raise ConfigError(
                        f"{variant}: this variant folder lies outside of {top}; put it inside"
                    )
                found[str(place)] = place.relative_to(top).as_posix()
                pending.append(twin)
            above = folder.up()
            folder, below = (None, "") if above is folder else (above, f"{folder.name}/{below}")
    return tuple(sorted(found.values()))
