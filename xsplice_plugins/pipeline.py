# SPDX-License-Identifier: Apache-2.0
"""Call the hooks stage by stage: the one way through which SCons, the command line and tests go.

Each function takes values, calls the plugin that does the job, checks what came back, and returns
values. Files are read and written by the callers and by `write_signed`, which is the last write.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    Delta,
    Finding,
    ObjectPair,
    Payload,
    PayloadRecord,
    Severity,
    SignatureState,
    SignedPayload,
)
from xsplice_plugins.errors import (
    NoFunctionalChangeError,
    PluginError,
    RefusedError,
    SignError,
)
from xsplice_plugins.plugins.manager import call, chosen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pluggy

    from xsplice_plugins.artefacts import SignatureCheck, VerifyRequest
    from xsplice_plugins.plugins.spec import Config


def diff_pair(
    pm: pluggy.PluginManager,
    config: Config,
    pair: ObjectPair,
    baseline: bytes,
    new: bytes,
) -> tuple[Delta, tuple[Finding, ...]]:
    """Say what changed in meaning in one captured pair.

    Args:
        pm: The plugins of this run.
        config: Settings of the run; ``config.differ`` names the differ.
        pair: The pair's record.
        baseline: The object before the patch.
        new: The object after it.

    Returns:
        The delta, and what collecting checks had to say about it.

    Raises:
        DiffError: The objects cannot be compared.
        PluginError: No such differ, it answered nothing, or a plugin failed.
        RefusedError: A check of a plugin found an error.
    """
    hook = chosen(pm, "xsplice_diff_objects", config.differ)
    delta = call(hook, pair=pair, baseline=baseline, new=new, config=config)
    if delta is None:
        raise PluginError(
            f"{pair.object_path}: the differ {config.differ} does not know such objects; "
            "choose another one with DIFFER="
        )
    answers = call(pm.hook.xsplice_check_delta, delta=delta, config=config)
    findings = tuple(finding for answer in answers for finding in answer)
    errors = [f for f in findings if f.severity in {Severity.ERROR, Severity.HAZARD}]
    if errors:
        raise RefusedError("\n".join(f"{f.subject}: {f.text} (check {f.check})" for f in errors))
    return delta, findings


def refusal_text(deltas: Sequence[Delta]) -> str:
    """Return one line for each refused change, or an empty text.

    A header's change is refused in every object that it reaches: it is said once.
    """
    objects: dict[tuple[str, ...], list[str]] = {}
    for delta in deltas:
        for refusal in delta.refused:
            where = f" ({refusal.line})" if refusal.line else ""
            key = (f"{refusal.name}{where}", refusal.reason, refusal.code, refusal.hint)
            objects.setdefault(key, []).append(delta.object_path)
    lines = []
    for (name, reason, code, hint), paths in objects.items():
        more = f" and {len(set(paths)) - 1} more" if len(set(paths)) > 1 else ""
        lines.append(f"{paths[0]}{more}: {name}: {reason} [{code}]; {hint}")
    return "\n".join(lines)


def link_payload(
    pm: pluggy.PluginManager,
    config: Config,
    name: str,
    deltas: Sequence[Delta],
    objects: Sequence[bytes],
    image: bytes,
) -> Payload:
    """Make one payload from all deltas of a fix.

    Args:
        pm: The plugins of this run.
        config: Settings of the run; ``config.linker`` names the linker.
        name: Name of the fix; part of the payload's ``.modinfo``.
        deltas: What changed, one per captured pair.
        objects: The new object of each delta, in the same order.
        image: The whole ``xen-syms`` file.

    Returns:
        The unsigned payload with its record.

    Raises:
        RefusedError: Some change cannot be live patched; the message names each.
        NoFunctionalChangeError: Nothing is left to replace.
        LinkError: The pieces do not make a payload for this image.
    """
    refused = refusal_text(deltas)
    if refused:
        raise RefusedError(refused)
    for delta, data in zip(deltas, objects, strict=True):
        if hashlib.sha256(data).hexdigest() != delta.digest_new:
            raise RefusedError(
                f"{delta.object_path}: the object is not the one its delta speaks of; "
                "run the diff again"
            )
    kept = [
        (delta, data)
        for delta, data in zip(deltas, objects, strict=True)
        if delta.changed or delta.new or delta.nopped
    ]
    if not kept:
        raise NoFunctionalChangeError(no_change_text(deltas))
    kept.sort(key=lambda item: item[0].object_path)
    hook = chosen(pm, "xsplice_link_payload", config.linker)
    payload = call(
        hook,
        name=name,
        deltas=tuple(delta for delta, _ in kept),
        objects=tuple(data for _, data in kept),
        image=image,
        config=config,
    )
    if payload is None:
        raise PluginError(f"{name}: the linker {config.linker} made no payload; choose another one")
    assert isinstance(payload, Payload)
    return payload


def no_change_text(deltas: Sequence[Delta]) -> str:
    """Say that nothing is to be replaced, and what was seen instead."""
    lines = sum(len(delta.line_only) for delta in deltas)
    seen = f"{lines} functions differ in line numbers only" if lines else "the objects are equal"
    return f"no functional change: {seen}; nothing needs a live patch"


def sign_payload(pm: pluggy.PluginManager, config: Config, payload: Payload) -> SignedPayload:
    """Sign a payload with the signer chosen by name.

    Args:
        pm: The plugins of this run.
        config: Settings of the run; ``config.signer`` names the signer.
        payload: The unsigned payload.

    Returns:
        The file to be shipped.

    Raises:
        SignError: The key does not fit, the payload is signed already, or the signer changed it.
    """
    hook = chosen(pm, "xsplice_sign_payload", config.signer)
    signed = call(hook, data=payload.data, record=payload.record, config=config)
    if signed is None:
        raise PluginError(f"{payload.record.name}: the signer {config.signer} gave no answer")
    assert isinstance(signed, SignedPayload)
    if not signed.data.startswith(payload.data):
        raise SignError(
            f"{payload.record.name}: the signer {config.signer} changed the payload itself; "
            "a signature may only be appended"
        )
    return signed


def check_signature(
    pm: pluggy.PluginManager, config: Config, data: bytes, certificate: Path | None
) -> SignatureCheck:
    """Check a written file's signature with the signer chosen by name.

    Args:
        pm: The plugins of this run.
        config: Settings of the run; ``config.signer`` names the signer.
        data: The whole file.
        certificate: PEM file to trust; ``None`` if there is none.

    Returns:
        What the check came to.

    Raises:
        PluginError: The signer cannot check its own signatures.
    """
    hook = chosen(pm, "xsplice_check_signature", config.signer)
    check = call(hook, data=data, certificate=certificate, config=config)
    if check is None:
        raise PluginError(
            f"the signer {config.signer} cannot check its signatures; "
            "it must implement xsplice_check_signature"
        )
    assert isinstance(check, artefacts.SignatureCheck)
    return check


def write_signed(
    pm: pluggy.PluginManager,
    config: Config,
    signed: SignedPayload,
    path: Path,
    certificate: Path | None,
) -> None:
    """Write the signed payload as the last write, read it back and check it.

    Args:
        pm: The plugins of this run.
        config: Settings of the run.
        signed: The file's content and record.
        path: Where it goes; written under a temporary name first.
        certificate: PEM file to check against.

    Raises:
        SignError: What was written does not pass its own signer's check; the file is removed.
    """
    artefacts.write_file(path, signed.data)
    written = path.read_bytes()
    check = check_signature(pm, config, written, certificate)
    is_none = config.signer == "none" and check.state is SignatureState.UNSIGNED
    if written != signed.data or not (is_none or check.state is SignatureState.GOOD):
        path.unlink()
        raise SignError(
            f"{path}: the file read back does not pass the check ({check.reason}); it was removed"
        )


def verify_payload(
    pm: pluggy.PluginManager,
    config: Config,
    data: bytes,
    record: PayloadRecord,
    request: VerifyRequest,
) -> tuple[Finding, ...]:
    """Ask the verifiers chosen by name about a signed payload.

    Args:
        pm: The plugins of this run.
        config: Settings of the run; ``config.verifiers`` names the verifiers, the built-in model is
            always among them.
        data: The whole signed file.
        record: What it holds.
        request: Image, release, certificate, what lies beneath; what the signer says of the file
            is filled in here, unless ``none`` was chosen by name.

    Returns:
        All findings, in the order in which the plugins were registered.

    Raises:
        PluginError: No such verifier, or one failed.
    """
    check = check_signature(pm, config, data, request.certificate)
    is_enforced = config.signer != "none"
    request = replace(request, signature=check if is_enforced else None)
    is_good = check.state is SignatureState.GOOD or not is_enforced
    text = f"{check.state}: {check.reason}"
    if not is_enforced and check.state is not SignatureState.UNSIGNED:
        text = "there is one, and it was not checked; give the certificate to check it"
    first = Finding(
        check="signature",
        severity=Severity.INFO if is_good else Severity.ERROR,
        subject=record.name,
        text=text,
        errno=0 if is_good else errno.EPERM,
        step="" if is_good else "signature",
    )
    hook = chosen(pm, "xsplice_verify_payload", *config.verifiers)
    answers = call(hook, data=data, record=record, request=request, config=config)
    return (first, *(finding for answer in reversed(answers) for finding in answer))
