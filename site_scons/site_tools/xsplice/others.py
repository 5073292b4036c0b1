# SPDX-License-Identifier: Apache-2.0
"""What an image is made of beside the objects of a fix, and whether it reads what the fix patches.

It is asked when the image is there: of what is generated, SCons knows only then what it includes.
A compiler or preprocessor is asked what it reads. Of scripts and Python functions the text tells.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from SCons.Action import ActionCaller, CommandAction, FunctionAction

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Duty, Severity, TouchKind
from xsplice_plugins.errors import ConfigError, RefusedError

from . import inputs
from .actions import staged
from .asking import Step, comes_out_equal, read_by_compiler, step_of
from .base import OBJECTS
from .copies import require
from .reading import is_installed
from .scripted import read_by_scripts
from .shell import Command, commands
from .walking import PLAIN, folders_of, walked

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
#: Programs that run what no line names.
_RUNNERS = "bazel cargo cmake gmake make meson ninja scons eval source ."
_COMPILER_IN_TEXT = re.compile(r"\b(?:cc|gcc|g\+\+|clang|cpp|CC|CPP|HOSTCC)\b")
_LISTING = re.compile(r"\b(?:listdir|scandir|iterdir|rglob|os\.walk)\b")
_GLOB = re.compile(r"""[^\s"'`/(),;|&<>]*\*[^\s"'`/(),;|&<>]*""")
#: What a script writes for a compiler, which tells itself what it reads.
_INCLUDE = re.compile(r"""#\s*include(?:_next)?\s*\\*["<'][^"<>\n]*""")
_PATH = re.compile(r"[\w./+-]+")
_MODULE = re.compile(r"(?:\bimport|\bfrom|-m)\s+([\w.]+)")
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
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
        mentions = partial(_mentions, names={path.name for path in files}, who="its text")
        for place, text in read_by_scripts(files, others.top, in_line, mentions):
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
    for action in inputs.actions_of(node):
        if isinstance(action, FunctionAction):
            reason = _in_call(node, action.execfunction, files, others)
        elif isinstance(action, CommandAction):
            reason = _in_line(step_of(node, inputs.line_of(node, action)), files, others)
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
        if program in _BINARY.split() and not _DATA & set(command.words):
            continue
        if any(_is_pattern_of(raw, name) for raw in command.raw for name in names):
            return f"its command names `{command.text[:60]}`"
        if program in _RUNNERS.split() or re.match(r"\$\w|\$\{", program):
            return f"nobody knows what `{program}` reads"
        if inputs.COMPILER.fullmatch(program) or program.endswith("cpp"):
            if not command.links() and (reason := _compiled(step, command, before, files, others)):
                return reason
        elif said := _mentions(_own_words(command, files, folders), names, "its command"):
            return said
        elif folder := walked(command, files, folders):
            return f"its command `{command.text[:60]}` may read all of {folder}"
        elif (program not in PLAIN or "-f" in command.words) and (
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
    if read is None:
        return f"its compiler does not tell what it reads (`{command.text[:60]}`)"
    read &= files.keys()
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
        return path.is_file() and path not in files and path.resolve() not in files

    return " ".join(
        word for word in command.words if not all(is_other(folder / word) for folder in folders)
    )


def _in_script(
    step: Step, command: Command, files: dict[Path, Any], folders: Iterable[Path]
) -> str:
    """Search what a program of the project's own may read: what its words and those files name."""
    names, top = {path.name for path in files}, next(iter(folders))
    pending = [folder / word for word in command.words for folder in folders]
    programs = {folder / command.words[0] for folder in folders}
    pending += sorted(path for path in step.given if path.suffix not in inputs.SOURCES)
    seen: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in seen or not path.is_relative_to(top) or not path.is_file():
            continue
        seen.add(path)
        data = path.read_bytes()
        if data.startswith(_ELF) and path not in programs:
            continue
        text = data.decode("latin-1")
        if said := _mentions(text, names, path.name):
            return said
        if path.suffix in inputs.SOURCES:
            continue
        if _runs_compiler(path, text):
            return f"{path.name} runs a compiler, and nobody knows what that reads"
        if _is_shell(path, text) and (said := _in_shell(text, files, [*folders, path.parent])):
            return f"{path.name} may read all of a folder (`{said}`)"
        found = {
            *_PATH.findall(text),
            *(f"{m.replace('.', '/')}.py" for m in _MODULE.findall(text)),
        }
        pending += [
            folder / word
            for word in found
            for folder in (top, path.parent)
            if len(word) < 200 and not word.endswith(tuple(inputs.SOURCES))
        ]
    return ""


def _is_shell(path: Path, text: str) -> bool:
    return path.suffix == ".sh" or re.match(r"#!.*\b(?:ba|da|k|z)?sh\b", text) is not None


def _in_shell(text: str, files: dict[Path, Any], folders: list[Path]) -> str:
    """Return the command of a shell script that may walk a folder of the patch."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    made = [command for line in lines for command in commands(line)]
    places = [*folders, *(place for top in folders for place in folders_of(made, "(", top))]
    for command in made:
        if walked(command, files, dict.fromkeys(places)):
            return command.text[:60]
    return ""


def _runs_compiler(path: Path, text: str) -> bool:
    is_script = text.startswith("#!") or path.suffix in {".py", ".sh", ".pl", ".awk", ".rb", ".lua"}
    return is_script and bool(_COMPILER_IN_TEXT.search(text))


def _mentions(text: str, names: Iterable[str], who: str) -> str:
    """Say so if a text names a file, or may mean it by a pattern; what it only includes is out."""
    text = _INCLUDE.sub("", text)
    for name in sorted(names):
        if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text):
            return f"{who} names {name}"
        suffix = Path(name).suffix
        if suffix and re.search(rf"""["']\*?{re.escape(suffix)}["']""", text):
            return f"{who} names files with {suffix}"
        for pattern in set(_GLOB.findall(text)):
            if pattern.startswith("*.") and fnmatch(name, pattern):
                return f"{who} names {pattern}"
    if found := _LISTING.search(text):
        return f"{who} lists folders ({found[0]})"
    return ""


def _is_pattern_of(raw: str, name: str) -> bool:
    """Tell whether a word is a pattern that the shell may put a file's name for."""
    is_pattern = any(mark in raw for mark in "*?[") and not raw.startswith(("'", '"'))
    return is_pattern and fnmatch(name, raw.rsplit("/", 1)[-1])


def _in_call(node: Node, function: Any, files: dict[Path, Any], others: Others) -> str:
    """Search a Python function, and what SCons' own (`Copy`) are given."""
    names = {path.name for path in files}
    if not isinstance(function, ActionCaller):
        return _in_function(function, names)
    env, parent = node.get_build_env(), function.parent
    with inputs.at_top(env):
        given = [
            *function.subst_args([node], node.sources, env),
            *function.subst_kw([node], node.sources, env).values(),
        ]
    words = tuple(shlex.quote(str(word)) for word in env.Flatten(given))
    if parent.actfunc.__name__ == "copy_func":
        command = Command(raw=("cp", "-r", *reversed(words)))  # the target comes first
        if said := _mentions(_own_words(command, files, [others.top]), names, "Copy"):
            return said
        if folder := walked(command, files, [others.top]):
            return f"Copy may read all of {folder}"
    return _in_function(parent.actfunc, names)


def _in_function(function: Any, names: set[str]) -> str:
    """Search a Python function, and those of the project that it calls."""
    pending, seen = [function], set()
    while pending:
        one = pending.pop()
        one = getattr(one, "__func__", one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not isinstance(one, FunctionType):
            return f"nobody knows what the Python function `{one}` reads"
        if is_installed(one.__code__.co_filename):
            continue
        text, called = _words_of(one.__code__)
        who = f"the Python function {one.__name__}"
        if said := _mentions(text, names, who):
            return said
        if _COMPILER_IN_TEXT.search(text):
            return f"{who} runs a compiler, and nobody knows what that reads"
        for name in called:
            value = one.__globals__.get(name)
            if isinstance(value, FunctionType):
                pending.append(value)
            elif isinstance(value, ModuleType) and (said := _in_module(value, names)):
                return said
    return ""


def _in_module(module: ModuleType, names: set[str]) -> str:
    file = module.__file__ or ""
    if is_installed(file):
        return ""
    return _mentions(Path(file).read_text("latin-1"), names, Path(file).name)


def _words_of(code: CodeType) -> tuple[str, set[str]]:
    """Return the texts of a function's code, quoted, with the names that it uses."""
    texts, names = [], {*code.co_names, *code.co_freevars}
    for value in code.co_consts:
        if isinstance(value, CodeType):
            text, more = _words_of(value)
            texts.append(text)
            names |= more
        elif isinstance(value, str | bytes | tuple):
            texts.append(repr(value))
    return "\n".join([*texts, *sorted(names)]), names
