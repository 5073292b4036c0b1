# SPDX-License-Identifier: Apache-2.0
"""Each macro of ``xsplice.h`` becomes what the hypervisor looks for."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.handmade.conftest import FLAGS, Bench, make_tree
from xsplice_plugins.artefacts import PayloadRecord, load

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.elf.reader import ElfFile

pytestmark = pytest.mark.toolchain

USER = "static int mine(int a) { return a + 1; }\n"
VOID = "static void mine(void) { }\n"
_RECORD = struct.Struct("<QQQIIB")


def addr_of(bench: Bench, name: str) -> int:
    """Return an address, as nm tells it."""
    image = bench.tree.root / "xen/xen-syms"
    out = subprocess.run(["nm", image], check=True, capture_output=True, text=True).stdout
    return next(int(line.split()[0], 16) for line in out.splitlines() if line.endswith(f" {name}"))


def record_of(payload: ElfFile) -> tuple[tuple[int, ...], dict[int, tuple[str, int]]]:
    """Return the fields of the one function record, and its relocations."""
    funcs = payload.section_by_name[".livepatch.funcs"]
    assert funcs.size_bytes == 104
    relocs = {r.offset: (payload.symbols[r.symbol].name, r.addend) for r in payload.relocs(funcs)}
    return _RECORD.unpack_from(funcs.data), relocs


def name_of(payload: ElfFile) -> str:
    text = payload.section_by_name[".livepatch.strings"].data
    return text.rstrip(b"\0").decode()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("user", "user"),
        ("common/user.c#helper", "common/user.c#helper"),
        ("user.c#helper", "common/user.c#helper"),
        ("lonely", "common/user.c#lonely"),
    ],
)
def test_replacement_by_name_is_looked_up_by_the_hypervisor(
    bench: Bench, written: str, meant: str
) -> None:
    payload = bench.build(f'{USER}XSPLICE_REPLACE("{written}", mine);').payload
    fields, relocs = record_of(payload)
    assert name_of(payload) == meant
    assert fields[2] == 0
    assert sorted(relocs) == [0, 8]
    assert fields[5] == 2


@pytest.mark.parametrize("offset", [0, 2])
def test_replacement_at_an_offset_is_a_relocation(bench: Bench, offset: int) -> None:
    payload = bench.build(f'{VOID}XSPLICE_REPLACE_AT("pushing", {offset}, mine);').payload
    fields, relocs = record_of(payload)
    assert relocs[16] == ("pushing", offset)
    assert fields[4] == 8 - offset
    assert name_of(payload) == ("pushing+0x2" if offset else "pushing")


def test_replacement_at_an_address_is_absolute(bench: Bench) -> None:
    addr = addr_of(bench, "user")
    payload = bench.build(f"{USER}XSPLICE_REPLACE_ADDRESS({addr:#x}, mine);").payload
    fields, relocs = record_of(payload)
    assert fields[2] == addr
    assert sorted(relocs) == [0, 8]
    assert name_of(payload) == "user"


def test_nops_are_a_record_without_new_code(bench: Bench) -> None:
    payload = bench.build('XSPLICE_NOP("pushing", 0, 2);').payload
    fields, relocs = record_of(payload)
    assert fields[1:5] == (0, 0, 2, 8)
    assert sorted(relocs) == [0, 16]
    assert relocs[16] == ("pushing", 0)


def test_nops_at_an_address(bench: Bench) -> None:
    addr = addr_of(bench, "pushing") + 2
    payload = bench.build(f"XSPLICE_NOP_ADDRESS({addr:#x}, 5);").payload
    fields, _relocs = record_of(payload)
    assert fields[2:5] == (addr, 5, 6)


def test_a_body_of_nops_ends_before_the_instruction_that_leaves(bench: Bench) -> None:
    """Xen 4.17's functions end in a jump of five bytes, not in a return of one (pitfall 3)."""
    fields, _relocs = record_of(bench.build('XSPLICE_NOP_BODY("pushing");').payload)
    assert fields[3] == 7


def test_nops_behind_a_landing_pad_keep_it(bench: Bench) -> None:
    fields, _relocs = record_of(bench.build('XSPLICE_NOP_BODY("guarded");').payload)
    assert fields[3] == 6
    refused = bench.build('XSPLICE_NOP("guarded", 0, 4);', out="other")
    assert "4 bytes cannot become NOPs" in refused.err


def test_every_hook_has_its_section(bench: Bench) -> None:
    kinds = ("preapply", "apply", "prerevert", "revert")
    late = ("postapply", "postrevert")
    text = "".join(
        f"static int {kind}(struct payload *p) {{ return p == 0; }}\n"
        f"XSPLICE_{kind.upper()}_HOOK({kind});\n"
        for kind in kinds
    )
    text += "".join(
        f"static void {kind}(struct payload *p) {{ }}\nXSPLICE_{kind.upper()}_HOOK({kind});\n"
        for kind in late
    )
    built = bench.build(text)
    sizes = {s.name: s.size_bytes for s in built.payload.sections if "hooks" in s.name}
    sizes = {name: size for name, size in sizes.items() if not name.startswith(".rela")}
    assert sizes == {f".livepatch.hooks.{kind}": 8 for kind in (*kinds, *late)}
    record = load(built.path.with_name("fix.payload.json"), PayloadRecord)
    assert record.hooks == tuple(sorted(sizes))


def test_load_hooks_run_in_the_order_of_the_source(bench: Bench) -> None:
    text = "".join(
        f'static void hook{i}(void) {{ asm volatile ("mov ${i},%%eax" ::: "eax"); }}\n'
        f"XSPLICE_LOAD_HOOK(hook{i});\n"
        for i in range(4)
    )
    payload = bench.build(text).payload
    hooks = payload.section_by_name[".livepatch.hooks.load"]
    code = payload.section_by_name[".text"].data
    order = [code[r.addend : r.addend + 2] for r in sorted(payload.relocs(hooks))]
    assert order == [bytes((0xB8, i)) for i in range(4)]


def test_the_image_is_expected_unless_the_author_says_otherwise(bench: Bench) -> None:
    def expected(line: str, out: str) -> bytes:
        payload = bench.build(f'{VOID}XSPLICE_REPLACE("pushing", mine);{line}', out=out).payload
        raw = payload.section_by_name[".livepatch.funcs"].data[72:104]
        assert raw[0] & 1 == (raw[0] > 0)
        return raw[1 : 1 + (raw[0] >> 1)]

    whole = bytes.fromhex("535bb801000000c3")
    assert expected("", "a") == whole
    assert expected('XSPLICE_EXPECT_IMAGE("pushing", 2);', "b") == whole[:2]
    assert expected('XSPLICE_EXPECT("pushing", 0xde, 0xad);', "c") == b"\xde\xad"
    assert expected('XSPLICE_EXPECT_NOTHING("pushing");', "d") == b""


def test_metadata_follows_the_name(bench: Bench) -> None:
    payload = bench.build(
        f'{USER}XSPLICE_REPLACE("user", mine);XSPLICE_METADATA("fixes=1");'
    ).payload
    assert payload.section_by_name[".modinfo"].data == b"name=fix\0fixes=1\0"


def test_a_static_of_the_image_can_be_used(bench: Bench) -> None:
    text = (
        "extern int other(int a);\n"
        'XSPLICE_SYMBOL(other, "user.c#helper");\n'
        "static int mine(int a) { return other(a) + 1; }\n"
        'XSPLICE_REPLACE("user", mine);'
    )
    built = bench.build(text)
    record = load(built.path.with_name("fix.payload.json"), PayloadRecord)
    assert record.references == ("common/user.c#helper",)
    listed = subprocess.run(
        ["readelf", "-Ws", built.path], check=True, capture_output=True, text=True
    ).stdout
    assert "UND common/user.c#helper" in listed


def test_a_payload_stacks_on_another(bench: Bench) -> None:
    first = bench.build(f'{USER}XSPLICE_REPLACE("user", mine);', out="first")
    second = bench.build(
        f'{USER}XSPLICE_REPLACE("user", mine);', "--depends", str(first.path), out="second"
    )
    below = load(first.path.with_name("fix.payload.json"), PayloadRecord)
    above = load(second.path.with_name("fix.payload.json"), PayloadRecord)
    assert above.depends == below.build_id
    assert above.xen_depends == below.xen_depends == below.depends
    assert "replaces it already" in above.functions[0].expect_note


def test_several_files_make_one_payload(bench: Bench) -> None:
    (bench.sources / "more.c").write_text(
        '#include <xsplice.h>\nint shared(int a) { return a; }\nXSPLICE_NOP_BODY("pushing");\n'
    )
    built = bench.build(
        "int shared(int a);\nstatic int mine(int a) { return shared(a); }\n"
        'XSPLICE_REPLACE("user", mine);',
        str(bench.sources / "more.c"),
    )
    assert built.payload.section_by_name[".livepatch.funcs"].size_bytes == 208


def test_equal_sources_give_equal_payloads_in_every_folder(bench: Bench, tmp_path: Path) -> None:
    text = 'static int mine(int a) { return a + __FILE__[a]; }\nXSPLICE_REPLACE("user", mine);'
    first = bench.build(text, out="a").path.read_bytes()
    bench.sources = tmp_path / "elsewhere"
    bench.sources.mkdir()
    assert bench.build(text, out="b").path.read_bytes() == first


def test_types_are_compared_without_debug_information_in_the_tree(bench: Bench) -> None:
    assert "-g" not in FLAGS.split()
    assert "note" not in bench.build(f'{USER}XSPLICE_REPLACE("user", mine);').out


def test_a_type_that_cannot_be_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree(tmp_path / "tree")
    (tree.root / "xen/common/.user.o.cmd").unlink()
    built = Bench(tree, tmp_path, capsys).build(f'{USER}XSPLICE_REPLACE("user", mine);')
    assert built.status == 0
    assert "the type of `mine` was not compared with that of `user`" in built.out


def test_addresses_and_foreign_bytes_are_remarked_on(bench: Bench) -> None:
    addr = addr_of(bench, "user")
    absolute = bench.build(f"{USER}XSPLICE_REPLACE_ADDRESS({addr:#x}, mine);", out="a")
    assert f"note: {addr:#x} is `user` in this xen only" in absolute.out
    text = f'{VOID}XSPLICE_REPLACE("pushing", mine);XSPLICE_EXPECT("pushing", '
    assert "are not those of the image" in bench.build(f"{text}0xde);", out="b").out
    assert "are not those of the image" not in bench.build(f"{text}0x53);", out="c").out
