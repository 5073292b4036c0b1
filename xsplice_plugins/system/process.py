# SPDX-License-Identifier: Apache-2.0
"""Running other programs so that none outlives us.

Every program is started in a process group of its own. Whatever ends our wait (an error, a
timeout, Ctrl-C) ends the whole group, so a compiler started by make does not go on alone.
"""

import collections
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from xsplice_plugins.errors import ConfigError, MachineError

#: Lines of a failed program's output that go into the error message.
TAIL_LINES_MAX = 15


def end_group(process: "subprocess.Popen[bytes]", *, grace_seconds: float = 2.0) -> None:
    """End a process group that we started: politely, then by force.

    Args:
        process: Started with ``start_new_session=True``, so that its id is the group's id.
        grace_seconds: How long the polite signal may take.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    # The leader may be gone while a child of it still runs: the group is ended either way.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_logged(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program with its output in a log file.

    Args:
        command: Program and arguments; no shell is involved.
        log: File that the output is appended to.
        cwd: Folder to run in.
        environ: The whole environment; ours when absent.
        on_line: Called with each line of output, for progress.

    Returns:
        The output's text.

    Raises:
        ConfigError: The program failed; the message holds its last lines.
        MachineError: It cannot be started.
    """
    lines: list[str] = []
    with log.open("ab") as sink:
        sink.write(("$ " + " ".join(command) + "\n").encode())
        try:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=None if environ is None else dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(
                f"{command[0]}: cannot be started ({error.strerror}); install it"
            ) from error
        try:
            assert process.stdout is not None, "stdout was asked for as a pipe"
            for raw in process.stdout:
                sink.write(raw)
                line = raw.decode(errors="replace").rstrip()
                lines.append(line)
                if on_line is not None:
                    on_line(line)
            status = process.wait()
        finally:
            end_group(process)
            if process.stdout is not None:
                process.stdout.close()
    if status != 0:
        tail = "\n".join(collections.deque(lines, TAIL_LINES_MAX))
        raise ConfigError(f"{command[0]}: ended with status {status}; log: {log}\n{tail}")
    return "\n".join(lines)
