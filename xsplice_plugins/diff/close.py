# SPDX-License-Identifier: Apache-2.0
"""Collect what the changed functions need that the running image lacks, and nothing else."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct, field

from xsplice_plugins.artefacts import Extent, NewItem, Reference
from xsplice_plugins.diff.parts import EXTERNAL, Part, PartKind, source_name
from xsplice_plugins.elf.types import SHT_NOBITS
from xsplice_plugins.target.sections import SectionClass

if TYPE_CHECKING:
    from collections.abc import Collection

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.compare import Comparison

_READ_ONLY = (SectionClass.READ_ONLY, SectionClass.CONSTANTS, SectionClass.STRINGS)
_NOT_NEW = (
    SectionClass.INIT,
    SectionClass.PERCPU,
    SectionClass.REGISTRY,
    SectionClass.UNKNOWN,
)


class Closure(Struct, kw_only=True):
    """What the payload takes from the new object.

    ``taken`` maps the number of each taken part to the number of the function, datum or hook it
    serves; ``why`` says how each was reached. ``blocked`` holds parts that are needed and can be
    neither taken nor named.
    """

    taken: dict[int, int] = field(default_factory=dict)
    why: dict[int, tuple[int, str]] = field(default_factory=dict)  #: part -> (from, verb)
    referenced: set[int] = field(default_factory=set)
    blocked: dict[int, int] = field(default_factory=dict)  #: part -> owner that needs it


def close(canon: Canon, comparison: Comparison, again: Collection[str] = ()) -> Closure:
    """Walk from what changed to all it needs: parts to take, and parts to refer to.

    Args:
        canon: Both objects, and which parts of them belong together.
        comparison: What differs; gets what is brought once more.
        again: Read-only data that payloads beneath have brought with other content: its name leads
            to the old content, so what is needed of it is brought once more.
    """
    while True:
        closure = _closed(canon, comparison)
        old = {
            number
            for number in closure.referenced
            if canon.old.all[canon.pairing.old_of[number]].decorated in again
        }
        if not old:
            return closure
        comparison.again |= old
        comparison.copied |= old


def _closed(canon: Canon, comparison: Comparison) -> Closure:
    closure = Closure()
    todo: deque[int] = deque()
    for number in _roots(canon, comparison):
        closure.taken[number] = number
        todo.append(number)
    while todo:
        owner = todo.popleft()
        for part in bodies(canon, owner):
            closure.taken[part.number] = owner
            for edge in canon.new.edges(part):
                if edge.part != EXTERNAL:
                    _reach(canon, comparison, closure, owner, edge.part, todo)
    return closure


def bodies(canon: Canon, owner: int) -> list[Part]:
    """Return a part with everything that belongs to it: cold pieces, entries, snippets."""
    parts = canon.new
    if parts.all[owner].kind is not PartKind.FUNCTION:
        return [parts.all[owner]]
    numbers = list(parts.pieces.get(owner, (owner,)))
    for entry in parts.entries.get(owner, ()):
        numbers.append(entry.part)
        if entry.snippet != EXTERNAL:
            numbers.append(entry.snippet)
    return [parts.all[n] for n in dict.fromkeys(numbers)]


def _roots(canon: Canon, comparison: Comparison) -> list[int]:
    """Return what is taken for its own sake: changed, new, hooks, copies of read-only data."""
    roots = set(comparison.changed) | comparison.copied
    for part in canon.new.all:
        if part.kind not in (PartKind.FUNCTION, PartKind.DATA):
            continue
        is_new = part.number not in canon.pairing.old_of
        is_owner = canon.new.owner.get(part.number, part.number) == part.number
        is_hook = part.section_class is SectionClass.HOOK
        if (is_hook and not _is_hook_beneath(canon, comparison, part)) or (
            is_new and is_owner and part.section_class not in (*_NOT_NEW, SectionClass.IGNORED)
        ):
            roots.add(part.number)
    return sorted(n for n in roots if canon.new.all[n].section_class is not SectionClass.INIT)


def _is_hook_beneath(canon: Canon, comparison: Comparison, part: Part) -> bool:
    """Tell whether a hook is that of a payload beneath: both sides have it, and call the same."""
    calls = {canon.new.owner.get(edge.part, edge.part) for edge in canon.new.edges(part)}
    changed = {*comparison.changed, *comparison.data_changed}
    return part.number in canon.pairing.old_of and not changed & {part.number, *calls}


def _reach(
    canon: Canon,
    comparison: Comparison,
    closure: Closure,
    owner: int,
    target: int,
    todo: deque[int],
) -> None:
    parts = canon.new
    target = parts.owner.get(target, target)
    part = parts.all[target]
    closure.why.setdefault(target, (owner, _verb(part)))
    if target in closure.taken:
        return
    if part.kind in (PartKind.FUNCTION, PartKind.DATA):
        if target in canon.pairing.old_of and target not in comparison.copied:
            if target not in comparison.changed or part.section_class is SectionClass.INIT:
                closure.referenced.add(target)
            return
        if part.section_class in _NOT_NEW:
            closure.blocked[target] = owner
            return
    elif (
        part.kind is PartKind.ANONYMOUS
        and part.section_class not in (*_READ_ONLY, SectionClass.SANITIZER)
        and not parts.is_code_padding(part)
    ):
        closure.blocked[target] = owner
        return
    closure.taken[target] = owner if part.kind is not PartKind.FUNCTION else target
    todo.append(target)


def _verb(part: Part) -> str:
    return "calls" if part.kind is PartKind.FUNCTION else "uses"


# ----------------------------------------------------------------- records


def extents(canon: Canon, closure: Closure) -> tuple[Extent, ...]:
    """Return the taken ranges, sorted, without overlap."""
    rows = {}
    for number, owner in closure.taken.items():
        part = canon.new.all[number]
        top = _top(canon, closure, owner)
        rows[part.section, part.offset, part.size_bytes] = canon.new.all[top].decorated
    return tuple(
        Extent(section=section, offset=offset, size_bytes=size, owner=owner)
        for (section, offset, size), owner in sorted(rows.items())
        if size
    )


def _top(canon: Canon, closure: Closure, owner: int) -> int:
    """Return the named part that an unnamed one serves."""
    seen = set()
    while not canon.new.all[owner].name and owner in closure.why and owner not in seen:
        seen.add(owner)
        owner = closure.why[owner][0]
    return owner


def references(canon: Canon, comparison: Comparison, closure: Closure) -> tuple[Reference, ...]:
    """Return the ranges that the image has, by the names it has for them."""
    result = []
    for number in sorted(closure.referenced | _made_global(canon, comparison, closure)):
        part = canon.new.all[number]
        old = canon.old.all[canon.pairing.old_of[number]]
        result.append(
            Reference(
                section=part.section,
                offset=part.offset,
                size_bytes=part.size_bytes,
                target=old.decorated,
            )
        )
    return tuple(sorted(result, key=lambda r: (r.section, r.offset)))


def _made_global(canon: Canon, comparison: Comparison, closure: Closure) -> set[int]:
    """Return what stays, and other objects may name from now on: the image has it as a local."""
    return {
        number
        for number, old in canon.pairing.old_of.items()
        if canon.old.all[old].is_local
        and not (part := canon.new.all[number]).is_local
        and part.size_bytes
        and part.kind in (PartKind.FUNCTION, PartKind.DATA)
        and part.section_class is not SectionClass.IGNORED
        and number not in closure.taken
        and number not in comparison.changed
    }


def new_items(canon: Canon, comparison: Comparison, closure: Closure) -> tuple[NewItem, ...]:
    """Return what the payload brings beside the changed functions, each with its path."""
    result = []
    for number in sorted(closure.taken):
        part = canon.new.all[number]
        if number in comparison.changed or canon.new.owner.get(number, number) != number:
            continue
        if part.kind in (PartKind.STRING, PartKind.CONSTANT, PartKind.ENTRY, PartKind.SNIPPET):
            continue
        if part.kind is PartKind.ANONYMOUS and canon.new.is_code_padding(part):
            continue
        result.append(
            NewItem(
                name=part.decorated,
                reason=path(canon, comparison, closure, number),
                kind=kind_name(canon, part),
                symbol=part.name,
                section=part.section_name,
                offset=part.offset,
                size_bytes=part.size_bytes,
                is_again=number in comparison.copied,
            )
        )
    return tuple(result)


def kind_name(canon: Canon, part: Part) -> str:
    """Return what kind of thing a part is, as `NewItem.kind` spells it."""
    if part.section_class is SectionClass.HOOK:
        return "hook"
    if part.kind is PartKind.FUNCTION:
        return "function"
    if part.section_class in _READ_ONLY:
        return "read-only data"
    is_zero = canon.new.file.sections[part.section].type == SHT_NOBITS
    return "bss" if is_zero else "data"


def path(canon: Canon, comparison: Comparison, closure: Closure, number: int) -> str:
    """Say why a part is taken: from the change that needs it, step by step."""
    part = canon.new.all[number]
    if part.section_class is SectionClass.HOOK:
        return "a hook or note of the patch's author is always kept"
    if number in comparison.copied:
        if number in comparison.again:
            return "a payload beneath changed its content; the functions that read it get a copy"
        return "its content changed; the functions that read it get a new copy"
    steps: list[str] = []
    seen = {number}
    at = number
    while at in closure.why:
        user, verb = closure.why[at]
        if user in seen:
            break
        target = canon.new.all[at]
        name = source_name(target.name) if target.name else f"content of {target.section_name}"
        is_old = at in canon.pairing.old_of
        steps.append(
            f"`{canon.new.all[user].name or canon.new.all[user].section_name}` {verb} "
            f"{'' if is_old else 'new '}`{name}`"
        )
        seen.add(user)
        if user in comparison.changed:
            break
        at = user
    if not steps:
        return "the running hypervisor has no such item"
    return "included because " + ", ".join(reversed(steps))
