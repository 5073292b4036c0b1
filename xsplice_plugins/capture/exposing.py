# SPDX-License-Identifier: Apache-2.0
"""What of a fix can reach sources that nobody has: a shipped file is not the tree's own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import TouchKind
from xsplice_plugins.capture.texts import mentioning, text_of
from xsplice_plugins.csource.constants import constants_in
from xsplice_plugins.csource.declarations import plain
from xsplice_plugins.csource.exposed import exposed
from xsplice_plugins.patch.applying import patched_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from xsplice_plugins.artefacts import PatchSet, TouchedFile
    from xsplice_plugins.kbuild.tree import XenTree

#: A file of these is a matter of its own object, or reaches none.
_OWN = {TouchKind.C, TouchKind.ASSEMBLER, TouchKind.COMMENTS, TouchKind.OUTSIDE}
_ARCH = re.compile(r"(?:^|/)(?:arch[/-]|asm-)(\w+)/")
_TAGGED = r"\b{0}\s+(?:\w+\s+|__attribute__\s*\(\([^()]*\)\)\s*)*{1}\s*\{{"
_TYPEDEF = r"(?:\btypedef\b[^;{{}}]*|\}}[^;{{}}()]*)\b{1}\s*[\[);]"
#: A line of a Makefile that names one more object.
_OBJECT = re.compile(r"\s*obj-\S+\s*\+=\s*[\w./-]+\.o\s*")


def exposed_by(
    tree: XenTree, patch_set: PatchSet, is_compared: Callable[[str], bool] = lambda _: False
) -> tuple[tuple[str, str], ...]:
    """Say what a fix changes that any file of the hypervisor may use, known or not.

    Args:
        tree: The tree without the fix; only read.
        patch_set: The fix.
        is_compared: Whether the layout of a structure with more members was compared.

    Returns:
        Path, and what of it: a name, or all of the file.

    Raises:
        PatchError: The patch does not apply.
    """
    files = [file for file in patch_set.touched if file.kind not in _OWN]
    files = [file for file in files if is_read(file, tree)]
    if not files:
        return ()
    now = patched_files(replace(patch_set, is_line_neutral=False), tree.source_root)
    texts = {
        file.path: (
            text_of(tree.source_root / file.path),
            (now.get(file.path) or b"").decode("latin-1"),
        )
        for file in files
    }
    # What scripts read counts as a whole: to these a comment says something.
    scripted = {file.path for file in files if file.kind is TouchKind.GENERATED_INPUT}
    headers = {
        path: sides for path, sides in texts.items() if path.endswith(".h") and path not in scripted
    }
    found = exposed(headers)
    touched = {file.path for file in patch_set.touched if file.path.endswith(".c")}
    rows = [*found.changed]
    rows += [(path, f"`{name}`") for path, name in found.larger if not is_compared(name)]
    for path, names in found.brought:
        if all(_stands(tree.source_root, name, touched) for name in sorted(names)):
            rows.append((path, f"`{min(names)}`"))
    for path, (old, new) in texts.items():
        if path not in headers and not _is_one_more(old, new):
            rows.append((path, "what it says"))
    return tuple(dict.fromkeys(rows))


def brought_by(tree: XenTree, patch_set: PatchSet, names: Iterable[str]) -> frozenset[str]:
    """Return the types and constants that a fix brings: the tree defines none of that name.

    Args:
        tree: The tree without the fix; only read.
        patch_set: The fix.
        names: With their kind in front of them (``struct box``).

    Raises:
        PatchError: The patch does not apply.
    """
    asked = list(names)
    if not asked:
        return frozenset()
    now = patched_files(replace(patch_set, is_line_neutral=False), tree.source_root)
    old = plain("\n".join(text_of(tree.source_root / path) for path in now))
    new = plain("\n".join((data or b"").decode("latin-1") for data in now.values()))
    return frozenset(
        name
        for name in asked
        if (_defines(name, new) and not _defines(name, old))
        or not _stands(tree.source_root, name.rpartition(" ")[2], set())
    )


def _defines(name: str, text: str) -> bool:
    """Tell whether a text without comments says what a type or a constant is."""
    kind, _, word = name.rpartition(" ")
    if kind == "constant":
        return word in constants_in(text)
    form = _TYPEDEF if kind == "typedef" else _TAGGED
    return re.search(form.format(kind, re.escape(word)), text) is not None


def is_read(file: TouchedFile, tree: XenTree) -> bool:
    """Tell whether a build for a tree's machine can read a file."""
    match = _ARCH.search(file.path)
    return match is None or match[1] in {tree.arch, "generic"}


def _stands(root: Path, name: str, touched: set[str]) -> bool:
    """Tell whether a file of the tree, other than those C files, knows a name already."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(
        word.search(text_of(root / "xen" / path))
        for path in mentioning(root / "xen", frozenset({name}))
        if f"xen/{path}" not in touched
    )


def _is_one_more(old: str, new: str) -> bool:
    """Tell whether a Makefile is as it was, but for objects that it names beside others."""
    return old.splitlines() == list(_without_more(old, new))


def _without_more(old: str, new: str) -> Iterator[str]:
    known = set(old.splitlines())
    return (row for row in new.splitlines() if row in known or not _OBJECT.fullmatch(row))
