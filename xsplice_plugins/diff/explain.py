# SPDX-License-Identifier: Apache-2.0
"""Say why a function counts as changed: the first difference and the class of its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Cause, ChangedFunction, Difference
from xsplice_plugins.diff.lines import line_of
from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Edge, PartKind, masked, source_name
from xsplice_plugins.elf.debuginfo import debug_info
from xsplice_plugins.target.listing import instruction_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from xsplice_plugins.diff.canon import Canon
    from xsplice_plugins.diff.compare import FunctionChange
    from xsplice_plugins.diff.normalise import ObjectParts
    from xsplice_plugins.diff.streams import StreamStep

_TEXT_MAX = 60  #: characters of a string literal that are shown beside an instruction


def explain(canon: Canon, change: FunctionChange, edited: Collection[str]) -> ChangedFunction:
    """Return the record of one changed function.

    Args:
        canon: Both sides.
        change: What differs.
        edited: Names of functions whose own source is known to have changed: what the compiler
            took in is not their cause.
    """
    old, new = canon.old.all[change.old], canon.new.all[change.new]
    cause, reason = _cause(canon, change, is_edited=old.name in edited or new.name in edited)
    pieces = canon.new.pieces[change.new][1:]
    return ChangedFunction(
        name=old.decorated,
        reason=reason,
        cause=cause,
        symbol=new.name,
        symbol_baseline=old.name,
        section=new.section_name,
        size_before_bytes=old.stated_size_bytes,
        size_after_bytes=new.stated_size_bytes,
        difference=_difference(canon, change),
        pieces=tuple(canon.new.all[n].name for n in pieces),
    )


def _difference(canon: Canon, change: FunctionChange) -> Difference | None:
    if change.stream is None:
        return None
    before, after = change.stream.before, change.stream.after
    return Difference(
        before=_step_text(canon.old, before) if before else "",
        after=_step_text(canon.new, after) if after else "",
        offset_before=before.offset if before else 0,
        offset_after=after.offset if after else 0,
        line_before=_line(canon.old, before),
        line_after=_line(canon.new, after),
    )


def _line(parts: ObjectParts, step: StreamStep | None) -> str:
    if step is None:
        return ""
    part = parts.all[step.piece]
    return line_of(parts.file, part.section, part.offset + step.offset)


def _cause(canon: Canon, change: FunctionChange, *, is_edited: bool) -> tuple[Cause, str]:
    if change.data != EXTERNAL:
        name = canon.new.all[change.data].name
        return Cause.DATA, f"it reads `{source_name(name)}`, whose content changed"
    if change.entry:
        return Cause.SPECIAL, f"its entries in {change.entry} changed, its instructions did not"
    inlining = "" if is_edited else _inlining(canon, change)
    if inlining:
        return Cause.INLINING, inlining
    clone = _cloned(canon, change)
    if clone:
        return Cause.CLONE, clone
    stream = change.stream
    assert stream is not None, "a change has evidence"
    before, after = stream.before, stream.after
    if before is None or after is None:
        return Cause.SOURCE, "its code is longer" if before is None else "its code is shorter"
    if before.code == after.code and len(before.edges) == len(after.edges):
        return _edge_cause(canon, before, after)
    if before.immediate is not None and after.immediate is not None:
        values = f"{before.immediate:#x} became {after.immediate:#x}"
        if before.size_bytes == after.size_bytes and before.operation == after.operation:
            return Cause.CONSTANT, f"a constant changed: {values}"
    return Cause.SOURCE, "its instructions changed"


def _edge_cause(canon: Canon, before: StreamStep, after: StreamStep) -> tuple[Cause, str]:
    for a, b in zip(before.edges, after.edges, strict=True):
        if canon.edge(OLD, a) == canon.edge(NEW, b):
            continue
        kind_a, kind_b = _kind(canon.old, a), _kind(canon.new, b)
        was, now = _target_name(canon.old, a), _target_name(canon.new, b)
        if kind_a is kind_b is PartKind.STRING:
            return Cause.STRING, f"a string changed: {was} became {now}"
        if kind_a is kind_b is PartKind.CONSTANT:
            return Cause.CONSTANT, "a constant in memory changed"
        if source_name(was) == source_name(now) and was != now:
            return Cause.CLONE, f"the compiler made `{now}` of `{was}`"
        if before.is_call:
            return Cause.SOURCE, f"it calls `{now}` instead of `{was}`"
        return Cause.DATA, f"it refers to {now} instead of {was}"
    return Cause.SOURCE, "its instructions changed"


def _inlining(canon: Canon, change: FunctionChange) -> str:
    """Return a sentence if the compiler took a function in, or out again."""
    old_name = source_name(canon.old.all[change.old].name)
    held = debug_info(canon.old.file).inlined.get(old_name, frozenset())
    holds = debug_info(canon.new.file).inlined.get(old_name, frozenset())
    if held or holds:
        return _absorbed(canon, old_name, held, holds)
    before = {canon.old.all[n].name: n for n in _local_calls(canon.old, change.old)}
    after = {canon.new.all[n].name: n for n in _local_calls(canon.new, change.new)}
    standing = {source_name(p.name) for p in canon.new.all if p.name}
    for name in sorted(before.keys() - after.keys()):
        if before[name] not in canon.pairing.new_of and source_name(name) not in standing:
            return f"`{source_name(name)}` was inlined into it or dropped"
    for name in sorted(after.keys() - before.keys()):
        if after[name] not in canon.pairing.old_of and name != source_name(name):
            return f"part of it, or a copy of a callee, became `{name}`"
    return ""


def _cloned(canon: Canon, change: FunctionChange) -> str:
    """Return a sentence if the function, or one it calls, became a specialised copy or plain."""
    old, new = canon.old.all[change.old].name, canon.new.all[change.new].name
    if masked(old) != masked(new) and source_name(old) == source_name(new):
        return f"the compiler made `{new}` of `{old}`"
    for number in sorted(_local_calls(canon.new, change.new)):
        twin = canon.pairing.old_of.get(number)
        if twin is None:
            continue
        old, new = canon.old.all[twin].name, canon.new.all[number].name
        if masked(old) != masked(new) and source_name(old) == source_name(new):
            return f"it calls `{new}`, which the compiler made of `{old}`"
    return ""


def _absorbed(canon: Canon, name: str, held: frozenset[str], holds: frozenset[str]) -> str:
    """Say from debug information which known function was inlined, or is no longer."""
    for parts, names, verb in (
        (canon.old, holds - held, "was"),
        (canon.new, held - holds, "is no longer"),
    ):
        known = {source_name(p.name) for p in parts.all if p.kind is PartKind.FUNCTION}
        for callee in sorted(names & known - {name}):
            return f"`{callee}` {verb} inlined into `{name}`"
    return ""


def _local_calls(parts: ObjectParts, function: int) -> set[int]:
    result = set()
    for piece in parts.pieces[function]:
        for edge in parts.edges(parts.all[piece]):
            if edge.part != EXTERNAL and parts.all[edge.part].kind is PartKind.FUNCTION:
                owner = parts.owner.get(edge.part, edge.part)
                if owner != function and parts.all[owner].is_local:
                    result.add(owner)
    return result


def _kind(parts: ObjectParts, edge: Edge) -> PartKind | None:
    return None if edge.part == EXTERNAL else parts.all[edge.part].kind


def _target_name(parts: ObjectParts, edge: Edge, characters_max: int | None = None) -> str:
    """Return how a person would call what a relocation refers to."""
    if edge.part == EXTERNAL:
        name = edge.name
    else:
        part = parts.all[edge.part]
        if part.kind is PartKind.STRING:
            text = parts.content(part)[edge.at :].rstrip(b"\0").decode("utf-8", "backslashreplace")
            shown = text[:characters_max].replace("\n", "\\n")
            return f'"{shown}{"..." if len(text) > (characters_max or len(text)) else ""}"'
        name = part.name or part.section_name
    return f"{name}{edge.at:+#x}" if edge.at else name


def _step_text(parts: ObjectParts, step: StreamStep) -> str:
    """Return one instruction as text, and behind ``#`` what its relocations refer to."""
    part = parts.all[step.piece]
    data = parts.content(part)[step.offset : step.offset + step.size_bytes]
    text = instruction_text(parts.file.machine, data, part.offset + step.offset)
    names = [_target_name(parts, edge, _TEXT_MAX) for edge in step.edges]
    if step.jump is not None:
        names = [_target_name(parts, Edge(0, 0, *step.jump, ""), _TEXT_MAX)]
    return f"{text}  # {', '.join(names)}" if names else text
