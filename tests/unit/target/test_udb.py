# SPDX-License-Identifier: Apache-2.0
"""BUG() of Xen 4.22 is the byte 0xd6 (UDB), which decoders take for a part of what follows.

Assemblers of 2026 hardly know ``udb``, so it is written as a byte. The bug frame says where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.differ_inputs import assemble, diff, references_of, summary
from tests.kit.link_inputs import Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import RelocationError
from xsplice_plugins.target.addresses import AddressFlow
from xsplice_plugins.target.listing import listing
from xsplice_plugins.target.machine import Flow
from xsplice_plugins.target.references import References
from xsplice_plugins.target.x86_64 import decode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.toolchain

#: iced takes 0xd6 0xc7 for one instruction, so that the rest of `movl` falls out of step.
CODE = """
.file "a.c"
.section .text.f, "ax"
.globl f
.type f, @function
f: test %edi, %edi
JUMP
1: .byte 0xd6
2: movl $VALUE, flag(%rip)
jmp 3f
nop
3: ret
.size f, .-f
.section .bug_frames.2, "a"
4: .long FRAME - 4b
.long name - 4b
.section .rodata.str1.1, "aMS", @progbits, 1
name: .string "a.c"
"""
DATA = """
.section .data.flag, "aw"
.globl flag
.type flag, @object
flag: .long 1
.size flag, 4
"""


def text(*, frame: str = "1b", value: int = 5, jump: str = "je 2b", data: str = DATA) -> str:
    code = CODE.replace("JUMP", jump.replace("2b", "2f")).replace("VALUE", str(value))
    return code.replace("FRAME", frame) + data


def places_and_target(folder: Path, release: str, source: str) -> tuple[str, int]:
    """Return the section and offset that the one relocation of the code points to."""
    places = references_of(assemble(folder, source), release=release)
    code = places.file.section_by_name[".text.f"]
    (reloc,) = places.file.relocs(code)
    target = places.target_of(code, reloc)
    assert target.section_index is not None
    return places.file.sections[target.section_index].name, target.offset


def test_marks_keep_the_decoder_in_step() -> None:
    code = bytes.fromhex("d6c7050000000005000000c3")
    known = decode(code, 0x100, {0: 1})
    assert [(row.start, row.end) for row in known] == [
        (0x100, 0x101),
        (0x101, 0x10B),
        (0x10B, 0x10C),
    ]
    assert [row.flow for row in known] == [Flow.LEAVE, Flow.NEXT, Flow.LEAVE]
    lost = decode(code, 0x100, {})
    assert lost[0].flow is Flow.UNKNOWN
    assert [row.start for row in lost] != [row.start for row in known]


def test_a_start_without_a_length_cuts_what_would_run_across_it() -> None:
    code = bytes.fromhex("d6c7050000000005000000c3")
    assert [row.start for row in decode(code, 0, {1: 0})] == [0, 1, 11]
    assert [row.start for row in decode(code, 0, {11: 0, 1: 0})] == [0, 1, 11]


def test_references_behind_udb_are_found(tmp_path: Path) -> None:
    assert places_and_target(tmp_path, "4.22.0", text()) == (".data.flag", 0)


@pytest.mark.parametrize(("frame", "release"), [("3b", "4.22.0"), ("1b", "4.21.0")])
def test_without_its_frame_or_before_4_22_the_byte_is_data_within_code(
    tmp_path: Path, frame: str, release: str
) -> None:
    with pytest.raises(RelocationError, match="data within code"):
        places_and_target(tmp_path, release, text(frame=frame))


def test_one_changed_function_and_no_more(tmp_path: Path) -> None:
    delta = diff(assemble(tmp_path, text()), assemble(tmp_path, text(value=6)), release="4.22.0")
    assert summary(delta) == (["f"], [], [], [])
    difference = delta.changed[0].difference
    assert difference is not None
    assert "movl $5," in difference.before
    assert "movl $6," in difference.after


def test_a_listing_stays_in_step(tmp_path: Path) -> None:
    lines = [line.text for line in listing(read_elf(assemble(tmp_path, text()), "a.o"), "f")]
    assert lines[2] == ".byte d6"
    assert lines[3].startswith("movl $5,")
    assert lines[-1] == "ret"


def test_code_that_only_moved_behind_udb_is_equal(tmp_path: Path) -> None:
    """A jump over UDB is a short one or a near one; both lead to the same instruction."""
    before = assemble(tmp_path, text())
    after = assemble(tmp_path, text(jump=".byte 0x0f, 0x84; .long 2b - . - 4"))
    assert before != after
    assert summary(diff(before, after, release="4.22.0"))[0] == []
    changed = assemble(tmp_path, text(jump=".byte 0x0f, 0x85; .long 2b - . - 4"))
    assert summary(diff(before, changed, release="4.22.0"))[0] == ["f"]


def test_the_linker_takes_such_code(tmp_path: Path) -> None:
    image = Compiler(folder=tmp_path).image(a_c="int flag; int f(int a) { return a * 3 + flag; }")
    data = assemble(tmp_path, text(data=""))
    part = (closure_delta(data, "a.o", ("f",), release="4.22.0"), data)
    payload = link(image, part, release="4.22.0")
    assert [function.name for function in payload.record.functions] == ["f"]
    assert payload.record.references == ("flag",)


#: A function that is given an address; behind its trap lies what stores it.
KEEPING = """
.file "a.c"
.section .text.f, "ax"
.globl f
.type f, @function
f: push %rbx
mov %rdi, %rbx
test %esi, %esi
jne 1f
pop %rbx
ret
1: .byte 0xd6
mov %rbx, last(%rip)
pop %rbx
ret
.size f, .-f
.section .bug_frames.KIND, "a"
4: .long 1b - 4b
.long name - 4b
.section .rodata.str1.1, "aMS", @progbits, 1
name: .string "a.c"
"""


def keeps(places: References) -> bool:
    """Ask whether the function keeps the address that it is given."""
    is_kept, _ = AddressFlow(places).answer("f", frozenset({"RDI"}))
    return is_kept


@pytest.mark.parametrize(
    ("kind", "is_kept"), [("0", True), ("1", True), ("2", False), ("3", False)]
)
def test_code_goes_on_behind_a_warning(tmp_path: Path, kind: str, *, is_kept: bool) -> None:
    source = KEEPING.replace("KIND", kind)
    source += ".long 0\n" if kind == "3" else ""
    if kind == "3":  # its frame has a message as well
        source = source.replace(".long name - 4b\n", ".long name - 4b\n.long 0\n").removesuffix(
            ".long 0\n"
        )
    places = references_of(assemble(tmp_path, source), release="4.22.0")
    assert keeps(places) is is_kept


def test_a_file_without_tables_is_told_where_its_traps_are(tmp_path: Path) -> None:
    """As a linked image: without that, nobody knows what lies there, and the address counts."""
    source = KEEPING.replace("KIND", "2").partition(".section .bug")[0]
    bare = references_of(assemble(tmp_path, source), release="4.22.0")
    file, profile = bare.file, bare.profile
    code = file.section_by_name[".text.f"]
    trap = code.data.index(b"\xd6")
    assert keeps(bare)
    assert not keeps(References(file, profile, {code.index: {trap: 1}}))
    assert keeps(References(file, profile, {code.index: {trap: 1}}, [(code.index, trap)]))
