# SPDX-License-Identifier: Apache-2.0
"""Were the layouts of structures compared, how, and what came of it?

Whoever makes an `ObjectPair` must say so: objects alone carry no layouts, and a payload with a
changed one breaks the host without any sign in its own bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.capture.compiling import preprocess
from xsplice_plugins.capture.copying import origin_of
from xsplice_plugins.csource.declarations import ChunkKind, chunks, declaration, plain
from xsplice_plugins.csource.inner import may_keep
from xsplice_plugins.csource.meaning import judge_texts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xsplice_plugins.artefacts import CompileJob, Refusal

IN_SOURCES = "in the sources"


class LayoutCheck(Struct, frozen=True, kw_only=True):
    """What the comparison of both sides' layouts came to."""

    how: str  #: `IN_SOURCES`, or "" where nobody could compare them
    refused: tuple[Refusal, ...] = ()


NOT_COMPARED = LayoutCheck(how="")


def compare_layouts(
    job: CompileJob,
    *,
    pristine: Path,
    patched: Path,
    env: Mapping[str, str] | None = None,
) -> LayoutCheck:
    """Compare the layouts that the sources of a directly patched object define.

    Cheap where the patch changes only functions: the preprocessor runs only if a patched input
    of this object has a changed directive or type, or a function that keeps values.

    Args:
        job: How the object is compiled.
        pristine: Root of the pristine copy (or the tree itself).
        patched: Root of the patched copy.
        env: The compiler's environment; this process's own if ``None``.

    Raises:
        CaptureError: Preprocessing fails.
    """
    # A file that only the patch includes is in no record: look at every patched file.
    if not any(_may_change_types(pristine / path, patched / path) for path in
               sorted(origin_of(patched).patched)):  # fmt: skip
        return LayoutCheck(how=IN_SOURCES)
    old, new = preprocess(job, pristine, env=env), preprocess(job, patched, env=env)
    return LayoutCheck(how=IN_SOURCES, refused=judge_texts(old, new).refused)


def _may_change_types(old: Path, new: Path) -> bool:
    """Tell whether a file's change can alter types: directives, structures, unknown text."""
    texts = [path.read_text("latin-1") if path.is_file() else "" for path in (old, new)]
    if texts[0] == texts[1]:
        return False
    pieces = [[chunk for chunk in chunks(text) if plain(chunk.text)] for text in texts]
    keys = [{plain(chunk.text) for chunk in side} for side in pieces]
    silent = {ChunkKind.STATIC_FUNCTION, ChunkKind.FUNCTION, ChunkKind.PROTOTYPE}
    return any(
        chunk.has_directive
        or (item := declaration(chunk.text)).kind not in silent
        # A macro that defines a variable looks like a prototype.
        or item.name.isupper()
        or may_keep(chunk.text)
        for side, other in ((pieces[0], keys[1]), (pieces[1], keys[0]))
        for chunk in side
        if plain(chunk.text) not in other
    )
