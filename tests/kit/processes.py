# SPDX-License-Identifier: Apache-2.0
"""Looking at processes without a library: what Linux says about them."""

from __future__ import annotations

from pathlib import Path


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
