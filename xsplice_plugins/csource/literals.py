# SPDX-License-Identifier: Apache-2.0
"""Numbers and sizes that a patch changes inside functions, where memory knows the old ones."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.csource.asking import asked_otherwise
from xsplice_plugins.csource.constants import Macros, constants_in, macros_in
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.replaced import (
    Replaced,
    differences,
    exchanged,
    grouped,
    is_number,
    replaced,
    words_of,
)
from xsplice_plugins.csource.returned import is_kept
from xsplice_plugins.csource.sizers import sizers_in
from xsplice_plugins.csource.sizing import compare_sizes, with_old_names
from xsplice_plugins.csource.uses import Token, Use, is_read_otherwise, tokens, use_at

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

_FUNCTIONS = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}
_ONE_PAGE = {"alloc_domheap_page", "alloc_xenheap_page"}
_ALLOCATES = "`{}` allocates another size by `{}`: what was allocated before has the old one"
_TWICE = 2  #: places of one number: a single subscript that changes is an ordinary fix


class Literals(Struct, frozen=True, kw_only=True):
    """What changed inside the functions of one file."""

    stale: tuple[str, ...]  #: memory that the old code made does not fit the new code
    remarks: tuple[str, ...]


class _Offset(Struct, frozen=True, kw_only=True):
    """A number that is added or taken away on one side only."""

    function: str
    text: str  #: such as ``+ 1``
    is_gone: bool
    use: Use


def changed_literals(
    old: str,
    new: str,
    tables: Callable[[], tuple[Macros, Macros]] | None = None,
    others: Iterable[tuple[str, str]] = (),
) -> Literals:
    """Compare constants in functions that both sides have, and sizes that they allocate.

    Args:
        old: A source before the patch.
        new: And after it.
        others: Both sides of other files that change: a name for which they have another name, as
            this one has, or for a bit's mask where this one has its number, is one with it.
            Numbers of theirs are their own.
        tables: Gives all definitions of both sides; asked only if names change. Without it, those
            of the sources themselves count.

    Returns:
        Sentences, each in the order of the text.
    """
    rows: list[Replaced] = []
    offsets: list[_Offset] = []
    stale: list[str] = []
    asked: dict[str, tuple[str, str, str]] = {}
    for name, before, after in _changed_bodies(old, new):
        asked |= {m: (name, *both) for m, both in asked_otherwise(before, after).items()}
        rows += (replace(r, use=_settled(new, name, r.use)) for r in replaced(name, before, after))
        offsets += (
            replace(r, use=_settled(new, name, r.use)) for r in _offsets(name, before, after)
        )
    stale += _sizes((old, new))
    named = {row.texts for row in rows if not any(is_number(text) for text in row.texts)}
    rows += _exchanged((old, new), rows, named)
    for was, now in others if named else ():
        found = [
            replace(r, use=_settled(now, name, r.use), member="", is_near=False)
            for name, before, after in _changed_bodies(was, now)
            for r in replaced(name, before, after)
            if not any(is_number(text) for text in r.texts)
        ]
        rows += found
        rows += (replace(r, is_near=False) for r in _exchanged((was, now), found, named))
    groups = _by_values(rows, tables or (lambda: (_own(old), _own(new))), asked)
    said: set[str] = set()
    remarks: list[str] = []
    for group in groups:
        names = ", ".join(dict.fromkeys(f"`{row.function}`" for row in group))
        was, now = group[0].texts
        uses = [row.use for row in group if not row.use.indexes or len(group) >= _TWICE]
        if is_read_otherwise(uses):
            was = next(row.texts[0] for row in group if row.use.makes)
            now = next(row.texts[1] for row in group if row.use.reads or row.use.is_asked)
            stale.append(f"state that was made with {was} is read with {now} ({names})")
            said.update(row.member for row in group)
        elif any(use.reads for use in uses):
            remarks.append(
                f"{names} asks for {now} where it asked for {was}: what was made before is as the "
                "old code made it"
            )
    own = [row for group in groups for row in group if row.is_near]
    stale += _members(own, said, asked)
    stale += _shifted(offsets)
    return Literals(stale=tuple(sorted(set(stale))), remarks=tuple(sorted(set(remarks))))


def _settled(text: str, function: str, use: Use) -> Use:
    """Return a use; what callers only compare makes no state."""
    is_passed = use.is_returned and use.makes and not is_kept(text, function)
    return use._replace(makes=False) if is_passed else use


def _own(text: str) -> Macros:
    return {**macros_in(text), **constants_in(text)}


def _by_values(
    rows: Sequence[Replaced],
    tables: Callable[[], tuple[Macros, Macros]],
    asked: Collection[str],
) -> list[list[Replaced]]:
    """Group what is another number now, see `grouped`; names are looked up and shown so."""
    is_named = any(not is_number(text) for row in rows for text in row.texts)
    uses = [row.use for row in rows]
    is_asked = any(row.use.makes and row.member in asked for row in rows)
    if is_named and not is_asked and not is_read_otherwise(uses):  # it would be a remark at most
        rows = [row for row in rows if all(is_number(text) for text in row.texts)]
        is_named = False
    sides: tuple[Macros, Macros] = tables() if is_named else ({}, {})
    return [[_shown(*pair) for pair in group] for group in grouped(rows, sides)]


def _shown(row: Replaced, values: tuple[int, int]) -> Replaced:
    was, now = (
        text if is_number(text) else f"`{text}` = {value}"
        for text, value in zip(row.texts, values, strict=True)
    )
    return replace(row, texts=(was, now))


def _exchanged(
    sides: tuple[str, str], rows: Sequence[Replaced], named: Collection[tuple[str, str]]
) -> list[Replaced]:
    """Return what `exchanged` finds in functions of a file where none of ``rows`` says it."""
    known = {(row.function, row.texts) for row in rows}
    return [
        row
        for name, before, after in (_changed_bodies(*sides) if named else ())
        for row in exchanged(name, before, after, named)
        if (name, row.texts) not in known
    ]


def _members(
    rows: Sequence[Replaced], said: set[str], asked: Mapping[str, tuple[str, str, str]]
) -> Iterator[str]:
    """Say which members are made with another number, and asked for another one, not the same."""
    for name in sorted({row.member for row in rows} - {"", *said}):
        group = [row for row in rows if row.member == name and not row.use.indexes]
        made = [row for row in group if row.use.makes]
        read = [row for row in group if row.use.reads]
        if made and read and is_read_otherwise([row.use for row in group]):
            (was, now), (before, asks) = made[0].texts, read[0].texts
            yield (
                f"`{name}` was made with {was}, where {now} makes it now (`{made[0].function}`), "
                f"and is read with {asks} where it was read with {before} (`{read[0].function}`)"
            )
        elif made and name in asked:
            (was, now), (function, before, asks) = made[0].texts, asked[name]
            yield (
                f"`{name}` was made with {was}, where {now} makes it now (`{made[0].function}`), "
                f"and `{function}` asks `{asks}` where it asked `{before}`"
            )


def _shifted(rows: Sequence[_Offset]) -> Iterator[str]:
    """Say where a number is added no more where a value is made, and where one is read.

    What is taken away on both sides says nothing: most values are lengths.
    """
    for made in rows:
        for read in rows:
            is_pair = made.use.makes and not made.use.indexes and read.use.reads
            if (
                is_pair
                and made.function != read.function
                and (made.text != read.text or not read.use.scales)
                and made.text.split()[1:] == read.text.split()[1:]
            ):
                first, second = (
                    f"`{row.text}` is {'gone' if row.is_gone else 'new'} where `{row.function}`"
                    for row in (made, read)
                )
                yield (
                    f"{first} makes a value, and {second} reads one: what was made before may be "
                    "read otherwise"
                )


def _changed_bodies(old: str, new: str) -> Iterator[tuple[str, list[Token], list[Token]]]:
    """Give the functions and macros that both sides have, and that differ, with their names."""
    before, after = bodies(old), bodies(new)
    for name in before:
        if before[name] != after.get(name, before[name]):
            yield name, tokens(before[name]), tokens(after[name])


def changed_bodies(
    texts: Iterable[tuple[str, str, str]],
) -> Iterator[tuple[str, str, tuple[str, str], tuple[Mapping[str, str], Mapping[str, str]]]]:
    """Give the functions and macros that both sides of sources have, each in its way.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Yields:
        Path and name, its text on both sides, and all functions of the file on both sides.
    """
    for path, *both in texts:
        old, new = (bodies(text) for text in both)
        for name in old:
            if old[name] != new.get(name, old[name]):
                yield path, name, (old[name], new[name]), (old, new)


@lru_cache(maxsize=16)  # asked for by several, for each object of a fix
def bodies(text: str) -> Mapping[str, str]:
    """Return functions and macros by name; those that are defined several times joined.

    Args:
        text: A source. The names of macros, those with arguments alone, end with ``()``.
    """
    found: dict[str, str] = {}
    for name, definitions in macros_in(text).items():
        if any(words is not None for words, _ in definitions):
            found[f"{name}()"] = " ; ".join(body for _, body in definitions)
    for chunk in chunks(text):
        item = declaration(chunk.text)
        if item.kind in _FUNCTIONS:
            found[item.name] = f"{found.get(item.name, '')}\n{chunk.text}"
    return found


def _offsets(name: str, old: Sequence[Token], new: Sequence[Token]) -> Iterator[_Offset]:
    """Give the numbers that are added or taken away on one side only."""
    for places in differences(old, new):
        for row, place, other in zip((old, new), places, reversed(places), strict=True):
            words = words_of(row[place])
            if other.start != other.stop or len(words) != _TWICE or words[0] not in {"+", "-"}:
                continue
            if is_number(words[1]):
                yield _Offset(
                    function=name,
                    text=" ".join(words),
                    is_gone=row is old,
                    use=use_at(row, place.start + 1),
                )


def _sizes(sides: tuple[str, str]) -> Iterator[str]:
    """Say which calls that allocate what memory keeps ask for another size now."""
    gone, come = set[tuple[str, ...]](), dict[tuple[str, ...], tuple[str, str]]()
    old, new = (bodies(text) for text in sides)
    sizers = sizers_in(sides[0], old), sizers_in(sides[1], new)
    words = {"alloc", *sizers[0], *sizers[1]}
    for name in sorted(old.keys() | new.keys()):
        texts = old.get(name, ""), new.get(name, "")
        if texts[0] == texts[1] or not any(word in text for text in texts for word in words):
            continue
        before, after = (_in_pages(tokens(text)) for text in texts)
        found = compare_sizes(before, with_old_names(before, after), sizers)
        gone.update(found.gone)
        come |= {size: (name, callee) for callee, size in found.come}
        yield from (_ALLOCATES.format(name, callee) for callee in found.resized)
    for size in (come if gone - come.keys() else {}).keys() - gone:  # in place of one that is gone
        yield _ALLOCATES.format(*come[size])


def _in_pages(row: Sequence[Token]) -> list[Token]:
    """Spell calls for one page as those for several, of order 0."""
    found: list[Token] = []
    todo: list[int] = []  # brackets that are open, of such a call whose order comes next
    depth = 0
    for at, token in enumerate(row):
        depth += (token.text == "(") - (token.text == ")")
        is_call = at + 1 < len(row) and row[at + 1].text == "("
        name = token.text if is_call else ""
        found.append(token._replace(text=f"{name}s") if name in _ONE_PAGE else token)
        if name == "alloc_domheap_page":
            todo.append(depth + 1)
        elif token.text == "(" and found[-2:-1] and row[at - 1].text == "alloc_xenheap_page":
            found += [token._replace(text=text) for text in "0,0"]
        elif todo and token.text == "," and depth == todo[-1]:
            found += [token._replace(text=text) for text in "0,"]
            todo.pop()
    return found
