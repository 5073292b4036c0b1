# SPDX-License-Identifier: Apache-2.0
"""What a person takes on their word: questions that no check answers.

It is written into the payload's record and stands in the verdict's first lines. A word for what
nobody asks is refused, for the person meant something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import Duty, Finding, Severity
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.target.abi import HOOK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import BootOnly, PayloadRecord


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
    """Let a real Xen that ran the hooks answer where the model cannot, if a person says so.

    Where the model stops at a hook it sees none of those that come later. So the word is asked for
    all hooks of the payload.

    Args:
        findings: Of all verifiers.
        record: Of the payload; it holds the words.

    Returns:
        The findings, in their order.
    """
    given = {row.question for row in record.findings if row.severity is Severity.ACCEPTED}
    missing = [row.question for row in map(_of_hook, record.hooks) if row.question not in given]
    was_run = any(row.check == "qemu" and row.severity is Severity.HELD for row in findings)
    result = []
    for row in findings:
        is_open = row.severity is Severity.UNCHECKED and row.step.endswith("-hook")
        if row.check != "model" or not is_open or not record.hooks:
            result.append(row)
        elif missing:
            words = " ".join(missing)
            text = f'{row.text}; ACCEPT="{words}" takes it on your word, where a real Xen ran it'
            result.append(replace(row, text=text + " (ON=model,qemu)"))
        elif not was_run:
            text = f"{row.text}; a person's word is enough where a real Xen ran it (ON=model,qemu)"
            result.append(replace(row, text=text))
        else:
            text = f"a real Xen ran it, and what came after; the model: {row.text}"
            result.append(replace(row, severity=Severity.HELD, text=text))
    return result


def _of_hook(section: str) -> Finding:
    """Return what is taken on a person's word of a hook, as the record holds it."""
    kind = section.removeprefix(HOOK_PREFIX)
    return Finding(
        check="linker",
        severity=Severity.ACCEPTED,
        subject=section,
        text=f"what the {kind} hook does where only a running host can tell",
        obligation=Duty.LOADER,
        question=f"HOOK:{kind}",
    )
