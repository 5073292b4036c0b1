# SPDX-License-Identifier: Apache-2.0
"""Both versions of some files with one name for what is one thing.

A member or a function that only got another name, and a new macro that stands for an expression,
would hide from every rule that what the old code made is read otherwise.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from typing import TYPE_CHECKING

from xsplice_plugins.csource.literals import bodies
from xsplice_plugins.csource.places import (
    arguments,
    blanked,
    closing,
    structures,
    without_directives,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

Texts = tuple[tuple[str, str, str], ...]  #: path, old source and new one

_WORD = re.compile(r"[A-Za-z_]\w*")
_MEMBER = re.compile(r"(?P<joint>(?:->|\.)\s*)(?P<name>[A-Za-z_]\w*)")
_UNION = re.compile(r"\bunion\s*\{(?P<body>[^{}]*)\}\s*;")
_MACRO = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(?P<name>[A-Za-z_]\w*)(?:\((?P<words>[^)]*)\))?[ \t]+"
    r"(?P<body>[^\n]*(?:->|\.)[ \t]*[A-Za-z_]\w*[^\n]*)$",
    re.MULTILINE,
)
_ALIKE = 0.5  #: how much two functions must have in common to be one under two names
_ROUNDS_MAX = 4  #: of macros in macros


@lru_cache(maxsize=4)  # asked for each object of a fix
def unified(texts: Texts) -> Texts:
    """Give what was renamed its new name in the old sources, and write out new macros in the new.

    Lines stay where they are.

    Args:
        texts: Of each file that the patch changes.
    """
    quiet = [[blanked(row[side]) for row in texts] for side in (1, 2)]
    words = [set(_WORD.findall(" ".join(side))) for side in quiet]
    members = [{match["name"] for text in side for match in _MEMBER.finditer(text)}
               for side in quiet]  # fmt: skip
    come = members[1] - members[0]
    functions = _functions(texts, words[0] - words[1], words[1] - words[0])
    fields = _fields(quiet, members[0] - members[1], come)
    macros = {
        match["name"]: match
        for text in quiet[1]
        for match in _MACRO.finditer(text)
        if match["name"] not in words[0] and "##" not in match["body"]
    }
    aliases = {name: old for text in quiet[1] for name, old in _aliases(text, come)}
    return tuple(
        (path, _named(old, functions, fields), _named(_written_out(new, macros), {}, aliases))
        for path, old, new in texts
    )


def _aliases(text: str, come: Collection[str]) -> Iterator[tuple[str, str]]:
    """Give the members of nameless unions that are another name for an older one of their type."""
    for match in _UNION.finditer(text):
        known: dict[str, str] = {}
        rows = [" ".join(row.split()).rpartition(" ") for row in match["body"].split(";")]
        for kind, _, name in sorted(rows, key=lambda row: row[2] in come):
            if name not in come:
                known.setdefault(kind, name)
            elif kind in known:
                yield name, known[kind]


def _named(text: str, functions: Mapping[str, str], fields: Mapping[str, str]) -> str:
    """Return a text with other names for functions, and for members where they are used."""
    if functions:
        search = re.compile(rf"\b(?:{'|'.join(sorted(functions))})\b")
        text = search.sub(lambda found: functions[found[0]], text)
    if fields:
        text = _MEMBER.sub(
            lambda found: found["joint"] + fields.get(found["name"], found["name"]), text
        )
        declared = re.compile(rf"\b({'|'.join(sorted(fields))})\b(?=[\s\w\[\]:]*;)")
        parts, at = [], 0
        for _, start, end in structures(without_directives(blanked(text))):
            if start >= at:  # else it lies in the one before
                parts += [text[at:start], declared.sub(lambda m: fields[m[1]], text[start:end])]
                at = max(at, end)
        text = "".join([*parts, text[at:]])
    return text


def _fields(
    sides: Sequence[Sequence[str]], gone: Collection[str], come: Collection[str]
) -> dict[str, str]:
    """Return new names of members by old ones: they stand where those stood, with their type."""
    found: dict[str, str] = {}
    others = {*gone, *come}
    for old, new in zip(*sides, strict=True) if gone and come else ():
        before, after = _statements(old), _statements(new)
        alike = [[_WORD.sub(lambda m: "?" if m[0] in others else m[0], row) for row in rows]
                 for rows in (before, after)]  # fmt: skip
        matcher = SequenceMatcher(None, alike[0], alike[1], autojunk=False)
        for first, second, size in matcher.get_matching_blocks():
            rows = zip(before[first : first + size], after[second : second + size], strict=True)
            for row, other in rows:
                pairs = zip(_WORD.findall(row), _WORD.findall(other), strict=True)
                differ = [pair for pair in pairs if pair[0] != pair[1]]
                if len(differ) == 1 and differ[0][0] in gone and differ[0][1] in come:
                    found.setdefault(*differ[0])
    return found


def _statements(text: str) -> list[str]:
    """Return what the structures of a text declare, with single blanks."""
    text = without_directives(text)
    found = []
    for tag, start, end in structures(text):
        rows = (" ".join(row.split()) for row in re.split(r"[;{}]", text[start:end]))
        found += [f"struct {tag}", *filter(None, rows)]
    return found


def _functions(texts: Texts, gone: Collection[str], come: Collection[str]) -> dict[str, str]:
    """Return new names of functions by old ones: they do nearly the same, in the same file."""
    found: dict[str, str] = {}
    for _, old, new in texts if gone and come else ():
        before, after = bodies(old), bodies(new)
        fresh = {name: _WORD.findall(body) for name, body in after.items() if name in come}
        for name in sorted(before.keys() & gone) if fresh else ():
            row = _WORD.findall(before[name])
            likes = {
                other: SequenceMatcher(None, row, words, autojunk=False).ratio()
                for other, words in fresh.items()
            }
            best = max(likes, key=lambda other: (likes[other], other))
            if likes[best] >= _ALIKE:
                found.setdefault(name, best)
    return found


def _written_out(text: str, macros: Mapping[str, re.Match[str]]) -> str:
    """Return a text with what new macros stand for in the place of their names."""
    names = re.compile(rf"\b(?:{'|'.join(sorted(macros)) or '(?!)'})\b")
    for _ in range(_ROUNDS_MAX if macros else 0):
        parts, at = [], 0
        for match in names.finditer(without_directives(text)):
            if match.start() < at:
                continue
            macro, end, given = macros[match[0]], match.end(), []
            if macro["words"] is not None:
                close = closing(text, end) if text[end : end + 1] == "(" else -1
                if close < 0:
                    continue
                given, end = arguments(text[end + 1 : close]), close + 1
            parts += [text[at : match.start()], _filled(macro, given)]
            at = end
        if not parts:
            break
        text = "".join([*parts, text[at:]])
    return text


def _filled(macro: re.Match[str], given: Sequence[str]) -> str:
    """Return a macro's body with what a use gives it, without brackets around the whole."""
    words = [word.strip() for word in (macro["words"] or "").split(",") if word.strip()]
    values = dict(zip(words, given, strict=False))
    body = blanked(macro["body"]).strip()
    while body.startswith("(") and closing(body, 0) == len(body) - 1:
        body = body[1:-1].strip()
    # `(r)->member` is read as `r->member` is.
    plain = re.sub(rf"\(\s*({'|'.join(words) or '(?!)'})\s*\)(?=\s*(?:->|\.))", r"\1", body)
    return _WORD.sub(lambda found: values.get(found[0], found[0]), plain)
