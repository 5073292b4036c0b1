# SPDX-License-Identifier: Apache-2.0
"""Where reports lie: one at most beside a payload, and that one is about it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import Report, Verdict
from xsplice_plugins.errors import XspliceError

if TYPE_CHECKING:
    from pathlib import Path

_PROVED, _FAILED = ".verify.json", ".verify.failed.json"


def save_report(report: Report, path: Path) -> Path:
    """Write a report; none of an earlier run stays beside it.

    Args:
        report: What was found.
        path: ``FIX.verify.json``, where a proof goes. Anything else goes to
            ``FIX.verify.failed.json``, so that nobody takes it for one.

    Returns:
        Where it is.

    Raises:
        MachineError: It cannot be written.
    """
    failed = path.with_suffix(".failed.json")
    wanted, other = (path, failed) if is_proved(report) else (failed, path)
    other.unlink(missing_ok=True)
    artefacts.save(wanted, report)
    return wanted


def save_report_as(report: Report, path: Path) -> Path:
    """Write a report under a name that somebody chose; a name that says a verdict is true of it.

    Args:
        report: What was found.
        path: Where to; ``FIX.verify.json`` and ``FIX.verify.failed.json`` are what `save_report`
            writes, whichever was named.

    Returns:
        Where it is.

    Raises:
        MachineError: It cannot be written.
    """
    for end in (_FAILED, _PROVED):
        if path.name.endswith(end):
            return save_report(report, path.with_name(path.name.removesuffix(end) + _PROVED))
    artefacts.save(path, report)
    return path


def forget_reports(payload: Path, data: bytes) -> None:
    """Take away the reports beside a payload that speak of another file.

    Args:
        payload: ``FIX.livepatch``.
        data: What it holds now.
    """
    digest = hashlib.sha256(data).hexdigest()
    for end in (_PROVED, _FAILED):
        path = payload.with_name(payload.name.removesuffix(".livepatch") + end)
        if path.is_file() and _digest_in(path) != digest:
            path.unlink()


def is_proved(report: Report) -> bool:
    """Tell whether a report's verdict is "proved"; anything else fails a run."""
    return report.verdict is Verdict.PROVED


def _digest_in(path: Path) -> str:
    try:
        return artefacts.load(path, Report).digest
    except XspliceError:  # of an earlier version, or damaged
        return ""
