# SPDX-License-Identifier: Apache-2.0
"""Values that a patch begins to store and to ask for: objects that exist do not have them.

A value that is new everywhere has a first time, as a new variable has; a flag that others set
already, and that is set newly in one place and asked for newly in another, is one more condition
of what exists.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.csource.constants import macros_in
from xsplice_plugins.csource.literals import changed_bodies
from xsplice_plugins.csource.uses import Use, tokens, use_at, uses_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.csource.uses import Token

#: Names of constants, and masks; a plain number says too little, an error's name is an answer.
_CONSTANT = re.compile(r"(?!E[A-Z0-9]+\b)[A-Z_]\w*[A-Z]\w*|0[xX][0-9a-fA-F]{2,}\w*")
_FLAG = re.compile(r"(?!E[A-Z0-9]+\b)[A-Z_]\w*[A-Z]\w*")
_SETTING = re.compile(r"_*(test_and_)?set_bit|\w+_set_cap")
_ENUM = re.compile(r"\benum\b[^;{}()]*\{[^{}]*\}")


@lru_cache(maxsize=2)  # asked for each object of a fix
def new_flags(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find constants that the old sources neither stored nor asked for, and the new ones do both.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        A file that stores it or asks for it, and a sentence.
    """
    words = [{token.text for path, *both in texts for token in tokens(both[n])} for n in (0, 1)]
    defined = {
        name for _, old, new in texts for name in macros_in(new).keys() - macros_in(old).keys()
    }
    names = {word for word in words[1] - words[0] if _CONSTANT.fullmatch(word)} | (
        defined & words[1]
    )
    made: dict[str, tuple[str, Use]] = {}
    read: dict[str, tuple[str, Use]] = {}
    for path, _, new in texts if names else ():
        text = _ENUM.sub(lambda match: "\n" * match[0].count("\n"), new)
        for use in uses_in(text, names):
            if use.makes and not use.reads and not use.is_returned:
                made.setdefault(use.name, (path, use))
            elif use.reads and not use.makes:
                read.setdefault(use.name, (path, use))
    found: list[tuple[str, str]] = []
    for name in sorted(made.keys() & read.keys()):
        (path, use), (reader, asked) = made[name], read[name]
        said = (
            f"`{name}` is new: it is stored ({path}:{use.line}) and asked for "
            f"({reader}:{asked.line}): objects that exist do not have it"
        )
        found += [(place, said) for place in sorted({path, reader})]
    return tuple(found)


@lru_cache(maxsize=2)  # asked for each object of a fix
def known_flags(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find flags that one function sets newly, and another one asks for newly; both exist already.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        A file in which one of the functions stands, and a sentence.
    """
    defined = {
        name for _, old, new in texts for name in macros_in(new).keys() - macros_in(old).keys()
    }
    homes: dict[str, str] = {}
    made: list[dict[str, Counter[str]]] = [{}, {}]
    asked: list[dict[str, Counter[str]]] = [{}, {}]
    for path, function, both, _ in changed_bodies(texts):
        homes[function] = path
        for n in (0, 1):
            made[n][function], asked[n][function] = _flags(tokens(both[n]))
    return tuple(_conditions(made, asked, homes, defined))


def _flags(row: Sequence[Token]) -> tuple[Counter[str], Counter[str]]:
    """Return which flags a function sets, and which it asks for."""
    made, asked = Counter[str](), Counter[str]()
    for at, token in enumerate(row):
        if not _FLAG.fullmatch(token.text):
            continue
        use = use_at(row, at)
        if use.reads and not use.makes:
            asked[token.text] += 1
        elif use.makes and not use.reads and _sets(row, at):
            made[token.text] += 1
    return made, asked


def _sets(row: Sequence[Token], at: int) -> bool:
    """Tell whether a flag is added to what is there: by `|=`, or as the bit that is set."""
    while at > 1 and row[at - 1].text in {"|", "(", "<<", "1", "1u", "1U", "1ul", "1UL"}:
        if row[at - 1].text == "(" and _SETTING.fullmatch(row[at - 2].text):
            return True
        at -= 2 if row[at - 1].text == "|" else 1
    return row[at - 1].text == "|="


def _conditions(
    made: Sequence[dict[str, Counter[str]]],
    asked: Sequence[dict[str, Counter[str]]],
    homes: dict[str, str],
    defined: set[str],
) -> Iterator[tuple[str, str]]:
    more = [sum(side[1].values(), Counter()) - sum(side[0].values(), Counter())
            for side in (made, asked)]  # fmt: skip
    for flag in sorted((more[0].keys() & more[1].keys()) - defined):
        makers, readers = (
            [name for name in side[1] if side[1][name][flag] > side[0][name][flag]]
            for side in (made, asked)
        )
        others = [name for name in readers if name not in makers]
        if makers and others:
            said = (
                f"`{makers[0]}` sets `{flag}` where it was not set, and `{others[0]}` asks for it "
                "where it did not: objects that exist do not have it"
            )
            for path in sorted({homes[makers[0]], homes[others[0]]}):
                yield path, said
