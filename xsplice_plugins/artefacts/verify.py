# SPDX-License-Identifier: Apache-2.0
"""What verifiers are asked and what they found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from xsplice_plugins.artefacts.files import SCHEMA
from xsplice_plugins.artefacts.sign import SignatureCheck


class Verdict(StrEnum):
    """What a verification came to."""

    PROVED = "proved"
    REFUSED = "refused"
    HAZARD = "hazard"
    UNPROVED = "unproved"  #: nothing speaks against it, and something was not checked


class Severity(StrEnum):
    """How much a finding weighs."""

    INFO = "info"
    WARNING = "warning"
    UNCHECKED = "unchecked"  #: something no check could see: not proved
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
class BaseMatch:
    """How all objects of a tree compare with its image. Target: ``base-*.json``."""

    schema: int = SCHEMA
    image: str  #: sha256 of ``xen-syms``
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """How a payload compares with the objects of a rebuild. Target: ``.checks.json``."""

    schema: int = SCHEMA
    name: str
    digest: str  #: sha256 of the unsigned payload that was compared
    findings: tuple[Finding, ...]
    is_possible: bool = True  #: hand-written files have no rebuild
    beneath: tuple[str, ...] = ()  #: sha256 of each payload's file that it builds on
    base: BaseMatch | None = None  #: whether the tree is what its image holds


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
    supersedes: tuple[Path, ...] = ()  #: payloads whose place it takes by `replace`, bottom first
