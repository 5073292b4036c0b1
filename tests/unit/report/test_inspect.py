# SPDX-License-Identifier: Apache-2.0
"""``xsplice inspect``: what a payload holds, and an answer in one line for a damaged one."""

from __future__ import annotations

import json
import os
import random
import struct
from typing import TYPE_CHECKING

import pytest

from tests.kit.mutate import rich
from tests.kit.payloads import minimal
from xsplice_plugins import cli
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.hypervisor.facts.arches import X86_64
from xsplice_plugins.hypervisor.facts.releases import release
from xsplice_plugins.report.inspect import describe, foreign_record

if TYPE_CHECKING:
    from pathlib import Path

MUTATIONS = 300


def inspect(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run the subcommand."""
    status = cli.main(["inspect", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(scope="module")
def payload() -> bytes:
    """Return a payload that uses most of the format."""
    return rich(X86_64, release("4.17.5")).build()


def damaged(data: bytes, number: int) -> bytes:
    """Return a file with a few bytes or one field overwritten, the same for the same number."""
    chance = random.Random(number)  # noqa: S311  # repeatable, not secret
    bad = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(64, len(bad) - 8)
        if chance.random() < 0.5:
            bad[at] = chance.choice((0, 0x7F, 0x80, 0xF1, 0xFF, chance.randrange(256)))
        else:
            edge = chance.choice((0, 1, 0xFFF1, 0xFFF2, 0xFFFF, 1 << 31, (1 << 64) - 1))
            struct.pack_into("<Q", bad, at & ~7, edge)
    return bytes(bad)


def test_a_payload_is_told_in_words_and_as_json(
    payload: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fix.livepatch"
    file.write_bytes(payload)
    status, said, _ = inspect(capsys, file, "--json")
    value = json.loads(said)
    assert status == 0
    assert [f["version"] for f in value["functions"]] == [2]
    assert ".livepatch.hooks.load" in value["hooks"]
    assert value["modinfo"] == ["key=value"]
    status, said, _ = inspect(capsys, file)
    assert (status, "fix.livepatch" in said) == (0, True)


def test_the_records_of_version_1_have_no_expectation() -> None:
    (record,) = describe(minimal(X86_64, version=1).build(), "old").functions
    assert (record.version, record.expect) == (1, "")


def test_a_damaged_file_is_described_or_refused_in_one_line(
    payload: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback is neither; `cli.main` lets through what is no `XspliceError`."""
    file = tmp_path / "bad.livepatch"
    seen = set()
    for number in range(MUTATIONS):
        file.write_bytes(damaged(payload, number))
        for words in ((file, "--json"), (file,)):
            status, said, error = inspect(capsys, *words)
            assert "Traceback" not in error, number
            said.encode()
            seen.add(status)
        if status == 0:
            file_names = said.partition(":")[0]
            assert "bad.livepatch" in file_names
        else:
            assert "bad.livepatch" in error, number
    assert seen == {0, 2}, "both kinds must be among the mutations"


@pytest.mark.parametrize("name", [b"\xff\xfe.livepatch", "исправление.livepatch".encode()])
def test_a_payloads_file_may_have_any_name(
    name: bytes, payload: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(payload)
    status, said, _ = inspect(capsys, file, "--json")
    assert status == 0
    assert json.loads(said)["name"] == name.decode("utf-8", "backslashreplace")


def test_what_is_no_payload_has_a_record_that_says_so() -> None:
    with pytest.raises(ElfFormatError):
        describe(b"text", "x")
    record = foreign_record(b"text", "x.livepatch", "4.17.5")
    assert (record.name, record.machine, record.hooks) == ("x", 0, ())
    assert "not an ELF file" in record.notes[0]
    assert record.unchecked
