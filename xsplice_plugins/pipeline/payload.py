# SPDX-License-Identifier: Apache-2.0
"""From deltas to a signed payload: call the plugin that does the job, check its answer.

Files are read and written by the callers and by `write_signed`, which is the last write.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    Delta,
    Duty,
    Finding,
    Payload,
    Refusal,
    Severity,
    SignatureState,
    SignedPayload,
    findings_about,
    findings_asked,
    state_word,
)
from xsplice_plugins.elf.changed import Question
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import (
    ConfigError,
    NoFunctionalChangeError,
    PluginError,
    RefusedError,
    SignError,
)
from xsplice_plugins.pipeline.accepting import take_word
from xsplice_plugins.pipeline.aliases import check_aliases
from xsplice_plugins.pipeline.boot import check_boot, left_by_boot, set_by_boot
from xsplice_plugins.pipeline.diffing import DIFFER, complete
from xsplice_plugins.pipeline.reports import forget_reports
from xsplice_plugins.pipeline.run import settled
from xsplice_plugins.pipeline.stack import UNKNOWN, Stack, check_replaced
from xsplice_plugins.pipeline.stranded import stranded
from xsplice_plugins.plugins.manager import call, chosen
from xsplice_plugins.target.sections import XEN_PATCHING_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import PayloadRecord, SignatureCheck
    from xsplice_plugins.pipeline.run import Run

_JOINED = (
    "constant ",
    "variable ",
    "struct ",
    "union ",
)  #: how the names start of what two checks may refuse


def _established(name: str, deltas: Sequence[Delta]) -> tuple[Finding, ...]:
    """Say what was compared, and how, over all objects of a fix."""
    found: tuple[Finding, ...] = ()
    for duty, what, how in (
        (Duty.LAYOUT, "structures", Counter(delta.layouts for delta in deltas)),
        (Duty.DATA, "tables and variables", Counter(delta.data for delta in deltas)),
    ):
        texts = [
            f"{what} of {count} object{'s' * (count != 1)} compared {words}"
            for words, count in sorted(how.items())
            if words
        ]
        found += findings_about(duty, DIFFER, Severity.HELD, name, texts)
    return found


def refusal_text(deltas: Sequence[Delta]) -> str:
    """Return one line for each refused change, or an empty text.

    A header's change is refused in every object that it reaches: it is said once. So is what both
    sources and debug information show of a constant, variable or structure.
    """
    objects: dict[Refusal, list[str]] = {}
    refused = {replace(r, skeleton="") for delta in deltas for r in delta.refused}
    for delta in deltas:
        for refusal in (*delta.refused, *delta.moot):
            if replace(refusal, skeleton="") not in refused:
                continue
            objects.setdefault(replace(refusal, skeleton=""), []).append(delta.object_path)
    lines = []
    for refusal, shown in _joined(tuple(objects)).items():
        paths = objects[refusal]
        more = f" and {len(set(paths)) - 1} more" if len(set(paths)) > 1 else ""
        where = f" ({refusal.line})" if refusal.line else ""
        lines.append(refusal_line(f"{paths[0]}{more}: {refusal.name}{where}", shown))
    return "\n".join(lines)


def _joined(rows: tuple[Refusal, ...]) -> dict[Refusal, Refusal]:
    """Return which refusals are said, and as what.

    The sources name a constant or structure with what about it changes, ``constant LIMIT: its
    value``; debug information names it alone, and knows more.
    """
    named = [row for row in rows if row.code == "LAYOUT" and row.name.startswith(_JOINED)]
    facts: dict[str, list[Refusal]] = {}
    for row in named:
        facts.setdefault(row.name, []).append(row)
    fronts = {row: row.name.partition(": ")[0] for row in named if ": " in row.name}
    known = {row: facts[front] for row, front in fronts.items() if front in facts}
    said = {fact for found in known.values() for fact in found}
    return {
        row: replace(
            row,
            reason=f"{row.reason} ({'; '.join(f.reason.partition('; ')[0] for f in known[row])})",
        )
        if row in known
        else row
        for row in rows
        if row not in said
    }


def refusal_line(subject: str, refusal: Refusal) -> str:
    """Return one refusal as messages spell it."""
    return f"{subject}: {refusal.reason} [{refusal.code}]; {refusal.hint}"


def link_payload(
    run: Run,
    name: str,
    deltas: Sequence[Delta],
    objects: Sequence[bytes],
    image: bytes,
    stack: Stack = UNKNOWN,
) -> Payload:
    """Make one payload from all deltas of a fix.

    Args:
        run: Settings and plugins; ``config.linker`` names the linker.
        name: Name of the fix; part of the payload's ``.modinfo``.
        deltas: What changed, one per captured pair.
        objects: The new object of each delta, in the same order.
        image: The whole ``xen-syms`` file.
        stack: What the objects were compiled from, for the record.

    Returns:
        The unsigned payload with its record.

    Raises:
        RefusedError: Some change cannot be live patched; the message names each. Or it would undo
            a payload beneath.
        NoFunctionalChangeError: Nothing is left to replace.
        LinkError: The pieces do not make a payload for this image.
    """
    run = settled(run, image)
    refused = refusal_text(deltas)
    if refused:
        raise RefusedError(refused)
    check_patching_path(deltas)
    for delta, data in zip(deltas, objects, strict=True):
        if not delta.is_linked:
            continue
        if hashlib.sha256(data).hexdigest() != delta.digest_new:
            raise ConfigError(
                f"{delta.object_path}: its new object is not the one its delta speaks of; give the "
                "one that was compared, or remove the objects and their records and build again"
            )
    idle = stranded(deltas, objects, run.config)
    waits = check_boot(deltas, run.config.accept, idle)
    kept = [(delta, data) for delta, data in zip(deltas, objects, strict=True) if delta.is_linked]
    if not any(delta.is_active for delta, _ in kept):
        raise NoFunctionalChangeError(no_change_text(deltas))
    kept.sort(key=lambda item: item[0].object_path)
    check_aliases(kept, list(zip(deltas, objects, strict=True)), image)
    hook = chosen(run.plugins, "xsplice_link_payload", run.config.linker)
    payload = call(
        hook,
        name=name,
        deltas=tuple(delta for delta, _ in kept),
        objects=tuple(data for _, data in kept),
        image=image,
        config=run.config,
    )
    if payload is None:
        raise PluginError(
            f"{name}: the linker {run.config.linker} made no payload; choose another one"
        )
    assert isinstance(payload, Payload)
    record = check_replaced(run.config, payload.record, stack)
    found = (
        record.findings
        + _established(name, [delta for delta, _ in kept])
        + tuple(f for delta in deltas if delta.machine for f in complete(delta).findings)
        + _moved_state(deltas, objects, record)
        + left_by_boot(name, deltas, idle)
    )
    return replace(
        payload,
        record=replace(
            set_by_boot(record, deltas),
            notes=record.notes + tuple(note for delta in deltas for note in delta.notes) + waits,
            findings=take_word(run.config.accept, found, record.hooks),
        ),
    )


def _moved_state(
    deltas: Sequence[Delta], objects: Sequence[bytes], record: PayloadRecord
) -> tuple[Finding, ...]:
    """Say which variables went from one object to another and would start again there.

    A new one counts for one that is gone if it has its name, or its size, or if the object that
    lost the one uses the other.
    """
    brought = {item.symbol: item for item in record.new if item.kind in {"data", "bss"}}
    rows = set[Question]()
    for delta, data in zip(deltas, objects, strict=True):
        gone = [row for row in delta.removed if row.state_bytes]
        others = brought.keys() - {item.symbol for item in delta.new} if gone else set()
        elf = read_elf(data, delta.object_path) if others else None
        used = {symbol.name for symbol in elf.symbols if not symbol.shndx} if elf else set()
        for row in gone:
            name = row.name.rpartition("#")[2]
            rows |= {
                Question(
                    state_word(symbol),
                    "",
                    f"state of `{name}` would start again: it is gone from {delta.object_path}, "
                    f"and the payload brings a new `{symbol}`",
                )
                for symbol in others
                if symbol in used
                or _plain(symbol) == _plain(name)
                or brought[symbol].size_bytes == row.state_bytes
            }
    return findings_asked(Duty.DATA, DIFFER, record.name, sorted(rows))


def _plain(symbol: str) -> str:
    """Return the name of a function's own variable without the compiler's number."""
    return symbol.rstrip("0123456789").rstrip(".")


def check_patching_path(deltas: Sequence[Delta]) -> None:
    """Refuse what replaces code that runs while code is replaced, whoever made the deltas.

    Args:
        deltas: What changed, of a patch or written by hand.

    Raises:
        RefusedError: A function, or instructions that become NOPs, are of that code.
    """
    lines = [
        f"{delta.object_path}: {name}: it runs while code is replaced [PATCHING_PATH]; "
        "this fix needs a reboot"
        for delta in deltas
        for name in (*(r.name for r in delta.changed), *(r.name for r in delta.nopped))
        if name.rpartition("#")[2] in XEN_PATCHING_PATH
    ]
    if lines:
        raise RefusedError("\n".join(dict.fromkeys(lines)))


def no_change_text(deltas: Sequence[Delta]) -> str:
    """Say that nothing is to be replaced, and what was seen instead."""
    lines = sum(len(delta.line_only) for delta in deltas)
    notes = [note for delta in deltas for note in delta.notes]
    moot = sorted({refusal.name for delta in deltas for refusal in delta.moot})
    if moot:
        notes.append(f"a layout changes ({', '.join(moot[:3])}), and no code or data with it")
    seen = "; ".join(notes[:3]) or "the objects are equal, and how they are linked was not compared"
    seen = f"{lines} functions differ in line numbers only" if lines else seen
    return f"no functional change: {seen}; nothing needs a live patch"


def sign_payload(run: Run, payload: Payload) -> SignedPayload:
    """Sign a payload with the signer chosen by name.

    Args:
        run: Settings and plugins; ``config.signer`` names the signer.
        payload: The unsigned payload.

    Returns:
        The file to be shipped.

    Raises:
        SignError: The key does not fit, the payload is signed already, or the signer changed it.
    """
    hook = chosen(run.plugins, "xsplice_sign_payload", run.config.signer)
    signed = call(hook, data=payload.data, record=payload.record, config=run.config)
    if signed is None:
        raise PluginError(f"{payload.record.name}: the signer {run.config.signer} gave no answer")
    assert isinstance(signed, SignedPayload)
    if not signed.data.startswith(payload.data):
        raise SignError(
            f"{payload.record.name}: the signer {run.config.signer} changed the payload itself; "
            "a signature may only be appended"
        )
    return signed


def check_signature(run: Run, data: bytes) -> SignatureCheck:
    """Check a written file's signature with the signer chosen by name.

    Args:
        run: Settings and plugins; ``config.signer`` names the signer.
        data: The whole file.

    Returns:
        What the check came to.

    Raises:
        PluginError: The signer cannot check its own signatures.
    """
    hook = chosen(run.plugins, "xsplice_check_signature", run.config.signer)
    check = call(hook, data=data, certificate=run.config.certificate, config=run.config)
    if check is None:
        raise PluginError(
            f"the signer {run.config.signer} cannot check its signatures; "
            "it must implement xsplice_check_signature"
        )
    assert isinstance(check, artefacts.SignatureCheck)
    return check


def write_signed(run: Run, signed: SignedPayload, path: Path) -> None:
    """Write the signed payload as the last write, read it back and check it.

    A report beside it that speaks of another file is taken away.

    Args:
        run: Settings and plugins.
        signed: The file's content and record.
        path: Where it goes; written under a temporary name first.

    Raises:
        SignError: What was written does not pass its own signer's check; the file is removed.
    """
    forget_reports(path, signed.data)
    artefacts.write_file(path, signed.data)
    written = path.read_bytes()
    check = check_signature(run, written)
    is_none = run.config.signer == "none" and check.state is SignatureState.UNSIGNED
    if written != signed.data or not (is_none or check.state is SignatureState.GOOD):
        path.unlink()
        raise SignError(
            f"{path}: the file read back does not pass the check ({check.reason}); it was removed"
        )
