# SPDX-License-Identifier: Apache-2.0
"""What a source patch touches."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum

from msgspec import Struct

_SAYS = re.compile(r"\w")  #: a brace says nothing
_COMMENT = r"(?:[ \t]|/\*(?:[^*]|\*(?!/))*\*/)*"
#: Lines that come or go and are a directive, perhaps behind a comment; or where a comment begins or
#: ends that another line ends or begins, for what is in it may be one.
_DIRECTIVES = re.compile(
    rf"^[+-](?![+-]{{2}} ){_COMMENT}(?:#|%:|\?\?=)|^[+-](?![+-]{{2}} ).*/\*(?!.*\*/)"
    r"|^[+-](?![+-]{2} )(?:(?!/\*).)*\*/",
    re.MULTILINE,
)


class TouchKind(StrEnum):
    """What a source patch touches, as far as a file's name and the hunk's text can tell."""

    C = "C source"
    PRIVATE_HEADER = "private header"
    PUBLIC_HEADER = "public header"
    ASSEMBLER = "assembler"
    BUILD = "Makefile or Kconfig"
    GENERATED_INPUT = "input of a generated file"
    COMMENTS = "comments or blank lines only"
    OUTSIDE = "outside the hypervisor"
    OTHER = "other"


class TouchedFile(Struct, frozen=True, kw_only=True):
    """One file that the patch set changes."""

    path: str  #: relative to the source root the patch applies to
    kind: TouchKind
    is_added: bool = False
    is_removed: bool = False


class PatchFile(Struct, frozen=True, kw_only=True):
    """One unified diff, in the order of application."""

    name: str
    text: str
    files: tuple[str, ...] = ()  #: what it changes, relative to the source root; none: it is C


class PatchDigest(Struct, frozen=True, kw_only=True):
    """Which patch, or hand-written source, a payload was made of."""

    name: str  #: of its file; does not count
    sha256: str  #: of the text, as `PatchFile` has it
    files: tuple[str, ...]  #: as in `PatchFile`
    #: Short digests of the lines that it adds (``+``) and takes away (``-``): what a revised patch
    #: has in common with it.
    lines: tuple[str, ...] = ()


def _lines(text: str) -> tuple[str, ...]:
    """Return a short digest of each line of a diff that says something, with its file; sorted."""
    path, found = "", []
    for row in text.splitlines():
        if row.startswith("+++ "):
            path = row[4:].split("\t")[0].partition("/")[2]
        elif row[:1] in {"+", "-"} and not row.startswith("---"):
            digest = line_digest(path, row[1:])
            if digest:
                found.append(row[0] + digest)
    return tuple(sorted(found))


def line_digest(path: str, line: str) -> str:
    """Return a short digest of a line of a file, whatever its blanks; "" if it says nothing."""
    word = "".join(line.split())
    if not _SAYS.search(word):
        return ""
    return hashlib.sha256(f"{path}\0{word}".encode("utf-8", "surrogateescape")).hexdigest()[:12]


class Superseded(Struct, frozen=True, kw_only=True):
    """A payload in whose place another one comes, and whose sources were held against that one's.

    Objects that exist hold what its functions stored.
    """

    digest: str  #: of the payload without its signature, as in its record
    doubts: tuple[str, ...]  #: what the new sources read otherwise than it was made


class PatchSet(Struct, frozen=True, kw_only=True):
    """All diffs of one fix and what they touch. Target: ``.patch.json``."""

    name: str
    strip: int  #: leading path components to drop, as ``patch -p``
    patches: tuple[PatchFile, ...]
    touched: tuple[TouchedFile, ...]
    is_line_neutral: bool = False  #: unchanged declarations keep their line numbers (``#line``)
    neutral_from: int = 0  #: how many of the first patches move lines all the same
    net: tuple[str, ...] = ()  #: what all of them change in the end: `net_lines`
    superseded: tuple[Superseded, ...] = ()  #: payloads in whose place it comes, as far as known
    #: What objects hold as they were made before the payloads beneath, or with some of them alone.
    older: tuple[str, ...] = ()

    @property
    def may_read_anew(self) -> bool:
        """Tell whether it may lead the preprocessor to other files: nobody knows to which."""
        return any(_DIRECTIVES.search(patch.text) for patch in self.patches)

    @property
    def digests(self) -> tuple[PatchDigest, ...]:
        """Return what the record of a payload keeps of each patch."""
        return tuple(
            PatchDigest(
                name=patch.name,
                sha256=hashlib.sha256(patch.text.encode("utf-8", "surrogateescape")).hexdigest(),
                files=patch.files,
                lines=_lines(patch.text) if patch.files else (),
            )
            for patch in self.patches
        )

    @property
    def digest(self) -> str:
        """Return the identity of the change (names of the patch files do not count)."""
        texts = "\0".join(patch.text for patch in self.patches)
        lines = f"{self.is_line_neutral}{self.neutral_from or ''}"
        return hashlib.sha256(f"{self.strip}\0{lines}\0{texts}".encode()).hexdigest()
