# SPDX-License-Identifier: Apache-2.0
"""What a payload holds and needs."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from xsplice_plugins.artefacts.diff import NewItem
from xsplice_plugins.artefacts.patch import PatchDigest
from xsplice_plugins.artefacts.verify import HOOK_WORD, Finding, Severity, unchecked_in


class ReplacedFunction(Struct, frozen=True, kw_only=True):
    """One record of ``.livepatch.funcs``."""

    name: str
    addr_old_virt: int  #: in the image; 0 if a payload beneath brought it
    size_old_bytes: int
    size_new_bytes: int
    section_new: str  #: section of the payload; "" where instructions become NOPs
    expect: str  #: hex of the bytes expected at the old address; "" if left off
    expect_note: str  #: why they were left off, or ""
    reason: str
    object_path: str


#: Key of a finding's evidence: the digest of a payload whose sources were held against its own.
SUPERSEDED = "superseded"


class NewVariable(Struct, frozen=True, kw_only=True):
    """A variable that a payload brings, and that its functions read, but no hook sets."""

    name: str
    writers: tuple[str, ...]  #: functions that the hypervisor enters, from which on it is set
    readers: tuple[str, ...]  #: those from which on it is read
    idle: tuple[
        str, ...
    ] = ()  #: if no writer: functions from which on it is set, that boot may call
    boot: tuple[str, ...] = ()  #: boot code that is left out, and would have set it


class PayloadRecord(Struct, frozen=True, kw_only=True):
    """What a payload holds and needs. Sidecar of the payload: ``.payload.json``."""

    schema: int = 2
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
    patches: tuple[PatchDigest, ...] = ()  #: what it was made of, in order; none: not known
    net: tuple[str, ...] = ()  #: the lines that they change in the end, as in `PatchSet`
    notes: tuple[str, ...] = ()  #: things a person should know
    findings: tuple[Finding, ...] = ()  #: what its makers established, or could not check
    variables: tuple[NewVariable, ...] = ()  #: on x86_64

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Return what no check could see; such a payload is never proved."""
        return unchecked_in(self.findings)

    @property
    def accepted(self) -> tuple[str, ...]:
        """Return what a person took on their word, each once."""
        rows = (row for row in self.findings if row.severity is Severity.ACCEPTED)
        return tuple(dict.fromkeys(f"{row.question}: {row.text}" for row in rows))

    @property
    def hooks_taken(self) -> tuple[str, ...]:
        """Return the kinds of hooks for which a person vouched where only a host knows."""
        words = (row.question for row in self.findings if row.severity is Severity.ACCEPTED)
        pairs = (word.partition(":") for word in words)
        return tuple(dict.fromkeys(kind for code, _, kind in pairs if code == HOOK_WORD))


class Payload(Struct, frozen=True, kw_only=True):
    """A payload's bytes with its record."""

    data: bytes
    record: PayloadRecord


def record_path(payload: Path) -> Path:
    """Return where the record of a payload lies: ``fix.payload.json`` beside ``fix.livepatch``."""
    stem = payload.name.removesuffix(".unsigned").removesuffix(".livepatch")
    return payload.with_name(f"{stem}.payload.json")
