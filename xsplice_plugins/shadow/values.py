# SPDX-License-Identifier: Apache-2.0
"""Write a fix again, so that hooks set the first values that it changes, and put them back."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.initialisers import First, first_value, parts_of
from xsplice_plugins.csource.places import blanked
from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.shadow.asking import complaints_of, patch_of, require_compiles
from xsplice_plugins.shadow.folding import folded_into
from xsplice_plugins.shadow.texts import NAME, Rewritten, names_of, sides_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}
_HOOKED = {"xsplice_set_values", "xsplice_put_values_back"}  #: they write what differs
_HEAD = """
#include <xen/livepatch_payload.h>
#include <xen/string.h>

#ifndef cf_check
#define cf_check
#endif

/* The variables are in memory already: what the fix has as their first values is set there. */

/* Of a constant the compiler would not look into memory. */
static inline __attribute__((__always_inline__)) void xsplice_read(void *to, const void *from,
                                                               unsigned int size)
{
    switch ( size )
    {
    case 8: *(unsigned long *)to = *(const volatile unsigned long *)from; break;
    case 4: *(unsigned int *)to = *(const volatile unsigned int *)from; break;
    case 1: *(unsigned char *)to = *(const volatile unsigned char *)from; break;
    default:
        asm ( "" : "+r" (from) );
        memcpy(to, from, size);
        break;
    }
}

"""
_VALUE = """\
static const typeof({place}) xsplice_value_{number}{value};
static char xsplice_before_{number}[sizeof({place})];
"""
_SET = """\
    xsplice_read(xsplice_before_{number}, &{place}, sizeof({place}));
    memcpy((void *)&{place}, &xsplice_value_{number}, sizeof({place}));
"""
#: For the compiler alone, when it is asked: nothing is unused for want of one value.
_KEPT = """
static const void *const xsplice_kept_{name}[] __attribute__((used)) = {{ {kept} }};
"""
_PUT_BACK = "    memcpy((void *)&{place}, xsplice_before_{number}, sizeof({place}));\n"
_HOOKS = """
static void cf_check xsplice_set_values(void)
{{
{setting}}}
LIVEPATCH_LOAD_HOOK(xsplice_set_values);

static void cf_check xsplice_put_values_back(void)
{{
{putting}}}
LIVEPATCH_UNLOAD_HOOK(xsplice_put_values_back);
"""


_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)((?:[^\n\\]|\\.|\\\n)*)", re.MULTILINE)
_REDEFINES = re.compile(r"^[ \t]*#[ \t]*(?:define|undef)[ \t]+(\w+)", re.MULTILINE)


class _Set(NamedTuple):
    """One value that a hook sets."""

    place: str  #: of the variable or a part of it, as C names it
    value: str  #: "" for all zero


class _Left(NamedTuple):
    """A variable that has its old first value again."""

    path: str
    name: str
    value: str  #: what the fix has
    kept: tuple[str, ...]  #: functions that the old value alone names
    sets: tuple[_Set, ...]


def value_fix(tree: XenTree, fix: PatchSet, names: Sequence[str]) -> Rewritten:
    """Leave the first values of variables as they were, and let hooks set the new ones.

    Args:
        tree: The built tree; it is only read.
        fix: The fix as it is.
        names: Variables of files that the fix touches.

    Raises:
        ConfigError: A name is none.
        RefusedError: It is of no variable whose first value the fix changes, or not on x86_64.
        CaptureError: The result does not compile.
    """
    wanted = names_of(names)
    if tree.machine != EM_X86_64:
        raise RefusedError(
            f"{fix.name}: only on x86_64 may a load hook write what is read-only; write the hooks "
            "by hand"
        )
    olds, texts = sides_of(tree, fix)
    rows = [_left(texts, olds, name) for name in wanted]
    for path in dict.fromkeys(row.path for row in rows):
        sets = [one for row in rows if row.path == path for one in row.sets]
        texts[path] = texts[path].rstrip("\n") + "\n" + _hooks(sets)
    with tempfile.TemporaryDirectory(prefix="xsplice-") as folder:
        require_compiles(tree, texts, Path(folder), f"{fix.name}: with hooks")
        constant = _constant(tree, texts, rows, Path(folder))
        own = {*_HOOKED, *(row.name for row in rows)}
        own |= {f"xsplice_value_{number}" for number in range(sum(len(row.sets) for row in rows))}
        folded = folded_into(tree, *_both(texts, rows), own, Path(folder))
    if folded:
        raise RefusedError(
            f"{', '.join(row.name for row in rows)}: the compiler puts the value into "
            f"{', '.join(sorted(folded))}, which would go on with the old one; give code that "
            "reads it a variable of its own with the new value, in the fix"
        )
    for row in rows:
        if row.name not in constant and any(_is_whole(row.name, one) for one in row.sets):
            raise RefusedError(
                f"{row.name}: its value is given by order, so all of it would be set, and Xen may "
                "have written other parts since; name what changes in the fix (`.member = ...`, "
                "`[2] = ...`)"
            )
    notes = [note for row in rows for note in _notes(row, is_constant=row.name in constant)]
    return Rewritten(text=patch_of(tree, texts), notes=tuple(notes))


def _is_whole(name: str, one: _Set) -> bool:
    return one.place == name and one.value.startswith("{")


def _both(texts: dict[str, str], rows: Sequence[_Left]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the texts with the old first values, and with the new ones, in lines that agree.

    What only one of the two values names is used in both.
    """
    sides = dict(texts), dict(texts)
    for row in rows:
        old = first_value(texts[row.path], row.name)
        assert old is not None  # it was put there
        lines = max(old.text.count("\n"), row.value.count("\n"))
        for side, value in zip(sides, (old.text, row.value), strict=True):
            here = first_value(side[row.path], row.name)
            assert here is not None
            padded = value + "\n" * (lines - value.count("\n"))
            kept = ", ".join(f"(const void *){name}" for name in row.kept)
            side[row.path] = side[row.path][: here.at] + padded + side[row.path][here.end :]
            if kept:
                side[row.path] += _KEPT.format(name=row.name, kept=kept)
    return sides


def _constant(tree: XenTree, texts: dict[str, str], rows: Sequence[_Left], work: Path) -> set[str]:
    """Return the variables that the compiler does not let code write."""
    lines: dict[tuple[str, int], str] = {}
    asked = dict(texts)
    for number, row in enumerate(rows):
        asked[row.path] += f"void xsplice_asked_{number}(void)\n{{\n"
        for one in row.sets:
            asked[row.path] += f"    {{ void *p = &{one.place}; (void)p; }}\n"
            lines[row.path, asked[row.path].count("\n")] = row.name
        asked[row.path] += "}\n"
    told = [row for row in complaints_of(tree, asked, work) if "discards" in row.text]
    return {lines[row.path, row.line] for row in told if (row.path, row.line) in lines}


def _notes(row: _Left, *, is_constant: bool) -> Iterator[str]:
    """Say what is set, and what a person should look at."""
    shown = ", ".join(f"`{one.place}`" for one in row.sets)
    yield f"{shown}: set when the payload is applied, put back when it is reverted ({row.path})"
    if not is_constant:
        yield (
            f"LOOK: if Xen itself writes `{row.name}` (a command line's option, a table that boot "
            "fills), the hook takes that away for as long as the payload is applied"
        )
    yield f"LOOK: what Xen made of `{row.name}` before (copies, a device's registers) stays"


def _home(olds: dict[str, str], texts: dict[str, str], name: str) -> str:
    """Return the file whose variable it is."""
    found = [
        path
        for path in sorted(olds)
        if path.endswith(".c")
        and (before := first_value(olds[path], name))
        and (after := first_value(texts[path], name))
        and parts_of(before.text) != parts_of(after.text)
    ]
    if len(found) != 1:
        where = ", ".join(found) or "no C file"
        raise RefusedError(
            f"{name}: the fix changes the first value of such a variable in {where}; name one that "
            "one file defines once, with a value on both sides, and not within a function"
        )
    return found[0]


def _left(texts: dict[str, str], olds: dict[str, str], name: str) -> _Left:
    """Put the old value back into the text, and return what is to be set instead."""
    path = _home(olds, texts, name)
    before, after = first_value(olds[path], name), first_value(texts[path], name)
    assert before is not None  # it was found before
    assert after is not None
    sides = parts_of(before.text), parts_of(after.text)
    if ("" in sides[0]) != ("" in sides[1]):
        sides = {"": before.text}, {"": after.text}
    places = [
        place for place in {**sides[1], **sides[0]} if sides[0].get(place) != sides[1].get(place)
    ]
    _require_apart(path, name, places, sides)
    if other := _redefined(texts[path], after):
        raise RefusedError(
            f"{path}: `{other}` means something else behind `{name}`, and the hooks stand at the "
            "file's end; give the value without that macro, in the fix"
        )
    texts[path], kept = _restored(texts[path], olds[path], before, after)
    sets = tuple(_Set(name + place, sides[1].get(place, "")) for place in places)
    return _Left(path, name, after.text, kept, sets)


def _redefined(text: str, value: First) -> str:
    """Return a macro of a value that stands for something else at the end of its file; else ""."""
    blank = blanked(text)
    bodies: dict[str, set[str]] = {}
    for match in _DEFINE.finditer(blank):
        bodies.setdefault(match[1], set()).update(NAME.findall(match[2]))
    used, todo = set[str](), set(NAME.findall(blank[value.at : value.end]))
    while todo:
        used |= todo
        todo = {name for one in todo for name in bodies.get(one, ())} - used
    later = {match[1] for match in _REDEFINES.finditer(blank, value.end)}
    return min(used & later, default="")


def _require_apart(
    path: str, name: str, places: Sequence[str], sides: tuple[dict[str, str], dict[str, str]]
) -> None:
    """Refuse places that may be one: a part of another, or one place by two names."""
    known = {**sides[0], **sides[1]}
    gone, come = ([at for at in known if at not in side] for side in (sides[1], sides[0]))
    pairs = [(place, other) for place in places for other in known if _is_within(place, other)]
    pairs += zip(gone, come, strict=False)  # which of them are one nobody knows
    for place, other in pairs[:1]:
        raise RefusedError(
            f"{path}: `{name}{place}` and `{name}{other}` may be one place, and nobody knows which "
            "value is to be there; name what changes in the fix as it is named before"
        )


def _is_within(place: str, other: str) -> bool:
    """Tell whether one place is a part of the other."""
    marks = (".", "[")
    return any(
        one != whole and one.startswith(tuple(f"{whole}{mark}" for mark in marks))
        for one, whole in ((place, other), (other, place))
    )


def _restored(text: str, old: str, before: First, after: First) -> tuple[str, tuple[str, ...]]:
    """Return the text with the old value, and with the functions that it alone still names."""
    text = text[: after.at] + before.text + text[after.end :]
    here, there = _functions(text), _functions(old)
    gone = [
        name
        for name in dict.fromkeys(NAME.findall(before.text))
        if name in there and name not in here
    ]
    more = "".join(f"\n\n{there[name].strip()}" for name in gone)
    return text[: after.start] + more + text[after.start :], tuple(gone)


def _functions(text: str) -> dict[str, str]:
    rows = ((declaration(chunk.text), chunk.text) for chunk in chunks(text))
    return {row.name: whole for row, whole in rows if row.kind in _FUNCTIONS}


def _hooks(rows: Sequence[_Set]) -> str:
    """Return the values, and the hooks that set them and put the ones of before back."""
    numbered = [
        {"place": row.place, "value": row.value and f" = {row.value}", "number": number}
        for number, row in enumerate(rows)
    ]
    return (
        _HEAD
        + "".join(_VALUE.format(**row) for row in numbered)
        + _HOOKS.format(
            setting="".join(_SET.format(**row) for row in numbered),
            putting="".join(_PUT_BACK.format(**row) for row in numbered),
        )
    )
