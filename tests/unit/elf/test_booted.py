# SPDX-License-Identifier: Apache-2.0
"""What boots loads what its xen-syms says, or the first place where it does not is named."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.kit.booting import OFFSET, x86_boot
from xsplice_plugins.elf.booted import boot_difference
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import EM_AARCH64

pytestmark = pytest.mark.toolchain

SOURCE = """struct { char code[56], magic[4]; }
head __attribute__((section(".head"))) = { "", "ARMd" };
int first(int a) { return a + 1; }
int second(int a) { return first(a) * 3; }
int kept = 5, room[64];
"""
SCRIPT = """SECTIONS {
  . = 0xffff82d040200000;
  .text : AT(0x200000) { *(.head) *(.text*) }
  . = ALIGN(256);
  .data : AT(0x200000 + ADDR(.data) - ADDR(.text)) { *(.data*) }
  .bss : { *(.bss*) }
  /DISCARD/ : { *(.eh_frame*) *(.note*) *(.comment*) }
}
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Link an image that loads one segment."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "file.c").write_text(SOURCE)
    (folder / "file.lds").write_text(SCRIPT)
    for line in (
        "gcc -O2 -c -mcmodel=kernel -fno-pic -fno-asynchronous-unwind-tables file.c",
        "ld -N -T file.lds -e first -o xen-syms file.o",
        "objcopy -O binary -S xen-syms raw",
    ):
        subprocess.run(line.split(), cwd=folder, check=True)
    return folder / "xen-syms"


def at(elf: ElfFile, name: str) -> tuple[int, int]:
    """Return address of a function, and its distance from where the image begins."""
    place = elf.values_of(name)[name]
    return place, place - 0xFFFF82D040200000


def changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def test_what_boots_on_x86_is_held_byte_for_byte(image: Path) -> None:
    elf, boot = read_elf(image.read_bytes(), "image"), x86_boot(image)
    assert boot_difference(boot, elf) == ""
    address, distance = at(elf, "second")
    other = changed(changed(boot, OFFSET + distance + 1), OFFSET + distance + 2)
    assert boot_difference(other, elf) == (
        f"2 bytes are not those of xen-syms, the first one at {address + 1:#x} in second"
    )
    between = OFFSET + at(elf, "kept")[1] - 1
    assert boot_difference(changed(boot, between), elf) == (
        f"1 bytes are not those of xen-syms, the first one at {at(elf, 'kept')[0] - 1:#x}"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"entry": 0x200010}, "it is entered at 0x200010, and not where it begins (0x200000)"),
        ({"phys": 0x300000}, "it is loaded at 0x300000, and not at 0x200000"),
    ],
)
def test_where_it_is_loaded_and_entered_counts(
    image: Path, words: dict[str, int], text: str
) -> None:
    elf = read_elf(image.read_bytes(), "image")
    assert boot_difference(x86_boot(image, **words), elf) == text


def test_what_is_longer_shorter_or_cut_is_no_equal(image: Path) -> None:
    elf, boot = read_elf(image.read_bytes(), "image"), x86_boot(image)
    (size,) = struct.unpack_from("<I", boot, 52 + 16)
    shorter = bytearray(boot)
    struct.pack_into("<I", shorter, 52 + 16, size - 4)
    said = boot_difference(bytes(shorter), elf)
    assert said == f"{size - 4} bytes are loaded of it, and {size} of xen-syms"
    twice = bytearray(boot)
    struct.pack_into("<H", twice, 44, 2)
    twice[84:116] = boot[52:84]
    assert boot_difference(bytes(twice), elf) == "it loads 2 segments, and not one"
    for end in (30, 60, len(boot) - 1):
        assert "cut short" in (boot_difference(boot[:end], elf) or "")


def test_other_rows_and_less_memory_are_no_equal(image: Path) -> None:
    elf, boot = read_elf(image.read_bytes(), "image"), x86_boot(image)
    odd, small = bytearray(boot), bytearray(boot)
    struct.pack_into("<H", odd, 42, 64)
    assert "its form is not known" in boot_difference(bytes(odd), elf)
    struct.pack_into("<I", small, 52 + 20, 16)
    assert boot_difference(bytes(small), elf).startswith("it asks for 16 bytes of memory, and ")
    nameless = image.with_name("odd")
    subprocess.run(["strip", "-o", nameless, image], check=True)
    wide = bytearray(nameless.read_bytes())
    struct.pack_into("<H", wide, 54, 64)
    assert boot_difference(bytes(wide), elf).startswith("it loads 0 segments")


def test_what_boots_on_arm64_is_the_image_laid_out_flat(image: Path) -> None:
    raw = image.with_name("raw").read_bytes()
    data = bytearray(image.read_bytes())
    struct.pack_into("<H", data, 18, EM_AARCH64)
    elf = read_elf(bytes(data), "image")
    assert boot_difference(raw, elf) == ""
    address, distance = at(elf, "first")
    assert boot_difference(changed(raw, distance), elf) == (
        f"1 bytes are not those of xen-syms, the first one at {address:#x} in first"
    )
    assert "bytes are loaded of it" in (boot_difference(raw + b"\0", elf) or "")
    between = at(elf, "kept")[1] - 1
    assert "1 bytes are not those" in (boot_difference(changed(raw, between), elf) or "")


def test_a_64_bit_file_loads_what_its_image_does(image: Path) -> None:
    elf, nameless = read_elf(image.read_bytes(), "image"), image.with_name("nameless")
    subprocess.run(["strip", "-o", nameless, image], check=True)
    boot = nameless.read_bytes()
    assert boot_difference(boot, elf) == ""
    stripped = read_elf(boot, "boot")
    text = next(section for section in stripped.sections if section.name == ".text")
    address, distance = at(elf, "second")
    assert boot_difference(changed(boot, text.offset_file + distance), elf) == (
        f"1 bytes are not those of xen-syms, the first one at {address:#x} in second"
    )
    for place, said in (
        (24, "it is entered at "),
        (stripped.phoff + 16, "it is loaded at 0xffff82d0402000ff, and not at 0xffff82d040200000"),
        (stripped.phoff + 24, "it is loaded at 0x2000ff, and not at 0x200000"),
        (stripped.phoff, "it loads 0 segments, and not 1"),
    ):
        assert (boot_difference(changed(boot, place), elf)).startswith(said)


def test_a_form_that_is_not_known_is_no_equal(image: Path) -> None:
    elf, boot = read_elf(image.read_bytes(), "image"), x86_boot(image)
    raw = image.with_name("raw").read_bytes()
    for other in (raw, boot[:4] + b"\x02" + boot[5:], b"", b"MZ" + raw[2:], b"\x7fELF\x02\x01\x01"):
        assert "its form is not known" in boot_difference(other, elf)
