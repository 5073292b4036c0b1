# SPDX-License-Identifier: Apache-2.0
"""Objects whose functions share a section are compiled once more, with a section for each.

Until Xen 4.16 all functions of a file lie in ``.text``. The assembler fills in the distances
between them, and no relocation tells that a jump leads to a neighbour; a payload that takes one
function would jump into nothing. The compiler writes the same code either way.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import CompileJob, ObjectPair, write_file
from xsplice_plugins.capture.compiling import compile_object
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_FUNC
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.commands import edited

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

#: Sections that the compiler chooses, and splits if asked.
_SHARED = re.compile(r"\.text(?:\.unlikely|\.hot|\.startup|\.exit)?")


def apart(job: CompileJob) -> CompileJob:
    """Return a job that gives every function a section of its own."""
    return replace(job, command=edited(job.command, {}, "-ffunction-sections", job.output))


def shares_sections(data: bytes, name: str) -> bool:
    """Tell whether functions lie in one section that the compiler would split if asked."""
    elf = read_elf(data, name)
    known = {row.index for row in elf.sections if _SHARED.fullmatch(row.name)}
    starts = {(s.shndx, s.value) for s in elf.symbols if s.type == STT_FUNC and s.shndx in known}
    return len({section for section, _ in starts}) < len(starts)


def pair_apart(
    sides: tuple[tuple[CompileJob, Path], tuple[CompileJob, Path]],
    pair: ObjectPair,
    dest_prefix: Path,
    *,
    env: Mapping[str, str] | None = None,
) -> ObjectPair:
    """Compile a changed pair once more if its functions share a section.

    Args:
        sides: How either side is compiled, and the root of its copy.
        pair: What was compared; its baseline is the tree's own object.
        dest_prefix: ``.baseline`` and ``.new`` are added to it; they are replaced.
        env: The compiler's environment; this process's own if ``None``.

    Returns:
        The pair's record; the same if nothing is shared, or if it does not compile that way.

    Raises:
        MachineError: There is no compiler, or a disk is full.
    """
    names = (pair.baseline, pair.new)
    if not pair.is_changed or not all(job.command for job, _ in sides):
        return pair
    places = [dest_prefix.with_name(name) for name in names]
    if not any(shares_sections(place.read_bytes(), pair.object_path) for place in places):
        return pair
    made = [place.with_name(f".{place.name}.apart") for place in places]
    try:
        for (job, root), place in zip(sides, made, strict=True):
            compile_object(apart(job), root, place, env=env)
        data = [place.read_bytes() for place in made]
    except CaptureError as error:
        log.debug("%s: not compiled with its functions apart: %s", pair.object_path, error)
        return pair
    finally:
        for place in made:
            place.unlink(missing_ok=True)
    for place, content in zip(places, data, strict=True):
        write_file(place, content)
    old, new = (hashlib.sha256(content).hexdigest() for content in data)
    return replace(pair, digest_baseline=old, digest_new=new, is_apart=True)
