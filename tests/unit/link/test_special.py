# SPDX-License-Identifier: Apache-2.0
"""Hooks, tables and what the payload says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tests.kit.link_inputs import Compiler, closure_delta, delta, link
from tests.unit.link.loading import load
from xsplice_plugins.artefacts import ASKED
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.errors import LinkError
from xsplice_plugins.target.known import known_facts

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Payload

pytestmark = pytest.mark.toolchain

IMAGE = r"""
int counter = 7;
int __attribute__((noinline)) other(int x) { return x ^ 5; }
int entry(int x) { return other(x) * 3; }
"""
HOOK = (
    "static int {fn}(void) {{ return ++counter; }}\n"
    'static void *const __attribute__((used, section(".livepatch.hooks.{kind}")))'
    " slot_{fn} = {fn};\n"
)


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(core_c=IMAGE)


def with_hooks(compiler: Compiler, image: bytes, *kinds: str, release: str = "4.17.5") -> Payload:
    hooks = "".join(HOOK.format(fn=f"hook{i}", kind=kind) for i, kind in enumerate(kinds))
    data = compiler.object("core.c", IMAGE.replace("int counter = 7", "extern int counter") + hooks)
    new = tuple(f"hook{i}" for i in range(len(kinds)))
    return link(image, (closure_delta(data, "core.o", ("entry",), new=new), data), release=release)


@pytest.mark.parametrize(
    "kind",
    ["load", "unload", "preapply", "apply", "postapply", "prerevert", "revert", "postrevert"],
)
def test_hook_is_kept_and_points_to_its_function(
    compiler: Compiler, image: bytes, kind: str
) -> None:
    payload = with_hooks(compiler, image, kind)
    name = f".livepatch.hooks.{kind}"
    assert payload.record.hooks == (name,)
    elf = read_elf(payload.data, "payload")
    assert not elf.section_by_name[name].is_write
    loaded = load(payload.data, {s.decorated: s.value for s in read_elf(image, "x").symbols})
    hook = next(s for s in elf.symbols if s.name == "core.c#hook0")
    pointer = int.from_bytes(loaded.sections[name].data, "little")
    assert pointer == loaded.sections[".text"].addr_virt + hook.value


def test_load_hooks_are_joined_and_single_hooks_are_not(compiler: Compiler, image: bytes) -> None:
    elf = read_elf(with_hooks(compiler, image, "load", "load").data, "payload")
    assert elf.section_by_name[".livepatch.hooks.load"].size_bytes == 16
    with pytest.raises(LinkError, match=r"hooks\.apply\): 2 hooks where the hypervisor takes one"):
        with_hooks(compiler, image, "apply", "apply")


@pytest.mark.parametrize(
    ("release", "kind", "is_known"),
    [
        ("4.13.5", "load", True),
        ("4.13.5", "apply", False),
        ("4.14.0", "apply", True),
        ("4.7.6", "load", False),
        ("4.17.5", "banana", False),
    ],
)
def test_release_decides_on_hooks(
    compiler: Compiler, image: bytes, release: str, kind: str, is_known: bool
) -> None:
    if is_known:
        with_hooks(compiler, image, kind, release=release)
        return
    with pytest.raises(LinkError, match=f"Xen {release} has no such hook"):
        with_hooks(compiler, image, kind, release=release)


@pytest.mark.parametrize("release", ["4.14.0", "4.13.5"])
def test_hooks_alone_are_a_payload_since_4_14(
    compiler: Compiler, image: bytes, release: str
) -> None:
    data = compiler.object("a.c", "extern int counter;" + HOOK.format(fn="hook", kind="load"))
    part = (closure_delta(data, "a.o", (), new=("hook",)), data)
    if release == "4.14.0":
        assert not link(image, part, release=release).record.functions
        return
    with pytest.raises(LinkError, match="takes no payload of hooks alone"):
        link(image, part, release=release)


@pytest.mark.parametrize("slot", ["0", "&counter", "other"])
def test_hook_that_is_no_function_of_the_payload_is_refused(
    compiler: Compiler, image: bytes, slot: str
) -> None:
    text = (
        "extern int counter; int other(int); int entry(int x) { return counter + x; }\n"
        'void *const __attribute__((used, section(".livepatch.hooks.load"))) slot = '
        f"{slot};"
    )
    data = compiler.object("core.c", text)
    with pytest.raises(LinkError, match=r"hooks\.load.*(no pointer to a|is no) function"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


def test_records_that_the_author_wrote_are_refused(compiler: Compiler, image: bytes) -> None:
    text = IMAGE.replace("int counter = 7", "extern int counter")
    text += 'const char __attribute__((used, section(".livepatch.funcs"))) own[104] = {1};'
    data = compiler.object("core.c", text)
    with pytest.raises(LinkError, match="the linker writes the function records itself"):
        link(image, (delta(data, "core.o", changed=("entry",), take=(".livepatch.funcs",)), data))


TABLES = r"""
int __attribute__((noinline)) other(int);
int entry(int x)
{
    asm volatile("1: movl %eax, %eax\n"
        ".pushsection .ex_table,\"a\"; .long 1b - ., 2f - .; .popsection\n"
        ".pushsection .fixup,\"ax\"; 2: jmp 1b; .popsection\n"
        "3: ud2\n"
        ".pushsection .bug_frames.2,\"a\"; .p2align 2\n4: .long 3b - 4b + (5 << 24)\n"
        ".long .Lfile - 4b + (77 << 24); .popsection\n"
        ".pushsection .rodata.str1.1,\"aMS\",@progbits,1; .Lfile: .asciz \"core.c\"; .popsection\n"
        "6: nop; nop; nop\n"
        ".pushsection .altinstructions,\"a\"; .long 6b - ., 7f - .; .word 1\n"
        ".byte 3, 8f - 7f, 0, 0; .popsection\n"
        ".pushsection .altinstr_replacement,\"ax\"; 7: clac; 8: .popsection\n"
        "9: nop\n"
        ".pushsection .altinstructions,\"a\"; .long 9b - ., 8b - .; .word 1\n"
        ".byte 1, 0, 0, 0; .popsection\n");
    return other(x);
}
"""


def test_tables_point_to_the_new_code(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", TABLES)
    payload = link(image, (closure_delta(data, "core.o", ("entry",)), data))
    loaded = load(payload.data, {s.decorated: s.value for s in read_elf(image, "x").symbols})
    code = loaded.sections[".text"]

    def followed(name: str, at: int, bits: int = 32) -> int:
        section = loaded.sections[name]
        low = int.from_bytes(section.data[at : at + 4], "little") & ((1 << bits) - 1)
        return section.addr_virt + at + (low ^ 1 << (bits - 1)) - (1 << (bits - 1))

    def place(pattern: bytes) -> int:
        return code.addr_virt + code.data.index(pattern)

    assert followed(".ex_table", 0) == place(b"\x89\xc0")
    assert code.addr_virt < followed(".ex_table", 4) < code.addr_virt + len(code.data)
    assert followed(".bug_frames.2", 0, 24) == place(b"\x0f\x0b")
    strings = loaded.sections[".rodata.str"]
    assert followed(".bug_frames.2", 4, 24) - 4 == strings.addr_virt
    frame = loaded.sections[".bug_frames.2"].data
    assert (frame[3] & 0x7F, frame[7] & 0x7F) in {(5, 77), (4, 77), (5, 76), (4, 76)}
    assert followed(".altinstructions", 0) == place(b"\x90\x90\x90")
    replacement = loaded.sections[".altinstr_replacement"]
    assert followed(".altinstructions", 4) == replacement.addr_virt
    assert replacement.data == b"\x0f\x01\xca"


def test_alternatives_without_bytes_still_get_their_section(
    compiler: Compiler, image: bytes
) -> None:
    text = (
        'int other(int); int entry(int x) { asm volatile("9: nop\\n'
        '.pushsection .altinstructions,\\"a\\"; .long 9b - ., 8f - .; .word 1\\n'
        '.byte 1, 0, 0, 0; .popsection; .pushsection .altinstr_replacement,\\"ax\\"\\n'
        '8: .popsection"); return other(x); }'
    )
    data = compiler.object("core.c", text)
    elf = read_elf(link(image, (closure_delta(data, "core.o", ("entry",)), data)).data, "payload")
    assert elf.section_by_name[".altinstr_replacement"].size_bytes


@pytest.mark.parametrize(
    ("words", "is_asked", "is_ok"), [(22, True, True), (21, True, False), (21, False, True)]
)
def test_a_cpu_feature_that_the_build_does_not_have_is_refused(
    compiler: Compiler, image: bytes, words: int, is_asked: bool, is_ok: bool
) -> None:
    """Only the tree itself is believed: distributions raise the number within a release."""
    known = known_facts("4.17.5", EM_X86_64)
    origin = ASKED if is_asked else known.origin
    facts = structs.replace(known, origin=origin, feature_words=words)
    data = compiler.object("core.c", TABLES.replace(".word 1", ".word 700 + 0x8000"))
    part = (closure_delta(data, "core.o", ("entry",)), data)
    if is_ok:
        link(image, part, facts=facts)
        return
    with pytest.raises(LinkError, match="asks for CPU feature 700, and this Xen has 672"):
        link(image, part, facts=facts)


def test_a_release_that_is_not_known_is_said_with_the_payload(
    compiler: Compiler, image: bytes
) -> None:
    data = compiler.object("core.c", IMAGE.replace("int counter = 7", "extern int counter"))
    part = (closure_delta(data, "core.o", ("entry",)), data)
    assert "for 4.23 is not known" in link(image, part, release="4.23").record.notes[0]
    assert not [n for n in link(image, part, release="4.22").record.notes if "facts" in n]


def test_bug_frame_that_cannot_reach_the_image_is_refused(compiler: Compiler) -> None:
    text = IMAGE + "char room[%d];"
    code = (
        'int other(int); int entry(int x) { asm volatile("3: ud2\\n'
        '.pushsection .bug_frames.0,\\"a\\"; .p2align 2\\n4: .long 3b - 4b\\n'
        '.long other - 4b; .popsection"); return x; }'
    )
    data = compiler.object("core.c", code)
    part = (closure_delta(data, "core.o", ("entry",)), data)
    near = link(compiler.image(core_c=text % (1 << 20)), part)
    assert any("bug frame refers to `other`" in note for note in near.record.notes)
    with pytest.raises(LinkError, match="a bug frame cannot reach `other`"):
        link(compiler.image(core_c=text % (7 << 20)), part)


@pytest.mark.parametrize("name", [".bss.percpu", ".data.percpu", ".init.data", ".exit.text"])
def test_sections_without_a_meaning_in_payloads_are_refused(
    compiler: Compiler, image: bytes, name: str
) -> None:
    kind = "nobits" if ".bss" in name else "progbits"
    text = (
        f'asm(".section {name},\\"aw\\",@{kind}; .zero 8; .text");\n'
        "int other(int); int entry(int x) { return other(x); }"
    )
    data = compiler.object("core.c", text)
    with pytest.raises(LinkError, match=rf"core\.o\({name}\)"):
        link(image, (delta(data, "core.o", changed=("entry",), take=(name,)), data))


@pytest.mark.parametrize(("align", "is_ok"), [(4096, True), (8192, False)])
def test_alignment_beyond_a_page_is_refused(
    compiler: Compiler, image: bytes, align: int, is_ok: bool
) -> None:
    text = (
        f"static int __attribute__((aligned({align}))) fresh = 3;\n"
        "int entry(int x) { return fresh += x; }"
    )
    data = compiler.object("core.c", text)
    part = (closure_delta(data, "core.o", ("entry",), new=("fresh",)), data)
    if is_ok:
        elf = read_elf(link(image, part).data, "payload")
        assert elf.section_by_name[".data"].align_bytes == align
        return
    with pytest.raises(LinkError, match="alignment of 8192 is not honoured"):
        link(image, part)


def test_modinfo_of_the_author_is_kept(compiler: Compiler, image: bytes) -> None:
    text = IMAGE.replace("int counter = 7", "extern int counter")
    text += 'const char __attribute__((used, section(".modinfo"))) info[] = "xsa=999";'
    data = compiler.object("core.c", text)
    part = delta(data, "core.o", changed=("entry",), take=(".modinfo",))
    part = structs.replace(closure_delta(data, "core.o", ("entry",)), extents=part.extents)
    elf = read_elf(link(image, (part, data)).data, "payload")
    assert elf.section_by_name[".modinfo"].data == b"name=fix\0xsa=999\0"
