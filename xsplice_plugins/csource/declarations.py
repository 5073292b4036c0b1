# SPDX-License-Identifier: Apache-2.0
"""C text as top-level declarations: enough of C to compare two versions, and no more.

What is not recognised for certain is `ChunkKind.OTHER`, which every caller treats as able to change
an object.
"""

from __future__ import annotations

import re
from enum import Enum

from msgspec import Struct

_LITERAL = r'"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'"
# With comments and directives, for text before the preprocessor; a directive may be continued.
_TOKEN = re.compile(
    r"(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<literal>" + _LITERAL + r")|"
    r"(?P<directive>^[ \t]*\#(?:/\*.*?\*/|\\\n|[^\n])*)|[{}();]",
    re.MULTILINE | re.DOTALL,
)
_CONDITION = re.compile(r"[ \t]*#[ \t]*(ifn?def|if|el(?:if(?:n?def)?|se)|endif)\b")
_SPACED_LITERAL = re.compile(_LITERAL)
_ATTRIBUTE = re.compile(r"\b(?:__attribute__|__attribute|__asm__|asm|__asm|_Alignas)\s*\(")
_NAME = r"[A-Za-z_]\w*"
_CALL = re.compile(rf"({_NAME})\s*\((?!\s*\*)")
_TYPEDEF = re.compile(rf"^typedef\b(?:.*\(\s*\*\s*({_NAME})\s*\).*|.*?({_NAME})\s*(?:\[[^;]*)?);$")
_EXTERN = re.compile(rf"^extern\b[^(){{}}=,]*?({_NAME})\s*(?:\[[^()=,]*\])*\s*;$")
_TAGGED = re.compile(rf"^(struct|union|enum)\s+({_NAME})\s*(\{{|;|$)")
_TYPEDEF_TAGGED = re.compile(rf"^typedef\s+(struct|union|enum)\s*({_NAME})?\s*\{{")
_NO_NAMES = {"sizeof", "typeof", "__typeof__", "_Static_assert", "if", "while", "for", "switch"}

# A static function with one of these can reach the object without being named.
KEPT = re.compile(
    r"\b_*(?:used|constructor|destructor|retain|externally_visible|alias|weak|ifunc)_*\b"
)


class ChunkKind(Enum):
    """What a top-level declaration is."""

    STATIC_FUNCTION = "static function"
    FUNCTION = "function"
    PROTOTYPE = "prototype"
    RECORD = "structure or union"
    TYPEDEF = "type name"
    ENUM = "enumeration"
    DIRECTIVE = "directive"
    OTHER = "other"


class Chunk(Struct, frozen=True, kw_only=True):
    """One piece of a text, cut at the top level; all chunks joined are the text."""

    text: str
    line: int  #: of its first character, 1 for the first line
    has_directive: bool  #: a preprocessor directive is, or lies in, the chunk
    is_complete: bool  #: it ends where a declaration ends; the last one may not


class Declaration(Struct, frozen=True, kw_only=True):
    """One top-level declaration."""

    kind: ChunkKind
    name: str  #: "" if unknown
    text: str  #: with single spaces, comments gone


def chunks(text: str) -> tuple[Chunk, ...]:
    """Cut a text at the ends of its top-level declarations and directives.

    Works before the preprocessor (comments and directives allowed) and after it. Unbalanced
    braces (both branches of an ``#if`` open one) make a chunk longer, never shorter.
    """
    found: list[Chunk] = []
    start, line, depth = 0, 1, 0
    head_end = -1  # where the first top-level `{` of this chunk is
    is_empty, has_directive = True, False
    content_from = 0

    def cut(end: int, *, is_complete: bool = True) -> None:
        nonlocal start, line, head_end, is_empty, has_directive, content_from
        piece = text[start:end]
        if piece:
            found.append(
                Chunk(
                    text=piece,
                    line=line,
                    has_directive=has_directive,
                    is_complete=is_complete or not piece.strip(),
                )
            )
        line += piece.count("\n")
        start = content_from = end
        head_end, is_empty, has_directive = -1, True, False

    for match in _TOKEN.finditer(text):
        group = match.lastgroup
        if is_empty and text[content_from : match.start()].strip():
            is_empty = False
        if group == "comment":
            if is_empty:
                content_from = match.end()
            continue
        if group == "directive":
            if is_empty and depth == 0:
                cut(match.start())
                has_directive = True
                cut(match.end())
            else:
                has_directive = True
            continue
        is_empty = False
        mark = match[0]
        if mark in {"{", "("}:
            if mark == "{" and depth == 0 and head_end < 0:
                head_end = match.start()
            depth += 1
        elif mark in {"}", ")"}:
            depth = max(depth - 1, 0)
            if depth == 0 and mark == "}" and _is_body(text[start:head_end]):
                cut(match.end())
        elif mark == ";" and depth == 0:
            cut(match.end())
    cut(len(text), is_complete=False)
    return tuple(found)


def conditions(text: str) -> tuple[str, ...]:
    """Return the words of the conditional directives in a text: ``ifdef``, ``else``, ``endif``.

    Args:
        text: A chunk; what its comments and literals say does not count.
    """
    return tuple(mark for marks in conditions_by_line(text).values() for mark in marks)


def conditions_by_line(text: str) -> dict[int, list[str]]:
    """Return the words of `conditions` by the line on which each ends, 0 for the first."""
    found: dict[int, list[str]] = {}
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "directive" and (mark := _CONDITION.match(token[0])):
            found.setdefault(text.count("\n", 0, token.end()), []).append(mark[1])
    return found


def statement_starts(text: str) -> frozenset[int]:
    """Return the lines in front of which a statement or declaration has ended, 0 for the first.

    Args:
        text: A chunk; no line within a comment, a literal, a directive or parentheses is among
            them.
    """
    found: set[int] = set()
    place = line = depth = 0
    last = ""  #: what stands last before a place, comments and directives aside

    def go_on(end: int, *, is_open: bool) -> None:
        nonlocal place, line, last
        for char in text[place:end]:
            if char == "\n":
                line += 1
                if is_open and depth == 0 and last in {"{", "}", ";"}:
                    found.add(line)
            elif is_open and not char.isspace():
                last = char
        place = end

    for token in _TOKEN.finditer(text):
        go_on(token.start(), is_open=True)
        go_on(token.end(), is_open=False)
        if token.lastgroup in {"comment", "directive"}:
            continue
        last = token[0][-1]
        depth += (last == "(") - (last == ")") if token.lastgroup is None else 0
    go_on(len(text), is_open=True)
    return frozenset(found)


def _is_body(head: str) -> bool:
    """Tell whether ``{`` after this head opens a function's body."""
    bare = without_attributes(plain(head))
    return bare.endswith(")") and "=" not in bare.split("(", 1)[0]


def plain(text: str) -> str:
    """Return text without comments, with single spaces outside literals."""

    def replaced(match: re.Match[str]) -> str:
        if match.lastgroup == "comment":
            return " "
        if match.lastgroup == "literal":
            return match[0].replace(" ", "\0").replace("\t", "\1")
        if match.lastgroup == "directive":
            return "\0\n" + match[0].replace("\\\n", " ") + "\0\n"
        return match[0]

    masked = _TOKEN.sub(replaced, text)
    return " ".join(masked.split())


def declaration(text: str) -> Declaration:
    """Say what a chunk declares."""
    flat = plain(text)
    if flat.startswith("\0 #"):
        return Declaration(kind=ChunkKind.DIRECTIVE, name="", text=flat)
    bare = without_attributes(flat)
    if match := _TYPEDEF_TAGGED.match(bare):
        kind = ChunkKind.ENUM if match[1] == "enum" else ChunkKind.RECORD
        tail = re.search(rf"\}}\s*({_NAME})\s*;$", bare)
        name = match[2] and f"{match[1]} {match[2]}"
        return Declaration(kind=kind, name=name or (tail[1] if tail else ""), text=flat)
    if match := _TAGGED.match(bare):
        is_forward = match[3] != "{"
        if is_forward or _after_braces(bare) == ";":
            kind = ChunkKind.ENUM if match[1] == "enum" else ChunkKind.RECORD
            return Declaration(
                kind=ChunkKind.PROTOTYPE if is_forward else kind,
                name=f"{match[1]} {match[2]}",
                text=flat,
            )
    if match := _TYPEDEF.match(bare):
        return Declaration(kind=ChunkKind.TYPEDEF, name=match[1] or match[2], text=flat)
    if match := _EXTERN.match(bare):
        return Declaration(kind=ChunkKind.PROTOTYPE, name=match[1], text=flat)
    call = next((m for m in _CALL.finditer(bare) if m[1] not in _NO_NAMES), None)
    before = bare[: call.start()] if call else ""
    if call is None or not before.strip() or re.search(r"[={;]", before):
        return Declaration(kind=ChunkKind.OTHER, name="", text=flat)
    if bare.endswith("}") and _is_body(bare[: bare.find("{")]):
        is_static = re.search(r"\bstatic\b", before) is not None
        kind = ChunkKind.STATIC_FUNCTION if is_static else ChunkKind.FUNCTION
        return Declaration(kind=kind, name=call[1], text=flat)
    if re.search(r"\)\s*;$", bare) and "{" not in bare and "=" not in bare:
        return Declaration(kind=ChunkKind.PROTOTYPE, name=call[1], text=flat)
    return Declaration(kind=ChunkKind.OTHER, name="", text=flat)


def _after_braces(text: str) -> str:
    """Return what follows the first braces and all that they hold."""
    depth = 0
    for at in range(text.find("{"), len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[at + 1 :].strip()
    return ""


def without_attributes(text: str) -> str:
    """Drop ``__attribute__((...))`` and the like, whose brackets would confuse."""
    parts: list[str] = []
    at = 0
    while (match := _ATTRIBUTE.search(text, at)) is not None:
        parts.append(text[at : match.start()])
        depth, at = 1, match.end()
        while depth and at < len(text):
            depth += (text[at] == "(") - (text[at] == ")")
            at += 1
    parts.append(text[at:])
    return " ".join("".join(parts).split())
