# SPDX-License-Identifier: Apache-2.0
"""What memory holds as the old code made it, and new code reads otherwise: all that texts tell.

Two versions of the sources are compared: which named constants have another value, what functions
make and ask for, take and release; and how the sources use it, in all files, for what one object
stores another one may read.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.brought import brought_members, shadowed
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
from xsplice_plugins.csource.flags import known_flags, new_flags
from xsplice_plugins.csource.helpers import changed_sizes, resized
from xsplice_plugins.csource.literals import changed_literals
from xsplice_plugins.csource.locking import CHECKED, relocked
from xsplice_plugins.csource.ordering import reordered_lists
from xsplice_plugins.csource.pairs import changed_pairs
from xsplice_plugins.csource.remade import remade_members
from xsplice_plugins.csource.remembering import remembered_results
from xsplice_plugins.csource.returned import without_passing
from xsplice_plugins.csource.stages import reordered_stages
from xsplice_plugins.csource.unified import unified
from xsplice_plugins.csource.uses import Use, decided, is_read_otherwise, uses_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")
#: What a macro stands for: it may set or test a flag for its users.
_BODY = re.compile(r"^[ \t]*#[ \t]*define[ \t]+\w+(?:\([^)]*\))?((?:\\\n|[^\n])*)", re.MULTILINE)


#: Of what tools and hypervisor say to each other: both compare it (xen/include/public/sysctl.h).
_INTERFACE = re.compile(r"\w+_INTERFACE_VERSION")


class Doubts(NamedTuple):
    """Sentences, each once."""

    stale: tuple[str, ...]  #: memory may hold what new code reads otherwise
    remarks: tuple[str, ...]


class Versions(ABC):
    """Two versions of the sources, and the tree around them."""

    #: How the paths end of files whose doubts are told: of an object its own and headers.
    told: tuple[str, ...] = ("",)

    @property
    @abstractmethod
    def texts(self) -> Mapping[str, tuple[str, str]]:
        """Return both versions of each C file that differs."""

    @property
    @abstractmethod
    def tables(self) -> tuple[Macros, Macros]:
        """Return all definitions of either version."""

    @abstractmethod
    def related(self, names: frozenset[str]) -> tuple[str, ...]:
        """Return the C files of the tree in which some names stand."""

    @abstractmethod
    def before(self, path: str) -> str:
        """Return the earlier version of a file."""

    @abstractmethod
    def is_equal(self, item: Changed) -> bool:
        """Tell whether a constant that is written otherwise has the same value."""

    @abstractmethod
    def names_for(self, path: str, names: frozenset[str]) -> frozenset[str]:
        """Return which of some names mean in a file what they mean to the change."""


class _Place(NamedTuple):
    """A use, and in which file."""

    path: str
    use: Use


def doubts(versions: Versions) -> Doubts:
    """Say what objects that exist hold otherwise than the later version reads it.

    Args:
        versions: Both versions of the sources.

    Raises:
        CaptureError: Preprocessing fails.
    """
    stale: list[str] = []
    remarks: list[str] = []
    told = versions.told
    rows = unified(tuple((path, old, new) for path, (old, new) in versions.texts.items()))
    for path, old, new in rows:
        if path.endswith(told):
            others = ((was, now) for other, was, now in rows if other != path)
            literals = changed_literals(old, new, lambda: versions.tables, others)
            stale += (f"{path}: {text}" for text in literals.stale)
            remarks += (f"{path}: {text}" for text in literals.remarks)
    stale += _callbacks(versions)
    stale += _resized(versions)
    pairs = changed_pairs(rows)
    wrong = (*pairs.stale, *reordered_lists(rows), *reordered_stages(rows), *known_flags(rows))
    wrong += brought_members(rows)
    locks = relocked(rows)
    if locks and CHECKED in versions.tables[0]:
        wrong += locks
    stale += (f"{path}: {text}" for path, text in wrong if path.endswith(told))
    said = " ".join(stale)
    stale += (
        f"{one.path}: {one.text}"
        for one in remade_members(rows)
        if one.path.endswith(told) and not all(f"`{name}`" in said for name in one.functions)
    )
    noted = (*pairs.remarks, *new_flags(rows), *remembered_results(rows), *shadowed(rows))
    remarks += (f"{path}: {text}" for path, text in noted if path.endswith(told))
    if any(_may_change(old, new) for old, new in versions.texts.values()):
        _constants(versions, stale, remarks)
    return Doubts(tuple(dict.fromkeys(stale)), tuple(dict.fromkeys(remarks)))


def _callbacks(versions: Versions) -> Iterator[str]:
    """Say which functions take data that memory holds for something else."""
    texts = versions.texts
    old, new = ("\n".join(rows[side] for rows in texts.values()) for side in (0, 1))
    names = frozenset(retyped_functions(old, new))
    paths = versions.related(names)
    taken = frozenset(n for path in paths for n in taken_in(versions.before(path), names))
    for name, text in changed_callbacks(old, new, taken):
        for path, (was, _) in texts.items():
            if path.endswith(versions.told) and re.search(rf"\b{name}\b", was):
                yield f"{path}: {text}"
                break


def _resized(versions: Versions) -> Iterator[str]:
    """Say which files allocate another size, for what gives it is something else now."""
    texts = versions.texts
    own = {path: pieces for path, pieces in texts.items() if path.endswith(versions.told)}
    sizes = changed_sizes(own)
    for path in sorted({*texts, *versions.related(sizes.far)}):
        now = texts[path][1] if path in texts else versions.before(path)
        yield from (f"{path}: {text}" for text in resized(now, sizes))


def _may_change(old: str, new: str) -> bool:
    """Tell whether directives differ, or constants that are named otherwise."""
    directives = [_DIRECTIVE.findall(text) for text in (old, new)]
    before, after = constants_on_both(old, new)
    return directives[0] != directives[1] or before != after


def _constants(versions: Versions, stale: list[str], remarks: list[str]) -> None:
    """Say which named constants changed, and what their uses make of it."""
    texts, macros = versions.texts, list(versions.tables)
    # A header that is read no more takes names along that nobody changed.
    own = {name for old, _ in texts.values() for name in (*macros_in(old), *constants_in(old))}
    macros[0] = {n: rows for n, rows in macros[0].items() if n in macros[1] or n in own}
    changed = tuple(
        item
        for item in changed_constants(macros[0], macros[1], _renamed(texts, macros))
        if not versions.is_equal(item)
    )
    places = _places(versions, frozenset(item.name for item in changed))
    for item in changed:
        _judge(item, places.get(item.name, ()), stale, remarks)
    plain = frozenset(item.name for item in changed if not item.takes_arguments)
    for family in families(macros, plain):
        _judge_family(family, places, stale)


def _renamed(texts: Mapping[str, tuple[str, str]], macros: Sequence[Macros]) -> dict[str, set[str]]:
    """Return what stands now where a constant stood that is gone."""
    found: dict[str, set[str]] = {}
    for old, new in texts.values() if macros[0].keys() - macros[1].keys() else ():
        for was, words in replaced_words(old, new).items():
            found.setdefault(was, set()).update(words)
    return found


def _judge(item: Changed, places: tuple[_Place, ...], stale: list[str], remarks: list[str]) -> None:
    """Say of one constant what its uses make of the change."""
    places = _decided(places)
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
    for rows in (made, read):
        rows.sort(key=lambda place: place.use.is_asked)
    was, now = (f"`{item.name}` = {item.old}", item.new or "none, for it is gone")
    if _INTERFACE.fullmatch(item.name) and places:
        stale.append(
            f"{was} is now {now} ({_shown(places[0])}): tools that run on the host give the old "
            "version and would be refused, those that revert the payload among them; leave the "
            "version as it is"
        )
        return
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
    rows = {name: _decided(places.get(name, ())) for name in family}
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


def _decided(places: Sequence[_Place]) -> tuple[_Place, ...]:
    uses = decided(place.use for place in places)
    return tuple(_Place(place.path, use) for place, use in zip(places, uses, strict=True))


def _shown(place: _Place) -> str:
    return f"{place.path}:{place.use.line}"


def _places(versions: Versions, names: frozenset[str]) -> dict[str, tuple[_Place, ...]]:
    """Return all uses of some names, in both versions."""
    rows: dict[str, list[_Place]] = {}
    for path in sorted({*versions.related(names), *versions.texts}) if names else ():
        texts = set(versions.texts.get(path) or (versions.before(path),))
        for text in sorted(texts):
            for use in _uses(text, versions.names_for(path, names)):
                rows.setdefault(use.name, []).append(_Place(path, use))
    return {name: tuple(found) for name, found in rows.items()}


def _uses(text: str, names: frozenset[str]) -> Iterator[Use]:
    if names and any(name in text for name in names) and not names.isdisjoint(_WORD.findall(text)):
        yield from without_passing(text, uses_in(text, names))
        for match in _BODY.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            for use in uses_in(match[1].replace("\\\n", " "), names):
                yield use._replace(line=line)
