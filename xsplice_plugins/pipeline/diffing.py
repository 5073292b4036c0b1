# SPDX-License-Identifier: Apache-2.0
"""From a captured pair to a delta: call the differ, and write down what it did not look at."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from msgspec.structs import replace

from xsplice_plugins.artefacts import (
    SAME_LINK,
    Delta,
    Duty,
    Finding,
    ObjectPair,
    Severity,
    findings_about,
    findings_asked,
)
from xsplice_plugins.errors import ConfigError, PluginError, RefusedError
from xsplice_plugins.pipeline.stack import brought_again
from xsplice_plugins.plugins.manager import call, chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from xsplice_plugins.pipeline.run import Run

DIFFER = "differ"  #: the check's name in what is said of a delta
_NO_LAYOUTS = (
    "layouts of structures were not compared (there are neither sources nor debug information of "
    "both sides)"
)


def diff_pair(
    run: Run,
    pair: ObjectPair,
    baseline: bytes,
    new: bytes,
    shifted: Callable[[], bytes | None] | None = None,
) -> tuple[Delta, tuple[Finding, ...]]:
    """Say what changed in meaning in one captured pair.

    What the capture already refused stays refused, and what nobody could check is written into
    the delta, whichever differ was chosen.

    Args:
        run: Settings and plugins; ``config.differ`` names the differ.
        pair: The pair's record.
        baseline: The object before the patch; not looked at where the pair is equal.
        new: The object after it.
        shifted: Compiles the new side once more with all source lines shifted; ``None`` where
            the sources are not at hand.

    Returns:
        The delta, and what collecting checks had to say about it.

    Raises:
        ConfigError: The objects are not those of the record.
        DiffError: The objects cannot be compared.
        PluginError: No such differ, it answered nothing, or a plugin failed.
        RefusedError: A check of a plugin found an error.
    """
    if not pair.is_changed:
        delta = Delta(
            object_path=pair.object_path,
            source_path=pair.source_path,
            profile=run.config.profile,
            machine=0,
            digest_new=pair.digest_new,
            refused=pair.refused,
            layouts=pair.layouts,
            boot=pair.boot,
            notes=(pair.note,) if pair.note == SAME_LINK else (),
        )
        return _without_moot(delta), ()
    for side, digest in ((baseline, pair.digest_baseline), (new, pair.digest_new)):
        if hashlib.sha256(side).hexdigest() != digest:
            raise ConfigError(
                f"{pair.object_path}: the record of its capture speaks of other objects; "
                "capture again, or give the objects away from the record"
            )
    pair = replace(pair, again=brought_again(run.config))
    hook = chosen(run.plugins, "xsplice_diff_objects", run.config.differ)
    delta = call(hook, pair=pair, baseline=baseline, new=new, config=run.config, shifted=shifted)
    if delta is None:
        raise PluginError(
            f"{pair.object_path}: the differ {run.config.differ} does not know such objects; "
            "choose another one with DIFFER="
        )
    assert isinstance(delta, Delta)
    if not delta.machine:  # without one, no check would hold the object against the payload
        raise PluginError(
            f"{pair.object_path}: the differ {run.config.differ} does not say for which machine "
            "it is; choose another one with DIFFER="
        )
    known = set(delta.refused)
    delta = complete(
        replace(
            delta,
            is_apart=pair.is_apart,
            refused=delta.refused + tuple(r for r in pair.refused if r not in known),
            layouts=delta.layouts or pair.layouts,
            findings=_unanswered(pair, delta) + _open(pair, delta),
        )
    )
    delta = _without_moot(delta)
    answers = call(run.plugins.hook.xsplice_check_delta, delta=delta, config=run.config)
    findings = tuple(finding for answer in answers for finding in answer)
    errors = [f for f in findings if f.severity in {Severity.ERROR, Severity.HAZARD}]
    if errors:
        raise RefusedError("\n".join(f"{f.subject}: {f.text} (check {f.check})" for f in errors))
    return replace(delta, findings=delta.findings + findings), findings


def complete(delta: Delta) -> Delta:
    """Say of a delta what nobody looked at: layouts without sources and DWARF, or data."""
    remarks = {Severity.INFO, Severity.WARNING}
    spoken = {row.obligation for row in delta.findings if row.severity not in remarks}
    found = delta.findings
    for duty, how, what in (
        (Duty.LAYOUT, delta.layouts, _NO_LAYOUTS),
        (Duty.DATA, delta.data, "its differ did not look at tables and variables"),
    ):
        if not how and duty not in spoken:
            texts = (f"{delta.object_path}: {what}",)
            found += findings_about(duty, DIFFER, Severity.UNCHECKED, delta.object_path, texts)
    return replace(delta, findings=found)


def _without_moot(delta: Delta) -> Delta:
    """Set aside changed layouts of an object that was compiled, and of which nothing is replaced.

    Its code is what a rebuild has whatever its types say. Where another object is refused for the
    same layout, messages still count this one.
    """
    if delta.is_active or not delta.digest_new:
        return delta
    moot = tuple(refusal for refusal in delta.refused if refusal.code == "LAYOUT")
    return replace(
        delta, refused=tuple(r for r in delta.refused if r not in moot), moot=delta.moot + moot
    )


def _unanswered(pair: ObjectPair, delta: Delta) -> tuple[Finding, ...]:
    """Return the differ's findings without questions that the sources ask in more words."""
    told = tuple(row.text for row in pair.questions)
    return tuple(
        row
        for row in delta.findings
        if not (row.question and any(text.startswith(row.text) for text in told))
    )


def _open(pair: ObjectPair, delta: Delta) -> tuple[Finding, ...]:
    """Say what changed structures and constants leave open, where code changes with them."""
    if not delta.is_active:
        return ()
    known = {row.text for row in _unanswered(pair, delta)}
    asked = tuple(row for row in pair.questions if row.text not in known)
    return (
        *findings_asked(Duty.LAYOUT, DIFFER, pair.object_path, asked),
        *findings_about(Duty.DATA, DIFFER, Severity.UNCHECKED, pair.object_path, pair.stale),
        *findings_about(Duty.EFFECT, DIFFER, Severity.WARNING, pair.object_path, pair.remarks),
    )
