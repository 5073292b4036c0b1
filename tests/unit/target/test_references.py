# SPDX-License-Identifier: Apache-2.0
"""Where relocations truly point; the assembler's listing is the oracle."""

from pathlib import Path

import pytest

from tests.kit.differ_inputs import assemble, references_of
from xsplice_plugins.errors import RelocationError
from xsplice_plugins.target.references import References

pytestmark = pytest.mark.toolchain


def places_in(folder: Path, text: str) -> References:
    return references_of(assemble(folder, text))


@pytest.mark.parametrize(
    "instruction",
    [
        "mov flag(%rip), %eax",
        "lea flag(%rip), %rdi",
        "cmpl $0, flag(%rip)",
        "cmpb $1, flag(%rip)",
        "movl $0x12345678, flag(%rip)",
        "movw $0x1234, flag(%rip)",
        "movq $7, flag(%rip)",
        "imul $100000, flag(%rip), %eax",
        "lock btsl $3, flag(%rip)",
        "cmpxchg %ecx, flag(%rip)",
        "call *flag(%rip)",
        "addss flag(%rip), %xmm0",
        "palignr $4, flag(%rip), %xmm0",
    ],
)
def test_the_target_is_the_datum_whatever_follows_the_displacement(
    tmp_path: Path, instruction: str
) -> None:
    text = f".data\n.long 1, 2\nflag: .long 3\n.text\nf: nop\n{instruction}\n"
    places = places_in(tmp_path, text)
    file = places.file
    section = file.section_by_name[".text"]
    (reloc,) = file.relocs(section)
    target = places.target_of(section, reloc)
    assert target.section_index == file.section_by_name[".data"].index
    assert target.offset == 8


def test_an_undefined_target_has_no_section_and_counts_from_the_symbol(tmp_path: Path) -> None:
    places = places_in(tmp_path, ".text\ncmpl $0, other+16(%rip)\ncall there\n")
    file = places.file
    section = file.section_by_name[".text"]
    data, call = (places.target_of(section, reloc) for reloc in file.relocs(section))
    assert (data.section_index, data.offset, data.symbol.name) == (None, 16, "other")
    assert (call.section_index, call.offset, call.symbol.name) == (None, 0, "there")


def test_a_bug_frame_hides_its_line_in_the_addends(tmp_path: Path) -> None:
    text = """
    .section .text.f, "ax"
    nop; nop
    bug: ud2
    .section .rodata.f, "aMS", @progbits, 1
    .string "skip"
    name: .string "file.c"
    .section .bug_frames.3, "a"
    .long (other - .) ; .long 0, 0, 0
    frame: .long (bug - frame) + (3 << 24)
    .long (name - frame) + (0x34 << 24)
    .long 0, name - frame
    """
    places = places_in(tmp_path, text)
    file = places.file
    section = file.section_by_name[".bug_frames.3"]
    _first, code, name, message = (places.target_of(section, r) for r in file.relocs(section))
    assert (code.section_index, code.offset) == (file.section_by_name[".text.f"].index, 2)
    assert (name.section_index, name.offset) == (file.section_by_name[".rodata.f"].index, 5)
    assert message[:2] == name[:2]


def test_data_within_code_is_refused_by_name(tmp_path: Path) -> None:
    places = places_in(tmp_path, ".text\nf: .long other - .\n")
    file = places.file
    section = file.section_by_name[".text"]
    with pytest.raises(RelocationError, match=r"a\.o\(\.text\+0x0\).*data within code"):
        places.target_of(section, file.relocs(section)[0])
