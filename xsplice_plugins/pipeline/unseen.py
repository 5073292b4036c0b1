# SPDX-License-Identifier: Apache-2.0
"""What code of a matched base takes from a fix that no object of the tree shows.

The shipped image holds functions that differ, or that no object has. Their sources are not at
hand, so nothing tells which of a header's names they use, and what a rebuild would make of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xsplice_plugins import capture
from xsplice_plugins.artefacts import Duty, Finding, Likeness, Severity, TouchKind, object_and_name
from xsplice_plugins.elf.compiled import is_same_file
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.pipeline.basing import MATCH_MORE, inlined_by, objects_of_tree
from xsplice_plugins.pipeline.knowing import compared_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from xsplice_plugins.artefacts import BaseMatch, PatchSet
    from xsplice_plugins.check.results import NewObject
    from xsplice_plugins.kbuild.tree import XenTree

_REBUILD = "rebuild"
_SHOWN_MAX = 3
_SOURCES = {TouchKind.C, TouchKind.ASSEMBLER}
_INCLUDE = "include"  #: a part of the path of what any file may include by name
#: By name: the objects that it may belong to, and other files that it was made of.
_Items = dict[str, tuple[str, ...]]


def unseen_findings(
    tree: XenTree | None,
    patch_set: PatchSet,
    base: BaseMatch | None,
    changed: Collection[str],
    direct: Collection[str] = (),
    readers: Mapping[str, Collection[str]] | None = None,
    objects: Collection[NewObject] = (),
) -> tuple[Finding, ...]:
    """Say where code of the shipped image that no object has may take part in a fix.

    Args:
        tree: The tree without the fix; ``None`` where an image has no other sources than these.
        patch_set: The fix.
        base: How the tree compares with its image.
        changed: Paths of the objects that the fix changes.
        direct: Of those whose own source it touches.
        readers: Of each file, which objects of the tree read it; ``None`` where nobody knows.
        objects: Both sides of those that the fix changes, whose layouts are compared.

    Returns:
        An error for what is of a changed object; what nobody can tell is not checked.
    """
    if tree is None or base is None or not base.is_matched:
        return ()
    known = dict(base.owners)
    strangers = {name: known.get(name, ()) for name in base.strangers}
    items = _collected(strangers, (*base.differs, *base.absent, *base.inlined), known)

    @cache
    def compared() -> frozenset[str]:
        return compared_in(base, objects)

    return (
        *_of_changed(strangers, frozenset(changed)),
        *_of_inlined(base.inlined, changed),
        *_of_unread(strangers, tree, patch_set, readers),
        *_of_touched(
            {n: rest for n, owners in items.items() if (rest := _without(owners, changed))},
            patch_set,
            frozenset(direct),
            readers or {},
        ),
        *(_of_headers(items, tree, patch_set, readers, compared) if items else ()),
    )


def check_unchanged(tree: XenTree | None, patch_set: PatchSet) -> None:
    """Refuse a fix that changes no object of the tree, and may change what runs.

    Args:
        tree: The tree without the fix; ``None`` where an image has no other sources than these.
        patch_set: The fix.

    Raises:
        RefusedError: The tree is of a matched base, and code of its image may take from the fix.
    """
    base = tree.base if tree is not None else None
    if tree is None or base is None or base.likeness is not Likeness.MATCHED:
        return
    inlined = inlined_by(tree.xen_syms.read_bytes(), objects_of_tree(tree))
    others = (*base.differs, *base.absent, *inlined)
    items = _collected(dict.fromkeys(base.strangers, ()), others, {})
    rows = [row.text for row in _of_touched(items, patch_set, frozenset(), {})]
    rows += (
        [row.text for row in _of_headers(items, tree, patch_set, None, frozenset)] if items else []
    )
    if base.strangers and _sources(patch_set):
        rows.append(
            "no object of the tree changes; nobody knows whether one of the shipped image does, "
            f"which has what no object has: {_some(list(base.strangers))}; {MATCH_MORE}"
        )
    if rows:
        raise RefusedError("\n".join(f"{patch_set.name}: {text}" for text in rows))


def _collected(strangers: _Items, others: Iterable[str], made_of: _Items) -> _Items:
    items = dict(strangers)
    for path, name in sorted(object_and_name(others)):
        if items.get(name) != ():  # a stranger of that name, which may be of any object
            items[name] = (*items.get(name, made_of.get(name, ())), path)
    return items


def _of_changed(strangers: _Items, changed: frozenset[str]) -> Iterator[Finding]:
    """Name what may be of an object that changes: it may inline what is replaced, or read it."""
    for name, owners in strangers.items():
        if owners and changed.isdisjoint(owners):
            continue
        own = sorted(changed.intersection(owners))
        is_sure = sum(map(_is_object, owners)) == 1
        severity = Severity.ERROR if is_sure else Severity.UNCHECKED
        where = f"may be of {' or '.join(own)}" if own else "may be of any object"
        if severity is Severity.ERROR:
            where = f"is of {own[0]}"
        yield _finding(
            severity,
            name,
            f"{name}: the hypervisor has it, no object of the tree does, and it {where}, which the "
            f"fix changes: it may inline or read what was there before; {MATCH_MORE}",
            Duty.BASE if severity is Severity.ERROR else Duty.COMPLETE,
        )


def _of_inlined(inlined: Iterable[str], changed: Collection[str]) -> Iterator[Finding]:
    """Name objects that change, and that the shipped image has of other sources."""
    for path, name in sorted(object_and_name(inlined)):
        if path in changed:
            text = (
                f"{path}: the fix changes it, and the shipped one was made of other sources, for "
                f"the debug information tells of another {name}; {MATCH_MORE}"
            )
            yield _finding(Severity.UNCHECKED, path, text)


def _of_touched(
    items: _Items,
    patch_set: PatchSet,
    direct: frozenset[str],
    readers: Mapping[str, Collection[str]],
) -> Iterator[Finding]:
    """Name what is of an object whose source is touched, and that stays as it is in the tree.

    A source may be of several objects, which include it, and of what no object of the tree is.
    """
    sources = _sources(patch_set)
    stems = {PurePosixPath(p).with_suffix("").as_posix().partition("/")[2] for p in sources}
    direct |= {path for source in sources for path in readers.get(source, ())}
    for path in sorted({path for owners in items.values() for path in owners}):
        names = [name for name, owners in items.items() if path in owners]
        if not _is_object(path):
            if any(is_same_file(path, source) for source in sources):
                text = (
                    f"{path}: the fix touches it, and the hypervisor has {_some(names)} of it, "
                    f"otherwise than the tree, or alone; {MATCH_MORE}"
                )
                yield _finding(Severity.UNCHECKED, path, text)
        elif path in direct or _stem(path) in stems:
            text = (
                f"{path}: the fix touches its source, and changes nothing in the tree's object; "
                "nobody knows whether it does in the shipped one, which has "
                f"{_some(names)} otherwise; {MATCH_MORE}"
            )
            yield _finding(Severity.UNCHECKED, path, text)


def _of_unread(
    strangers: _Items,
    tree: XenTree,
    patch_set: PatchSet,
    readers: Mapping[str, Collection[str]] | None,
) -> Iterator[Finding]:
    """Name a source that no object of the tree is made of, where something may be made of it."""
    names = [
        name
        for name, owners in strangers.items()
        if len(owners) > 1 and all(map(_is_object, owners))  # known by its place alone
    ]
    if not names or readers is None:
        return
    for file in patch_set.touched:
        if file.kind in _SOURCES and file.path not in readers and capture.is_read(file, tree):
            text = (
                f"{file.path}: no object of the tree is made of it; nobody knows whether the "
                f"hypervisor's {_some(names)} is, which no object has; {MATCH_MORE}"
            )
            yield _finding(Severity.UNCHECKED, file.path, text)


def _of_headers(
    items: _Items,
    tree: XenTree,
    patch_set: PatchSet,
    readers: Mapping[str, Collection[str]] | None,
    compared: Callable[[], frozenset[str]],
) -> Iterator[Finding]:
    """Name what a fix changes that any file may use, the shipped ones included."""
    rows = [
        (path, what, users)
        for path, what in capture.exposed_by(tree, patch_set, lambda name: name in compared())
        if (users := _users(items, path, readers))
    ]
    if rows:
        shown = _some([f"{what} of {path}" for path, what, _ in rows])
        users = {name: owners for _, _, found in rows for name, owners in found.items()}
        names = [f"{name} ({_shown(row)})" for name, row in users.items()]
        text = (
            f"the fix changes {shown}; nobody knows whether code uses it that the shipped image "
            f"has otherwise than the tree, or alone: {_some(names)}; {MATCH_MORE}, or leave that "
            "part of the fix out"
        )
        yield _finding(Severity.UNCHECKED, rows[0][0], text)


def _sources(patch_set: PatchSet) -> list[str]:
    return [file.path for file in patch_set.touched if file.kind in _SOURCES]


def _users(items: _Items, path: str, readers: Mapping[str, Collection[str]] | None) -> _Items:
    """Return what may use a file: of a header beside its sources, what lies where it is read."""
    if readers is None or _INCLUDE in PurePosixPath(path).parts or not path.endswith(".h"):
        return items
    folders = {_folder(PurePosixPath(path).relative_to("xen").as_posix())}
    folders |= {_folder(reader) for reader in readers.get(path, ())}
    return {
        name: owners
        for name, owners in items.items()
        if not owners
        or any(is_same_file(owner, path) for owner in owners)
        or not folders.isdisjoint(_folder(owner) for owner in owners if not owner.endswith(".h"))
    }


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.as_posix()


def _without(owners: tuple[str, ...], changed: Collection[str]) -> tuple[str, ...]:
    """Return what is left to ask: nothing, of the one object that changes."""
    objects = [path for path in owners if _is_object(path)]
    if len(objects) == 1 and objects[0] in changed:
        return ()
    return tuple(path for path in owners if path not in changed)


def _shown(owners: tuple[str, ...]) -> str:
    return " or ".join(path for path in owners if not path.endswith(".h")) or "of any object"


def _is_object(path: str) -> bool:
    return path.endswith(".o")


def _stem(path: str) -> str:
    return path.removesuffix(".o").removesuffix(".init")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN_MAX
    return ", ".join(names[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _finding(severity: Severity, subject: str, text: str, duty: Duty = Duty.COMPLETE) -> Finding:
    return Finding(check=_REBUILD, severity=severity, subject=subject, text=text, obligation=duty)
