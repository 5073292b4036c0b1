# SPDX-License-Identifier: Apache-2.0
"""Function records: sizes, versions, and the bytes that must stand at the old address."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.kit.link_inputs import Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError, LinkError, RefusedError

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import ReplacedFunction

pytestmark = pytest.mark.toolchain


def function(name: str, body: str, size: int = 0) -> str:
    """Return assembler in C that defines a function of a known size."""
    fill = f".skip {size} - (. - {name}), 0xcc\n" if size else ""
    text = f".globl {name}\n.type {name},@function\n{name}:\n{body}\n{fill}.size {name}, .-{name}\n"
    return f"asm({text!r});\n".replace("asm('", 'asm("').replace("');", '");')


ALTERNATIVE = (
    '.pushsection .altinstructions,\\"a\\"\\n.long {at} - ., 0\\n.word 1\\n'
    ".byte {length}, 0, {pad}, 0\\n.popsection"
)
IMAGE = "".join(
    (
        function("four", "", 4),
        function("five", "", 5),
        function("landing8", "endbr64", 8),
        function("landing9", "endbr64", 9),
        function("sealed", "endbr64", 40),
        function("open", "", 40),
        function("late", "", 40),
        function("padded", "", 40),
        function("early", "", 40),
        function("short_one", "", 12),
        'asm(".set twin, open+8; .globl twin; .type twin,@function; .size twin, 16");\n',
        'asm(".pushsection .clobber,\\"a\\"; .quad sealed, open; .popsection");\n',
        f'asm("{ALTERNATIVE.format(at="late+20", length=3, pad=0)}");\n',
        f'asm("{ALTERNATIVE.format(at="padded+26", length=3, pad=4)}");\n',
        f'asm("{ALTERNATIVE.format(at="early+0", length=6, pad=0)}");\n',
        'int not_code = 3; int __attribute__((section(".init.text"))) boot(int x){return x*x+7;}',
    )
)


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(core_c=IMAGE)


def replace(
    compiler: Compiler, image: bytes, *names: str, release: str = "4.17.5"
) -> tuple[bytes, dict[str, ReplacedFunction]]:
    text = "".join(f"int {name}(int x) {{ return x * 3 + {len(name)}; }}\n" for name in names)
    data = compiler.object("core.c", text)
    payload = link(image, (closure_delta(data, "core.o", names), data), release=release)
    return payload.data, {f.name: f for f in payload.record.functions}


@pytest.mark.parametrize(("name", "needed"), [("four", 5), ("landing8", 9)])
def test_function_without_room_for_the_jump_is_refused(
    compiler: Compiler, image: bytes, name: str, needed: int
) -> None:
    with pytest.raises(LinkError, match=f"the jump to its replacement needs {needed}"):
        replace(compiler, image, name)


@pytest.mark.parametrize("name", ["five", "landing9"])
def test_function_with_just_enough_room_is_accepted(
    compiler: Compiler, image: bytes, name: str
) -> None:
    _data, functions = replace(compiler, image, name)
    assert functions.keys() == {name}


def test_releases_that_do_not_know_endbr_need_5_bytes(compiler: Compiler, image: bytes) -> None:
    replace(compiler, image, "landing8", release="4.16.0")
    with pytest.raises(LinkError, match="needs 9"):
        replace(compiler, image, "landing8", release="4.16.1")


@pytest.mark.parametrize(
    ("name", "length", "note"),
    [
        ("open", 31, ""),
        ("short_one", 12, ""),
        ("late", 20, "an alternative at +0x14 may be rewritten at boot"),
        ("padded", 26, "an alternative at +0x1a may be rewritten at boot"),
        ("early", 0, "an alternative at +0x0 may be rewritten at boot"),
        ("sealed", 0, "a sealed ENDBR64 at +0x0 may be rewritten at boot"),
        ("landing9", 9, ""),
    ],
)
def test_expected_bytes_end_before_what_boot_rewrites(
    compiler: Compiler, image: bytes, name: str, length: int, note: str
) -> None:
    data, functions = replace(compiler, image, name)
    assert functions[name].expect_note == note
    assert len(functions[name].expect) == 2 * length
    record = read_elf(data, "payload").section_by_name[".livepatch.funcs"].data
    assert record[72] == ((1 | length << 1) if length else 0)


def test_pieces_of_one_function_are_refused_together(compiler: Compiler, image: bytes) -> None:
    replace(compiler, image, "twin")
    with pytest.raises(LinkError, match="`twin` overlaps `open`"):
        replace(compiler, image, "open", "twin")


def test_data_and_boot_code_are_no_functions_to_replace(compiler: Compiler, image: bytes) -> None:
    with pytest.raises(LinkError, match="`not_code` is no function"):
        replace(compiler, image, "not_code")
    with pytest.raises(RefusedError, match="`boot`, whose memory is freed after boot"):
        replace(compiler, image, "boot")


def test_function_that_the_image_lacks_is_refused_with_near_misses(
    compiler: Compiler, image: bytes
) -> None:
    with pytest.raises(RefusedError, match=r"no symbol `padde`; near: padded"):
        replace(compiler, image, "padde")


@pytest.mark.parametrize(
    ("release", "size", "version", "is_writable"),
    [
        ("4.7.0", 64, 1, False),
        ("4.9.4", 64, 1, True),
        ("4.13.5", 64, 1, False),
        ("4.14.0", 104, 2, False),
        ("4.16.3", 104, 2, False),
        ("4.16.4", 104, 2, True),
        ("4.16.7", 104, 2, True),
        ("4.17.0", 104, 2, False),
        ("4.17.1", 104, 2, True),
        ("4.17.2", 104, 2, True),
        ("4.17.3", 104, 2, False),
        ("4.18.0", 104, 2, True),
        ("4.18.1", 104, 2, False),
        ("4.22.0", 104, 2, False),
    ],
)
def test_release_decides_on_the_record(
    compiler: Compiler, image: bytes, release: str, size: int, version: int, is_writable: bool
) -> None:
    if release in {"4.7.0", "4.9.4"}:  # 12-byte alternatives: an image without them
        image = compiler.image(core_c=function("open", "", 40))
    data, functions = replace(compiler, image, "open", release=release)
    elf = read_elf(data, "payload")
    funcs = elf.section_by_name[".livepatch.funcs"]
    assert (funcs.size_bytes, funcs.data[32], funcs.is_write) == (size, version, is_writable)
    assert (".livepatch.xen_depends" in elf.section_by_name) == (version == 2)
    assert bool(functions["open"].expect) == (version == 2)


def test_alternative_calls_have_a_table_of_their_own_since_4_21(compiler: Compiler) -> None:
    text = (
        function("called", "", 40)
        + 'asm(".pushsection .alt_call_sites,\\"a\\"; .long called + 12 - .; .popsection");\n'
    )
    image = compiler.image(core_c=text)
    _data, functions = replace(compiler, image, "called", release="4.21.0")
    assert functions["called"].expect_note == "an alternative call at +0xc may be rewritten at boot"
    assert len(functions["called"].expect) == 2 * 12
    with pytest.raises(LinkError, match=r"__alt_call_sites_start.*is the release right"):
        replace(compiler, image, "called", release="4.20.3")


def test_names_lie_behind_each_other(compiler: Compiler, image: bytes) -> None:
    data, _ = replace(compiler, image, "open", "late", "five")
    elf = read_elf(data, "payload")
    assert elf.section_by_name[".livepatch.strings"].data == b"open\0late\0five\0"
    sizes = struct.iter_unpack("<24xIIB71x", elf.section_by_name[".livepatch.funcs"].data)
    assert [old for _new, old, _version in sizes] == [40, 40, 5]


@pytest.mark.parametrize("release", ["4.6.0", "5.0.0", "banana", "4", "4.17.x"])
def test_unknown_releases_are_refused(compiler: Compiler, image: bytes, release: str) -> None:
    with pytest.raises(ConfigError, match="not a release of Xen"):
        replace(compiler, image, "open", release=release)
