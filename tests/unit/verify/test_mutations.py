# SPDX-License-Identifier: Apache-2.0
"""The mutations of the agreement suite: one change each, distinct names, always the same order."""

from __future__ import annotations

import itertools
import struct
import subprocess
from pathlib import Path

import pytest

from tests.xen.mutations import mutations, sections_of, values


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give an object file with symbols and relocations."""
    folder = tmp_path_factory.mktemp("object")
    (folder / "a.c").write_text("extern int f(int); int g(int x) { return f(x) + f(1); }\n")
    subprocess.run(["gcc", "-O2", "-c", "a.c"], cwd=folder, check=True)
    return (folder / "a.o").read_bytes()


def test_values_never_hold_the_old_one_and_always_fit() -> None:
    for old in (0, 1, 255):
        found = values(old, 1, 999)
        assert old not in found
        assert all(0 <= value < 256 for value in found)
        assert len(found) == len(set(found))


@pytest.mark.toolchain
def test_the_section_table_is_what_readelf_reads(compiled: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.o").write_bytes(compiled)
    told = subprocess.run(
        ["readelf", "-SW", str(tmp_path / "a.o")], capture_output=True, text=True, check=True
    ).stdout
    for sec in sections_of(compiled)[1:]:
        assert sec.name in told
        assert f"{sec.offset:06x} {sec.size:06x}" in told


@pytest.mark.toolchain
def test_every_mutation_changes_one_place_and_has_a_name_of_its_own(compiled: bytes) -> None:
    names = set()
    for name, mutated in mutations(compiled):
        assert mutated != compiled or ".type=" in name or ".named[" in name
        assert name not in names
        names.add(name)
        if not name.startswith("truncated"):
            assert len(mutated) == len(compiled)
            changed = [n for n, (a, b) in enumerate(zip(compiled, mutated, strict=True)) if a != b]
            assert not changed or changed[-1] - changed[0] < 8
    kinds = {name.split("[")[0].split(".")[0].split("=")[0] for name in names}
    assert kinds == {"header", "section", "symbol", "rela", "truncated"}


@pytest.mark.toolchain
def test_the_order_is_the_same_every_time(compiled: bytes) -> None:
    pairs = zip(mutations(compiled), mutations(compiled), strict=True)
    assert all(first == second for first, second in itertools.islice(pairs, 2000))


@pytest.mark.toolchain
def test_the_first_mutation_is_of_the_header(compiled: bytes) -> None:
    name, mutated = next(mutations(compiled))
    assert name == "header.class=0x0"
    assert struct.unpack_from("B", mutated, 4) == (0,)
