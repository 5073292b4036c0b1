# SPDX-License-Identifier: Apache-2.0
"""The new member of a structure: where its declaration stands, and the text without it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.csource.places import blanked, closing, without_directives
from xsplice_plugins.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORD = re.compile(r"(?:(?:struct|union)\s+)?(?P<tag>[A-Za-z_]\w*)\.(?P<member>[A-Za-z_]\w*)")


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A structure, and the members that a fix adds to it."""

    kind: str  #: ``struct`` or ``union``
    tag: str
    path: str  #: the file that defines it
    members: tuple[str, ...]
    declarations: tuple[str, ...]  #: as the fix has them, without the semicolon

    @property
    def name(self) -> str:
        """Return how C calls it."""
        return f"{self.kind} {self.tag}"

    def end_in(self, text: str) -> int:
        """Return where its body ends in its file's text."""
        return _span(text, _head(self.tag))[1]


def parse_words(words: Sequence[str], option: str = "--member") -> dict[str, list[str]]:
    """Read the words of an option.

    Args:
        option: Its name.
        words: ``STRUCTURE.MEMBER`` each, with or without ``struct`` before it.

    Returns:
        The members, by the structure's tag.

    Raises:
        ConfigError: A word is of another form.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        match = _WORD.fullmatch(word.strip())
        if match is None:
            raise ConfigError(
                f"{option} {word}: is not STRUCTURE.MEMBER; give a structure's tag and one member "
                "of its own, such as domain.lock"
            )
        members = found.setdefault(match["tag"], [])
        if match["member"] not in members:
            members.append(match["member"])
    return found


def taken_out(
    texts: dict[str, str], olds: Mapping[str, str], tag: str, members: Sequence[str]
) -> Structure:
    """Take the declarations of new members out of the text that defines their structure.

    Args:
        texts: Patched files, by path; the one that defines the structure is changed.
        olds: The same files before the patch.
        tag: The structure's.
        members: Names.

    Returns:
        The structure.

    Raises:
        RefusedError: It is not defined in a patched file, or a member is not a new one of its own.
    """
    head = _head(tag)
    found = [
        (path, match) for path in sorted(texts) for match in head.finditer(blanked(texts[path]))
    ]
    if len(found) != 1:
        where = ", ".join(path for path, _ in found) or "no patched file"
        raise RefusedError(
            f"{tag}.{members[0]}: `{tag}` is defined in {where}; name a structure with a tag that "
            "the fix changes in one place"
        )
    [(path, match)] = found
    if match["kind"] == "union":
        raise RefusedError(
            f"{tag}.{members[0]}: the members of a union share memory, and no shadow does; keep "
            "the new member in an object of its own"
        )
    kind, declarations = match["kind"], []
    before = re.search(head.pattern, blanked(olds.get(path, "")))
    for member in members:
        text = texts[path]
        inside = _span(text, head)
        if before is not None and _statement(olds[path], _span(olds[path], head), member):
            raise RefusedError(
                f"{tag}.{member}: it is a member already; name one that the fix adds"
            )
        place = _statement(text, inside, member)
        if place is None:
            raise RefusedError(
                f"{tag}.{member}: {path} has no such member of {kind} {tag} itself, declared on "
                "its own; give the member that is added (of a nameless structure inside: that "
                "structure's declaration on its own, with a tag)"
            )
        start, end = place
        declarations.append(" ".join(text[start:end].split()))
        texts[path] = _cut(text, start, end + 1)
        if _statement(texts[path], _span(texts[path], head), member):
            raise RefusedError(
                f"{tag}.{member}: {path} declares it more than once (`#if`?); leave one declaration"
            )
    return Structure(
        kind=kind,
        tag=tag,
        path=path,
        members=tuple(members),
        declarations=tuple(declarations),
    )


def moved_back(texts: dict[str, str], olds: Mapping[str, str], structure: Structure) -> bool:
    """Put what a fix only moves within a structure back: objects that exist have it there.

    Args:
        texts: Patched files, without the new members.
        olds: The same files before the patch.
        structure: That has lost its new members.

    Returns:
        Whether anything had moved.
    """
    path, head = structure.path, _head(structure.tag)
    old = olds.get(path, "")
    if not head.search(blanked(old)):
        return False
    text, here, there = texts[path], _span(texts[path], head), _span(old, head)
    now, was = (_own(side, span) for side, span in ((text, here), (old, there)))
    if now == was or sorted(now) != sorted(was):
        return False
    texts[path] = text[: here[0]] + old[slice(*there)] + text[here[1] :]
    return True


def _own(text: str, span: tuple[int, int]) -> list[tuple[str, ...]]:
    """Return a structure's members, nested ones as a whole, each with its conditions."""
    blank, at = blanked(text), span[0]
    found: list[tuple[str, ...]] = []
    under: list[str] = []
    words = ""
    while at < span[1]:
        if blank[at] == "#":
            end = blank.index("\n", at)
            line = " ".join(blank[at + 1 : end].split())
            if line.startswith("if"):
                under.append(line)
            elif line.startswith("el") and under:
                under[-1] += f" {line}"
            elif line.startswith("endif") and under:
                under.pop()
            else:
                found.append((*under, line))
            at = end
        elif blank[at] in "{([":
            end = closing(blank, at)
            words += blank[at:end]
            at = end
        elif blank[at] == ";":
            found.append((*under, " ".join(words.split())))
            words = ""
            at += 1
        else:
            words += blank[at]
            at += 1
    return [*found, (" ".join(words.split()),)]


def put_back(
    texts: dict[str, str], olds: Mapping[str, str], tag: str, members: Sequence[str]
) -> None:
    """Put members that a fix takes away back where they were: objects that exist have them.

    Args:
        texts: Patched files, by path; the one that defines the structure is changed.
        olds: The same files before the patch.
        tag: The structure's.
        members: Names.

    Raises:
        RefusedError: No patched file took such a member away, or nothing tells where it stood.
    """
    head = _head(tag)
    path = next((path for path in sorted(olds) if head.search(blanked(olds[path]))), "")
    for member in members:
        old = olds.get(path, "")
        place = _statement(old, _span(old, head), member) if path else None
        stays = path and head.search(blanked(texts[path]))
        if place is None or not stays or _statement(texts[path], _span(texts[path], head), member):
            raise RefusedError(
                f"{tag}.{member}: the fix takes no such member away; name one that was declared on "
                "its own, of a structure that stays"
            )
        start, end = place
        text, inside = texts[path], _span(texts[path], head)
        before = _last_statement(old, _span(old, head)[0], start)
        at = inside[0]
        if before:
            found = re.search(re.escape(before), text[slice(*inside)])
            if found is None:
                raise RefusedError(
                    f"{tag}.{member}: what stood before it (`{before}`) is not there any more, so "
                    "nothing tells its place; put it back by hand"
                )
            at += found.end()
        texts[path] = f"{text[:at]}\n    {' '.join(old[start : end + 1].split())}{text[at:]}"


def _last_statement(text: str, start: int, end: int) -> str:
    """Return the declaration that ends last in a span; "" if there is none."""
    blank = without_directives(blanked(text))[start:end]
    if ";" not in blank:
        return ""
    stop = blank.rindex(";")
    first = max(blank.rfind(mark, 0, stop) for mark in ";{}") + 1
    while first < stop and blank[first].isspace():
        first += 1
    return text[start + first : start + stop + 1]


def _head(tag: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?P<kind>struct|union)\s+(?:__\w+\s+)*{tag}\s*\{{")


def _span(text: str, head: re.Pattern[str]) -> tuple[int, int]:
    """Return where a structure's body begins and ends."""
    blank = blanked(text)
    match = head.search(blank)
    assert match is not None  # it was found before
    return match.end(), closing(blank, match.end() - 1)


def _statement(text: str, span: tuple[int, int], member: str) -> tuple[int, int] | None:
    """Return where the declaration of one member alone stands, and its semicolon."""
    blank = without_directives(blanked(text))
    own = re.compile(rf"[^,]*?(?<![\w.]){member}\s*(?:\[[^\]]*\]\s*)*(?::\s*\w+\s*)?")
    made = re.compile(rf"\s*[A-Z_]\w*\s*\(\s*(?:[^();]*,\s*)?{member}\s*(?:,[^;]*)?\)\s*")
    at, end = span
    start = at
    while at < end:
        if blank[at] in "{([":
            at = closing(blank, at)
        elif blank[at] == ";":
            statement = blank[start:at]
            if own.fullmatch(statement) or made.fullmatch(statement):
                return start + len(statement) - len(statement.lstrip()), at
            start = at + 1
        at += 1
    return None


def _cut(text: str, start: int, end: int) -> str:
    """Return text without a span, and without its lines if nothing else stands on them."""
    first, last = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    if not text[first:start].strip() and not text[end:last].strip():
        return text[:first] + text[last + 1 :]
    return text[:start] + text[end:]
