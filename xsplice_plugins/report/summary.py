# SPDX-License-Identifier: Apache-2.0
"""The screenfuls that a person reads: what changed in an object, and what a fix became."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import (
        ChangedFunction,
        Delta,
        Finding,
        PatchSet,
        PayloadRecord,
        SignatureRecord,
    )


_STYLES = {
    "bold": "1",
    "bold yellow": "1;33",
    "cyan": "36",
    "dim": "2",
    "green": "32",
    "red": "31",
    "yellow": "33",
}  #: of ECMA-48, as every terminal knows them; a package for them takes 20 ms to load


def _in(style: str, text: str) -> str:
    """Return a text with its style, which only a person who looks on sees."""
    environ = os.environ.get
    is_seen = sys.stdout.isatty() and environ("TERM", "dumb") not in {"dumb", "unknown"}
    if environ("NO_COLOR") or not (is_seen or environ("FORCE_COLOR")):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _say(line: str) -> None:
    sys.stdout.write(line.expandtabs() + "\n")


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
    count = len(record.functions)
    _say(f"\n{_in('bold', record.name)}: replaces {count} function{'s' * (count != 1)}")
    if route:
        _say(f"  compiled by {route}")
    for function in record.functions:
        sizes = f"{function.size_old_bytes} -> {function.size_new_bytes} bytes"
        _say(f"  {_in('cyan', function.name)} {sizes}: {function.reason}")
    for item in record.new:
        _say(f"  brings {item.kind} {_in('cyan', item.name)}: {item.reason}")
    for hook in record.hooks:
        _say(f"  hook {hook}")
    lines = sum(len(delta.line_only) for delta in deltas)
    if lines:
        _say(f"  {lines} more differ in line numbers only and are not replaced")
    for function in record.functions:
        if function.expect_note:
            _say(f"  no expectation for {function.name}: {function.expect_note}")
    for note in record.notes:
        _say(f"  note: {note}")
    for text in record.unchecked:
        _say(f"  {_in('bold yellow', 'not checked:')} {text}")
    for text in record.accepted:
        _say(f"  {_in('bold yellow', 'on your word:')} {text}")
    files = ", ".join(f"{file.path} ({file.kind})" for file in patch_set.touched)
    _say(f"  patch touches {files}")
    _say(f"  for Xen {record.release}, build-id {record.xen_depends}")
    _say(f"  payload {record.size_bytes} bytes, build-id {record.build_id}")
    who = f" by {signature.subject}" if signature.subject else ""
    _say(f"  signature: {signature.signer + who}")
    if signature.note:
        is_own = signature.is_development_key
        _say(f"  {_in('bold yellow', signature.note) if is_own else signature.note}")
    _say(f"  written to {_in('bold', str(path))}\n")


def print_delta(delta: Delta, findings: Sequence[Finding] = ()) -> None:
    """Print what changed in one object, why, and what is refused."""
    _say(f"{_in('bold', delta.object_path)} ({delta.profile})")
    if delta.is_empty and not (delta.line_only or delta.removed or delta.boot):
        _say("  no functional change")
    for changed in delta.changed:
        _print_changed(changed)
    for item in delta.new:
        _say(f"  {_in('green', 'new')} {item.kind} {_in('cyan', item.name)}: {item.reason}")
    for gone in delta.removed:
        _say(f"  removed {_in('cyan', gone.name)}: {gone.reason}")
    for row in delta.line_only:
        text = f"line numbers only ({row.reason}), not replaced"
        _say("  " + _in("dim", f"{row.name}: {text}"))
    for late in delta.boot:
        text = f"{late.reason}; it waits for the next boot"
        _say(f"  boot only {_in('cyan', late.name)}: {text}")
    for refusal in delta.refused:
        where = f"{refusal.line}: " if refusal.line else ""
        _say(
            f"  {_in('red', 'refused')} {where}{_in('cyan', refusal.name)}: "
            f"{refusal.reason} {_in('bold', f'[{refusal.code}]')}"
        )
        _say(f"    hint: {refusal.hint}")
        if refusal.skeleton:
            _say("    to start from:")
            _say("\n".join(f"      {x}" for x in refusal.skeleton.splitlines()))
    for text in delta.unchecked:
        _say(f"  {_in('bold yellow', 'not checked:')} {text}")
    for finding in findings:
        _say(f"  {finding.severity.value}: {finding.subject}: {finding.text}")


def _print_changed(changed: ChangedFunction) -> None:
    sizes = f"{changed.size_before_bytes} -> {changed.size_after_bytes} bytes"
    _say(
        f"  {_in('yellow', 'changed')} {_in('cyan', changed.name)} ({sizes}): "
        f"{changed.reason} {_in('dim', f'({changed.cause.value})')}"
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
            _say(f"    {mark} {offset:#6x}  {text}{where}")
