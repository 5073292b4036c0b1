# SPDX-License-Identifier: Apache-2.0
"""Which files of a project a command or script may lead to beside those that it names."""

from __future__ import annotations

import ast
import os
import re
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: What becomes of a module's name, in Python, Perl, Ruby and Lua.
_ENDS = (".py", "/__init__.py", "/__main__.py", ".pm", ".pl", ".rb", ".lua")
_LOADING = re.compile(
    r"^.*(?:\b(?:import|from|use|require|require_relative)\b|\s-[mM]).*$", re.MULTILINE
)
_GLUED = re.compile(r"(\s-[mM])(?=\w)")
_NAME = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::|/)\w+)*")
#: What loads modules in Python whose names are texts.
_BY_TEXT = re.compile(r"import_module|__import__|run_module|__all__")
_PATH = re.compile(r"[\w./+-]+")
_OPTION = re.compile(r"-\w(?=[\w./])")


def modules(text: str) -> set[str]:
    """Return where modules may lie that a text loads, relative to a folder with modules.

    Args:
        text: A script of any language, or a shell line.
    """
    try:
        names = set(_of_python(ast.parse(text), is_by_text=_BY_TEXT.search(text) is not None))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        names = set()
    lines = [] if names else _LOADING.findall(_GLUED.sub(r"\1 ", f" {text}"))
    names.update(
        name.replace("::", "/").replace(".", "/") for line in lines for name in _NAME.findall(line)
    )
    return {name + end for name in names for end in _ENDS}


def there(folders: Iterable[Path], wanted: Iterable[str]) -> set[Path]:
    """Return what of some modules lies in one of some folders.

    Args:
        folders: The folders.
        wanted: Paths below them; they may lead out by ``..``.
    """
    found = set()
    rows = [(word.split("/", 1)[0], word) for word in wanted]
    for folder in folders:
        names = {".", "..", *(path.name for path in folder.iterdir())}
        found |= {Path(os.path.normpath(folder / word)) for first, word in rows if first in names}
    return {path for path in found if path.is_file()}


def _of_python(tree: ast.Module, *, is_by_text: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from accumulate(alias.name.split("."), "{}/{}".format)
        elif isinstance(node, ast.ImportFrom):
            front = ["../" * (node.level - 1) + "."] if node.level else []
            whole = [*front, *(node.module or "").split(".")]
            steps = list(accumulate(filter(None, whole), "{}/{}".format))
            yield from steps
            yield from (f"{steps[-1]}/{alias.name}" for alias in node.names)
        elif is_by_text and isinstance(node, ast.Constant) and _NAME.fullmatch(str(node.value)):
            yield from accumulate(str(node.value).split("."), "{}/{}".format)


def named(words: Iterable[str]) -> set[str]:
    """Return what words of a command may name: themselves, and what follows ``=``, ``@``, ``-I``.

    Args:
        words: The words, without quotes.
    """
    found = set(words)
    for word in list(found):
        parts = _PATH.findall(word)
        found.update(parts)
        found.update(_OPTION.sub("", part, count=1) for part in parts)
    return found
