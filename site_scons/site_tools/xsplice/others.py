# SPDX-License-Identifier: Apache-2.0
"""What an image is made of beside the objects of a fix, and whether it reads what the fix patches.

It is asked when the image is there: of what is generated, SCons knows only then what it includes.
A compiler or preprocessor is asked what it reads. Of scripts and Python functions the text tells.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import SCons
from SCons.Action import ActionCaller, CommandAction, FunctionAction

from xsplice_plugins import artefacts, capture
from xsplice_plugins.artefacts import Duty, Severity, TouchKind
from xsplice_plugins.errors import CaptureError, ConfigError, MachineError, RefusedError
from xsplice_plugins.kbuild.commands import run

from . import inputs
from .actions import staged
from .base import OBJECTS
from .shell import Command, commands

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import Finding, PatchSet

Node = Any

#: Programs that read what their words name, and nothing else.
_PLAIN = """
: [ awk basename bc break case cat cd chmod cmp comm cp cut date diff dirname done echo egrep esac
exit export expr false fgrep fi file for gawk git grep gunzip gzip head hexdump hostname id
install ln ls mawk md5sum mkdir mktemp mv od paste printf pwd read readlink realpath rm rmdir sed
set sha1sum sha256sum shift size sleep sort split stat strings tac tail tee test touch tr true
truncate umask uname uniq unset wc which whoami xxd xz zstd }
"""
#: Programs that read objects and linker scripts alone; words that give them other data.
_BINARY = "ar ld ld.bfd ld.gold ld.lld nm objcopy objdump ranlib readelf strip"
_DATA = frozenset({"binary", "--add-section", "--update-section"})
#: Programs that run what no line names.
_RUNNERS = "bazel cargo cmake gmake make meson ninja scons eval source ."
_COMPILER_IN_TEXT = re.compile(r"\b(?:cc|gcc|g\+\+|clang|cpp|CC|CPP|HOSTCC)\b")
_LISTING = re.compile(r"\b(?:listdir|scandir|iterdir|rglob|os\.walk)\b")
_GLOB = re.compile(r"""[^\s"'`/(),;|&<>]*\*[^\s"'`/(),;|&<>]*""")
#: What a script writes for a compiler, which tells itself what it reads.
_INCLUDE = re.compile(r"""#\s*include(?:_next)?\s*\\*["<'][^"<>\n]*""")
_PATH = re.compile(r"[\w./+-]+")
_MODULE = re.compile(r"(?:\bimport|\bfrom|-m)\s+([\w.]+)")
_SCONS = str(Path(SCons.__file__).parent)
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What is asked of all that the image is made of."""

    roots: tuple[Node, ...]  #: the image, and the objects of the fix
    objects: frozenset[Node]  #: those to consider
    compiled: frozenset[Node]  #: those that are compiled for the fix
    root: Path  #: where the patch applies
    top: Path  #: where commands run
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
    inputs.refuse_others(others.roots, others.compiled, others.root, others.patch_set)
    files = {path: file for path, file in touched.items() if file.kind is not TouchKind.COMMENTS}
    for node in sorted((node for node in made if node.has_builder()), key=str) if files else ():
        for text in _reasons(node, files, others):
            said = f"{node} is not compiled for the fix, and {text}; have it read what it declares "
            said += "alone, or leave that part out of the patch"
            yield from artefacts.findings_about(
                Duty.COMPLETE, "rebuild", Severity.UNCHECKED, str(node), [said]
            )


def _reasons(node: Node, files: dict[Path, Any], others: Others) -> Iterator[str]:
    """Say why a node may be made of a file of the patch.

    Raises:
        RefusedError: A compiler says that it is.
    """
    names = {path.name for path in files}
    for action in inputs.actions_of(node):
        if isinstance(action, FunctionAction):
            reason = _in_function(action.execfunction, names)
        elif isinstance(action, CommandAction):
            reason = _in_line(node, inputs.line_of(node, action), files, others)
        else:
            reason = f"nobody knows what `{action}` reads"
        if reason:
            yield reason
            return


def _in_line(node: Node, line: str, files: dict[Path, Any], others: Others) -> str:
    names = {path.name for path in files}
    before: list[str] = []
    for command in commands(line):
        program = command.program
        if program in _BINARY.split() and not _DATA & set(command.words):
            continue
        if any(_is_pattern_of(raw, name) for raw in command.raw for name in names):
            return f"its command names `{command.text[:60]}`"
        if program in {"cd", "export"}:
            before.append(command.text)
        elif program in _RUNNERS.split() or re.match(r"\$\w|\$\{", program):
            return f"nobody knows what `{program}` reads"
        elif inputs.COMPILER.fullmatch(program) or program.endswith("cpp"):
            if command.links():
                continue
            read = _read_by_compiler(node, command, before, others.top)
            if read is None:
                return f"its compiler does not tell what it reads (`{command.text[:60]}`)"
            for path in read & files.keys():
                advice = (
                    "name the object in objects="
                    if str(node).endswith(OBJECTS)
                    else "leave that part out of the patch"
                )
                raise RefusedError(
                    f"{files[path].path}: {node} is made of it as well, and is not compiled for "
                    f"the fix (so says its compiler); no payload carries that change; {advice}"
                )
        elif said := _mentions(_own_words(command, files, others.top), names, "its command"):
            return said
        elif (program not in _PLAIN.split() or "-f" in command.words) and (
            reason := _in_script(node, command, names, others.top)
        ):
            return reason
    return ""


def _own_words(command: Command, files: dict[Path, Any], top: Path) -> str:
    """Return a command without the words that name another file of the same name."""
    paths = {word: top / word for word in command.words}
    return " ".join(
        word
        for word, path in paths.items()
        if not path.is_file() or path in files or path.resolve() in files
    )


def _read_by_compiler(
    node: Node, command: Command, before: list[str], top: Path
) -> set[Path] | None:
    """Ask a compiler what it reads; it writes nothing. ``None``: it does not tell."""
    outputs = {target.path for target in [node, *getattr(node, "target_peers", [])]}
    line = command.asking(outputs)
    if line is None:
        return None
    line = " && ".join([*before, "pwd", line])
    try:
        told = run(line, top, env=dict(inputs.variables(node)), subject=str(node))
    except (CaptureError, MachineError, subprocess.SubprocessError):
        return None
    folder, _, rule = told.decode("utf-8", "surrogateescape").partition("\n")
    words = capture.files_of_rule(rule)
    if not words:
        return None
    found = {Path(folder, word) for word in words}
    return {*found, *(path.resolve() for path in found)}


def _in_script(node: Node, command: Command, names: set[str], top: Path) -> str:
    """Search what a program of the project's own may read: what its words and those files name."""
    pending = [top / word for word in command.words]
    pending += [path for path in inputs.inputs(node) if path.suffix not in inputs.SOURCES]
    seen: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in seen or not path.is_relative_to(top) or not path.is_file():
            continue
        seen.add(path)
        data = path.read_bytes()
        if data.startswith(_ELF) and path != top / command.words[0]:
            continue
        text = data.decode("latin-1")
        if said := _mentions(text, names, path.name):
            return said
        if path.suffix in inputs.SOURCES:
            continue
        if _runs_compiler(path, text):
            return f"{path.name} runs a compiler, and nobody knows what that reads"
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


def _in_function(function: Any, names: set[str]) -> str:
    """Search a Python function, and those of the project that it calls."""
    if isinstance(function, ActionCaller):
        function = function.parent.actfunc
    pending, seen = [function], set()
    while pending:
        one = pending.pop()
        one = getattr(one, "__func__", one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not isinstance(one, FunctionType):
            return f"nobody knows what the Python function `{one}` reads"
        if _is_installed(one.__code__.co_filename):
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
    if _is_installed(file):
        return ""
    return _mentions(Path(file).read_text("latin-1"), names, Path(file).name)


def _is_installed(file: str) -> bool:
    """Tell whether a module belongs to Python or to what is installed, not to the project."""
    return (
        not file
        or file.startswith(("<", _SCONS))
        or any(folder in file for folder in ("/lib/python", "/site-packages/", "/dist-packages/"))
    )


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
