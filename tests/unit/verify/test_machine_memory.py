# SPDX-License-Identifier: Apache-2.0
"""A machine's memory, read through its page tables; and how it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.host_memory import LARGE, NO_EXEC, PRESENT, ROOT, HostMemory
from xsplice_plugins.errors import VerifyError
from xsplice_plugins.realxen.memory import (
    PAGE_BYTES,
    Changes,
    Memory,
    memory_of,
    open_saved,
    write_saved,
)

if TYPE_CHECKING:
    from pathlib import Path

VIRT = 0xFFFF82D040200000


def host() -> HostMemory:
    """Two pages in a row that lie apart, a read-only one, and a large one that is executable."""
    made = HostMemory()
    made.map(VIRT, 0x100000)
    made.map(VIRT + PAGE_BYTES, 0x180000)
    made.map(VIRT + 3 * PAGE_BYTES, 0x101000, flags=PRESENT | NO_EXEC)
    made.map(VIRT + (2 << 20), 0x200000, flags=PRESENT | LARGE)
    made.put(0x100FFC, b"abcd")
    made.put(0x180000, b"efgh")
    made.put(0x345678, b"large")
    return made


def test_virtual_memory_is_read_across_pages_and_up_to_a_hole() -> None:
    memory = host().memory()
    assert memory.read(VIRT + 0xFFC, 8) == b"abcdefgh"
    assert memory.read(VIRT + (2 << 20) + 0x145678, 5) == b"large"
    assert len(memory.read(VIRT + PAGE_BYTES, 3 * PAGE_BYTES)) == PAGE_BYTES
    assert memory.read(VIRT + 2 * PAGE_BYTES, 8) == b""
    assert memory.number(VIRT + 0xFFC) == int.from_bytes(b"abcdefgh", "little")
    assert memory.number(VIRT + 2 * PAGE_BYTES - 4) is None


def test_a_mapping_tells_place_and_permission() -> None:
    memory = host().memory()
    found = {page.virt - VIRT: page for page in memory.mapped(VIRT, VIRT + (2 << 20) + 0x2000)}
    assert sorted(found) == [0, 0x1000, 0x3000, 2 << 20, (2 << 20) + 0x1000]
    assert [found[at].phys for at in sorted(found)] == [
        *(0x100000, 0x180000, 0x101000),
        *(0x200000, 0x201000),
    ]
    assert (found[0].is_writable, found[0].is_executable) == (True, False)
    assert (found[0x3000].is_writable, found[0x3000].is_executable) == (False, False)
    assert (found[2 << 20].is_writable, found[2 << 20].is_executable) == (False, True)


@pytest.mark.parametrize(
    "virt", [0, 0x800000000000, 0xFFFF7FFFFFFFFFFF, VIRT - 1, VIRT + (1 << 40)]
)
def test_what_is_not_mapped_or_no_address_leads_nowhere(virt: int) -> None:
    assert host().memory().find(virt) is None


def test_nothing_is_found_in_large_holes_without_walking_each_page() -> None:
    asked: list[int] = []
    whole = host().memory()

    def counted(start: int, size: int) -> bytes:
        asked.append(start)
        return whole.physical(start, size)

    memory = Memory(physical=counted, size_bytes=whole.size_bytes, root=ROOT)
    assert list(memory.mapped(0xFFFF830000000000, 0xFFFF840000000000)) == []
    assert len(asked) < 10


def test_saved_memory_reads_as_it_was_and_takes_no_room_for_zeros(tmp_path: Path) -> None:
    made, path = host(), tmp_path / "memory"
    write_saved(made.memory(), path)
    saved = open_saved(path)
    assert saved.read(VIRT + 0xFFC, 8) == b"abcdefgh"
    assert saved.size_bytes == len(made.data)
    assert path.stat().st_blocks * 512 < len(made.data) // 4
    assert saved.unsteady(0x100000) is None


def test_words_that_change_at_any_moment_are_known_by_byte(tmp_path: Path) -> None:
    made, path, changing = host(), tmp_path / "memory", tmp_path / "memory.changes"
    write_saved(made.memory(), path)
    changes = Changes(open_saved(path))
    made.put(0x180000, bytes(4))  # a page that became all zeros counts too
    changes.see(made.memory())
    made.put(0x180000, b"efgh")  # it is as it was again
    made.put(0x101009, b"!")
    changes.see(made.memory())
    changes.write(changing)
    saved = open_saved(path, changing)
    assert saved.unsteady(0x100000) is None
    assert saved.unsteady(0x180000) == b"\1" * 8 + bytes(PAGE_BYTES - 8)
    assert saved.unsteady(0x101000) == bytes(8) + b"\1" * 8 + bytes(PAGE_BYTES - 16)
    assert saved.read(VIRT + PAGE_BYTES, 4) == b"efgh"


@pytest.mark.parametrize("damage", ["no facts", "no memory", "empty", "not a number"])
def test_damaged_memory_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "memory"
    write_saved(host().memory(), path)
    facts = tmp_path / "memory.json"
    if damage == "no facts":
        facts.unlink()
    elif damage == "no memory":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        facts.write_text('{"root": "x"}')
    with pytest.raises(VerifyError, match="remove its folder"):
        open_saved(path)


class Monitor:
    """Stands in for QEMU's control channel."""

    def __init__(self, words: str, made: HostMemory, path: Path) -> None:
        self.words, self.made, self.path = words, made, path

    def control(self, command: str, **arguments: int) -> str:
        """Answer as QEMU does."""
        if command == "human-monitor-command":
            return self.words
        start, size = arguments["val"], arguments["size"]
        self.path.write_bytes(self.made.data[start : start + size])
        return ""


def test_a_stopped_machine_is_read_over_its_monitor(tmp_path: Path) -> None:
    made, path = host(), tmp_path / "handed-over"
    path.touch()
    with path.open("rb") as handle:
        session = Monitor(f"RIP=1 CR0=8 CR2=0 CR3={ROOT:016x} CR4=1", made, path)
        memory = memory_of(session, handle.fileno(), len(made.data))  # type: ignore[arg-type]
        assert memory.read(VIRT + 0xFFC, 8) == b"abcdefgh"
        assert memory.physical(len(made.data), 8) == b""
        assert len(memory.physical(len(made.data) - 4, 8)) == 4
        with pytest.raises(VerifyError, match="CR3"):
            memory_of(Monitor("", made, path), handle.fileno(), 0)  # type: ignore[arg-type]
