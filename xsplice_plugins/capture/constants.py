# SPDX-License-Identifier: Apache-2.0
"""Constants that live in memory: what the old code made of them, new code reads otherwise.

Two things are asked of a changed pair: which named constants have another value, by the
preprocessor's own word; and how the sources use them, in all files, for what one object stores
another one may read.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from xsplice_plugins.capture.compiling import is_true, preprocess
from xsplice_plugins.capture.copying import origin_of
from xsplice_plugins.capture.texts import SOURCES, related, text_of
from xsplice_plugins.csource.callbacks import changed_callbacks, retyped_functions, taken_in
from xsplice_plugins.csource.constants import (
    Changed,
    Macros,
    changed_constants,
    constants_in,
    constants_on_both,
    families,
    looks_elsewhere,
    macros_in,
    replaced_words,
)
from xsplice_plugins.csource.flags import new_flags
from xsplice_plugins.csource.helpers import changed_sizes, resized
from xsplice_plugins.csource.literals import changed_literals
from xsplice_plugins.csource.pairs import changed_pairs
from xsplice_plugins.csource.remade import remade_members
from xsplice_plugins.csource.returned import without_passing
from xsplice_plugins.csource.uses import Use, is_read_otherwise, uses_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xsplice_plugins.artefacts import CompileJob, ObjectPair

_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_ENUM = re.compile(r"\benum\b[^;{}()]*\{[^{}]*\}")
_WORD = re.compile(r"[A-Za-z_]\w*")
_DEFINED = r"^[ \t]*#[ \t]*define[ \t]+{}\b"
#: What a macro stands for: it may set or test a flag for its users.
_BODY = re.compile(r"^[ \t]*#[ \t]*define[ \t]+\w+(?:\([^)]*\))?((?:\\\n|[^\n])*)", re.MULTILINE)
_PLAIN = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")

Sides = tuple[tuple["CompileJob", Path], tuple["CompileJob", Path]]


class _Place(NamedTuple):
    """A use, and in which file."""

    path: str
    use: Use


def settle_constants(
    sides: Sides, pair: ObjectPair, *, env: Mapping[str, str] | None = None
) -> ObjectPair:
    """Ask the sources about constants whose old value memory may hold.

    Args:
        sides: How either side is compiled, and the root of its copy.
        pair: What was compared.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        The record with what may be read otherwise than it was made (``stale``) and remarks; the
        same if its code does not change.

    Raises:
        CaptureError: Preprocessing fails.
    """
    if not pair.is_changed:
        return pair
    (_, before), (now, after) = sides
    stale: list[str] = []
    remarks: list[str] = []
    texts = _patched_texts(before, after)
    tables = cache(lambda: _tables(sides, texts, env))
    for path, (old, new) in texts.items():
        if path.endswith((".h", pair.source_path)):
            others = (pieces for other, pieces in texts.items() if other != path)
            literals = changed_literals(old, new, tables, others)
            stale += (f"{path}: {text}" for text in literals.stale)
            remarks += (f"{path}: {text}" for text in literals.remarks)
    stale += _callbacks(now, before, pair.source_path, texts)
    stale += _resized(now, before, pair.source_path, texts)
    rows = tuple((path, old, new) for path, (old, new) in texts.items())
    pairs = changed_pairs(rows)
    here = (".h", pair.source_path)
    stale += (f"{path}: {text}" for path, text in pairs.stale if path.endswith(here))
    said = " ".join(stale)
    stale += (
        f"{one.path}: {one.text}"
        for one in remade_members(rows)
        if one.path.endswith(here) and not all(f"`{name}`" in said for name in one.functions)
    )
    noted = (*pairs.remarks, *new_flags(rows))
    remarks += (f"{path}: {text}" for path, text in noted if path.endswith(here))
    if any(_may_change(old, new) for old, new in texts.values()):
        macros = list(tables())
        # A header that is read no more takes names along that nobody changed.
        own = {name for old, _ in texts.values() for name in (*macros_in(old), *constants_in(old))}
        macros[0] = {n: rows for n, rows in macros[0].items() if n in macros[1] or n in own}
        changed = tuple(
            item
            for item in changed_constants(macros[0], macros[1], _renamed(texts, macros))
            if not _is_equal(item, sides, env)
        )
        places = _places(now, before, after, frozenset(item.name for item in changed))
        for item in changed:
            _judge(item, places.get(item.name, ()), stale, remarks)
        plain = frozenset(item.name for item in changed if not item.takes_arguments)
        for family in families(macros, plain):
            _judge_family(family, places, stale)
    return replace(pair, stale=tuple(dict.fromkeys(stale)), remarks=tuple(dict.fromkeys(remarks)))


def _callbacks(
    job: CompileJob, before: Path, source: str, texts: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """Say which functions of an object take data that memory holds for something else."""
    old, new = ("\n".join(rows[side] for rows in texts.values()) for side in (0, 1))
    names = frozenset(retyped_functions(old, new))
    paths = related(job, before, names)
    taken = frozenset(n for path in paths for n in taken_in(text_of(before / path), names))
    for name, text in changed_callbacks(old, new, taken):
        for path, (was, _) in texts.items():
            if path.endswith((".h", source)) and re.search(rf"\b{name}\b", was):
                yield f"{path}: {text}"
                break


def _resized(
    job: CompileJob, before: Path, source: str, texts: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """Say which files allocate another size, for what gives it is something else now."""
    own = {path: pieces for path, pieces in texts.items() if path.endswith((".h", source))}
    sizes = changed_sizes(own)
    for path in sorted({*texts, *related(job, before, sizes.far)}):
        now = texts[path][1] if path in texts else text_of(before / path)
        yield from (f"{path}: {text}" for text in resized(now, sizes))


def _tables(
    sides: Sides, texts: dict[str, tuple[str, str]], env: Mapping[str, str] | None
) -> tuple[Macros, Macros]:
    """Return all definitions of either side that hold in the object's source."""
    found = []
    for number, (job, root) in enumerate(sides):
        text = preprocess(job, root, env=env, options="-dD")
        known = macros_in(text)
        for match in _ENUM.finditer(_DIRECTIVE.sub("", text)):
            known.update(constants_in(match[0]))
        for pieces in texts.values():
            known.update(constants_on_both(*pieces)[number])
        found.append(known)
    return found[0], found[1]


def _renamed(texts: dict[str, tuple[str, str]], macros: list[Macros]) -> dict[str, set[str]]:
    """Return what stands now where a constant stood that is gone."""
    found: dict[str, set[str]] = {}
    for old, new in texts.values() if macros[0].keys() - macros[1].keys() else ():
        for was, words in replaced_words(old, new).items():
            found.setdefault(was, set()).update(words)
    return found


def _patched_texts(before: Path, after: Path) -> dict[str, tuple[str, str]]:
    """Return both versions of each C file that the patch changes."""
    found = {}
    for path in sorted(origin_of(after).patched | origin_of(before).patched):
        if path.endswith(SOURCES):
            old, new = (text_of(root / path) for root in (before, after))
            if old != new:
                found[path] = (old, new)
    return found


def _may_change(old: str, new: str) -> bool:
    """Tell whether directives differ, or constants that are named otherwise."""
    directives = [_DIRECTIVE.findall(text) for text in (old, new)]
    before, after = constants_on_both(old, new)
    return directives[0] != directives[1] or before != after


def _is_equal(item: Changed, sides: Sides, env: Mapping[str, str] | None) -> bool:
    """Tell whether a number became a type's size, or the other way round, and is the same."""
    values = (item.old, item.new)
    sizes = [number for number, value in enumerate(values) if "sizeof" in value]
    if len(sizes) != 1 or item.takes_arguments or not _PLAIN.fullmatch(values[1 - sizes[0]]):
        return False
    job, root = sides[sizes[0]]
    return is_true(job, root, f"({item.old}) == ({item.new})", env=env)


def _judge(item: Changed, places: tuple[_Place, ...], stale: list[str], remarks: list[str]) -> None:
    """Say of one constant what its uses make of the change."""
    made, read, indexed = (
        [place for place in places if getattr(place.use, what)]
        for what in ("makes", "reads", "indexes")
    )
    if item.takes_arguments:
        if indexed or (places and looks_elsewhere(item.old, item.new)):
            stale.append(
                f"the macro `{item.name}` leads to another place than before, and tables hold what "
                f"the old one put there ({_shown((indexed or places)[0])})"
            )
        elif places:
            remarks.append(f"the macro `{item.name}` is another: what it made before stays so")
        return
    was, now = (f"`{item.name}` = {item.old}", item.new or "none, for it is gone")
    if is_read_otherwise([place.use for place in places]):
        stale.append(
            f"state that was made with {was} ({_shown(made[0])}) is read with {now} "
            f"({_shown(read[0])}): objects made before keep the old value"
        )
    elif places:
        remarks.append(
            f"the changed constant {was} is now {now} ({_shown(places[0])}): what was made or "
            "set with the old one stays so"
        )


def _judge_family(
    family: tuple[str, ...], places: dict[str, tuple[_Place, ...]], stale: list[str]
) -> None:
    """Say where state is made with one of some constants and read by another: a bit, its mask."""
    rows = {name: places.get(name, ()) for name in family}
    made, read = (
        [(name, place) for name in family for place in rows[name] if getattr(place.use, what)]
        for what in ("makes", "reads")
    )
    is_said = {name for name, _ in made} & {name for name, _ in read}
    if is_said or not is_read_otherwise([place.use for _, place in (*made, *read)]):
        return  # said already, or nothing of the kind
    stale.append(
        f"state that was made with `{made[0][0]}` ({_shown(made[0][1])}) is read with "
        f"`{read[0][0]}` ({_shown(read[0][1])}), and both changed: objects made before keep the "
        "old value"
    )


def _shown(place: _Place) -> str:
    return f"{place.path}:{place.use.line}"


def _places(
    job: CompileJob, before: Path, after: Path, names: frozenset[str]
) -> dict[str, tuple[_Place, ...]]:
    """Return all uses of some names, on both sides."""
    if not names:
        return {}
    files = related(job, before, names)
    rows: dict[str, list[_Place]] = {}
    own = _own(job, before, after, names)
    changed = origin_of(before).patched | origin_of(after).patched
    for path in sorted({*files, *changed}):
        if not path.endswith(SOURCES):
            continue
        roots = (before, after) if path in changed else (before,)
        texts = {text_of(root / path) for root in roots}
        here = names if path.endswith(job.source_path) else names - own
        for text in sorted(texts):
            for use in _uses(text, here):
                rows.setdefault(use.name, []).append(_Place(path, use))
    return {name: tuple(found) for name, found in rows.items()}


def _own(job: CompileJob, before: Path, after: Path, names: frozenset[str]) -> frozenset[str]:
    """Return the names that an object's own source defines: no other file means the same."""
    path = next((path for path in job.inputs if path.endswith(job.source_path)), "")
    texts = [text_of(root / path) for root in (before, after)] if path else []
    return frozenset(
        name
        for name in names
        if any(re.search(_DEFINED.format(name), text, re.MULTILINE) for text in texts)
    )


def _uses(text: str, names: frozenset[str]) -> Iterator[Use]:
    if names and any(name in text for name in names) and not names.isdisjoint(_WORD.findall(text)):
        yield from without_passing(text, uses_in(text, names))
        for match in _BODY.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            for use in uses_in(match[1].replace("\\\n", " "), names):
                yield use._replace(line=line)
