# SPDX-License-Identifier: Apache-2.0
"""Which release of Xen an image says it is, for which machine, and who built it and when."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64, ET_REL
from xsplice_plugins.errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Collection

    from xsplice_plugins.elf.reader import ElfFile

_CODE_BYTES = 32
_TEXT_BYTES = 64
#: A landing pad and a frame, which some compilers and configurations put in front.
_X86_FRONT = rb"(?:\xf3\x0f\x1e\xfa)?(?:\x55\x48\x89\xe5)?"
_X86_NUMBER = re.compile(_X86_FRONT + rb"\xb8(.{4})", re.DOTALL)  # mov $imm32,%eax
_EM_386 = 3
_ARM64_AT, _ARM64 = 56, b"ARMd"
_PE_MACHINES = {b"\x64\x86": EM_X86_64, b"\x64\xaa": EM_AARCH64}
_GREETING = re.compile(
    rb"X\0e\0n\0 \0(\d\0\.\0(?:\d\0){1,3})(?:\.\0((?:\d\0){1,3})|-\0u\0n\0s\0t\0a\0b\0l\0e\0)"
)
_X86_TEXT = re.compile(_X86_FRONT + rb"\x48\x8d\x05(.{4})", re.DOTALL)  # lea disp32(%rip),%rax


def release_of_image(elf: ElfFile) -> str | None:
    """Return the release that a hypervisor's image reports to its guests.

    For example ``4.17.5``; a development tree (``4.23-unstable``) is its ``.0``. ``None`` if the
    image has no such functions, or they are not the few instructions that are known, or whoever
    built it put another text in the place of the point release.

    Source: ``xen_major_version``, ``xen_minor_version`` and ``xen_extra_version`` of
    xen/common/version.c.
    """
    if elf.type == ET_REL or elf.machine not in {EM_X86_64, EM_AARCH64}:
        return None
    try:
        functions = elf.values_of(*_NAMES)
        if len(functions) != len(_NAMES):
            return None
        number = _x86_number if elf.machine == EM_X86_64 else _arm64_number
        major, minor = (number(elf, functions[name]) for name in _NAMES[:2])
        extra = _text(elf, functions[_NAMES[2]])
    except ElfError:
        return None
    point = re.match(rb"\.(\d{1,3})(?=\D)", extra)
    if major is None or minor is None or not (point or extra.startswith(b"-unstable")):
        return None
    return f"{major}.{minor}.{int(point[1]) if point else 0}"


def release_of_boot(data: bytes) -> str | None:
    """Return the release that what boots greets EFI with; ``None`` if it has no such text.

    Source: ``efi_start`` of xen/common/efi/boot.c, in text of 16 bits for each letter.
    """
    found = {
        f"{_ascii(match[1])}.{int(_ascii(match[2])) if match[2] else 0}"
        for match in _GREETING.finditer(data)
    }
    return found.pop() if len(found) == 1 else None


def machine_of_boot(data: bytes) -> int | None:
    """Return the ``e_machine`` of what boots; ``None`` if it does not say.

    Source: xen/arch/x86/boot/mkelf32.c: x86 boots as a 32-bit program; the header of an arm64
    kernel (Linux' Documentation/arch/arm64/booting.rst), which CONFIG_ARM_EFI makes a PE file
    too; PE files.
    """
    if data[:4] == b"\x7fELF":
        number = int.from_bytes(data[18:20], "little")
        return EM_X86_64 if number == _EM_386 else number
    if data[_ARM64_AT : _ARM64_AT + 4] == _ARM64:
        return EM_AARCH64
    at = int.from_bytes(data[0x3C:0x40], "little")
    is_pe = data[:2] == b"MZ" and data[at : at + 4] == b"PE\0\0"
    return _PE_MACHINES.get(data[at + 4 : at + 6]) if is_pe else None


def is_efi_program(data: bytes) -> bool:
    """Tell whether what boots is for EFI alone, where all lies elsewhere than in xen-syms."""
    return data[:2] == b"MZ" and machine_of_boot(data) == EM_X86_64


def is_with_names(data: bytes) -> bool:
    """Tell whether what shall boot is a linked image of 64 bits with its symbol table.

    Source: mkelf32.c writes 32 bits and no symbols; an arm64 kernel is no ELF file.
    """
    try:
        return read_elf(data, "xen").symbol_section is not None
    except ElfError:
        return False


def _ascii(wide: bytes) -> str:
    return wide[::2].decode()


def told_by_image(elf: ElfFile, names: Collection[str]) -> dict[str, str]:
    """Return the texts that functions of an image answer with.

    Args:
        elf: A hypervisor's image.
        names: Functions that do nothing but return a constant text.

    Returns:
        The text of each that the image has in the few instructions that are known.
    """
    if elf.type == ET_REL or elf.machine not in {EM_X86_64, EM_AARCH64}:
        return {}
    found = {}
    for name in names:
        try:
            text, end, _ = _text(elf, elf.values_of(name)[name]).partition(b"\0")
        except (ElfError, KeyError):
            continue
        if end and text.isascii():
            found[name] = text.decode()
    return found


_NAMES = ("xen_major_version", "xen_minor_version", "xen_extra_version")


def _at(elf: ElfFile, addr_virt: int, size_bytes: int) -> bytes:
    """Return what the file holds at an address, cut where a section ends."""
    for section in elf.sections:
        offset = addr_virt - section.addr_virt
        if section.is_alloc and 0 <= offset < len(section.data):
            return section.data[offset : offset + size_bytes]
    return b""


def _text(elf: ElfFile, addr_virt: int) -> bytes:
    """Return what lies where a function's answer leads to; nothing if it is no such function."""
    place = (_x86_text if elf.machine == EM_X86_64 else _arm64_text)(elf, addr_virt)
    return b"" if place is None else _at(elf, place, _TEXT_BYTES)


def _x86_number(elf: ElfFile, addr_virt: int) -> int | None:
    found = _X86_NUMBER.match(_at(elf, addr_virt, _CODE_BYTES))
    return int.from_bytes(found[1], "little") if found else None


def _x86_text(elf: ElfFile, addr_virt: int) -> int | None:
    found = _X86_TEXT.match(_at(elf, addr_virt, _CODE_BYTES))
    return (
        addr_virt + found.end() + int.from_bytes(found[1], "little", signed=True) if found else None
    )


def _arm64_words(elf: ElfFile, addr_virt: int) -> tuple[int, int]:
    code = _at(elf, addr_virt, 8).ljust(8, b"\0")
    return int.from_bytes(code[:4], "little"), int.from_bytes(code[4:], "little")


def _arm64_number(elf: ElfFile, addr_virt: int) -> int | None:
    first, _ = _arm64_words(elf, addr_virt)
    return first >> 5 & 0xFFFF if first & 0xFFE0001F == 0x52800000 else None  # mov w0, #imm16


def _arm64_text(elf: ElfFile, addr_virt: int) -> int | None:
    first, second = _arm64_words(elf, addr_virt)
    # adrp x0, page; add x0, x0, #imm12
    if first & 0x9F00001F != 0x90000000 or second & 0xFFC003FF != 0x91000000:
        return None
    pages = (first >> 5 & 0x7FFFF) << 2 | first >> 29 & 3
    pages -= pages >> 20 << 21
    return (addr_virt & ~0xFFF) + (pages << 12) + (second >> 10 & 0xFFF)
