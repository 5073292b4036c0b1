# SPDX-License-Identifier: Apache-2.0
"""The frozen values that travel from stage to stage, each through a file.

A stage that is up to date does not run, so nothing may be handed over in memory: every artefact
is written to its target's JSON sidecar with `save` and read back with `load`. Paths inside an
artefact are relative to a root that its field names, never absolute: the same inputs give the
same bytes in every folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from xsplice_plugins.errors import XspliceError

SCHEMA = 1  #: version of every JSON file this project writes

T = TypeVar("T")


# ---------------------------------------------------------------- patch


class TouchKind(StrEnum):
    """What a source patch touches, as far as a file's name and the hunk's text can tell."""

    C = "C source"
    PRIVATE_HEADER = "private header"
    PUBLIC_HEADER = "public header"
    ASSEMBLER = "assembler"
    BUILD = "Makefile or Kconfig"
    GENERATED_INPUT = "input of a generated file"
    COMMENTS = "comments only"
    OUTSIDE = "outside the hypervisor"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchedFile:
    """One file that the patch set changes."""

    path: str  #: relative to the source root the patch applies to
    kind: TouchKind
    is_added: bool = False
    is_removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFile:
    """One unified diff, in the order of application."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSet:
    """All diffs of one fix and what they touch. Target: ``.patch.json``."""

    name: str
    strip: int  #: leading path components to drop, as ``patch -p``
    patches: tuple[PatchFile, ...]
    touched: tuple[TouchedFile, ...]

    @property
    def digest(self) -> str:
        """Return the identity of the change (names of the patch files do not count)."""
        texts = "\0".join(patch.text for patch in self.patches)
        return hashlib.sha256(f"{self.strip}\0{texts}".encode()).hexdigest()


# -------------------------------------------------------------- capture


class Route(StrEnum):
    """How the objects are compiled again."""

    NATIVE = "native"  #: the objects are SCons nodes
    RECORDED = "recorded commands"
    MAKE = "make in a private copy"


class Reach(StrEnum):
    """How the patch reaches an object."""

    DIRECT = "its source is patched"
    HEADER = "through a header"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileJob:
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
    tree_object: str = (
        ""  #: the tree's own object, relative to the tree's root, for the drift check
    )
    objcopy: str = "objcopy"  #: program for the renaming steps
    renames: tuple[str, ...] = ()  #: sections that an init object renames: ``old=new``


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePlan:
    """Which objects are compiled again and why."""

    route: Route
    reason: str  #: why this route, in one sentence for the summary
    jobs: tuple[CompileJob, ...]
    build_root: str = ""  #: the hypervisor's build folder relative to the tree's root ("xen")
    refused: tuple[Refusal, ...] = ()  #: touched files that no object build can show


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPair:
    """One object before and after. Target: ``<object>.xsplice.pair.json``.

    ``baseline`` and ``new`` are file names beside the record; empty when the content is equal.
    """

    object_path: str
    source_path: str
    is_changed: bool
    is_init: bool
    baseline: str
    new: str
    digest_baseline: str
    digest_new: str
    compiler: str  #: first line of the compiler's ``--version``
    note: str = ""  #: e.g. "preprocessed text equal, not compiled"
    refused: tuple[Refusal, ...] = ()  #: what the source already shows, e.g. a changed structure


# ----------------------------------------------------------------- diff


class Cause(StrEnum):
    """Why a function's meaning changed."""

    SOURCE = "source edit"
    INLINING = "inlining changed"
    CLONE = "callee cloned or renamed"
    CONSTANT = "constant"
    STRING = "string"
    DATA = "data reference"
    SPECIAL = "special-section entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first instruction (or byte) at which two versions part."""

    before: str  #: disassembly or text of the baseline side; "" if there is none
    after: str
    offset_before: int = 0  #: bytes from the start of the function
    offset_after: int = 0
    line_before: str = ""  #: ``file.c:123`` from DWARF, when present
    line_after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFunction:
    """A function of the running image that the payload replaces."""

    name: str  #: decorated: ``common/version.c#helper`` or ``xen_extra_version``
    reason: str  #: one sentence a person understands
    cause: Cause
    symbol: str  #: plain name in the new object
    symbol_baseline: str  #: plain name in the baseline object (clones may be renamed)
    section: str  #: section of the new object that holds it
    size_before_bytes: int
    size_after_bytes: int
    difference: Difference | None = None
    pieces: tuple[str, ...] = ()  #: further symbols that belong to it: ``foo.cold``


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """A function or datum that the running image lacks and the payload brings."""

    name: str  #: decorated
    reason: str  #: path of inclusion: "included because `do_domctl` calls new `check_bits`"
    kind: str  #: "function", "data", "bss", "read-only data", "string", "hook", "table"
    symbol: str  #: plain name in the new object; "" for anonymous content
    section: str  #: section of the new object
    offset: int = 0  #: bytes from the start of the section
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedItem:
    """A function or datum that only the baseline has; it stays in memory, unused."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LineOnly:
    """A function whose only difference is line numbers; it is not replaced."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A change that was understood and cannot be live patched."""

    name: str  #: function, datum, structure field or file
    reason: str
    code: str  #: stable upper-case word, documented by ``xsplice explain CODE``
    hint: str
    line: str = ""  #: ``file.c:123`` where known
    skeleton: str = ""  #: C text that would make it possible, when one can be generated


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Content of the new object that the payload does not take, because the image has it.

    A relocation whose target lies in this range is made against the image's symbol. Relocations
    against undefined symbols need no reference: their name is what the hypervisor resolves.
    """

    section: int  #: index in the new object
    offset: int  #: bytes from the start of that section
    size_bytes: int
    target: str  #: decorated name in the image's symbol table
    target_offset: int = 0  #: bytes to add to the target's address for the range's first byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A byte range of a section of the new object that the payload takes.

    Whole function and data sections are one extent; strings and table entries one extent each.
    """

    section: int  #: index in the new object
    offset: int
    size_bytes: int
    owner: str  #: decorated name of the function or datum it serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What changed in meaning in one object. Target: ``<object>.xsplice.diff``.

    ``extents`` and ``references`` are all that the link stage needs besides the new object: every
    byte it takes lies in an extent, every relocation inside an extent goes either into an extent
    or to a reference. The five lists are what people and ``--json`` readers see.
    """

    schema: int = SCHEMA
    object_path: str
    source_path: str
    profile: str
    machine: int
    digest_new: str  #: sha256 of the new object this delta speaks of
    changed: tuple[ChangedFunction, ...] = ()
    new: tuple[NewItem, ...] = ()
    removed: tuple[RemovedItem, ...] = ()
    line_only: tuple[LineOnly, ...] = ()
    refused: tuple[Refusal, ...] = ()
    extents: tuple[Extent, ...] = ()
    references: tuple[Reference, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to replace, bring or refuse."""
        return not (self.changed or self.new or self.refused)


# ----------------------------------------------------------------- link


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedFunction:
    """One record of ``.livepatch.funcs``."""

    name: str
    addr_old_virt: int  #: in the image
    size_old_bytes: int
    size_new_bytes: int
    section_new: str  #: section of the payload
    expect: str  #: hex of the bytes expected at the old address; "" if left off
    expect_note: str  #: why they were left off, or ""
    reason: str
    object_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadRecord:
    """What a payload holds and needs. Sidecar of the payload: ``.payload.json``."""

    schema: int = SCHEMA
    name: str
    release: str
    machine: int
    build_id: str  #: hex, derived from the content
    depends: str  #: hex: the image's build-id, or the earlier payload's
    xen_depends: str  #: hex: the image's build-id
    digest: str  #: sha256 of the unsigned payload
    size_bytes: int
    functions: tuple[ReplacedFunction, ...]
    new: tuple[NewItem, ...]
    hooks: tuple[str, ...]  #: names of the hook sections it carries
    references: tuple[str, ...]  #: names the hypervisor must resolve
    notes: tuple[str, ...] = ()  #: things a person should know


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A payload's bytes with its record."""

    data: bytes = field(repr=False)
    record: PayloadRecord


# ----------------------------------------------------------------- sign


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRecord:
    """Who signed a payload and how. Sidecar of the signed file."""

    schema: int = SCHEMA
    signer: str  #: name of the plugin
    scheme: str  #: e.g. "cms-appended", "none"
    is_deterministic: bool
    is_development_key: bool
    subject: str  #: the certificate's subject, or ""
    certificate_sha256: str
    digest_payload: str  #: sha256 of what was signed
    digest_signed: str  #: sha256 of the written file
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPayload:
    """The file to be shipped and what is known of its signature."""

    data: bytes = field(repr=False)
    record: SignatureRecord


class SignatureState(StrEnum):
    """What a check of a signature came to."""

    GOOD = "good"
    UNSIGNED = "unsigned"
    BAD = "bad"
    UNKNOWN_KEY = "key not trusted"
    EXPIRED = "certificate not valid at this time"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureCheck:
    """The answer to "may this file be loaded"."""

    state: SignatureState
    reason: str
    payload_size_bytes: int  #: length of the ELF part in front of the signature
    subject: str = ""


# --------------------------------------------------------------- verify


class Verdict(StrEnum):
    """What a verification came to."""

    PROVED = "proved"
    REFUSED = "refused"
    HAZARD = "hazard"


class Severity(StrEnum):
    """How much a finding weighs."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"  #: the verdict cannot be "proved"
    HAZARD = "hazard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing a check has to say."""

    check: str  #: name of the check, "plugin.check" for vendors'
    severity: Severity
    subject: str
    text: str
    errno: int = 0  #: positive, where a hypervisor refused
    step: str = ""  #: the gate that refused, or where the hazard is
    evidence: dict[str, Any] | None = None  #: what the check saw, as the report shall show it


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of all verifiers. Target: ``.verify.json``."""

    schema: int = SCHEMA
    name: str
    verdict: Verdict
    errno: int
    step: str
    reason: str
    digest: str  #: sha256 of the file that was judged
    release: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """Everything a verifier gets."""

    payload_path: Path
    image_path: Path
    release: str
    releases_compared: tuple[str, ...] = ()
    certificate: Path | None = None
    signature: SignatureCheck | None = None  #: what its signer says; ``None``: not enforced
    expected: Path | None = None  #: a regression hot-patch's ``expected.json``
    beneath: tuple[Path, ...] = ()  #: payloads applied before, bottom first
    places: tuple[str, ...] = ("model",)  #: where to verify: "model", "qemu"


# ------------------------------------------------------------ save, load


def to_json(artefact: object) -> bytes:
    """Return an artefact as JSON: keys sorted, two spaces, a final newline."""
    return msgspec.json.format(msgspec.json.encode(artefact, order="sorted"), indent=2) + b"\n"


def from_json(data: bytes, kind: type[T], name: str) -> T:
    """Read an artefact back.

    Args:
        data: The JSON text.
        kind: The artefact's class.
        name: How messages shall call the file.

    Raises:
        XspliceError: Not JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise XspliceError(
            f"{name}: not a {kind.__name__} of schema {SCHEMA} ({error}); remove it and build again"
        ) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see either the old content or all of the new.

    Raises:
        XspliceError: The file cannot be written (disk full, no permission).
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise XspliceError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def save(path: Path, artefact: object) -> None:
    """Write an artefact's JSON to a file (see `write_file`)."""
    write_file(path, to_json(artefact))


def load(path: Path, kind: type[T]) -> T:
    """Read an artefact from a file.

    Raises:
        XspliceError: The file is missing, or not of this kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise XspliceError(f"{path}: cannot be read ({error.strerror}); build it first") from error
    return from_json(data, kind, str(path))
