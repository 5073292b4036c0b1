# SPDX-License-Identifier: Apache-2.0
"""What verifiers are asked and what they found."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct

from xsplice_plugins.artefacts.base import Retyped
from xsplice_plugins.artefacts.files import SCHEMA
from xsplice_plugins.artefacts.patch import PatchSet
from xsplice_plugins.artefacts.sign import SignatureCheck
from xsplice_plugins.elf.changed import Question
from xsplice_plugins.errors import ConfigError

#: Codes of questions that a person can answer.
HOOK_WORD = "HOOK"  #: and a kind of hook
ANSWERED = ("LAYOUT", "INIT_CODE", "INIT_DATA", "STATE", HOOK_WORD)


class Verdict(StrEnum):
    """What a verification came to."""

    PROVED = "proved"
    REFUSED = "refused"
    HAZARD = "hazard"
    UNPROVED = "unproved"  #: nothing speaks against it, and something was not checked


class Severity(StrEnum):
    """How much a finding weighs."""

    INFO = "info"
    EXEMPT = "exempt"  #: its obligation does not apply to this payload
    HELD = "held"  #: establishes its obligation
    WARNING = "warning"
    ACCEPTED = "accepted"  #: no check could see it, and a person gave their word for it
    UNCHECKED = "unchecked"  #: something no check could see: not proved
    ERROR = "error"  #: the verdict cannot be "proved"
    HAZARD = "hazard"


class Duty(StrEnum):
    """What must hold of a payload before it is called proved, in the order of reports."""

    BASE = "base"
    COMPLETE = "complete"
    LINES = "lines"
    LAYOUT = "layout"
    DATA = "data"
    STACK = "stack"
    LOADER = "loader"
    EFFECT = "effect"
    SIGNATURE = "signature"


class State(StrEnum):
    """What became of an obligation."""

    HELD = "held"
    FAILED = "failed"
    UNCHECKED = "not checked"
    NONE = "does not apply"


class Obligation(Struct, frozen=True, kw_only=True):
    """One thing that must hold, and what became of it."""

    name: Duty
    state: State
    text: str  #: what established it, or the first thing that is wrong or was not checked


class Finding(Struct, frozen=True, kw_only=True):
    """One thing a check has to say."""

    check: str  #: name of the check, "plugin.check" for vendors'
    severity: Severity
    subject: str
    text: str
    errno: int = 0  #: positive, where a hypervisor refused
    step: str = ""  #: the gate that refused, or where the hazard is
    evidence: dict[str, Any] | None = None  #: what the check saw, as the report shall show it
    obligation: str = ""  #: the `Duty` it speaks of; "": that of its check, of others' the loader
    question: str = ""  #: what ``ACCEPT=`` calls it; "": no word is taken for it

    @property
    def said(self) -> str:
        """Return the text, with how to answer where that is open."""
        if not self.question or self.severity is not Severity.UNCHECKED:
            return self.text
        return f"{self.text}; ACCEPT={self.question} takes it on your word"


def findings_about(
    obligation: Duty, check: str, severity: Severity, subject: str, texts: Iterable[str]
) -> tuple[Finding, ...]:
    """Return one finding for each text.

    Args:
        obligation: What all of them speak of.
        check: Who says so.
        severity: How much they weigh.
        subject: What they are about.
        texts: Sentences for people.
    """
    return tuple(
        Finding(check=check, severity=severity, subject=subject, text=text, obligation=obligation)
        for text in texts
    )


def check_words(words: Iterable[str]) -> None:
    """Refuse what no report asks for: ``ACCEPT=`` takes the words of one.

    Args:
        words: Of the setting.

    Raises:
        ConfigError: One is not a code that a word is taken for, and a name.
    """
    for word in words:
        code, _, name = word.partition(":")
        if code not in ANSWERED or not name:
            raise ConfigError(
                f"ACCEPT={word}: no word is taken for it; give {' or '.join(ANSWERED)} as the "
                "report spells it, such as LAYOUT:domain.member"
            )


def state_word(name: str) -> str:
    """Return what ``ACCEPT=`` calls it that a new variable starts as it should.

    Args:
        name: The variable's.
    """
    return f"STATE:{name.rpartition('#')[2]}"


def findings_asked(
    obligation: Duty, check: str, subject: str, questions: Iterable[Question]
) -> tuple[Finding, ...]:
    """Return one finding for each question: not checked, unless a person gives their word.

    Args:
        obligation: What all of them speak of.
        check: Who asks.
        subject: What they are about.
        questions: With what ``ACCEPT=`` calls them.
    """
    return tuple(
        Finding(
            check=check,
            severity=Severity.UNCHECKED,
            subject=subject,
            text=row.text,
            obligation=obligation,
            question=row.name,
        )
        for row in questions
    )


def unchecked_in(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return the texts of what no check could see."""
    return tuple(row.said for row in findings if row.severity is Severity.UNCHECKED)


class BaseMatch(Struct, frozen=True, kw_only=True):
    """How all objects of a tree compare with its image. Target: ``base-*.json``."""

    schema: int = SCHEMA
    image: str  #: sha256 of ``xen-syms``
    findings: tuple[Finding, ...]
    is_matched: bool = False  #: a named base's: it was not linked from them, and differs are known
    objects: int = 0  #: that lie in the image
    matched: int = 0  #: functions and data that lie there as the objects have them
    differs: tuple[str, ...] = ()  #: that do not, each with its object
    absent: tuple[str, ...] = ()  #: that the image does not hold
    ambiguous: tuple[str, ...] = ()  #: that fit in several places
    strangers: tuple[str, ...] = ()  #: that the image holds and no object has
    owners: tuple[
        tuple[str, tuple[str, ...]], ...
    ] = ()  #: of strangers, the objects they may be of; of those and what differs, more sources
    #: that a matched base's image has otherwise; ``None`` where nobody compared them
    otherwise: Retyped | None = None
    left_out: tuple[str, ...] = ()  #: members of archives of which the image holds nothing
    inlined: tuple[str, ...] = ()  #: of a matched base, what its image inlined otherwise


class Checks(Struct, frozen=True, kw_only=True):
    """How a payload compares with the objects of a rebuild. Target: ``.checks.json``."""

    schema: int = SCHEMA
    name: str
    digest: str  #: sha256 of the unsigned payload that was compared
    findings: tuple[Finding, ...]
    is_possible: bool = True  #: hand-written files have no rebuild
    beneath: tuple[str, ...] = ()  #: sha256 of each payload's file that it builds on
    base: BaseMatch | None = None  #: whether the tree is what its image holds


class Report(Struct, frozen=True, kw_only=True):
    """The outcome of all verifiers. Target: ``.verify.json``."""

    schema: int = 2
    name: str
    verdict: Verdict
    obligations: tuple[Obligation, ...]  #: every `Duty` once, in that order; they decide
    errno: int
    step: str
    reason: str
    digest: str  #: sha256 of the file that was judged
    release: str
    findings: tuple[Finding, ...]


class Sources(Struct, frozen=True, kw_only=True):
    """What a payload was made of, for verifiers that build."""

    tree: Path  #: the build folder of the built tree
    patch_set: PatchSet  #: with the patches of payloads beneath
    #: Of each payload beneath, bottom first: how many of the patches it and those under it are
    #: made of, and whether it is hand-written.
    beneath: tuple[tuple[int, bool], ...] = ()


class VerifyRequest(Struct, frozen=True, kw_only=True):
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
    sources: Sources | None = None  #: ``None`` where only image and payload are at hand
