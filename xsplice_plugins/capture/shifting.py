# SPDX-License-Identifier: Apache-2.0
"""What shows that a number is a source line: it moves when nothing but the lines do.

The new side is compiled once more from a third private copy, in which every patched file begins
with more empty lines. The differ asks for it only if something hangs on the answer.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import SHIFT_LINES, MovedLines
from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.capture.copying import SHIFTED, full_disk_named, origin_of
from xsplice_plugins.csource.neutral import moved_lines, shifted
from xsplice_plugins.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import CompileJob

log = logging.getLogger(__name__)


def lines_moved(pristine: Path, patched: Path) -> tuple[MovedLines, ...]:
    """Return the lines that a patch moved and left as they are, of all files it touches.

    Args:
        pristine: Root of the pristine copy (or the tree itself).
        patched: Root of the patched copy.
    """
    runs: set[tuple[int, int, int]] = set()
    for path in sorted(origin_of(patched).patched):
        old, new = pristine / path, patched / path
        if old.is_file() and new.is_file():
            runs |= set(moved_lines(*(p.read_bytes().decode("latin-1") for p in (old, new))))
    return tuple(MovedLines(old=a, new=b, count=size) for a, b, size in sorted(runs))


def compile_shifted(
    job: CompileJob, patched: Path, out: Path, *, env: Mapping[str, str] | None = None
) -> bytes | None:
    """Compile an object's new side with all lines of the patched files further down.

    Args:
        job: How the object is compiled.
        patched: Root of the patched copy; the shifted one is made beside it when it is missing.
        out: The object to write.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        Its bytes; ``None`` if it does not compile that way, and nothing is shown.

    Raises:
        MachineError: The copy cannot be written, or there is no compiler.
    """
    patched = patched.resolve()  # as links that lead into it name it
    copy = patched.with_name(patched.name + SHIFTED)
    try:
        compile_object(job, _shifted_copy(patched, copy), out, env=env)
    except CaptureError as error:
        log.debug("%s: not compiled with shifted lines: %s", job.object_path, error)
        return None
    return out.read_bytes()


def _shifted_copy(patched: Path, copy: Path) -> Path:
    """Lay out the shifted copy once; whoever comes second takes the first one's."""
    if copy.is_dir():
        return copy
    with full_disk_named(copy):
        temporary = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
        try:
            made = temporary / "copy"
            shutil.copytree(patched, made, symlinks=True)
            for link in _links_into(made, str(patched)):
                text = str(copy) + os.readlink(link)[len(str(patched)) :]  # noqa: PTH115
                link.unlink()
                link.symlink_to(text)
            for path in origin_of(patched).patched:
                if (made / path).is_file():
                    text = (patched / path).read_bytes().decode("latin-1")
                    (made / path).write_bytes(shifted(text, SHIFT_LINES).encode("latin-1"))
            try:
                made.rename(copy)
            except OSError:
                if not copy.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return copy


def _links_into(made: Path, root: str) -> list[Path]:
    """Return the links whose text leads into the copy that this one was made from."""
    return [
        Path(folder, name)
        for folder, folders, files in os.walk(made)
        for name in (*folders, *files)
        if os.path.islink(os.path.join(folder, name))  # noqa: PTH114, PTH118
        and os.readlink(os.path.join(folder, name)).startswith(root + "/")  # noqa: PTH115, PTH118
    ]
