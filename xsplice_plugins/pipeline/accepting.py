# SPDX-License-Identifier: Apache-2.0
"""What a person takes on their word: questions that no check answers.

It is written into the payload's record and stands in the verdict's first lines. A word for what
nobody asks is refused, for the person meant something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import HOOK_WORD, Duty, Finding, Severity
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.target.abi import HOOK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xsplice_plugins.artefacts import BootOnly, PayloadRecord


_RUN = "a real Xen has to run it (ON=model,qemu)"  #: for that a hook does right is not only said


def word_for(row: BootOnly) -> str:
    """Return what ``ACCEPT=`` calls boot code, or a boot datum, that is left out."""
    return f"{row.code}:{row.name.rpartition('#')[2]}"


def take_word(
    accept: Sequence[str], findings: Sequence[Finding], hooks: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """Turn what was not checked, and is taken on a person's word, into what was accepted.

    Args:
        accept: The setting ``ACCEPT``.
        findings: All that was said of a fix.
        hooks: Names of the hook sections of its payload.

    Returns:
        The findings, in their order, and what is taken on a person's word of its hooks.

    Raises:
        RefusedError: Nobody asks for one of the words.
    """
    offered = [_of_hook(name) for name in hooks]
    asked = list(dict.fromkeys(row.question for row in (*findings, *offered) if row.question))
    for word in accept:
        if word not in asked:
            known = ", ".join(asked) or "nothing"
            raise RefusedError(
                f"ACCEPT={word}: this fix does not ask for it; it asks for {known}; give what the "
                "report spells, or leave it out; where an SConstruct makes several fixes, give it "
                "to the one that asks: env.Xsplice(..., accept=), or env.Clone(ACCEPT=)"
            )
    taken = (
        replace(row, severity=Severity.ACCEPTED)
        if row.question in accept and row.severity is Severity.UNCHECKED
        else row
        for row in findings
    )
    return (*taken, *(row for row in offered if row.question in accept))


def told_by_host(findings: Sequence[Finding], record: PayloadRecord) -> list[Finding]:
    """Let a real Xen that ran the hooks answer for what only a host knows, if a person says so.

    The model goes on behind a hook that somebody vouches for, and judges all else.

    Args:
        findings: Of all verifiers.
        record: Of the payload; it holds the words.

    Returns:
        The findings, in their order.
    """
    given = record.hooks_taken
    was_run = any(row.check == "qemu" and row.severity is Severity.HELD for row in findings)
    result = []
    for row in findings:
        seen = row.evidence or {}
        if row.check != "model" or not seen:
            result.append(row)
            continue
        kind = row.step.removesuffix("-hook")
        vouched = [name for _, name, *_ in filter(_is_of(record.name), seen.get("vouched", ()))]
        is_open = row.severity is Severity.UNCHECKED
        if is_open and seen.get("verdict") == "proved":
            severity, more = (
                (Severity.HELD, "a real Xen ran it") if was_run else (row.severity, _RUN)
            )
            result.append(replace(row, severity=severity, text=f"{row.text}; {more}"))
        elif is_open and seen.get("asks") == record.name:
            is_given = kind in given
            more = _RUN if is_given else f"ACCEPT=HOOK:{kind} takes it on your word, and {_RUN}"
            result.append(replace(row, text=f"{row.text}; {more}"))
        else:
            result.append(row)
        if row.severity is not Severity.UNCHECKED or seen.get("verdict") == "proved":
            result += [_not_needed(record.name, name) for name in given if name not in vouched]
    return result


def _is_of(name: str) -> Callable[[Sequence[str]], bool]:
    return lambda row: row[0] == name


def _not_needed(name: str, kind: str) -> Finding:
    text = f"ACCEPT=HOOK:{kind} was not needed: the model can tell what the {kind} hook does"
    return replace(_of_hook(kind), severity=Severity.WARNING, subject=name, text=text, question="")


def _of_hook(section: str) -> Finding:
    """Return what is taken on a person's word of a hook, as the record holds it."""
    kind = section.removeprefix(HOOK_PREFIX)
    return Finding(
        check="linker",
        severity=Severity.ACCEPTED,
        subject=section,
        text=f"what the {kind} hook does where only a running host can tell",
        obligation=Duty.LOADER,
        question=f"{HOOK_WORD}:{kind}",
    )
