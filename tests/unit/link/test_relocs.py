# SPDX-License-Identifier: Apache-2.0
"""Where relocations of taken code lead, and which are refused."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.kit.link_inputs import Compiler, closure_delta, delta, link
from tests.unit.link.loading import ADDR_PAYLOAD_VIRT, load
from xsplice_plugins.artefacts import Reference
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import LinkError, RefusedError, RelocationError
from xsplice_plugins.link.image import is_clone

pytestmark = pytest.mark.toolchain

IMAGE = r"""
int counter = 7;
int table[4] = {1, 2, 3, 4};
int __attribute__((section(".init.data"))) boot_flag = 1;
int __attribute__((noinline, section(".init.text"))) at_boot(int x) { return x + counter; }
int __attribute__((noinline)) other(int x) { return x ^ 5; }
int entry(int x) { return other(x) * 3; }
int careful(int x) { return x ? at_boot(x) : other(x + boot_flag); }
"""


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(core_c=IMAGE)


def linked(compiler: Compiler, image: bytes, body: str, *new: str) -> tuple[bytes, dict[str, int]]:
    text = "extern int counter, table[4]; int other(int), at_boot(int); extern int boot_flag;\n"
    data = compiler.object("core.c", text + body)
    payload = link(image, (closure_delta(data, "core.o", ("entry",), new=new), data))
    return payload.data, {s.decorated: s.value for s in read_elf(image, "image").symbols}


def test_store_of_an_immediate_hits_the_datum(compiler: Compiler, image: bytes) -> None:
    """The displacement of `movl $5, counter(%rip)` counts from behind the immediate."""
    data, names = linked(compiler, image, "int entry(int x) { counter = 5; return x; }")
    code = load(data, names).sections[".text"]
    at = code.data.index(b"\xc7\x05")
    displacement = int.from_bytes(code.data[at + 2 : at + 6], "little", signed=True)
    assert code.addr_virt + at + 10 + displacement == names["counter"]


def test_element_before_a_new_table_is_reached(compiler: Compiler, image: bytes) -> None:
    body = (
        "static int fresh[3] = {9, 8, 7};\n"
        'int entry(int x) { asm volatile("" : : : "memory"); return (fresh - 1)[x]; }'
    )
    data, names = linked(compiler, image, body, "fresh")
    loaded = load(data, names)
    code, table = loaded.sections[".text"], loaded.sections[".data"]
    at = code.data.index(b"\x48\x8d")
    displacement = int.from_bytes(code.data[at + 3 : at + 7], "little", signed=True)
    assert code.addr_virt + at + 7 + displacement in {table.addr_virt, table.addr_virt - 4}


def test_pointers_in_new_data_are_absolute(compiler: Compiler, image: bytes) -> None:
    body = (
        "static int *const fresh[2] = {&counter, &table[2]};\n"
        'int entry(int x) { asm volatile("" : : : "memory"); return *fresh[x]; }'
    )
    data, names = linked(compiler, image, body, "fresh")
    loaded = load(data, names)
    pointers = loaded.sections[".rodata"].data
    assert int.from_bytes(pointers[:8], "little") == names["counter"]
    assert int.from_bytes(pointers[8:], "little") == names["table"] + 8
    assert ".data" not in loaded.sections, "constant pointers need no writable section"


def test_reference_to_the_middle_of_a_datum_keeps_its_offset(
    compiler: Compiler, image: bytes
) -> None:
    body = "static int copy[4]; int entry(int x) { copy[3] = x; return copy[1]; }"
    data = compiler.object("core.c", body)
    section = read_elf(data, "core.o").section_by_name[".bss.copy"].index
    reference = Reference(section=section, offset=0, size_bytes=16, target="table")
    part = structs.replace(delta(data, "core.o", changed=("entry",)), references=(reference,))
    payload = link(image, (part, data))
    names = {s.decorated: s.value for s in read_elf(image, "image").symbols}
    code = load(payload.data, names).sections[".text"]
    ends = {
        code.addr_virt + i + 4 + int.from_bytes(code.data[i : i + 4], "little", signed=True)
        for i in range(len(code.data) - 3)
    }
    assert {names["table"] + 4, names["table"] + 12} <= ends


def test_target_that_is_neither_taken_nor_in_the_image_is_refused(
    compiler: Compiler, image: bytes
) -> None:
    data = compiler.object("core.c", "static int lost; int entry(int x) { return lost++; }")
    with pytest.raises(
        LinkError, match=r"core\.o\(\.text\.entry\+0x\w+\).*refers to core\.o\(\.bss\.lost\+0x0\)"
    ):
        link(image, (delta(data, "core.o", changed=("entry",)), data))


def test_place_between_two_extents_is_refused(compiler: Compiler, image: bytes) -> None:
    """One past the end of a taken range is another datum's first byte, unless it is the end."""
    body = (
        'static int __attribute__((section(".data.two"))) a = 1, b = 2;\n'
        "int entry(int x) { a += x; return b++; }"
    )
    data = compiler.object("core.c", body)
    whole = delta(data, "core.o", changed=("entry",), take=(".data.two",))
    link(image, (whole, data))
    index = read_elf(data, "core.o").section_by_name[".data.two"].index
    cut = tuple(
        structs.replace(e, size_bytes=4) if e.section == index else e for e in whole.extents
    )
    with pytest.raises(LinkError, match=r"refers to core\.o\(\.data\.two\+0x4\)"):
        link(image, (structs.replace(whole, extents=cut), data))


def test_range_that_is_taken_and_referred_to_is_refused(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", "static int a = 3; int entry(int x) { return a++; }")
    part = delta(
        data, "core.o", changed=("entry",), take=(".data.a",), refer={".data.a": "counter"}
    )
    with pytest.raises(LinkError, match="says two things of this range"):
        link(image, (part, data))


@pytest.mark.parametrize(
    ("declaration", "word"),
    [
        ('extern int __attribute__((visibility("default"))) counter;', "R_X86_64_REX_GOTPCRELX"),
        ("extern int counter;", ""),
    ],
)
def test_got_is_refused_by_name(
    compiler: Compiler, image: bytes, declaration: str, word: str
) -> None:
    data = compiler.object("core.c", declaration + "int entry(int x) { return counter; }")
    part = (closure_delta(data, "core.o", ("entry",)), data)
    if not word:
        link(image, part)
        return
    with pytest.raises(RelocationError, match=rf"core\.o\(\.text\.entry\+0x\w+\): {word}"):
        link(image, part)


def test_32_bit_absolute_address_is_refused_by_name(compiler: Compiler, image: bytes) -> None:
    data = compiler.object(
        "core.c",
        "extern int counter; int entry(int x)"
        ' { asm volatile("movl $counter, %%eax" : : : "eax"); return x; }',
    )
    with pytest.raises(RelocationError, match="R_X86_64_32 is not applied"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


def test_unknown_name_is_refused_with_near_misses(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", "extern int countre; int entry(int x) { return countre; }")
    with pytest.raises(LinkError, match="has no symbol `countre`; near: counter"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


@pytest.mark.parametrize(
    ("name", "is_copy"),
    [
        ("common/a.c#cut.isra.0", True),
        ("cut.constprop.0.cold", True),
        ("a.c#cut.part.3", True),
        ("cut", False),
        ("common/a.part.c#cut", False),
        ("cut.partial.0", False),
        ("a.c#local.17", False),
    ],
)
def test_copies_of_functions_are_told_by_their_names(name: str, *, is_copy: bool) -> None:
    assert is_clone(name) is is_copy


def test_weak_name_that_nobody_defines_is_refused(compiler: Compiler, image: bytes) -> None:
    data = compiler.object(
        "core.c",
        "extern int maybe(int) __attribute__((weak));\nint entry(int x) { return maybe(x) + 1; }",
    )
    with pytest.raises(RefusedError, match="`maybe` is weak and undefined"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


@pytest.mark.parametrize("name", ["maybe", "counter"])
def test_weak_name_that_is_looked_up_in_a_got_is_a_refused_fix(
    compiler: Compiler, image: bytes, name: str
) -> None:
    """An address that may be zero is read from a GOT, whether or not the image has the name."""
    declared = f'extern int {name} __attribute__((weak, visibility("default")));'
    data = compiler.object("core.c", declared + f"int entry(int x) {{ return &{name} ? x : 1; }}")
    with pytest.raises(RefusedError, match=f"`{name}` is weak and undefined"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


def test_call_of_boot_code_is_refused(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", "int at_boot(int); int entry(int x) { return at_boot(x); }")
    with pytest.raises(RefusedError, match="needs `at_boot`, whose memory is freed after boot"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


def test_boot_code_that_the_old_function_calls_too_stays(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", IMAGE.replace("other(x + boot_flag)", "boot_flag - x"))
    payload = link(image, (closure_delta(data, "core.o", ("careful",)), data))
    assert {"at_boot", "boot_flag"} <= set(payload.record.references)
    assert any("`at_boot` is freed after boot" in note for note in payload.record.notes)


def test_call_through_boot_data_is_refused_even_if_the_old_code_has_it(
    compiler: Compiler,
) -> None:
    """Alternative calls are resolved while a payload is loaded: reading freed memory crashes."""
    text = (
        'int (*__attribute__((section(".init.data"))) hook)(int) = (void *)1;\n'
        "int entry(int x) {\n"
        '    int r; asm volatile("call *%%c[addr](%%%%rip)" : "=a"(r) : [addr] "i"(&hook));\n'
        "    return r + %d;\n"
        "}"
    )
    image = compiler.image(core_c=text % 1)
    data = compiler.object("core.c", text % 2)
    with pytest.raises(RefusedError, match="would crash the host when the payload is loaded"):
        link(image, (closure_delta(data, "core.o", ("entry",)), data))


def test_common_symbol_is_refused(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", "int pool; int entry(int x) { return pool; }", "-fcommon")
    with pytest.raises(LinkError, match="a common symbol, `pool`"):
        link(image, (delta(data, "core.o", changed=("entry",)), data))


def test_ambiguous_name_is_refused(compiler: Compiler) -> None:
    text = "static int spare; int use{0}(void) {{ return ++spare; }}"
    first, second = (compiler.object("core.c", text.format(i)) for i in (1, 2))
    part = (closure_delta(first, "core.o", ("use1",)), first)
    link(compiler.image_of(first), part)
    with pytest.raises(LinkError, match=r"several symbols `core\.c#spare`"):
        link(compiler.image_of(first, second), part)


def test_sections_are_where_the_loader_of_the_tests_put_them(
    compiler: Compiler, image: bytes
) -> None:
    data, names = linked(compiler, image, "int entry(int x) { return other(x); }")
    assert load(data, names).sections[".text"].addr_virt == ADDR_PAYLOAD_VIRT


@pytest.mark.parametrize(
    ("jump", "is_ok"),
    [("jmp 8f", False), ("jmp 7f", True), ("lea 8f(%%rip), %%rax", False)],
    ids=["out", "inside", "address of code outside"],
)
def test_branch_out_of_a_range_without_a_relocation_is_refused(
    compiler: Compiler, image: bytes, jump: str, is_ok: bool
) -> None:
    """Code of `.subsection 1` lies behind the end that a function's symbol states."""
    data = compiler.object(
        "core.c",
        f'int entry(int x) {{ asm volatile("{jump}; 7: nop; .subsection 1; 8: ud2;'
        ' jmp 7b; .previous" : : : "rax"); return x; }',
    )
    whole = closure_delta(data, "core.o", ("entry",))
    link(image, (whole, data))
    size = next(s.size_bytes for s in read_elf(data, "core.o").symbols if s.name == "entry")
    (extent,) = whole.extents
    assert size < extent.size_bytes
    part = structs.replace(whole, extents=(structs.replace(extent, size_bytes=size),))
    if is_ok:
        link(image, (part, data))
        return
    with pytest.raises(RefusedError, match=r"core\.o\(\.text\.entry\+0x\w+\): a branch leaves"):
        link(image, (part, data))
