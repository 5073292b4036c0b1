# SPDX-License-Identifier: Apache-2.0
"""The identity of plugins' code, for signatures of targets.

SCons hashes the function of an action, not the library code behind it; a changed plugin would
rebuild nothing without this.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import CodeType

from xsplice_plugins.errors import PluginError
from xsplice_plugins.plugins.spec import NAME

LIBRARY = __name__.partition(".")[0]
FILES_MAX = 2000  #: a plugin's package with more Python files is not a plugin


def source_digest(plugin: object) -> str:
    """Return the hex SHA-256 of a plugin's sources.

    A plugin in a package counts with all Python files of the package, a built-in one with those of
    its stage, a single file (an SConstruct too) with that file. Without a file (an interactive
    session) the compiled code of its functions counts.

    Raises:
        PluginError: Its package is too large to be a plugin's.
    """
    parts = []
    for name, code, module_name in _implementations(plugin):
        file = Path(code.co_filename)
        folder = _package_folder(module_name)
        if folder is not None and file.is_relative_to(folder):
            is_own = module_name.partition(".")[0] == LIBRARY
            parts.append(_own_digest(folder) if is_own else _folder_digest(folder))
        elif file.is_file():
            parts.append(hashlib.sha256(file.read_bytes()).hexdigest())
        else:
            parts.append(f"{name}\0{_code_text(code)}")
    return join(dict.fromkeys(parts))


def _implementations(plugin: object) -> list[tuple[str, CodeType, str]]:
    """Return name, code and module of a plugin's hook implementations, sorted by name."""
    found = []
    for name in sorted(dir(plugin)):
        function = inspect.getattr_static(plugin, name, None)
        if isinstance(function, staticmethod | classmethod):
            function = function.__func__
        if isinstance(getattr(function, f"{NAME}_impl", None), dict):
            code = getattr(inspect.unwrap(function), "__code__", None)
            if isinstance(code, CodeType):
                found.append((name, code, str(function.__module__)))
    return found


def _package_folder(module_name: str) -> Path | None:
    """Return the folder of the outermost package that is no namespace shared with others.

    In our own package that is a stage's folder: the stages share the package.
    """
    words = module_name.split(".")
    for count in range(2 if words[0] == LIBRARY else 1, len(words) + 1):
        module = sys.modules.get(".".join(words[:count]))
        file = getattr(module, "__file__", None)
        if file and getattr(module, "__path__", None):
            return Path(file).parent
    return None


@cache
def _own_digest(folder: Path) -> str:
    """Return the digest of one of our own rooms, which do not change while they run."""
    return _folder_digest(folder)


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*.py") if path.is_file())
    if len(files) > FILES_MAX:
        raise PluginError(
            f"{folder.name}: a plugin's package with more than {FILES_MAX} Python files; "
            "give the plugin a package of its own"
        )
    return join(
        f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
    )


def _code_text(code: CodeType) -> str:
    """Return what a code object does; neither its file's path nor its line numbers."""
    constants = [_constant_text(constant) for constant in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _constant_text(constant: object) -> str:
    if isinstance(constant, CodeType):
        return _code_text(constant)
    if isinstance(constant, frozenset):  # its order changes from run to run
        return f"frozenset({sorted(map(repr, constant))})"
    return repr(constant)


def join(parts: Iterable[str]) -> str:
    """Return the hex SHA-256 of some texts, one on a line."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
