# SPDX-License-Identifier: Apache-2.0
"""The screenfuls that a person reads: what changed in an object, and what a fix became."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from xsplice_plugins.artefacts import (
        ChangedFunction,
        Delta,
        Finding,
        PatchSet,
        PayloadRecord,
        SignatureRecord,
    )


def console() -> Console:
    """Return the console for people: colours only where a person looks on."""
    from rich.console import Console  # noqa: PLC0415  0.1 s that machines need not pay

    return Console(highlight=False, soft_wrap=True)


def print_summary(
    patch_set: PatchSet,
    deltas: Sequence[Delta],
    record: PayloadRecord,
    signature: SignatureRecord,
    path: Path,
    *,
    route: str = "",
) -> None:
    """Print what a fix became.

    Args:
        patch_set: What the patch touches.
        deltas: What changed, per object.
        record: What the payload holds.
        signature: Who signed it.
        path: The signed file.
        route: How the objects were compiled, and why that way.
    """
    from rich.markup import escape  # noqa: PLC0415  as in `console`

    out = console()
    count = len(record.functions)
    out.print(f"\n[bold]{escape(record.name)}[/]: replaces {count} function{'s' * (count != 1)}")
    if route:
        out.print(f"  compiled by {escape(route)}")
    for function in record.functions:
        sizes = f"{function.size_old_bytes} -> {function.size_new_bytes} bytes"
        out.print(f"  [cyan]{escape(function.name)}[/] {sizes}: {escape(function.reason)}")
    for item in record.new:
        out.print(f"  brings {item.kind} [cyan]{escape(item.name)}[/]: {escape(item.reason)}")
    for hook in record.hooks:
        out.print(f"  hook {escape(hook)}")
    lines = sum(len(delta.line_only) for delta in deltas)
    if lines:
        out.print(f"  {lines} more differ in line numbers only and are not replaced")
    for function in record.functions:
        if function.expect_note:
            out.print(f"  no expectation for {escape(function.name)}: {function.expect_note}")
    for note in record.notes:
        out.print(f"  note: {escape(note)}")
    for text in record.unchecked:
        out.print(f"  [bold yellow]not checked:[/] {escape(text)}")
    files = ", ".join(f"{file.path} ({file.kind})" for file in patch_set.touched)
    out.print(f"  patch touches {escape(files)}")
    out.print(f"  for Xen {record.release}, build-id {record.xen_depends}")
    out.print(f"  payload {record.size_bytes} bytes, build-id {record.build_id}")
    who = f" by {signature.subject}" if signature.subject else ""
    out.print(f"  signature: {escape(signature.signer + who)}")
    if signature.note:
        style = "[bold yellow]" if signature.is_development_key else ""
        out.print(f"  {style}{escape(signature.note)}")
    out.print(f"  written to [bold]{escape(str(path))}[/]\n")


def print_delta(delta: Delta, findings: Sequence[Finding] = ()) -> None:
    """Print what changed in one object, why, and what is refused."""
    from rich.markup import escape  # noqa: PLC0415  0.1 s that machines need not pay

    out = console()
    out.print(f"[bold]{escape(delta.object_path)}[/] ({delta.profile})")
    if delta.is_empty and not (delta.line_only or delta.removed or delta.boot):
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
    for late in delta.boot:
        text = f"{late.reason}; it waits for the next boot"
        out.print(f"  boot only [cyan]{escape(late.name)}[/]: {escape(text)}")
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
    for text in delta.unchecked:
        out.print(f"  [bold yellow]not checked:[/] {escape(text)}")
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
