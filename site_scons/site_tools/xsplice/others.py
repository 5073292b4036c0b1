# SPDX-License-Identifier: Apache-2.0
"""What an image is made of beside the objects of a fix, and whether it reads what the fix patches.

It is asked when the image is there: of what is generated, SCons knows only then what it includes.
A compiler or preprocessor is asked what it reads. Of scripts and Python functions the text tells.
"""

from __future__ import annotations

import os
import re
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace
from SCons.Action import ActionCaller, CommandAction, FunctionAction

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Duty, Severity, TouchKind
from xsplice_plugins.errors import ConfigError, RefusedError

from . import inputs, reading
from .actions import staged
from .asking import Step, comes_out_equal, read_by_compiler, step_of
from .base import OBJECTS
from .copies import require
from .modules import modules, named, there
from .scripted import read_by_scripts
from .shell import Command, commands
from .texts import in_function, is_shell, lists_elsewhere, mentions, runs_compiler
from .walking import PLAIN, folders_of, is_pattern_of, may_read_made, patterned, walked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import Finding, PatchSet

Node = Any

#: Programs that read objects and linker scripts alone; words that give them other data.
_BINARY = "ar ld ld.bfd ld.gold ld.lld nm objcopy objdump ranlib readelf strip"
_DATA = frozenset({"binary", "--add-section", "--update-section"})
#: What a compiler may be fed by; the words that make it more than what the line says.
_SAYING = frozenset({":", "cd", "echo", "printf", "true"})
_FED = re.compile(r"include|[$`<]")
#: What has a program tell of itself alone.
_VERSIONS = frozenset({"--version", "-version", "-V", "--help", "-dumpversion", "-dumpmachine"})
#: Names that a line gives values to.
_ASSIGNED = re.compile(r"(?:^|[\s;&|(])(?:for\s+|read\s+)?([A-Za-z_]\w*)(?:=|\s+in\s|\s*;)")
#: Programs that run what no line names.
_RUNNERS = "bazel cargo cmake gmake make meson ninja scons eval source ."
#: Options that give a program words or a script by a file.
_FROM_FILE = re.compile(r"-f|--file")
#: Variables that say where modules lie.
_MODULE_PATHS = frozenset({"PYTHONPATH", "PERL5LIB", "PERLLIB", "RUBYLIB", "LUA_PATH"})
_LONGEST = 200  #: characters of a word that may name a file
_ELF = b"\x7fELF"


class Others(Struct, frozen=True, kw_only=True):
    """What is asked of all that the image is made of."""

    roots: tuple[Node, ...]  #: the image, and the objects of the fix
    objects: frozenset[Node]  #: those to consider
    compiled: frozenset[Node]  #: those that are compiled for the fix
    root: Path  #: where the patch applies
    top: Path  #: where commands run
    copy: Path  #: where the copy of that folder lies that has the patched files
    twins: Mapping[str, tuple[str, ...]]  #: by touched path: its duplicates, relative to the top
    patch_set: PatchSet


def ask_others(target: list[Node], source: list[Node], env: Environment) -> None:
    """Look through what else the image is made of; keep what nobody knows.

    What reads a file of the patch for sure is refused.
    """
    fix, others = target[0].attributes.xsplice
    with staged(target):
        artefacts.save(Path(target[0].get_abspath()), tuple(_asked(fix.name, others)))


def _asked(name: str, others: Others) -> Iterator[Finding]:
    made = [node for node in inputs.closure(others.roots) if node not in others.compiled]
    touched = inputs.places(others.patch_set, others.root)
    for node in made:
        if node in others.objects and inputs.inputs(node) & touched.keys():
            raise ConfigError(
                f"{name}: {node} is made of what the patch touches, as the files show that this "
                "run generated; run again"
            )
    inputs.refuse_others(
        others.roots, others.compiled, others.root, others.patch_set, is_preprocessed
    )
    touched |= {
        others.top / twin: file
        for file in others.patch_set.touched
        for twin in others.twins.get(file.path, ())
    }
    files = {path: file for path, file in touched.items() if file.kind is not TouchKind.COMMENTS}
    for node in sorted((node for node in made if node.has_builder()), key=str) if files else ():
        for text in _reasons(node, files, others):
            said = f"{node} is not compiled for the fix, and {text}; have it read what it declares "
            yield from _unknown(str(node), said + "alone, or leave that part out of the patch")
    if files:
        in_line = partial(_in_line, files=files, others=others)

        def in_text(text: str) -> str:
            may_list = lists_elsewhere(text, files, [others.top])
            return mentions(text, {path.name for path in files}, "its text", may_list=may_list)

        for place, text in read_by_scripts(files, others.top, in_line, in_text):
            said = f"{place}: {text}; nobody knows what becomes of that in the image; "
            yield from _unknown(place, said + "leave that part out of the patch")


def _unknown(subject: str, text: str) -> Iterator[Finding]:
    yield from artefacts.findings_about(
        Duty.COMPLETE, "rebuild", Severity.UNCHECKED, subject, [text]
    )


def _reasons(node: Node, files: dict[Path, Any], others: Others) -> Iterator[str]:
    """Say why a node may be made of a file of the patch.

    Raises:
        RefusedError: A compiler says that it is.
    """
    with reading.noting():  # functions of the project may stand in what is substituted
        actions = [
            (action, inputs.line_of(node, action) if isinstance(action, CommandAction) else "")
            for action in inputs.actions_of(node)
        ]
    for action, line in actions:
        if isinstance(action, FunctionAction):
            reason = _in_call(node, action.execfunction, files, others)
        elif isinstance(action, CommandAction):
            reason = _in_line(step_of(node, line), files, others)
        else:
            reason = f"nobody knows what `{action}` reads"
        if reason:
            yield reason
            return


def _in_line(step: Step, files: dict[Path, Any], others: Others) -> str:
    """Say why a line may read a file of the patch.

    Raises:
        RefusedError: A compiler says that it does, and that makes a part of the image.
    """
    names = {path.name for path in files}
    before: list[Command] = []
    for command in commands(step.line):
        program, folders = command.program, folders_of(before, step.line, others.top)
        before.append(command)
        if _VERSIONS.issuperset(command.words[1:]) and len(command.words) > 1:
            continue
        if program in _BINARY.split() and not _DATA & set(command.words):
            continue
        if any(is_pattern_of(raw, name) for raw in command.raw for name in names):
            return f"its command names `{command.text[:60]}`"
        linked = [files.get((folder / w).resolve()) for folder in folders for w in command.words]
        if program in _RUNNERS.split() or re.match(r"\$\w|\$\{", program):
            return f"nobody knows what `{program}` reads"
        if inputs.COMPILER.fullmatch(program) or program.endswith("cpp"):
            if not command.links() and (reason := _compiled(step, command, before, files, others)):
                return reason
        elif said := mentions(_own_words(command, files, folders), names, "its command"):
            return said
        elif any(linked):
            return f"its command names a link to {next(filter(None, linked)).path}"
        elif folder := walked(command, files, folders):
            return f"its command `{command.text[:60]}` may read all of {folder}"
        elif (is_made := may_read_made(command)) and (
            said := mentions(step.line, names, "its line")
        ):
            return said
        elif (is_made or program not in PLAIN or any(map(_FROM_FILE.match, command.words))) and (
            reason := _in_script(step, command, files, [others.top, *folders])
        ):
            return reason
    return ""


def _compiled(
    step: Step,
    command: Command,
    before: list[Command],
    files: dict[Path, Any],
    others: Others,
) -> str:
    """Say why a compiler may read a file of the patch, and make something else of it."""
    top = others.top
    first = [one.text for one in before if one.program in {"cd", "export"}]
    fed = [one.program for one in before[:-1] if not one.runs_text()]
    if {"echo", "printf"} & set(fed) and _SAYING.issuperset(fed) and not _FED.search(step.line):
        command = replace(command, raw=(*command.raw, "</dev/null"))
    read = read_by_compiler(step, command, first, top)
    if read is None or any(
        re.search(rf"\$\{{?{name}\b", command.text) for name in _ASSIGNED.findall(step.line)
    ):
        return f"its compiler does not tell what it reads (`{command.text[:60]}`)"
    read &= files.keys()
    added = {path for path, file in files.items() if file.is_added and path.is_relative_to(top)}
    if added:
        there = read_by_compiler(step, command, first, _laid_out(others)) or set()
        read |= {path for path in added if others.copy / path.relative_to(top) in there}
    if not read or comes_out_equal(step, command, first, read, top, partial(_laid_out, others)):
        return ""
    path = files[min(read)].path
    if not step.makes_image:
        return f"its compiler reads {path}"
    advice = (
        "name the object in objects="
        if step.subject.endswith(OBJECTS)
        else "leave that part out of the patch"
    )
    raise RefusedError(
        f"{path}: {step.subject} is made of it as well, and is not compiled for the fix (so says "
        f"its compiler); no payload carries that change; {advice}"
    )


def _laid_out(others: Others) -> Path:
    require(others.copy)
    return others.copy


def is_preprocessed(node: Node) -> bool:
    """Tell whether a node is made by a preprocessor alone, which is asked what it makes of it."""
    actions = inputs.actions_of(node) if node.has_builder() else []
    if not actions or not all(isinstance(action, CommandAction) for action in actions):
        return False
    made = [one for action in actions for one in commands(inputs.line_of(node, action))]
    rest = [one for one in made if one.preprocessing(()) is None]
    return len(rest) < len(made) and all(one.program in PLAIN for one in rest)


def _own_words(command: Command, files: dict[Path, Any], folders: Iterable[Path]) -> str:
    """Return a command without the words that name another file of the same name."""

    def is_other(path: Path) -> bool:
        return (
            inputs.is_there(path)
            and path.is_file()
            and path not in files
            and path.resolve() not in files
        )

    return " ".join(
        word for word in command.words if not all(is_other(folder / word) for folder in folders)
    )


def _in_script(
    step: Step, command: Command, files: dict[Path, Any], folders: Iterable[Path]
) -> str:
    """Search what a program may read that the project brings: what its line and files name."""
    top = next(iter(folders))
    places = dict.fromkeys(folders)
    programs = {Path(os.path.normpath(folder / command.words[0])) for folder in places}
    words = _words_beside(step, command)
    wanted = modules(step.line).union(*map(modules, command.words))
    pending = sorted(path for path in step.given if path.suffix not in inputs.SOURCES)
    pending += [folder / word for word in words for folder in places if len(word) < _LONGEST]
    seen: set[Path] = set()
    while pending or (pending := sorted(there(places, wanted) - seen)):
        path = Path(os.path.normpath(pending.pop()))
        if path in seen or not path.is_relative_to(top) or not inputs.is_there(path):
            seen.add(path)
            continue
        seen.add(path)
        if path.is_dir():
            places[path] = None
        if not path.is_file():
            continue
        said, text = _in_file(path, command, files, list(folders), is_program=path in programs)
        if said:
            return said
        places |= dict.fromkeys(p for p in path.parents if text and p.is_relative_to(top))
        wanted |= modules(text)
        pending += [
            folder / word
            for word in named([text])
            for folder in (top, path.parent)
            if len(word) < _LONGEST and not word.endswith(tuple(inputs.SOURCES))
        ]
    return ""


def _words_beside(step: Step, command: Command) -> list[str]:
    """Return the words that may name what a program reads, also what others of its line give it."""
    beside = [
        one
        for one in commands(step.line)
        if one.program not in _BINARY.split() and not inputs.COMPILER.fullmatch(one.program)
    ]
    paths = [value for name, value in step.variables if name in _MODULE_PATHS]
    words = [word for one in (command, *beside) for word in (*one.words, *one.variables)]
    return sorted(named([*words, *paths]))


def _in_file(
    path: Path,
    command: Command,
    files: dict[Path, Any],
    folders: list[Path],
    *,
    is_program: bool,
) -> tuple[str, str]:
    """Say why a file that a program may read leads to one of the patch; else give its text.

    The text is empty where nothing follows from it.
    """
    top, names = folders[0], {path.name for path in files}
    if path not in files and path.resolve() in files:
        return f"{command.program} may read {files[path.resolve()].path}", ""
    data = path.read_bytes()
    if data.startswith(_ELF) and not is_program:
        return "", ""
    text = data.decode("latin-1")
    places = [*folders, *(place for place in path.parents if place.is_relative_to(top))]
    may_list = path.suffix == ".py" and lists_elsewhere(text, files, places)
    if said := mentions(text, names, path.name, may_list=may_list):
        return said, ""
    if path.suffix in inputs.SOURCES:
        return "", ""
    if runs_compiler(path, text):
        return f"{path.name} runs a compiler, and nobody knows what that reads", ""
    if is_shell(path, text) and (said := _in_shell(text, files, [*folders, path.parent])):
        return f"{path.name} may read all of a folder (`{said}`)", ""
    return "", text


def _in_shell(text: str, files: dict[Path, Any], folders: list[Path]) -> str:
    """Return the command of a shell script that may walk a folder of the patch."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    made = [command for line in lines for command in commands(line)]
    places = [place for top in folders for place in folders_of(made, "(", top)]
    for command in made:
        if patterned(command, files, places) or walked(command, files, dict.fromkeys(places)):
            return command.text[:60]
    return ""


def _in_call(node: Node, function: Any, files: dict[Path, Any], others: Others) -> str:
    """Search a Python function, and what SCons' own (`Copy`) are given."""
    names = {path.name for path in files}
    if not isinstance(function, ActionCaller):
        return in_function(function, files, others.top, node.get_build_env())
    env, parent = node.get_build_env(), function.parent
    with inputs.at_top(env):
        given = [
            *function.subst_args([node], node.sources, env),
            *function.subst_kw([node], node.sources, env).values(),
        ]
    words = tuple(shlex.quote(str(word)) for word in env.Flatten(given))
    if parent.actfunc.__name__ == "copy_func":
        command = Command(raw=("cp", "-r", *reversed(words)))  # the target comes first
        if said := mentions(_own_words(command, files, [others.top]), names, "Copy"):
            return said
        if folder := walked(command, files, [others.top]):
            return f"Copy may read all of {folder}"
    return in_function(parent.actfunc, files, others.top)
