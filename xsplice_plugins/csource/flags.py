# SPDX-License-Identifier: Apache-2.0
"""Values that a patch begins to store and to ask for: objects that exist do not have them."""

from __future__ import annotations

import re
from functools import lru_cache

from xsplice_plugins.csource.constants import macros_in
from xsplice_plugins.csource.uses import Use, tokens, uses_in

#: Names of constants, and masks; a plain number says too little, an error's name is an answer.
_CONSTANT = re.compile(r"(?!E[A-Z0-9]+\b)[A-Z_]\w*[A-Z]\w*|0[xX][0-9a-fA-F]{2,}\w*")
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
