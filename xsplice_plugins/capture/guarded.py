# SPDX-License-Identifier: Apache-2.0
"""A make that ends with who runs it, however that ends."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING

from xsplice_plugins.errors import CaptureError, MachineError
from xsplice_plugins.system.process import GUARDED

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Our ends of the guards of the makes that run, under the lock.
_ends: set[int] = set()
_lock = threading.Lock()


def end_makes() -> None:
    """End every make that runs, and all that it started; whoever waits for one gets an error.

    For those who run makes in threads, where a signal raises nothing.
    """
    with _lock:
        for end in _ends:
            os.close(end)
        _ends.clear()


def run_guarded(command: list[str], settings: Mapping[str, str]) -> tuple[int, str]:
    """Run a command that does not outlive us; return its status and what it complained of.

    Args:
        command: Its words.
        settings: Its environment.

    Raises:
        CaptureError: `end_makes` was called meanwhile.
        MachineError: It cannot be started.
    """
    theirs, ours = os.pipe()
    with _lock:
        _ends.add(ours)
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, "sh", *command],
            env=dict(settings),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        _let_go(ours)
        raise MachineError(f"/bin/sh: cannot be started ({error.strerror})") from error
    finally:
        os.close(theirs)
    with process:
        try:
            said = process.communicate()[1]
        finally:
            is_ended = not _let_go(ours)
    if is_ended:
        raise CaptureError("the patched tree is not built: make was interrupted; run again")
    return process.returncode, said.decode("utf-8", "replace")


def _let_go(end: int) -> bool:
    """Close our end of a make's guard; tell whether nobody did before."""
    with _lock:
        if end not in _ends:
            return False
        _ends.remove(end)
        os.close(end)
        return True
