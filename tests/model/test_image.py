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
from xsplice_plugins.hypervisor import PROFILES, BootedImage, KnownSymbol, boot, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64
from xsplice_plugins.hypervisor.image.alternatives import NULL_CALL
from xsplice_plugins.hypervisor.image.boot import _bug_frames
from xsplice_plugins.hypervisor.image.image import arena_of, index_symbols
from xsplice_plugins.hypervisor.image.memory import RO, Memory, MemorySegment

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
.type cleared_caps, @object
cleared_caps: .skip 8192
.size cleared_caps, 88
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


def text_at(image: BootedImage, name: str, size: int) -> bytes:
    """Give bytes of a function as after boot."""
    addr = image.lookup(name)
    assert addr is not None
    return image.new_memory().read(addr, size)


@pytest.mark.parametrize("is_newer", [False, True])
def test_bug_frames_of_the_image_are_found_in_either_layout(is_newer: bool) -> None:
    """Until 4.18 the kinds follow each other behind one start, since 4.19 each has its own."""
    data = bytearray(4096)
    for kind, start in enumerate((0, 8, 16, 32)):
        data[start : start + 4] = (0x100 + kind).to_bytes(4, "little")
    ends = {f"__stop_bug_frames_{kind}": end for kind, end in enumerate((8, 16, 24, 48))}
    starts = {f"__start_bug_frames_{kind}": at for kind, at in enumerate((0, 8, 16, 32))}
    if not is_newer:
        starts, ends = {"__start_bug_frames": 0}, {**ends, "__stop_bug_frames_3": 40}
        data[24:40] = data[32:48]
    memory = Memory()
    memory.map(MemorySegment(addr_virt=0, data=data, perm=RO, name="rodata", owner="xen"))
    last = 32 if is_newer else 24
    wanted = {0x100: 0, 0x109: 1, 0x112: 2, last + 0x103: 3}
    assert _bug_frames(memory, starts | ends, is_x86=True) == wanted
    del ends["__stop_bug_frames_0"]
    assert _bug_frames(memory, starts | ends, is_x86=True) == {}


def test_the_image_knows_its_own_words_of_features(linked: bytes) -> None:
    assert boot(linked, release=XEN).feature_words == 88 // 4 != XEN.feature_words
    nameless = linked.replace(b"cleared_caps", b"cleared_cups")
    assert boot(nameless, release=XEN).feature_words == XEN.feature_words


@pytest.mark.toolchain
def test_names_regions_and_identity(linked: bytes) -> None:
    image = boot(linked, release=XEN)
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
    without = boot(linked, release=XEN, cpu=PROFILES["epyc"])
    with_smap = boot(linked, release=XEN, cpu=PROFILES["intel-cet"])
    assert text_at(without, "choose", 4) == b"\x90\x90\x90\xc3"
    assert text_at(with_smap, "choose", 4) == b"\x0f\x01\xca\xc3"


@pytest.mark.toolchain
def test_indirect_calls_become_direct_and_skip_endbr64(linked: bytes) -> None:
    image = boot(linked, release=XEN)
    caller, target = image.lookup("caller"), image.lookup("target")
    assert caller is not None
    assert target is not None
    code = text_at(image, "caller", 12)
    assert code[0] == 0xE8
    assert caller + 5 + int.from_bytes(code[1:5], "little", signed=True) == target + 4
    assert code[5:6] == b"\x90"
    assert code[6:] == NULL_CALL + b"\x90"
    assert image.null_calls == ((caller + 6, 6),)
    unaware = boot(linked, release=release("4.21.0"))
    assert text_at(unaware, "caller", 1) == b"\xe8"


@pytest.mark.toolchain
def test_endbr64_is_sealed_where_the_processor_tracks_branches(linked: bytes) -> None:
    plain = boot(linked, release=XEN, cpu=PROFILES["epyc"])
    sealed = boot(linked, release=XEN, cpu=PROFILES["intel-cet"])
    assert text_at(plain, "target", 4).hex() == "f30f1efa"
    assert text_at(sealed, "target", 4).hex() == "660f1f01"


@pytest.mark.toolchain
def test_damaged_images_are_refused_with_words(linked: bytes) -> None:
    for length in (0, 3, 63, 64, 1000, len(linked) - 1):
        with pytest.raises(ElfFormatError, match="xen-syms"):
            boot(linked[:length], release=XEN)
    for offset in range(0, 64, 2):
        broken = bytearray(linked)
        broken[offset : offset + 2] = b"\xff\xff"
        with contextlib.suppress(ElfFormatError):
            boot(bytes(broken), release=XEN)
    rng = random.Random(1)  # noqa: S311  # reproducible, not secret
    for _ in range(200):
        broken = bytearray(linked)
        for _ in range(3):
            broken[rng.randrange(len(broken) - 2000, len(broken))] = rng.randrange(256)
        with contextlib.suppress(ElfFormatError):
            boot(bytes(broken), release=XEN)


def test_ambiguous_names_are_not_guessed() -> None:
    symbols = tuple(
        KnownSymbol(name=name, addr_virt=addr, size_bytes=0, is_function=True)
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


@pytest.mark.parametrize(
    ("name", "arm64", "arm32"),
    [
        ("4.8.1", 0x800000, 0x800000),
        ("4.8.2", 0xA00000, 0xA00000),
        ("4.17.7", 0xA00000, 0xA00000),
        ("4.18.0", 0x20001000000, 0x1000000),
        ("4.18.6", 0x20001000000, 0x1000000),
        ("4.19.0", 0xA0001000000, 0x1000000),
        ("4.22.0", 0xA0001000000, 0x1000000),
    ],
)
def test_payloads_have_a_fixed_window_on_arm(name: str, arm64: int, arm32: int) -> None:
    version = release(name).version
    for arch, start in ((ARM64, arm64), (ARM32, arm32)):
        arena = arena_of(arch, version, text_virt=0x200000, end_virt=0x300000)
        # What one page of the allocator's bitmap holds, not the 2 MiB that are asked for.
        assert arena == (start, start + 0x8000000)
    end_virt = 0xFFFF82D040A00001
    arena = arena_of(X86_64, version, text_virt=0xFFFF82D040200000, end_virt=end_virt)
    assert arena == (0xFFFF82D040A01000, 0xFFFF82D080000000 - 258 * 4096)


def test_an_image_over_the_window_is_refused(
    linked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = boot(linked, release=XEN).regions[0].addr_virt
    where = "xsplice_plugins.hypervisor.image.boot.arena_of"
    monkeypatch.setattr(where, lambda *_, **__: (text, text + 1))
    with pytest.raises(ElfFormatError, match="lies where payloads belong"):
        boot(linked, release=XEN)
