# SPDX-License-Identifier: Apache-2.0
"""What a person takes on their word: questions that no check answers.

It is written into the payload's record and stands in the verdict's first lines. A word for what
nobody asks is refused, for the person meant something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import Severity
from xsplice_plugins.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import BootOnly, Finding


def word_for(row: BootOnly) -> str:
    """Return what ``ACCEPT=`` calls boot code, or a boot datum, that is left out."""
    return f"{row.code}:{row.name.rpartition('#')[2]}"


def take_word(accept: Sequence[str], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Turn what was not checked, and is taken on a person's word, into what was accepted.

    Args:
        accept: The setting ``ACCEPT``.
        findings: All that was said of a fix.

    Returns:
        The findings, in their order.

    Raises:
        RefusedError: Nobody asks for one of the words.
    """
    asked = list(dict.fromkeys(row.question for row in findings if row.question))
    for word in accept:
        if word not in asked:
            known = ", ".join(asked) or "nothing"
            raise RefusedError(
                f"ACCEPT={word}: this fix does not ask for it; it asks for {known}; give what the "
                "report spells, or leave it out; where an SConstruct makes several fixes, give it "
                "to the one that asks: env.Xsplice(..., accept=), or env.Clone(ACCEPT=)"
            )
    return tuple(
        replace(row, severity=Severity.ACCEPTED)
        if row.question in accept and row.severity is Severity.UNCHECKED
        else row
        for row in findings
    )
