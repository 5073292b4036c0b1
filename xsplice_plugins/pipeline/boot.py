# SPDX-License-Identifier: Apache-2.0
"""What of a fix waits for the next boot, and what that leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import Duty, Severity, findings_about, findings_asked
from xsplice_plugins.elf.changed import Question
from xsplice_plugins.errors import NoFunctionalChangeError, RefusedError
from xsplice_plugins.pipeline.accepting import word_for
from xsplice_plugins.pipeline.diffing import DIFFER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from xsplice_plugins.artefacts import Delta, Finding, PayloadRecord

_SHOWN_MAX = 3  #: functions that a message names


def check_boot(
    deltas: Sequence[Delta], accept: Sequence[str] = (), idle: Collection[str] = ()
) -> tuple[str, ...]:
    """Say what of a fix waits for the next boot, where that is all there is to say.

    Boot code that only absorbs functions that changed need not be replaced, for it never runs
    again; `left_by_boot` speaks of what it left. If it was edited itself or with a constant or
    type, or uses data that the payload brings, the other code of the fix may rely on what it would
    have left behind. It is left out where a person gives their word that it does not.

    Args:
        deltas: What changed.
        accept: The setting ``ACCEPT``.
        idle: New functions that only boot would have put to use: `left_by_boot` speaks of them.

    Returns:
        Notes for the payload's record.

    Raises:
        NoFunctionalChangeError: Nothing that still runs is changed.
        RefusedError: Code that still runs may need the boot code's part of the fix.
    """
    rows = [(delta, row) for delta in deltas for row in delta.boot]
    settled = {row.name for _, row in rows if word_for(row) in accept or row.name in idle}
    if not rows:
        return ()
    shown = _shown([row.name for _, row in rows])
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
        if (row.is_own or used) and row.name not in settled:
            why = f"uses new `{used[0]}`" if used else "or a constant or type of it was edited"
            lost = sorted(set(row.hands) & set(idle))
            still = f", and leaves it UNPROVED: only that hands on new {_shown(lost)}"
            refused.append(
                f"{delta.object_path}: {row.name}: {row.reason}; it {why}, and what it would have "
                f"left behind may be missing for the rest of the fix [{row.code}]; "
                "do in a load hook what it would have done, or leave its part to the next boot; if "
                f"the rest does not need it, ACCEPT={word_for(row)} leaves it out on your word"
                + (still if lost else "")
            )
    if refused:
        raise RefusedError("\n".join(refused))
    return tuple(
        f"{row.reason}; it absorbs what changed and is not replaced: boot is over"
        for _, row in rows
        if row.name not in settled
    )


def left_by_boot(
    name: str, deltas: Sequence[Delta], idle: Mapping[str, Sequence[str]]
) -> tuple[Finding, ...]:
    """Say which boot code may have left something else behind than the fix's own would have.

    Args:
        name: Name of the fix.
        deltas: What changed; `check_boot` has let its boot code pass.
        idle: New functions that only boot would have put to use, each with what hands it on.

    Returns:
        A finding for each function that is not shown to have left the same, and for what no word
        makes right; "not checked".
    """
    handing = dict.fromkeys(by for names in idle.values() for by in names)
    text = (
        f"nothing that runs leads to new {_shown(idle)}: only boot would have handed it on "
        f"({_shown(handing)}), so this part of the fix has no effect before the next boot; hand it "
        "on in a load hook, or leave it out of the patch"
    )
    questions = (
        Question(
            word_for(row),
            "",
            f"{delta.object_path}: {row.reason}; boot ran with the old code and left its results "
            "in memory: nobody has shown that the rest of the fix does not rely on what it would "
            "have left",
        )
        for delta in deltas
        for row in delta.boot
        if (row.is_own or not row.leaves_same) and row.name not in idle
    )
    lost = findings_about(Duty.DATA, DIFFER, Severity.UNCHECKED, name, (text,) if idle else ())
    return lost + findings_asked(Duty.DATA, DIFFER, name, questions)


def set_by_boot(record: PayloadRecord, deltas: Sequence[Delta]) -> PayloadRecord:
    """Write into a record which boot code would have set its variables.

    Args:
        record: Of the payload.
        deltas: What changed, all of it.
    """
    rows = [row for delta in deltas for row in delta.boot]
    variables = []
    for one in record.variables:
        found = {r.name for r in rows if one.name in r.sets or not {*r.calls}.isdisjoint(one.idle)}
        variables.append(replace(one, boot=tuple(sorted(found))))
    return replace(record, variables=tuple(variables))


def _shown(names: Collection[str]) -> str:
    plain = list(dict.fromkeys(f"`{name.rpartition('#')[2]}`" for name in names))
    more = f" and {len(plain) - _SHOWN_MAX} more" if len(plain) > _SHOWN_MAX else ""
    return ", ".join(plain[:_SHOWN_MAX]) + more
