# SPDX-License-Identifier: Apache-2.0
"""Members that a patch adds to objects that exist, where zero is not what new code expects.

They lie in a hole, or in a shadow: objects that were made before hold zero there. What only the
functions give them that make objects, others will look for in vain.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.asking import start_of
from xsplice_plugins.csource.literals import bodies
from xsplice_plugins.csource.places import blanked, structures, without_directives
from xsplice_plugins.csource.sizing import MEMBERS, end_of
from xsplice_plugins.csource.uses import closing_of, opening_before, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xsplice_plugins.csource.uses import Token

_DECLARED = re.compile(r"([A-Za-z_]\w*)\s*(?:\[[^\]]*\]\s*)*(?::\s*\w+\s*)?$")
_MADE = re.compile(r"[A-Z_]\w*\s*\(\s*([A-Za-z_]\w*)")
_SHADOW = re.compile(r"xsplice_(\w+)_shadow")  #: as `xsplice shadow` calls what it keeps beside
_START = re.compile(r"xsplice_\w+_start")  #: makes ready what exists, too
_BIRTH = re.compile(r"(?:^|_)(?:init|create|new|construct|alloc)(?:_|$)")
_NOTHING = {"0", "NULL", "false", "0U", "0UL"}
_PREPARING = re.compile(r"\w*init\w*", re.IGNORECASE)
#: What gives a member its value by a call: the member is the first argument.
_SETTING = re.compile(r"\w*atomic\w*_set|write_atomic|_*set_bit|ACCESS_ONCE|WRITE_ONCE")
_STORES = {"=", "|=", "^="}
_SILENT_CALL = re.compile(r"\w*printk|ASSERT\w*|sizeof|typeof|__typeof__|\w*lock\w*|\w*init\w*",
                          re.IGNORECASE)  # fmt: skip


class _Use(NamedTuple):
    """What a function does with a member."""

    function: str
    path: str
    shown: str  #: what it gets; "" where it is read
    is_birth: bool  #: it is given where its object is made


@lru_cache(maxsize=2)  # asked for each object of a fix
def brought_members(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find new members that only the makers of objects give a value, and others read.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        Path and sentence, for each file in which one of the functions stands.
    """
    olds, news = ([without_directives(blanked(row[side])) for row in texts] for side in (1, 2))
    uses: dict[str, list[_Use]] = {name: [] for name in _brought(olds, news)}
    for path, old, new in texts if uses else ():
        before = bodies(old)
        for function, body in bodies(new).items():
            if before.get(function) != body:
                for name, use in _uses(function, path, tokens(body)):
                    if name in uses:
                        uses[name].append(use)
    return tuple(said for name, rows in sorted(uses.items()) for said in _judged(name, rows))


def shadowed(texts: tuple[tuple[str, str, str], ...]) -> Iterator[tuple[str, str]]:
    """Give path and remark for each structure whose new members the patch keeps in shadows.

    Args:
        texts: Path, old source and new one of each file that the patch changes.
    """
    for path, _, new in texts:
        for match in re.finditer(r"\bstruct\s+xsplice_(\w+)_shadow\s*\{", new):
            said = f"`{match[1]}` has new members in a shadow of each object: that one starts as it"
            yield path, f"{said} should, and goes with its object, is on the author's word"


def _brought(olds: Sequence[str], news: Sequence[str]) -> set[str]:
    """Return the new members of structures that exist, or that lie beside objects of one."""
    before: dict[str, set[str]] = {}
    for text in olds:
        for tag, names in _declared(text):
            before.setdefault(tag, set()).update(names)
    found = set()
    for text in news:
        for tag, names in _declared(text):
            if tag in before or _SHADOW.fullmatch(tag):
                found |= names - before.get(tag, {"next", "of"})
    return found


def _declared(text: str) -> Iterator[tuple[str, set[str]]]:
    """Give the structures with a tag and the names that they declare, in nested ones too."""
    for tag, start, end in structures(text):
        names = set()
        for row in re.split(r"[;{}]", text[start:end]) if tag else ():
            for part in row.split(","):
                found = _MADE.match(row.strip()) or _DECLARED.search(part.strip())
                names |= {found[1]} if found else set()
        if tag:
            yield tag, names


def _uses(function: str, path: str, row: Sequence[Token]) -> Iterator[tuple[str, _Use]]:
    """Give what a function does with members."""
    texts = [token.text for token in row]
    for at in range(1, len(row) - 1):
        if texts[at - 1] not in MEMBERS:
            continue
        start = start_of(texts, at)
        owner = texts[start : at - 1]
        if owner and _SHADOW.fullmatch(owner[0]) and owner[1:2] == ["("]:
            owner = owner[2:-1]
        behind = at + 1
        while texts[behind] == "[" or texts[behind] in MEMBERS:  # a part of it
            behind = closing_of(row, behind) + 1 if texts[behind] == "[" else behind + 2
        opening = opening_before(row, start - 1)
        callee = texts[opening - 1] if opening > 0 and texts[opening] == "(" else ""
        if texts[behind] in _STORES:
            value = " ".join(texts[behind + 1 : end_of(row, behind + 1)])
            if value not in _NOTHING:
                is_birth = _is_birth(function, texts, owner)
                yield texts[at], _Use(function, path, f"= {value}", is_birth)
        elif _SETTING.fullmatch(callee) and "&" in texts[opening:start]:
            value = " ".join(texts[behind + 1 : closing_of(row, opening)])
            if value not in _NOTHING:
                is_birth = _is_birth(function, texts, owner)
                yield texts[at], _Use(function, path, f"{callee}({value})", is_birth)
        elif _PREPARING.fullmatch(callee) and "lock" not in callee.lower():
            yield texts[at], _Use(function, path, f"{callee}()", _is_birth(function, texts, owner))
        elif not _SILENT_CALL.fullmatch(callee):
            yield texts[at], _Use(function, path, "", is_birth=False)


def _is_birth(function: str, row: Sequence[str], owner: Sequence[str]) -> bool:
    """Tell whether a function makes an object, by its name or by what it allocates."""
    if _START.fullmatch(function):
        return False
    place = re.escape(" ".join([*owner, "="]))
    made = re.compile(rf"(?<![\w>.] ){place} [^;]*?\b\w*alloc\w* \(", re.IGNORECASE)
    return bool(_BIRTH.search(function)) or bool(made.search(" ".join(row)))


def _judged(name: str, uses: Sequence[_Use]) -> Iterator[tuple[str, str]]:
    """Say of one member that objects which exist lack what new code reads."""
    if any(_START.fullmatch(use.function) and use.shown for use in uses):
        return
    maker = next((use for use in uses if use.is_birth), None)
    others = (use for use in uses if not use.shown and maker and use.function != maker.function)
    reader = next(others, None)
    if maker is None or reader is None:
        return
    for path in sorted({maker.path, reader.path}):
        yield (
            path,
            (
                f"`{name}` is new in objects that exist, which hold zero there; `{maker.function}` "
                f"makes objects and gives it another value (`{maker.shown}`), and "
                f"`{reader.function}` reads it"
            ),
        )
