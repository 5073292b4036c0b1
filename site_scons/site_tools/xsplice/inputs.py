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

import SCons.Executor
import SCons.Node.FS
from SCons.Action import CommandAction, CommandGeneratorAction, ListAction
from SCons.Subst import escape_list

from xsplice_plugins.artefacts import TouchKind
from xsplice_plugins.errors import ConfigError, RefusedError
from xsplice_plugins.kbuild.commands import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import PatchSet, TouchedFile

Node = Any

_HIDDEN_FOLDER = re.compile(
    r"(?<!\S)(?:-(?:I|-?include|-?imacros|iquote|isystem|iprefix|iwithprefix|idirafter|B|-sysroot)"
    r"|-Wp,|-Xpreprocessor|-specs|@)"
)
#: Ends of files that a compiler or an assembler compiles.
_SOURCES = ".c .C .cc .cp .cpp .cxx .c++ .m .mm .S .sx .spp .s .asm .i .ii"
SOURCES = frozenset(_SOURCES.split())
#: Prose that a build may read all the same.
_DATA = (".txt", ".dts")
_MACRO_INCLUDE = re.compile(r"^\s*#\s*include(?:_next)?\s+[A-Za-z_]", re.MULTILINE)
#: Programs that compile C, preprocess or link.
COMPILER = re.compile(r"(?:.*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(?:-[\d.]+)?")


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
        if hasattr(child, "srcnode"):
            found |= {Path(child.get_abspath()), Path(child.srcnode().get_abspath())}
    return found | {path.resolve() for path in found}


def is_there(path: Path) -> bool:
    """Tell whether a word names a file or folder; it may be too long for a name."""
    return os.path.exists(path)  # noqa: PTH110  that of Path raises an error


def own_sources(node: Node) -> set[Path]:
    """Return the absolute paths of what an object is compiled from, without headers."""
    sources = [source for source in node.sources if hasattr(source, "srcnode")]
    found = {Path(one.get_abspath()) for s in sources for one in (s, s.srcnode())}
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


def places(patch_set: PatchSet, root: Path) -> dict[Path, TouchedFile]:
    """Return the files of a patch by the absolute paths that they may be read by."""
    named = {root / file.path: file for file in patch_set.touched}
    return named | {path.resolve(): file for path, file in named.items()}


def closure(roots: Iterable[Node]) -> list[Node]:
    """Return all that SCons holds some nodes to be made of, and those nodes."""
    pending, seen = list(roots), dict[Node, None]()
    while pending:
        node = pending.pop()
        if node not in seen:
            seen[node] = None
            pending += _children(node)
    return list(seen)


def refuse_others(
    roots: Iterable[Node],
    reached: Iterable[Node],
    root: Path,
    patch_set: PatchSet,
    is_asked: Callable[[Node], bool],
) -> None:
    """Refuse a patch that reaches more of the image than the objects that are compiled again.

    Args:
        roots: The image, and the objects to consider.
        reached: The objects that are compiled again.
        root: Where the patch applies.
        patch_set: The patch.
        is_asked: Tells of a node whether what it reads is asked when it is there.

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
    touched, compiled = places(patch_set, root), set(reached)
    for node in closure(roots):
        below = [child for child in _children(node) if isinstance(child, SCons.Node.FS.Dir)]
        folders = [Path(folder.get_abspath()) for folder in below]
        read = set() if node in compiled else inputs(node)
        for path, file in touched.items():
            is_below = any(map(path.is_relative_to, folders))
            if not is_below and (path not in read or is_asked(node)):
                continue
            raise RefusedError(
                f"{file.path}: {node} is made of it as well, and is not compiled for the fix; "
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


def is_compiled(node: Node) -> bool:
    """Tell whether a node is compiled or assembled from a source, whatever it is called."""
    return node.has_builder() and any(Path(str(s)).suffix in SOURCES for s in node.sources)


def actions_of(node: Node) -> list[Any]:
    """Return what SCons does to build a node, one after the other; before or after it did."""
    executor, env = _executor(node), node.get_build_env()
    pending, found = list(executor.get_action_list()), []
    while pending:
        action = pending.pop(0)
        if isinstance(action, ListAction):
            pending[:0] = action.list
        elif isinstance(action, CommandGeneratorAction):  # a lazy `$CCCOM` is one
            pending.insert(0, action._generate([node], node.sources, env, False, executor))  # noqa: SLF001, FBT003  SCons offers no public way
        else:
            found.append(action)
    return found


def _executor(node: Node) -> Any:
    """Return what builds a node; SCons lets go of it when that is done."""
    made = node.get_executor() or getattr(node.attributes, "xsplice_executor", None)
    if made is not None:
        return made
    builder, sources = node.builder, node.sources or []
    env = node.env or builder.env
    return SCons.Executor.Executor(builder.action, env, [builder.overrides], [node], sources)


def keep(nodes: Iterable[Node]) -> None:
    """Keep what builds some nodes: what the project adds before and after, and where it runs."""
    for node in nodes:
        if node.has_builder():
            node.attributes.xsplice_executor = node.get_executor()


def folder_of(node: Node) -> str:
    """Return the folder that a node's builder changes to (``chdir``), from the top; "" for none."""
    place = getattr(_executor(node), "builder_kw", {}).get("chdir")
    if not place:
        return ""
    fs = node.get_build_env().fs
    folder = node.dir if isinstance(place, int) else fs.Dir(str(place), fs.Top)
    return os.path.relpath(str(folder.get_abspath()), str(fs.Top.get_abspath()))


def line_of(node: Node, action: CommandAction) -> str:
    """Return the shell line of one step, as SCons would give it to the shell."""
    env = node.get_build_env()
    with at_top(env):
        made, _ignore, _silent = action.process([node], node.sources, env, _executor(node))
        return " && ".join(" ".join(escape_list(line, env["ESCAPE"])) for line in made)


def command(node: Node) -> str:
    """Return the shell line that builds a node, as SCons would give it to the shell.

    Raises:
        ConfigError: A Python function builds it.
    """
    lines = []
    with at_top(node.get_build_env()):
        for action in actions_of(node):
            if not isinstance(action, CommandAction):
                raise ConfigError(
                    f"{node}: it is made by a Python function, not by a command line; "
                    "leave it out of objects="
                )
            lines.append(line_of(node, action))
    return " && ".join(lines)


def telling(line: str, output: str) -> str:
    """Have a compiler tell what it reads; what is no known compiler's line stays as it is."""
    for word in words(line):
        if word.text in {output, f"-o{output}"}:
            before = re.split(r"&&|[;|]", line[: word.start])[-1]
            if any(COMPILER.fullmatch(front.text) for front in words(before)):
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
