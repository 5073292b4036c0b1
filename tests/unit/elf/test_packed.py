# SPDX-License-Identifier: Apache-2.0
"""Debug information that is packed says what it says unpacked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.differ_inputs import compile_c
from xsplice_plugins.elf.layouts import layouts_of
from xsplice_plugins.elf.packed import check_unpackable, unpacked
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import SHF_COMPRESSED
from xsplice_plugins.errors import DiffError

pytestmark = pytest.mark.toolchain

#: Long enough, for objcopy packs nothing that would grow by it.
TEXT = "struct s { int a; long b; }; long f(struct s *p) { return p->b; }\n" + "".join(
    f"struct s{n} {{ struct s in; int a{n}; }}; int f{n}(struct s{n} *p) {{ return p->a{n}; }}\n"
    for n in range(40)
)


def packed(folder: Path, data: bytes) -> bytes:
    place = folder / "packed.o"
    place.write_bytes(data)
    subprocess.run(["objcopy", "--compress-debug-sections=zlib", place], check=True)
    return place.read_bytes()


@pytest.mark.parametrize("flag", ["-g", "-gdwarf-4"])
def test_packed_debug_information_is_read(tmp_path: Path, flag: str) -> None:
    data = compile_c(tmp_path, TEXT, flag)
    plain, other = read_elf(data, "a.o"), read_elf(packed(tmp_path, data), "a.o")
    assert other.section_by_name[".debug_info"].flags & SHF_COMPRESSED
    assert not plain.section_by_name[".debug_info"].flags & SHF_COMPRESSED
    check_unpackable(other)
    for name in (".debug_info", ".debug_abbrev", ".debug_str"):
        assert unpacked(other, name) == unpacked(plain, name)
    assert layouts_of(other) == layouts_of(plain)
    assert len(layouts_of(plain)) == 41


@pytest.mark.parametrize(
    ("at", "words"), [(0, "is not packed by zlib"), (30, "cannot be unpacked")]
)
def test_what_cannot_be_unpacked_is_named(tmp_path: Path, at: int, words: str) -> None:
    data = bytearray(packed(tmp_path, compile_c(tmp_path, TEXT, "-g")))
    section = read_elf(bytes(data), "a.o").section_by_name[".debug_info"]
    data[section.offset_file + at] ^= 2
    with pytest.raises(DiffError, match=rf"^a\.o: \.debug_info {words}.*objcopy --decompress"):
        check_unpackable(read_elf(bytes(data), "a.o"))
