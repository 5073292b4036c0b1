# SPDX-License-Identifier: Apache-2.0
"""Whether a text or a Python function names a file of the patch, or may find it by itself."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import textwrap
from collections import UserList
from fnmatch import fnmatch
from pathlib import Path, PurePath
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from SCons.Environment import SubstitutionEnvironment
from SCons.Node import Node

from .reading import is_installed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from SCons.Environment import Environment

_COMPILER_IN_TEXT = re.compile(r"\b(?:cc|gcc|g\+\+|clang|cpp|CC|CPP|HOSTCC)\b")
_LISTING = re.compile(
    r"\b(?:listdir|scandir|iterdir|rglob|os\.f?walk|opendir|readdir|nftw|fts_open|File::Find"
    r"|copytree|make_archive)\b"
)
_LISTERS = frozenset({"listdir", "scandir", "iterdir", "rglob", "walk", "fwalk"})
_LISTED = re.compile(r"\b(?:listdir|scandir|iterdir|rglob|os\.f?walk)\b")
#: Names that say where a script lies.
_PLACES = frozenset({"os", "Path", "pathlib", "__file__", "path", "join", "joinpath", "parent"}) | {
    *("dirname", "abspath", "realpath", "resolve")
}
#: Programs that walk folders, in texts that run them.
_WALKING = re.compile(
    r"""["'](?:(?:find|tar|rsync|rgrep)["'],|(?:grep|cp|zip)["'],\s*["']-\w*[raR]"""
    r"""|find\s+(?:[./$]|[\w./-]+\s+-)|(?:tar|rsync)\s+[\w./$-]|(?:grep|cp|zip)\s+-\w*[raR]"""
    r"""|git(?:["'],\s*["']|\s+)(?:archive|grep|ls-files))"""
)
_GLOB = re.compile(r"""[^\s"'`/(),;|&<>]*\*[^\s"'`/(),;|&<>]*""")
_QUOTED_GLOB = re.compile(_GLOB.pattern.join("()") + "[\"']")
_WORD = re.compile(r"[A-Za-z_]\w*")
#: SCons' own variables that name no file for a function.
_TABLES = frozenset({"BUILDERS", "ENV", "SCANNERS", "TOOLS", "__RPATH"})
_NO_OBJECTS = (FunctionType, MethodType, ModuleType, type, SubstitutionEnvironment)
_QUOTES = "\"', "
#: What a script writes for a compiler, which tells itself what it reads.
_INCLUDE = re.compile(r"""#\s*include(?:_next)?\s*\\*["<'][^"<>\n]*""")


def mentions(text: str, names: Iterable[str], who: str, *, may_list: bool = False) -> str:
    """Say so if a text names a file, or may mean it by a pattern; what it only includes is out.

    Args:
        text: The text.
        names: Names of files.
        who: How a message calls the text.
        may_list: Whether the folders that Python lists in it are known to be others.
    """
    text = _INCLUDE.sub("", text)
    for name in sorted(names):
        if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text):
            return f"{who} names {name}"
        suffix = Path(name).suffix
        if suffix and re.search(rf"""["']\*?{re.escape(suffix)}["']""", text):
            return f"{who} names files with {suffix}"
        patterns = {found for found in _GLOB.findall(text) if found.startswith("*.")}
        if "glob" in text:
            patterns |= set(_QUOTED_GLOB.findall(text))
        for pattern in sorted(patterns):
            if fnmatch(name, pattern):
                return f"{who} names {pattern}"
    if found := _WALKING.search(text) or (None if may_list else _LISTING.search(text)):
        return f"{who} lists folders ({found[0].strip(_QUOTES)})"
    return ""


def lists_elsewhere(source: str, files: Iterable[Path], folders: Iterable[Path]) -> bool:
    """Tell whether all folders that a Python text lists are written in it, and hold no such file.

    Args:
        source: The text.
        files: The absolute paths of files.
        folders: Where the names of folders may count from.
    """
    if not _LISTING.search(source) or "chdir" in source:
        return False
    try:
        tree = ast.parse(textwrap.dedent(source))
    except (SyntaxError, ValueError):
        return False
    known = {id(one.func): one for one in ast.walk(tree) if isinstance(one, ast.Call)}
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        if name not in _LISTERS:
            continue
        call = known.get(id(node))
        word = "" if call is None else _folder_in(call, name)
        places = [folder / word for folder in folders]
        true = {path for p in places for path in (os.path.normpath(p), os.path.realpath(p))}
        if not word or any(file.is_relative_to(path) for path in true for file in files):
            return False
    return _LISTING.search(_LISTED.sub("", source)) is None


def _folder_in(call: ast.Call, name: str) -> str:
    """Return the folder that a call lists, as far as it is written there; "" if it is not."""
    is_own = name in {"iterdir", "rglob"}
    parts = [call.func.value] if is_own and isinstance(call.func, ast.Attribute) else call.args[:1]
    texts = []
    for node in (one for part in parts for one in ast.walk(part)):
        if isinstance(node, ast.Constant):
            texts.append(str(node.value))
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name not in _PLACES or (name == "parent" and _has_text(node)):
                return ""
        elif not isinstance(node, ast.Call | ast.BinOp | ast.Div | ast.Load) or (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "dirname"
            and _has_text(node)
        ):
            return ""
    return "/".join(texts)


def _has_text(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Constant) for one in ast.walk(node))


def runs_compiler(path: Path, text: str) -> bool:
    """Tell whether a script may run a compiler."""
    is_script = text.startswith("#!") or path.suffix in {".py", ".sh", ".pl", ".awk", ".rb", ".lua"}
    return is_script and bool(_COMPILER_IN_TEXT.search(text))


def is_shell(path: Path, text: str) -> bool:
    """Tell whether a text is a shell script."""
    return path.suffix == ".sh" or re.match(r"#!.*\b(?:ba|da|k|z)?sh\b", text) is not None


def in_function(
    function: Any, files: Collection[Path], top: Path, env: Environment | None = None
) -> str:
    """Search a Python function, and those of the project that it calls.

    Args:
        function: The function.
        files: The absolute paths of the files of the patch.
        top: Where it runs.
        env: The environment that SCons gives it, if it does.
    """
    names = {path.name for path in files}
    pending, seen = [function], set()
    while pending:
        one = pending.pop()
        bound = [one.__self__] if isinstance(one, MethodType) else []
        one = getattr(one, "__func__", one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not isinstance(one, FunctionType):
            return f"nobody knows what the Python function `{one}` reads"
        if is_installed(one.__code__.co_filename):
            continue
        text, called = _words_of(one.__code__)
        values = [one.__globals__.get(name, sys.modules.get(name)) for name in sorted(called)]
        values += [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
        values += [cell.cell_contents for cell in one.__closure__ or () if cell != CellType()]
        values += [part for value in (*bound, *values) for part in _parts(value)]
        environments = [value for value in values if isinstance(value, SubstitutionEnvironment)]
        values += _variables(text, [*environments, *([] if env is None else [env])])
        text = "\n".join([text, *(repr(_plain(value)) for value in values if _is_datum(value))])
        who = f"the Python function {one.__name__}"
        if said := mentions(text, names, who, may_list=lists_elsewhere(_source(one), files, [top])):
            return said
        if _COMPILER_IN_TEXT.search(text):
            return f"{who} runs a compiler, and nobody knows what that reads"
        for value in values:
            if isinstance(value, FunctionType):
                pending.append(value)
            elif isinstance(value, type):
                pending += [one for one in vars(value).values() if isinstance(one, FunctionType)]
            elif isinstance(value, ModuleType) and (said := _in_module(value, names)):
                return said
    return ""


def _parts(value: Any, depth: int = 3) -> list[Any]:
    """Return what an object holds, and the functions of its class; of a plain value nothing."""
    own: list[Any] = []
    if isinstance(value, dict):
        held = list(value.values())
    elif isinstance(value, list | tuple | set | UserList):
        held = list(value)
    elif _is_datum(value) or isinstance(value, _NO_OBJECTS) or not hasattr(value, "__dict__"):
        return []
    else:
        held = own = list(vars(value).values())
        own += [one for one in vars(type(value)).values() if isinstance(one, FunctionType)]
    return own + [part for one in held for part in _parts(one, depth - 1) if depth]


def _variables(text: str, environments: Iterable[Any]) -> list[Any]:
    """Return the values of all SCons variables that a text names, and that those name."""
    found: list[Any] = []
    for env in environments:
        pending, seen = set(_WORD.findall(text)), set(_TABLES)
        while pending:
            name = pending.pop()
            value = None if name in seen else env.get(name)
            seen.add(name)
            if isinstance(value, FunctionType):
                found.append(value)
            elif _is_datum(value):
                found.append(value)
                pending.update(_WORD.findall(repr(_plain(value))))
    return found


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _is_datum(value: object) -> bool:
    """Tell whether a value may name files: texts, what holds some, nodes of SCons."""
    return isinstance(value, str | bytes | PurePath | list | tuple | set | dict | UserList | Node)


def _plain(value: Any) -> Any:
    """Return a value with texts in the place of nodes and paths."""
    if isinstance(value, list | tuple | set | UserList):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return [(_plain(key), _plain(one)) for key, one in value.items()]
    return str(value) if isinstance(value, PurePath | Node) else value


def _in_module(module: ModuleType, names: set[str]) -> str:
    file = module.__file__ or ""
    if is_installed(file):
        return ""
    return mentions(Path(file).read_text("latin-1"), names, Path(file).name)


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
