# SPDX-License-Identifier: Apache-2.0
"""Where objects of a structure are made: whether their memory is zero is for a person to judge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.capture.texts import related, text_of

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob

_SHOWN_MAX = 5
#: An allocator that is given the type, or has its name; a variable outside of functions.
_MADE = (
    r"\b(?P<call>\w*alloc\w*)\s*\([^;{{}}]*?\b{spelled}\s*[,)](?!\s*\*)",
    r"\b(?P<call>\w*alloc_{tag}(?:_struct)?)\s*\(",
    r"^(?:\w+[ \t]+)*?(?:\w+\()?{spelled}\)?[, \t]+(?:__\w+[ \t]+)*(?P<name>\w+)[^;(){{}}*]*[;=]",
)


def made_at(job: CompileJob, root: Path, name: str) -> tuple[str, ...]:
    """Return where a tree makes objects of a structure, as far as the structure's name shows it.

    Args:
        job: How an object of the fix is compiled: files of other machines do not count.
        root: The tree, or a copy of it.
        name: ``struct TAG``, ``union TAG`` or ``typedef NAME``.

    Returns:
        ``path:line (`what makes it`)``, sorted; of a structure of the object's own source, what
        lies there, for another file may have another one of that name.
    """
    kind, _, tag = name.rpartition(" ")
    spelled = tag if kind == "typedef" else rf"{kind}\s+{tag}"
    search = [re.compile(row.format(tag=tag, spelled=spelled), re.MULTILINE) for row in _MADE]
    found = set()
    own = defined_at(job, root, name).rpartition(":")[0]
    for path in [own] if own.endswith(".c") else related(job, root, frozenset({tag})):
        text = text_of(root / path)
        for pattern in search:
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                made = match.groupdict()
                what = f"`{made['call']}`" if made.get("call") else f"variable `{made['name']}`"
                if not (path.endswith(".h") and made.get("name")):
                    found.add((path, line, what))
    return tuple(f"{path}:{line} ({what})" for path, line, what in sorted(found))


def defined_at(job: CompileJob, root: Path, name: str) -> str:
    """Return where what an object calls by a structure's name is defined, as ``path:line``.

    Args:
        job: How the object is compiled.
        root: The tree, or a copy of it.
        name: ``struct TAG``, ``union TAG`` or ``typedef NAME``.

    Returns:
        The first place in the object's source, else in a file that it reads; "" if none shows.
    """
    kind, _, tag = name.rpartition(" ")
    body = rf"\}}[^;{{}}]*\b{tag}\s*;" if kind == "typedef" else rf"\b{kind}\s+{tag}\s*\{{"
    paths = [path for path in related(job, root, frozenset({tag})) if _is_read(job, path)]
    for path in sorted(paths, key=lambda path: (not _is_source(job, path), path)):
        text = text_of(root / path)
        match = re.search(body, text)
        if match is not None:
            return f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
    return ""


def _is_source(job: CompileJob, path: str) -> bool:
    return f"/{path}".endswith(f"/{job.source_path}")


def _is_read(job: CompileJob, path: str) -> bool:
    return _is_source(job, path) or (path in job.inputs if job.inputs else path.endswith(".h"))


def shown_sites(sites: tuple[str, ...]) -> str:
    """Return a few places, as the end of a question."""
    if not sites:
        return "; where they are made does not show by its name: look for what it is a part of"
    more = f" and {len(sites) - _SHOWN_MAX} more" if len(sites) > _SHOWN_MAX else ""
    return f"; they are made at {', '.join(sites[:_SHOWN_MAX])}{more}"
