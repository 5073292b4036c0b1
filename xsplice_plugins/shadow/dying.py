# SPDX-License-Identifier: Apache-2.0
"""Where objects of a structure die: calls that free one, in the files that make some."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins import capture
from xsplice_plugins.csource.places import arguments, blanked, closing, without_directives
from xsplice_plugins.shadow.asking import asking, complaints_of, missed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.shadow.members import Structure

#: What gives memory back at once; others may wait, or take down what belongs to the object.
_AT_ONCE = re.compile(r"_?xv?free|XV?FREE|free_(?:xen|dom)heap_pages?")
_ONCE = re.compile(r"\+\+|--|\w\s*\(")  #: what is written so must not be done twice
_FREES = re.compile(r"\b(?P<call>\w*free\w*)\s*\(", re.IGNORECASE)
_ASKED = "xsplice_asked"  #: a member that nothing has
_ARCHES = {62: "x86", 183: "arm"}  #: ELF's machines
_NOT_XEN = {"tools", "test"}  #: folders of programs and modules beside the hypervisor
_FUNCTION = re.compile(r"^(?!\s)[^;{}#=]*?\(?\b(?P<name>\w+)\)?\s*\([^;{}]*\)\s*\{", re.MULTILINE)


class Death(NamedTuple):
    """One call that frees an object."""

    path: str
    start: int  #: of the call
    end: int  #: behind its closing bracket
    call: str
    what: str  #: the pointer, as it is written
    more: str  #: zeroes for the other arguments
    function: str  #: in whose body it stands

    @property
    def is_plain(self) -> bool:
        """Tell whether the object's memory goes here, and its pointer may be named twice."""
        return _AT_ONCE.fullmatch(self.call) is not None and not _ONCE.search(self.what)


def deaths_of(
    tree: XenTree, texts: Mapping[str, str], structure: Structure, work: Path
) -> tuple[list[Death], tuple[str, ...]]:
    """Return where objects of a structure are freed, in the files where some are made.

    What frees memory of any type counts; a function that takes an object frees what belongs to it.

    Args:
        tree: The built tree.
        texts: What differs from it, by path.
        structure: Whose objects.
        work: A folder of one's own.

    Returns:
        The calls, and where objects are made.
    """
    with asking(tree, texts, work) as (copy, jobs):
        made = capture.made_at(jobs[0], copy, structure.name)
    prefix = f"{tree.patch_root}/" if tree.patch_root else ""
    paths = {row.partition(":")[0].removeprefix(prefix) for row in made}
    calls = [
        call
        for path in sorted(path for path in paths if path.endswith(".c"))
        for call in _calls(path, text_of(tree, texts, path))
    ]
    given = _of_type(tree, texts, calls, structure, work)
    return sorted(_generic(tree, texts, given, work)), made


def others_that_free(
    tree: XenTree, texts: Mapping[str, str], structure: Structure, asked: Collection[str]
) -> list[str]:
    """Return files that name a structure and free something, where nobody asked what.

    Args:
        tree: The built tree.
        texts: What differs from it, by path.
        structure: Whose objects may die there.
        asked: Files where all calls were looked at.
    """
    named = re.compile(rf"\b{structure.kind}\s+{structure.tag}\b")
    found = []
    for file in sorted(tree.hypervisor_source.rglob("*.c")):
        path = file.relative_to(tree.source_root).as_posix()
        parts = file.relative_to(tree.hypervisor_source).parts
        is_other = parts[0] == "arch" and parts[1] != _ARCHES.get(tree.machine, parts[1])
        if path not in asked and not is_other and parts[0] not in _NOT_XEN:
            text = text_of(tree, texts, path)
            if named.search(text) and _FREES.search(text):
                blank = blanked(text)
                found += [path] if named.search(blank) and _FREES.search(blank) else []
    return found


def _of_type(
    tree: XenTree, texts: Mapping[str, str], calls: list[Death], structure: Structure, work: Path
) -> list[Death]:
    """Return the calls that are given an object of a structure: the compiler tells the type."""
    asked: dict[str, str] = {}
    places: dict[tuple[str, int], Death] = {}
    for path in sorted({call.path for call in calls}):
        text, grown = text_of(tree, texts, path), 0
        for call in (row for row in calls if row.path == path):
            at = text.index(call.what, call.start + grown + len(call.call))
            end = at + len(call.what)
            places[path, end + 3] = call
            text = f"{text[:at]}(({call.what})->{_ASKED}){text[end:]}"
            grown += len(_ASKED) + 6
        asked[path] = text
    if not asked:
        return []
    found = missed(tree, {**texts, **asked}, structure.name, {_ASKED}, work)
    return [places[row.path, row.start] for row in found if (row.path, row.start) in places]


def _generic(
    tree: XenTree, texts: Mapping[str, str], calls: list[Death], work: Path
) -> list[Death]:
    """Return the calls of what frees memory of any type; others free what belongs to an object."""
    asked = {row.path: text_of(tree, texts, row.path).rstrip("\n") for row in calls}
    places: dict[tuple[str, int], Death] = {}
    for number, row in enumerate(calls):
        asked[row.path] += (
            f"\nstruct {_ASKED}; void {_ASKED}_{number}(struct {_ASKED} *p); "
            f"void {_ASKED}_{number}(struct {_ASKED} *p) {{ {row.call}(p{row.more}); }}"
        )
        places[row.path, asked[row.path].count("\n") + 1] = row
    if not asked:
        return []
    asked = {path: f"{text}\n" for path, text in asked.items()}
    told = complaints_of(tree, {**texts, **asked}, work)
    refused = {places[row.path, row.line] for row in told if (row.path, row.line) in places}
    return [row for row in calls if row not in refused]


def _calls(path: str, text: str) -> list[Death]:
    """Return the statements of a text that may free something."""
    blank = without_directives(blanked(text))
    functions = [(match.start(), match["name"]) for match in _FUNCTION.finditer(blank)]
    found = []
    for match in _FREES.finditer(blank):
        before = blank[: match.start()].rstrip()
        end = closing(blank, match.end() - 1)
        what, *more = arguments(text[match.end() : end])
        is_statement = before.endswith((";", "{", "}", ")", ":", "else"))
        if is_statement and what:
            inside = [name for start, name in functions if start < match.start()]
            span = (match.start(), end + 1)
            zeroes = ", 0" * len(more)
            found.append(Death(path, *span, match["call"], what, zeroes, (inside or [""])[-1]))
    return found


def text_of(tree: XenTree, texts: Mapping[str, str], path: str) -> str:
    """Return a file's text: the fix's, or else the tree's."""
    return texts[path] if path in texts else (tree.source_root / path).read_text("latin-1")
