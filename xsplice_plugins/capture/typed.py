# SPDX-License-Identifier: Apache-2.0
"""A structure, variable or enumeration whose text differs: does memory of the old one fit?

The text tells that a field is new, not where it lies, and spells a type in many ways. So a changed
object is compiled twice more, with debug information of every type; the code is the same and is not
looked at.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import CompileJob, ObjectPair
from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.capture.instances import defined_at, made_at, shown_sites
from xsplice_plugins.csource.structures import subject_of
from xsplice_plugins.elf.changed import layout_questions
from xsplice_plugins.elf.layouts import layouts_of
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.values import known_names, value_questions, values_of
from xsplice_plugins.errors import CaptureError, DiffError
from xsplice_plugins.kbuild.commands import edited

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.elf.reader import ElfFile

log = logging.getLogger(__name__)

_OPTIONS = "-g -fno-eliminate-unused-debug-types"

Sides = tuple[tuple[CompileJob, Path], tuple[CompileJob, Path]]


def settle_layouts(
    sides: Sides, pair: ObjectPair, *, env: Mapping[str, str] | None = None
) -> ObjectPair:
    """Ask debug information about what the sources refuse a changed pair for.

    Args:
        sides: How either side is compiled, and the root of its copy.
        pair: What was compared, with what the sources show.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        The record without the refusals of what memory fits, and with what stays open;
        the same if one does not fit, or if nobody can tell.

    Raises:
        MachineError: There is no compiler, or a disk is full.
    """
    names = {subject_of(refusal) for refusal in pair.refused}
    if not pair.is_changed or not names or "" in names or not all(job.command for job, _ in sides):
        return pair
    with tempfile.TemporaryDirectory(prefix="xsplice-types-") as folder:
        try:
            files = [
                _typed(job, root, Path(folder) / str(number), env)
                for number, (job, root) in enumerate(sides)
            ]
            before, after = (layouts_of(file) for file in files)
            olds, news = (values_of(file) for file in files)
        except (CaptureError, DiffError) as error:
            log.debug("%s: types cannot be asked: %s", pair.object_path, error)
            return pair
    wrong, questions = layout_questions(before, after)
    moved, asked = value_questions(olds, news)
    known = before.keys() & after.keys() | known_names(olds, news)
    unknown = {name for name in names if not {name, f"typedef {name}"} & known}
    if wrong or moved or unknown:
        log.debug("%s: %s, unknown: %s", pair.object_path, wrong | moved, unknown)
        return pair
    job, root = sides[0]
    told = tuple(
        row._replace(text=row.text + _told(job, root, row.about)) if row.about else row
        for row in questions
    )
    return replace(pair, refused=(), questions=(*told, *asked))


def _told(job: CompileJob, root: Path, name: str) -> str:
    """Return which structure it is, for two files may have one of a name, and what makes it."""
    place = defined_at(job, root, name)
    return (f"; it is defined at {place}" if place else "") + shown_sites(made_at(job, root, name))


def _typed(job: CompileJob, root: Path, out: Path, env: Mapping[str, str] | None) -> ElfFile:
    job = replace(job, command=edited(job.command, {}, _OPTIONS))
    compile_object(job, root, out, env=env)
    return read_elf(out.read_bytes(), job.object_path)
