# SPDX-License-Identifier: Apache-2.0
"""Reading a linked hypervisor: a small one is linked here, damaged ones are refused."""

from __future__ import annotations

import ast
import contextlib
import random
import subprocess
from pathlib import Path

import pytest

from xsplice_plugins import hypervisor
from xsplice_plugins.errors import ElfFormatError
from xsplice_plugins.hypervisor import PROFILES, Image, Symbol, release
from xsplice_plugins.hypervisor.image.alternatives import NULL_CALL
from xsplice_plugins.hypervisor.image.image import index_symbols

XEN = release("4.17.5")
SOURCE = r"""
.section .text, "ax"
.globl _stext, _etext, target, caller, helper
_stext:
.globl choose
.type choose, @function
choose: nop; nop; nop; ret
.size choose, . - choose
.type target, @function
target: .byte 0xf3, 0x0f, 0x1e, 0xfa; ret
.size target, . - target
.type caller, @function
caller:
1: call *pointer(%rip)
2: call *null_pointer(%rip)
   ret
.size caller, . - caller
.file "dir/local.c"
.type local, @function
local: ud2
.size local, . - local
_etext:
.section .rodata, "a"
.globl __start___ex_table, __stop___ex_table
__start___ex_table: .long local - ., choose - .
__stop___ex_table:
.globl pointer, null_pointer
pointer: .quad target
null_pointer: .quad 0
.section .init.text, "ax"
.globl boot_only
boot_only: ret
3: .byte 0x0f, 0x01, 0xca
4: .byte 0xe8; .long -5
5: .byte 0xe8; .long -5
.section .init.data, "aw"
.globl __initdata_cf_clobber_start, __initdata_cf_clobber_end
__initdata_cf_clobber_start: .quad target
__initdata_cf_clobber_end:
.globl __alt_instructions, __alt_instructions_end
__alt_instructions:
.long choose - ., 3b - .; .word 619; .byte 3, 3, 0, 0
.long 1b - ., 4b - .; .word 93; .byte 6, 5, 0, 0
.long 2b - ., 5b - .; .word 93; .byte 6, 5, 0, 0
__alt_instructions_end:
.data
counter: .quad 7
.bss
.skip 8192
.section .note.GNU-stack, "", @progbits
"""
LAYOUT = """
SECTIONS {
  . = 0xffff82d040200000; .text : { *(.text) }
  . = ALIGN(4096); .rodata : { *(.rodata) }
  .note.gnu.build-id : {
    __note_gnu_build_id_start = .; *(.note.gnu.build-id) __note_gnu_build_id_end = .;
  }
  . = ALIGN(4096); .init.text : { *(.init.text) } .init.data : { *(.init.data) }
  . = ALIGN(4096); .data : { *(.data) } .bss : { *(.bss) }
}
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Assemble and link a hypervisor of a few functions."""
    folder = tmp_path_factory.mktemp("linked")
    (folder / "a.s").write_text(SOURCE)
    (folder / "a.lds").write_text(LAYOUT)
    flags = ["--no-warn-rwx-segments", "--build-id=0x11223344", "-T", "a.lds", "-e", "choose"]
    for command in (["as", "a.s", "-o", "a.o"], ["ld", *flags, "a.o", "-o", "xen-syms"]):
        subprocess.run(command, cwd=folder, check=True)
    return (folder / "xen-syms").read_bytes()


def text_at(image: Image, name: str, size: int) -> bytes:
    """Give bytes of a function as after boot."""
    addr = image.lookup(name)
    assert addr is not None
    return image.new_memory().read(addr, size)


@pytest.mark.toolchain
def test_names_regions_and_identity(linked: bytes) -> None:
    image = Image.from_elf(linked, release=XEN)
    assert image.lookup("dir/local.c#local") == 0xFFFF82D040200000 + 4 + 5 + 13
    assert image.lookup("local") is None
    assert image.build_id == bytes.fromhex("11223344")
    assert [(region.name, len(region.data)) for region in image.regions] == [
        ("text", 4096),
        ("rodata", 4096),
        ("init", 4096),
        ("data", 3 * 4096),
    ]
    assert image.ex_table == {image.lookup("dir/local.c#local"): image.lookup("choose")}
    boot_only = image.lookup("boot_only")
    assert boot_only is not None
    assert image.is_init(boot_only)
    assert image.new_memory().find(boot_only) is None


@pytest.mark.toolchain
def test_alternatives_depend_on_the_processor(linked: bytes) -> None:
    without = Image.from_elf(linked, release=XEN, cpu=PROFILES["epyc"])
    with_smap = Image.from_elf(linked, release=XEN, cpu=PROFILES["intel-cet"])
    assert text_at(without, "choose", 4) == b"\x90\x90\x90\xc3"
    assert text_at(with_smap, "choose", 4) == b"\x0f\x01\xca\xc3"


@pytest.mark.toolchain
def test_indirect_calls_become_direct_and_skip_endbr64(linked: bytes) -> None:
    image = Image.from_elf(linked, release=XEN)
    caller, target = image.lookup("caller"), image.lookup("target")
    assert caller is not None
    assert target is not None
    code = text_at(image, "caller", 12)
    assert code[0] == 0xE8
    assert caller + 5 + int.from_bytes(code[1:5], "little", signed=True) == target + 4
    assert code[5:6] == b"\x90"
    assert code[6:] == NULL_CALL + b"\x90"
    assert image.null_calls == ((caller + 6, 6),)
    unaware = Image.from_elf(linked, release=release("4.21.0"))
    assert text_at(unaware, "caller", 1) == b"\xe8"


@pytest.mark.toolchain
def test_endbr64_is_sealed_where_the_processor_tracks_branches(linked: bytes) -> None:
    plain = Image.from_elf(linked, release=XEN, cpu=PROFILES["epyc"])
    sealed = Image.from_elf(linked, release=XEN, cpu=PROFILES["intel-cet"])
    assert text_at(plain, "target", 4).hex() == "f30f1efa"
    assert text_at(sealed, "target", 4).hex() == "660f1f01"


@pytest.mark.toolchain
def test_damaged_images_are_refused_with_words(linked: bytes) -> None:
    for length in (0, 3, 63, 64, 1000, len(linked) - 1):
        with pytest.raises(ElfFormatError, match="xen-syms"):
            Image.from_elf(linked[:length], release=XEN)
    for offset in range(0, 64, 2):
        broken = bytearray(linked)
        broken[offset : offset + 2] = b"\xff\xff"
        with contextlib.suppress(ElfFormatError):
            Image.from_elf(bytes(broken), release=XEN)
    rng = random.Random(1)  # noqa: S311  # reproducible, not secret
    for _ in range(200):
        broken = bytearray(linked)
        for _ in range(3):
            broken[rng.randrange(len(broken) - 2000, len(broken))] = rng.randrange(256)
        with contextlib.suppress(ElfFormatError):
            Image.from_elf(bytes(broken), release=XEN)


def test_ambiguous_names_are_not_guessed() -> None:
    symbols = tuple(
        Symbol(name=name, addr_virt=addr, size_bytes=0, is_function=True)
        for name, addr in (("one", 1), ("two", 2), ("two", 3), ("two", 2))
    )
    table, ambiguous = index_symbols(symbols)
    assert sorted(table) == ["one", "two"]
    assert dict(ambiguous) == {"two": (2, 3)}


FOLDER = Path(hypervisor.__file__).parent


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_modules_are_short_and_import_the_emulator_in_one_place(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    roots = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            roots.add(node.module.partition(".")[0])
            if node.module.startswith("xsplice_plugins"):
                area = node.module.split(".")[1]
                assert area in {"hypervisor", "elf", "errors"}
    foreign = {"SCons", "pluggy", "elftools", "lief", "capstone", "iced_x86", "msgspec"}
    assert not roots & foreign
    assert ("unicorn" in roots) == (path.stem == "execute")
