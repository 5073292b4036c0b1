# SPDX-License-Identifier: Apache-2.0
"""Hooks of a patch, and the variables that it brings: no object that exists knows either."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.csource.constants import macros_in
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration
from xsplice_plugins.csource.uses import tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_HOOK = re.compile(r"LIVEPATCH_[A-Z]+_HOOK")
_BRACES = re.compile(r"\{[^{}]*\}")


def hooks_in(path: str, texts: Iterable[tuple[str, str, str]]) -> frozenset[str]:
    """Return the functions of a source that are new, and that hooks alone run.

    Args:
        path: The source's.
        texts: Path, old source and new one of each file that the patch changes. Who is named
            anywhere else than in its own head may be called by others, or known by its address.
    """
    named: dict[str, int] = {}
    found: dict[str, int] = {}
    defined: dict[str, int] = {}
    known: set[str] = set()
    for place, old, new in texts:
        row = [token.text for token in tokens(new)]
        known |= {token.text for token in tokens(old)} | _words_of_macros(new)
        for at, word in enumerate(row):
            named[word] = named.get(word, 0) + 1
            if place == path and at > 1 and _HOOK.fullmatch(row[at - 2]) and row[at - 1] == "(":
                found[word] = found.get(word, 0) + 1
        for chunk in chunks(new) if place == path else ():
            item = declaration(chunk.text)
            if item.kind in {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION}:
                defined[item.name] = defined.get(item.name, 0) + 1
    return frozenset(
        name
        for name, count in found.items()
        if name not in known and defined.get(name) == 1 and named[name] == count + 1
    )


def brings(names: Collection[str], old: str, new: str) -> bool:
    """Tell whether all names are static variables that one side of a source alone has.

    Args:
        names: Of variables; "" is one that nobody knows.
        old: The source before the patch.
        new: And after it.
    """
    known = {token.text for token in tokens(old)} | _words_of_macros(new)
    texts = [declaration(c.text).text for c in chunks(new) if "static" in c.text]
    for at, text in enumerate(texts):
        while text != (text := _BRACES.sub(" ", text)):
            pass
        texts[at] = text
    return all(
        name
        and name not in known
        and any(re.match(rf"static\b[^=()]*\b{name}\s*[;=,\[]", text) for text in texts)
        for name in names
    )


def _words_of_macros(text: str) -> set[str]:
    rows = (body for definitions in macros_in(text).values() for _, body in definitions)
    return {token.text for body in rows for token in tokens(body)}
