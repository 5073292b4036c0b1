# SPDX-License-Identifier: Apache-2.0
"""A signal to end SCons ends what its actions wait for.

SCons starts no more actions after SIGINT, SIGTERM or SIGHUP, and waits for those that run. Compiles
are short; a make of the whole tree and a real Xen are not, and are out of the terminal's reach.
"""

from __future__ import annotations

import os
import signal
import threading
from functools import cache

from xsplice_plugins.capture import end_makes

_NUMBERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@cache
def heed_signals() -> None:
    """Watch for signals to end from now on, whoever handles them; once in a process.

    Python tells a file of each signal that has a handler. Where somebody has asked for that
    before, nothing is watched.
    """
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    if before >= 0:
        signal.set_wakeup_fd(before)
        return
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()


def _watch(signals: int) -> None:
    while numbers := os.read(signals, 64):
        if _NUMBERS & set(numbers):
            from xsplice_plugins.realxen.session import end_all  # noqa: PLC0415  rarely needed

            end_makes()
            end_all()
