# SPDX-License-Identifier: Apache-2.0
"""Say why a function counts as changed: the first difference and the class of its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Cause, ChangedFunction, Difference
from xsplice_plugins.diff.debuginfo import debug_info
from xsplice_plugins.diff.disassembly import format_step
from xsplice_plugins.diff.lines import line_table
from xsplice_plugins.diff.parts import EXTERNAL, NEW, OLD, Edge, Kind, masked, source_name

if TYPE_CHECKING:
    from xsplice_plugins.diff.compare import Canon, FunctionChange
    from xsplice_plugins.diff.normalise import Parts
    from xsplice_plugins.diff.streams import Step


def explain(canon: Canon, change: FunctionChange) -> ChangedFunction:
    """Return the record of one changed function.

    Args:
        canon: Both objects under their pairing.
        change: The evidence.
    """
    old, new = canon.old.all[change.old], canon.new.all[change.new]
    cause, reason = _cause(canon, change)
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
        before=format_step(canon.old, before) if before else "",
        after=format_step(canon.new, after) if after else "",
        offset_before=before.offset if before else 0,
        offset_after=after.offset if after else 0,
        line_before=_line(canon.old, before),
        line_after=_line(canon.new, after),
    )


def _line(parts: Parts, step: Step | None) -> str:
    if step is None:
        return ""
    part = parts.all[step.piece]
    return line_table(parts.file).line_of(part.section, part.offset + step.offset)


def _cause(canon: Canon, change: FunctionChange) -> tuple[Cause, str]:
    if change.data != EXTERNAL:
        name = canon.new.all[change.data].name
        return Cause.DATA, f"it reads `{source_name(name)}`, whose content changed"
    if change.entry:
        return Cause.SPECIAL, f"its entries in {change.entry} changed, its instructions did not"
    inlining = _inlining(canon, change)
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
        if before.size_bytes == after.size_bytes:
            return Cause.CONSTANT, f"a constant changed: {values}"
    return Cause.SOURCE, "its instructions changed"


def _edge_cause(canon: Canon, before: Step, after: Step) -> tuple[Cause, str]:
    for a, b in zip(before.edges, after.edges, strict=True):
        if canon.edge(OLD, a) == canon.edge(NEW, b):
            continue
        kind_a, kind_b = _kind(canon.old, a), _kind(canon.new, b)
        if kind_a is kind_b is Kind.STRING:
            texts = [_text(canon.old, a), _text(canon.new, b)]
            return Cause.STRING, f"a string changed: {texts[0]} became {texts[1]}"
        if kind_a is kind_b is Kind.CONSTANT:
            return Cause.CONSTANT, "a constant in memory changed"
        names = [target_name(canon.old, a), target_name(canon.new, b)]
        if source_name(names[0]) == source_name(names[1]) and names[0] != names[1]:
            return Cause.CLONE, f"the compiler made `{names[1]}` of `{names[0]}`"
        if before.is_call:
            return Cause.SOURCE, f"it calls `{names[1]}` instead of `{names[0]}`"
        return Cause.DATA, f"it refers to {names[1]} instead of {names[0]}"
    return Cause.SOURCE, "its instructions changed"


def _inlining(canon: Canon, change: FunctionChange) -> str:
    """Return a sentence if the compiler took a function in, or out again."""
    old_name = source_name(canon.old.all[change.old].name)
    held = debug_info(canon.old.file).inlined.get(old_name, frozenset())
    holds = debug_info(canon.new.file).inlined.get(old_name, frozenset())
    if held or holds:
        return _absorbed(canon, old_name, held, holds)
    before = _local_calls(canon.old, change.old)
    after = _local_calls(canon.new, change.new)
    names_before = {canon.old.all[n].name: n for n in before}
    names_after = {canon.new.all[n].name: n for n in after}
    for name in sorted(names_before.keys() - names_after.keys()):
        if names_before[name] not in canon.pairing.new_of and not _stands(canon.new, name):
            return f"`{source_name(name)}` was inlined into it or dropped"
    for name in sorted(names_after.keys() - names_before.keys()):
        if names_after[name] not in canon.pairing.old_of and _is_clone(name):
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
    old_names = {source_name(p.name) for p in canon.old.all if p.kind is Kind.FUNCTION}
    new_names = {source_name(p.name) for p in canon.new.all if p.kind is Kind.FUNCTION}
    for callee in sorted((holds - held) & old_names):
        return f"`{callee}` was inlined into `{name}`"
    for callee in sorted((held - holds) & new_names):
        return f"`{callee}` is no longer inlined into `{name}`"
    return ""


def _stands(parts: Parts, name: str) -> bool:
    return any(source_name(p.name) == source_name(name) for p in parts.all if p.name)


def _is_clone(name: str) -> bool:
    return name != source_name(name)


def _local_calls(parts: Parts, function: int) -> set[int]:
    result = set()
    for piece in parts.pieces[function]:
        for edge in parts.edges(parts.all[piece]):
            if edge.part != EXTERNAL and parts.all[edge.part].kind is Kind.FUNCTION:
                owner = parts.owner.get(edge.part, edge.part)
                if owner != function and parts.all[owner].is_local:
                    result.add(owner)
    return result


def _kind(parts: Parts, edge: Edge) -> Kind | None:
    return None if edge.part == EXTERNAL else parts.all[edge.part].kind


def _text(parts: Parts, edge: Edge) -> str:
    data = parts.content(parts.all[edge.part])[edge.at :].rstrip(b"\0")
    return '"' + data.decode("utf-8", "backslashreplace").replace("\n", "\\n") + '"'


def target_name(parts: Parts, edge: Edge) -> str:
    """Return how a person would call what a relocation refers to."""
    if edge.part == EXTERNAL:
        name = edge.name
    else:
        part = parts.all[edge.part]
        if part.kind is Kind.STRING:
            return _text(parts, edge)
        name = part.name or part.section_name
    return f"{name}+{edge.at:#x}" if edge.at else name
