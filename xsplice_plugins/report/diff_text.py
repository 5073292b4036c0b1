# SPDX-License-Identifier: Apache-2.0
"""A delta as a screenful for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.report.summary import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from xsplice_plugins.artefacts import ChangedFunction, Delta, Finding


def print_delta(delta: Delta, findings: Sequence[Finding] = ()) -> None:
    """Print what changed in one object, why, and what is refused.

    Args:
        delta: The comparison's result.
        findings: What plugins had to say of it.
    """
    from rich.markup import escape  # noqa: PLC0415  0.1 s that machines need not pay

    out = console()
    out.print(f"[bold]{escape(delta.object_path)}[/] ({delta.profile})")
    if delta.is_empty and not delta.line_only and not delta.removed:
        out.print("  no functional change")
    for changed in delta.changed:
        _print_changed(out, changed)
    for item in delta.new:
        out.print(
            f"  [green]new[/] {item.kind} [cyan]{escape(item.name)}[/]: {escape(item.reason)}"
        )
    for gone in delta.removed:
        out.print(f"  removed [cyan]{escape(gone.name)}[/]: {escape(gone.reason)}")
    for row in delta.line_only:
        text = f"line numbers only ({row.reason}), not replaced"
        out.print(f"  [dim]{escape(row.name)}: {escape(text)}[/]")
    for refusal in delta.refused:
        where = f"{refusal.line}: " if refusal.line else ""
        out.print(
            f"  [red]refused[/] {escape(where)}[cyan]{escape(refusal.name)}[/]: "
            f"{escape(refusal.reason)} [bold]\\[{refusal.code}][/]"
        )
        out.print(f"    hint: {escape(refusal.hint)}")
        if refusal.skeleton:
            out.print("    to start from:")
            out.print("\n".join(f"      {escape(x)}" for x in refusal.skeleton.splitlines()))
    for finding in findings:
        out.print(f"  {finding.severity.value}: {escape(finding.subject)}: {escape(finding.text)}")


def _print_changed(out: Console, changed: ChangedFunction) -> None:
    from rich.markup import escape  # noqa: PLC0415  as above

    sizes = f"{changed.size_before_bytes} -> {changed.size_after_bytes} bytes"
    out.print(
        f"  [yellow]changed[/] [cyan]{escape(changed.name)}[/] ({sizes}): "
        f"{escape(changed.reason)} [dim]({changed.cause.value})[/]"
    )
    difference = changed.difference
    if difference is None:
        return
    sides = (
        ("-", difference.before, difference.offset_before, difference.line_before),
        ("+", difference.after, difference.offset_after, difference.line_after),
    )
    for mark, text, offset, line in sides:
        where = f"  ({line})" if line else ""
        if text:
            out.print(f"    {mark} {offset:#6x}  {escape(text)}{escape(where)}")
