# SPDX-License-Identifier: Apache-2.0
"""New functions that only boot code or boot data would have put to use.

Boot is over: nobody hands on their addresses, so they never run. No person's word makes that right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.elf.reader import read_elf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xsplice_plugins.artefacts import Delta
    from xsplice_plugins.plugins.spec import Config


class _Step(NamedTuple):
    name: str  #: decorated
    is_handed: bool  #: its address is held, stored or passed; else it is only called


def stranded(
    deltas: Sequence[Delta], objects: Sequence[bytes], config: Config
) -> dict[str, tuple[str, ...]]:
    """Return the new functions that run later only if boot hands them on.

    Args:
        deltas: What changed, one per captured pair.
        objects: The new object of each delta; empty where it is not linked.
        config: Settings of the run.

    Returns:
        By decorated name, the boot code and data that would have handed it on.
    """
    rows = [row for delta in deltas for row in delta.boot if row.hands or row.calls]
    fresh = {n.name for d in deltas for n in d.new if n.kind == "function" and not n.is_again}
    if not (rows and fresh):
        return {}
    uses: dict[str, set[_Step]] = {}
    for delta, data in zip(deltas, objects, strict=True):
        for owner, step in _uses(delta, data, config) if data else ():
            uses.setdefault(owner, set()).add(step)
    roots = {row.name for delta in deltas for row in delta.changed}
    roots |= {row.name for delta in deltas for row in delta.new if row.kind == "hook"}
    running = {step.name for step in _reached((_Step(n, is_handed=False) for n in roots), uses)}
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        starts = {_Step(name, is_handed=True) for name in row.hands}
        starts |= {_Step(name, is_handed=False) for name in row.calls}
        for step in _reached(starts, uses, frozenset(running)):
            if step.is_handed and step.name in fresh:
                found[step.name] = (*found.get(step.name, ()), row.name)
    return found


def _reached(
    starts: Iterable[_Step], uses: dict[str, set[_Step]], wall: frozenset[str] = frozenset()
) -> set[_Step]:
    """Return all that some steps lead to; what a handed function calls is as good as handed."""
    found: set[_Step] = set()
    todo = [step for step in starts if step.name not in wall]
    while todo:
        at = todo.pop()
        if at in found:
            continue
        found.add(at)
        todo += (
            _Step(step.name, is_handed=at.is_handed or step.is_handed)
            for step in uses.get(at.name, ())
            if step.name not in wall
        )
    return found


def _uses(delta: Delta, data: bytes, config: Config) -> Iterator[tuple[str, _Step]]:
    """Return what each thing of a payload refers to."""
    from xsplice_plugins.target.code import Code  # noqa: PLC0415  # costs what few fixes need
    from xsplice_plugins.target.known import facts_of  # noqa: PLC0415
    from xsplice_plugins.target.references import References  # noqa: PLC0415
    from xsplice_plugins.target.sections import profile_of  # noqa: PLC0415

    elf = read_elf(data, delta.object_path)
    profile = profile_of(delta.profile, facts_of(config.facts, config.release, delta.machine))
    code = Code(References(elf, profile))

    def owner(index: int, offset: int) -> str:
        rows = (e for e in delta.extents if e.section == index)
        return next((e.owner for e in rows if 0 <= offset - e.offset < max(e.size_bytes, 1)), "")

    for section in (elf.sections[n] for n in sorted({e.section for e in delta.extents})):
        for offset, target in code.targets(section).items():
            user = owner(section.index, offset)
            name = target.symbol.name
            if target.section_index is not None:
                name = owner(target.section_index, target.offset)
            if user and name and name != user:
                is_branch = section.is_exec and code.is_branch((section.index, offset))
                yield user, _Step(name, is_handed=not is_branch)
