# SPDX-License-Identifier: Apache-2.0
"""Looking at processes without a library: what Linux says about them."""

from __future__ import annotations

import time
from pathlib import Path

SECONDS_MAX = 30  #: how long a test waits for another process, on a busy machine


def children_of(parent: int, words: bytes) -> list[int]:
    """Give the processes that a process started and whose command line holds some words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if int(fields[1]) == parent and words in command:
            found.append(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running_with(words: str) -> list[int]:
    """Give the processes whose command line holds some words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in path.read_bytes().replace(b"\0", b" "):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it ended while we looked
    return found


def wait_for_running(words: str, *, is_there: bool) -> None:
    """Wait until a process with these words runs, or until none does."""
    deadline = time.monotonic() + SECONDS_MAX
    while bool(running_with(words)) != is_there:
        assert time.monotonic() < deadline, f"{running_with(words)} run"
        time.sleep(0.02)


def wait_for_end(pid: int) -> None:
    """Wait until a process runs no more."""
    deadline = time.monotonic() + SECONDS_MAX
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def number_in(path: Path) -> int:
    """Wait until another process has written its number into a file; it is empty at first."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return int(path.read_text())
