# SPDX-License-Identifier: Apache-2.0
"""What the scripts of a project read and run while SCons reads them.

Python tells of each file that is opened and each program that is started. What the scripts did
before the tool was loaded is told by their text alone.
"""

from __future__ import annotations

import ast
import os
import shlex
import sys
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SCons
import SCons.Script
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

_SCONS = str(Path(SCons.__file__).parent)
_OWN = (
    os.path.dirname(__file__) + os.sep,  # noqa: PTH120  as Python names it in frames
    f"{os.sep}xsplice_plugins{os.sep}",
)
#: Functions that read a file, and those that run a program.
_READERS = frozenset(
    {"open", "read_text", "read_bytes", "get_contents", "get_text_contents", "FileInput", "exec"}
)
_RUNNERS = frozenset(
    {"run", "call", "check_call", "check_output", "Popen", "getoutput", "system", "popen"}
    | {"ParseConfig", "MergeFlags", "backtick"}
)
#: Names that say nothing of which file is meant.
_KNOWN_NAMES = frozenset({"os", "Path", "pathlib", "env", "File", "Dir", "subprocess", "open"})


class Ran(Struct, frozen=True, kw_only=True):
    """A program that a script started."""

    who: str
    line: str  #: as for a shell
    variables: tuple[tuple[str, str], ...] = ()


class Early(Struct, frozen=True, kw_only=True):
    """A call in a script that ran before the tool was loaded."""

    who: str
    literals: tuple[str, ...]  #: the texts in it
    line: str = ""  #: what it runs, if the text tells
    around: str = ""  #: if other words decide what it reads: the script's text


#: By absolute path: who opened it first.
_OPENED: dict[str, str] = {}
_RAN: dict[Ran, None] = {}
#: Threads that ask what a function of the project reads.
_NOTING: list[int] = []
#: Scripts that ran before, up to which line.
_BEFORE: dict[str, int] = {}


@cache
def watch() -> None:
    """Have Python tell from now on what the scripts read."""
    if not _is_reading():
        sys.addaudithook(_heed)
        return
    for node in SCons.Script._SConscript.SConscriptNodes:  # noqa: SLF001  there is no public way
        for place in (node, node.srcnode()):
            _BEFORE[place.get_abspath()] = sys.maxsize
    _BEFORE[os.path.abspath("site_scons/site_init.py")] = sys.maxsize  # noqa: PTH100
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not is_installed(file):
            _BEFORE[os.path.abspath(file)] = sys.maxsize  # noqa: PTH100
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None:
        code = frame.f_code
        if code.co_name == "<module>" and not is_installed(code.co_filename):
            _BEFORE[os.path.abspath(code.co_filename)] = frame.f_lineno  # noqa: PTH100
        frame = frame.f_back
    sys.addaudithook(_heed)


def opened() -> dict[Path, str]:
    """Return who read which file while scripts were read; links are followed."""
    return {Path(os.path.realpath(path)): who for path, who in _OPENED.items()}


def ran() -> list[Ran]:
    """Return what was started while scripts were read."""
    return list(_RAN)


def early(top: Path) -> Iterator[Early]:
    """Give the calls of scripts before the tool was loaded that read files or run programs.

    Args:
        top: The project's folder; scripts elsewhere do not count.
    """
    inside = {file: last for file, last in _BEFORE.items() if Path(file).is_relative_to(top)}
    for file, last in sorted(inside.items()):
        try:
            tree = ast.parse(Path(file).read_text("latin-1"))
        except (OSError, SyntaxError, ValueError):
            continue
        tree.body = [statement for statement in tree.body if statement.lineno <= last]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (name := _name(node)) in _READERS | _RUNNERS:
                yield _called(node, name, f"{file}:{node.lineno}", tree)


def is_installed(file: str) -> bool:
    """Tell whether a module belongs to Python, to what is installed or to this tool."""
    return (
        not file
        or file.startswith(("<", _SCONS))
        or any(own in file for own in _OWN)
        or any(folder in file for folder in ("/lib/python", "/site-packages/", "/dist-packages/"))
    )


@contextmanager
def noting() -> Iterator[None]:
    """Heed for a while what functions of the project read, though all scripts are read."""
    _NOTING.append(threading.get_ident())
    try:
        yield
    finally:
        _NOTING.remove(threading.get_ident())


def _is_reading() -> bool:
    return bool(SCons.Script.sconscript_reading)


def _heed(event: str, args: tuple[Any, ...]) -> None:
    if not _is_reading() and threading.get_ident() not in _NOTING:
        return
    if event == "open":
        path, _mode, flags = args
        if isinstance(path, str | bytes) and (flags or 0) & os.O_ACCMODE != os.O_WRONLY:
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  links are followed later
            if place not in _OPENED and (who := _who()):
                _OPENED[place] = who
    elif event in {"subprocess.Popen", "os.posix_spawn", "os.system"}:
        words, folder, environ = _started(event, args)
        if who := _who(is_run=True):
            at = os.path.abspath(os.fsdecode(folder or "."))  # noqa: PTH100
            variables = tuple(
                (os.fsdecode(key), os.fsdecode(value)) for key, value in environ.items()
            )
            line = f"cd {shlex.quote(at)} && {words}"
            _RAN[Ran(who=who, line=line, variables=variables)] = None


def _started(event: str, args: tuple[Any, ...]) -> tuple[str, Any, Any]:
    """Return the shell line, the folder and the environment of a program that is started."""
    if event == "os.system":
        return os.fsdecode(args[0]), None, os.environ
    words, folder = args[1], args[2] if event == "subprocess.Popen" else None
    environ = args[3] if event == "subprocess.Popen" else args[2]
    if isinstance(words, str | bytes | os.PathLike):
        words = [words]
    line = shlex.join(os.fsdecode(word) for word in words)
    return line, folder, os.environ if environ is None else environ


def _who(*, is_run: bool = False) -> str:
    """Return the place in a script of the project that asks for it; "" where that is not one.

    What SCons reads to find headers becomes a dependency. In a test of Configure it does not.
    """
    found, is_scanned, is_test = "", False, False
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        file = frame.f_code.co_filename
        if not found and any(own in file for own in _OWN):
            return ""
        if file.startswith(_SCONS):
            is_scanned |= "Scanner" in file
            is_test |= file.endswith("SConf.py")
        elif not found and not is_installed(file):
            found = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "" if (is_test if is_run else is_scanned and not is_test) else found


def _name(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "attr", "") or getattr(function, "id", "")


def _called(call: ast.Call, name: str, who: str, tree: ast.Module) -> Early:
    texts = [
        node.value
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    parts: Iterable[ast.AST] = [*call.args, *(word.value for word in call.keywords), call.func]
    is_open = any(
        isinstance(node, ast.Name) and node.id not in _KNOWN_NAMES
        for part in parts
        for node in ast.walk(part)
    )
    line = ""
    if name in _RUNNERS and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            line = first.value
        elif isinstance(first, ast.List | ast.Tuple):
            line = shlex.join(str(one.value) for one in first.elts if isinstance(one, ast.Constant))
    return Early(
        who=who, literals=tuple(texts), line=line, around=ast.unparse(tree) if is_open else ""
    )
