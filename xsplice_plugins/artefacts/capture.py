# SPDX-License-Identifier: Apache-2.0
"""How objects are compiled again, and what came of it."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from xsplice_plugins.artefacts.diff import BootOnly, Refusal
from xsplice_plugins.elf.changed import Question

#: Lines by which the sources of a shifted object are further down. Any distance shows the same,
#: for nothing but line numbers differs; a bug frame must have room for it (14 bits).
SHIFT_LINES = 1009


class Route(StrEnum):
    """How the objects are compiled again."""

    RECORDED = "recorded commands"
    MAKE = "make in a private copy"


class Reach(StrEnum):
    """How the patch reaches an object."""

    DIRECT = "its source is patched"
    HEADER = "through a header"


class CompileJob(Struct, frozen=True, kw_only=True):
    """How one object is compiled, the same way on either side of the patch.

    ``command`` is a shell command line as the tree recorded it, run with the private copy's
    ``cwd`` as working directory; its output path is ``output`` (relative to ``cwd``) and is
    redirected by the capture stage.
    """

    object_path: str  #: relative to the build root, e.g. ``common/version.o``
    source_path: str  #: as messages and the image's symbol table spell it: ``common/version.c``
    cwd: str  #: relative to the private copy's root; "" for the root itself
    command: str
    output: str  #: the word in ``command`` that names the output
    file_symbol: tuple[str, str] | None = None  #: STT_FILE text to rename: (from, to)
    is_init: bool = False  #: the tree renames all its sections to ``.init.*``
    reach: Reach = Reach.DIRECT
    inputs: tuple[str, ...] = ()  #: recorded inputs, relative to the private copy's root
    tree_object: str = ""  #: the tree's own, relative to the tree's root, for the drift check
    objcopy: str = "objcopy"  #: program for the renaming steps
    renames: tuple[str, ...] = ()  #: sections that an init object renames: ``old=new``


class CapturePlan(Struct, frozen=True, kw_only=True):
    """Which objects are compiled again and why."""

    route: Route
    reason: str  #: why this route, in one sentence for the summary
    jobs: tuple[CompileJob, ...]
    build_root: str = ""  #: the hypervisor's build folder relative to the tree's root ("xen")
    refused: tuple[Refusal, ...] = ()  #: touched files that no object build can show


class MovedLines(Struct, frozen=True, kw_only=True):
    """A run of source lines that a patch left as they are, at other numbers."""

    old: int  #: number of the first before the patch
    new: int  #: and after it
    count: int


#: Note of the pair that stands for the image, where that and all objects are the same.
SAME_LINK = "the objects are equal, and so is the image that they are linked to"


class ObjectPair(Struct, frozen=True, kw_only=True):
    """One object before and after. Target: ``<object>.xsplice.pair.json``.

    ``baseline`` and ``new`` are file names beside the record; "" when the content is equal, as the
    digests and the compiler's name are where nothing was compiled.
    """

    object_path: str
    source_path: str
    is_changed: bool
    is_init: bool
    baseline: str = ""
    new: str = ""
    digest_baseline: str = ""
    digest_new: str = ""
    compiler: str = ""  #: what the compiler wrote about itself
    note: str = ""  #: e.g. "preprocessed text equal, not compiled"
    layouts: str  #: how the layouts of both sides were compared; "" if they were not
    refused: tuple[Refusal, ...] = ()  #: what the source already shows, e.g. a changed structure
    questions: tuple[Question, ...] = ()  #: what changed structures leave open
    stale: tuple[str, ...] = ()  #: what memory holds of constants, and new code reads otherwise
    remarks: tuple[str, ...] = ()  #: changed constants of which nothing like that is known
    boot: tuple[BootOnly, ...] = ()  #: of code that is linked on its own and runs once
    edited: tuple[str, ...] | None = None  #: its symbols in changed pieces; ``None``: not known
    is_apart: bool = False  #: compiled once more, for its functions share a section in the tree
    moved: tuple[MovedLines, ...] = ()  #: in any patched file; none where no sources are known
    again: tuple[str, ...] = ()  #: read-only data that payloads beneath have brought again
    #: Files that were read and that no record of the tree names, with digests of what they held.
    reads: tuple[tuple[str, str], ...] = ()
