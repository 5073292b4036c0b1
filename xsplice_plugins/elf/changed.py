# SPDX-License-Identifier: Apache-2.0
"""What a changed layout means for memory that exists, which has the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from xsplice_plugins.elf.layouts import StructLayout


class Question(NamedTuple):
    """What nobody but a person can answer."""

    name: str  #: what ``ACCEPT=`` calls it, such as ``LAYOUT:domain.member``; "": no word is taken
    about: str  #: the structure, as C calls it; "" if it is about none
    text: str


def layout_difference(name: str, old: StructLayout, new: StructLayout) -> str:
    """Say how a structure's layout changed, naming the first field concerned; "" if it did not."""
    if old == new:
        return ""
    before = {member: places for member, *places in old.members}
    after = {member for member, *_ in new.members}
    for member, bits, size_bits in new.members:
        if member not in before:
            return f"`{name}` got a new field `{member}` at byte {bits // 8}"
        was, size_was = before[member]
        if was != bits:
            unit, per = ("byte", 8) if was % 8 == bits % 8 == 0 else ("bit", 1)
            return (
                f"field `{member}` of `{name}` moved from {unit} {was // per} to {unit} "
                f"{bits // per}"
            )
        if size_was != size_bits:
            return f"field `{member}` of `{name}` had {size_was} bits and would have {size_bits}"
    for member, *_ in old.members:
        if member not in after:
            return f"`{name}` lost its field `{member}`"
    if old.size_bytes != new.size_bytes:
        return f"`{name}` had {old.size_bytes} bytes and would have {new.size_bytes}"
    return f"the fields of `{name}` changed their order"


def layout_questions(
    before: Mapping[str, StructLayout], after: Mapping[str, StructLayout]
) -> tuple[dict[str, str], tuple[Question, ...]]:
    """Say what of two sides' structures is another layout, and what only leaves a question.

    Memory that exists fits the new side if every member stays where it is, in its size. What is
    added lies in a hole then, behind the last member, or beside other members of a union: the
    layouts do not tell what memory holds there.

    Args:
        before: Structures of one side, by name.
        after: Those of the other.

    Returns:
        What does not fit, by the structure's name, and the questions; structures that only one
        side has are neither.
    """
    wrong: dict[str, str] = {}
    questions: list[Question] = []
    both = sorted(before.keys() & after.keys())
    grown = {
        name
        for name in both
        if before[name].size_bytes < after[name].size_bytes
        and before[name].is_in_unions
        and after[name].is_in_unions
    }
    for name in both:
        if before[name] != after[name] or before[name].types != after[name].types:
            asked = _kept(name, before[name], after[name], grown)
            if asked is None:
                wrong[name] = layout_difference(name, before[name], after[name])
            else:
                questions += asked
    return wrong, tuple(questions)


def _kept(
    name: str, old: StructLayout, new: StructLayout, grown: Collection[str]
) -> list[Question] | None:
    """Return the questions about one structure; ``None`` if memory of the old one does not fit."""
    if old.size_bytes != new.size_bytes and name not in grown:
        return None
    rows_old, rows_new = _rows(old), _rows(new)
    places = {row: key for key, row in rows_new.items() if key not in rows_old}
    renamed: set[tuple[str, int]] = set()
    changed = []
    for key, (bits, size_bits, kind) in rows_old.items():
        other = rows_new.get(key)
        if other is None:
            twin = places.get((bits, size_bits, kind))
            if twin is None:
                return None
            renamed.add(twin)
            continue
        is_judged_inside = kind == other[2] and (kind == "{}" or kind in grown)
        if bits != other[0] or (size_bits != other[1] and not is_judged_inside):
            return None
        if kind != other[2]:
            text = (
                f"field `{key[0]}` of `{name}` changed its type in place: nobody has shown that "
                "what existing objects hold there means the same"
            )
            changed.append(Question(_answer(name, key[0]), name, text))
    fresh = [member for member, count in rows_new if (member, count) not in rows_old]
    rows = [
        _added(name, member, rows_old, rows_new[member, 0])
        for member in fresh
        if (member, 0) not in renamed and member.rpartition(".")[0] not in fresh
    ]
    added = [row for row in rows if row is not None]
    if len(renamed) > 1:
        names = ", ".join(f"`{member}`" for member, _ in sorted(renamed))
        text = (
            f"fields {names} of `{name}` have new names: nobody has shown that none took another's "
            "place"
        )
        added.append(Question(_answer(name), name, text))
    return changed + added


def _answer(name: str, member: str = "", beside: str = "") -> str:
    """Return what ``ACCEPT=`` calls the question about a structure, or a member of one.

    A member that shares memory with another one is another question than the same in a hole.
    """
    word = ".".join(filter(None, (f"LAYOUT:{name.rpartition(' ')[2]}", member)))
    return f"{word}@{beside}" if beside else word


def _added(
    name: str,
    member: str,
    olds: Mapping[tuple[str, int], tuple[int, int, str]],
    place: tuple[int, int, str],
) -> Question | None:
    """Return the question about a new member; ``None`` if it names what is there already."""
    bits, size_bits, kind = place
    if size_bits and kind != "{}" and place in olds.values():
        return None
    beside = sorted(
        (start, start + size, old)
        for (old, _), (start, size, what) in olds.items()
        if what != "{}" and start < bits + size_bits and bits < start + size
    )
    end = bits
    for start, stop, _ in beside:
        if start <= end:
            end = max(end, stop)
    other = beside[0][2] if beside else ""
    if size_bits and end >= bits + size_bits:
        text = (
            f"field `{member}` of `{name}` shares memory with `{other}`: nobody has shown "
            "that what existing objects hold there means the same"
        )
    else:
        part = f", and shares memory with `{other}` in part" if other else ""
        text = (
            f"field `{member}` lies in a hole of `{name}`{part}: nobody has shown that existing "
            "objects hold zero there, and that code that is not replaced leaves it alone"
        )
    return Question(_answer(name, member, other), name, text)


def _rows(layout: StructLayout) -> dict[tuple[str, int], tuple[int, int, str]]:
    """Return place, size and type by a member's name and how many of that name come before."""
    rows: dict[tuple[str, int], tuple[int, int, str]] = {}
    seen: dict[str, int] = {}
    for (member, bits, size_bits), kind in zip(layout.members, layout.types, strict=True):
        count = seen.get(member, 0)
        seen[member] = count + 1
        rows[member, count] = (bits, size_bits, kind)
    return rows
