# SPDX-License-Identifier: Apache-2.0
"""What of a fix waits for the next boot, and what that leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, findings_asked
from xsplice_plugins.elf.changed import Question
from xsplice_plugins.errors import NoFunctionalChangeError, RefusedError
from xsplice_plugins.pipeline.accepting import word_for
from xsplice_plugins.pipeline.diffing import DIFFER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import Delta, Finding


def check_boot(deltas: Sequence[Delta], accept: Sequence[str] = ()) -> tuple[str, ...]:
    """Say what of a fix waits for the next boot, where that is all there is to say.

    Boot code that only absorbs functions that changed need not be replaced, for it never runs
    again; `left_by_boot` speaks of what it left. If it was edited itself or with a constant or
    type, or uses data that the payload brings, the other code of the fix may rely on what it would
    have left behind. It is left out where a person gives their word that it does not.

    Args:
        deltas: What changed.
        accept: The setting ``ACCEPT``.

    Returns:
        Notes for the payload's record.

    Raises:
        NoFunctionalChangeError: Nothing that still runs is changed.
        RefusedError: Code that still runs may need the boot code's part of the fix.
    """
    rows = [(delta, row) for delta in deltas for row in delta.boot]
    if not rows:
        return ()
    names = list(dict.fromkeys(f"`{row.name}`" for _, row in rows))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    runs = any(d.changed or d.nopped or any(n.kind == "hook" for n in d.new) for d in deltas)
    lasting = [
        f"{delta.object_path}: {row.name}: {row.reason}; what boot hands on is used later, and the "
        f"running hypervisor keeps what it was given [{row.code}]; change the function that it "
        "has, or set it in a load hook"
        for delta, row in rows
        if row.outlives and not runs
    ]
    if lasting:
        raise RefusedError("\n".join(lasting))
    if not runs:
        raise NoFunctionalChangeError(
            f"boot only: what changes is used only while the hypervisor starts ({shown}); the fix "
            "takes effect at the next boot, and no code that runs later changes"
        )
    brought = {n.symbol for d in deltas for n in d.new if n.kind in {"data", "bss"}}
    refused = []
    for delta, row in rows:
        used = sorted(brought & set(row.needs))
        if (row.is_own or used) and word_for(row) not in accept:
            why = f"uses new `{used[0]}`" if used else "or a constant or type of it was edited"
            refused.append(
                f"{delta.object_path}: {row.name}: {row.reason}; it {why}, and what it would have "
                f"left behind may be missing for the rest of the fix [{row.code}]; "
                "do in a load hook what it would have done, or leave its part to the next boot; if "
                f"the rest does not need it, ACCEPT={word_for(row)} leaves it out on your word"
            )
    if refused:
        raise RefusedError("\n".join(refused))
    return tuple(
        f"{row.reason}; it absorbs what changed and is not replaced: boot is over"
        for _, row in rows
        if word_for(row) not in accept
    )


def left_by_boot(name: str, deltas: Sequence[Delta]) -> tuple[Finding, ...]:
    """Say which boot code may have left something else behind than the fix's own would have.

    Args:
        name: Name of the fix.
        deltas: What changed; `check_boot` has let its boot code pass.

    Returns:
        A finding for each function that is not shown to have left the same; "not checked".
    """
    questions = (
        Question(
            word_for(row),
            "",
            f"{delta.object_path}: `{row.name}` ran at boot with the old code and left its results "
            "in memory: nobody has shown that the rest of the fix does not rely on what it would "
            "have left",
        )
        for delta in deltas
        for row in delta.boot
        if row.is_own or not row.leaves_same
    )
    return findings_asked(Duty.DATA, DIFFER, name, questions)
