# SPDX-License-Identifier: Apache-2.0
"""Running other programs so that none outlives us.

Every program is started in a process group of its own. Whatever ends our wait (an error, a
timeout, Ctrl-C) ends the whole group, so a compiler started by make does not go on alone. Where
nothing of ours can run any more (SIGKILL), a guard in the group sees that we are gone.
"""

import collections
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from xsplice_plugins.errors import FULL, ConfigError, MachineError

#: For a shell: runs a command; when the other end of its input is closed, by us or by our death,
#: the whole group is ended.
GUARDED = """exec 3<&0
(read -r _ <&3; kill -KILL 0) & guard=$!
"$@" </dev/null 3<&-; status=$?
{ kill -KILL $guard; wait $guard; } 2>/dev/null
exit $status"""
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
    """Run a program with its output in a log file; it does not outlive us.

    It inherits the descriptors that were made inheritable, such as a lock.

    Args:
        command: Program and arguments; no shell sees them.
        log: File that the output is appended to.
        cwd: Folder to run in.
        environ: The whole environment; ours when absent.
        on_line: Called with each line of output, for progress.

    Returns:
        The output's text.

    Raises:
        ConfigError: The program failed; the message holds its last lines.
        MachineError: It cannot be started, or the disk is full.
    """
    known = os.environ if environ is None else environ
    if shutil.which(command[0], path=known.get("PATH")) is None:
        raise MachineError(f"{command[0]}: cannot be started (no such program); install it")
    lines: list[str] = []
    with log.open("ab") as sink, _pipe() as (theirs, _ours):
        sink.write(("$ " + " ".join(command) + "\n").encode("utf-8", "surrogateescape"))
        process = subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, "sh", *command],
            cwd=cwd,
            env=dict(known),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=False,
        )
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
        if full := words_of_full("\n".join(lines)):
            raise MachineError(f"{command[0]}: could not write ({full}); make room; log: {log}")
        raise ConfigError(f"{command[0]}: ended with status {status}; log: {log}\n{tail}")
    return "\n".join(lines)


def words_of_full(text: str) -> str:
    """Return what a text says of a disk that takes no more; "" if it says nothing of one."""
    return next((said for said in map(os.strerror, sorted(FULL)) if said in text), "")


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Give both ends of a pipe; whoever reads it gets an end when we are through, or gone."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)
