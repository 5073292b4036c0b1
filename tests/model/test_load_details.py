# SPDX-License-Identifier: Apache-2.0
"""Details of loading: layout, permissions, tables, symbols, LIST, and the quirks among them."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from tests.kit.payloads import (
    ALLOC,
    EXEC,
    MERGE,
    NOBITS,
    UND,
    WRITE,
    XEN_ID,
    Draft,
    Rel,
    Sec,
    Sym,
    add_code,
    add_hook,
    minimal,
    note,
)
from tests.kit.tiny_xen import allocated, tiny_xen
from xsplice_plugins.hypervisor import Command, Hazard, Hypervisor, LoadedPayload, release
from xsplice_plugins.hypervisor.facts.notes import parse_build_id
from xsplice_plugins.hypervisor.facts.verdicts import XenRefusal, errno_name, errno_text
from xsplice_plugins.hypervisor.image.memory import RO, RW, RX, Arena, Memory, MemorySegment
from xsplice_plugins.hypervisor.load.symbols import name_in_payload
from xsplice_plugins.hypervisor.state.hook_argument import encode_argument

PAGE = 4096
B_ID = b"\xb2" * 20


def loaded(draft: Draft, name: str = "4.17.5") -> tuple[Hypervisor, LoadedPayload]:
    """Upload one payload that must be accepted."""
    hv = Hypervisor(tiny_xen(), release(name))
    answer = hv.upload(b"p\0", draft.build())
    assert answer.code == 0, answer
    return hv, hv.payloads[0]


def test_the_three_parts_lie_on_pages_of_their_own_with_their_permissions() -> None:
    draft = minimal()
    draft.sections.append(Sec(".data", b"d" * 8, flags=ALLOC | WRITE))
    draft.sections.append(Sec(".bss", kind=NOBITS, size=5000, flags=ALLOC | WRITE, align=64))
    _, payload = loaded(draft)
    assert [segment.perm for segment in payload.segments] == [RX, RW, RO]
    assert [len(segment.data) // PAGE for segment in payload.segments] == [1, 2, 1]
    assert payload.rw_virt == payload.text_virt + PAGE
    assert payload.ro_virt == payload.rw_virt + 2 * PAGE
    assert payload.rw_size_bytes == 64 + 5000
    assert payload.segments[1].data[64 : 64 + 5000] == bytes(5000)
    assert payload.pages == 4


def test_a_payload_may_be_called_xen() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    before = hv.memory.digest(owner="xen")
    assert hv.upload(b"xen\0", minimal().build()).code == 0
    assert hv.memory.digest(owner="xen") == before
    assert allocated(hv)


def test_alignment_0_makes_a_section_overlap_the_ones_before() -> None:
    draft = minimal()
    draft.sections.append(Sec(".zero", b"\xee" * 4, align=0))
    _, payload = loaded(draft)
    assert payload.ro_size_bytes == 4
    # What came before is as large as before; its size is forgotten, not its bytes.
    draft.sec(".rodata").data += bytes(2 * PAGE)
    with pytest.raises(Hazard, match="behind the memory"):
        loaded(draft)


def test_a_guard_page_lies_in_front_of_each_payload() -> None:
    hv, payload = loaded(minimal())
    hv.upload(b"q\0", minimal(build_id=B_ID).build())
    first, second = hv.arena.in_use()
    assert first[0] == payload.base_virt
    assert second[0] == first[0] + first[1] + PAGE
    with pytest.raises(Hazard, match="page fault"):
        hv.memory.read(second[0] - 1, 1)


def test_freed_room_is_used_again() -> None:
    arena = Arena(start_virt=0, end_virt=64 * PAGE)
    places = [arena.allocate(PAGE) for _ in range(3)]
    assert places == [2 * PAGE, 4 * PAGE, 6 * PAGE]
    arena.free(4 * PAGE)
    assert arena.allocate(2 * PAGE) == 8 * PAGE
    assert arena.allocate(PAGE) == 4 * PAGE
    assert arena.allocate(60 * PAGE) is None


def test_no_memory_is_enomem_and_leaves_nothing() -> None:
    hv = Hypervisor(tiny_xen(arena_bytes=6 * PAGE), release("4.17.5"))
    draft = minimal()
    draft.sections.append(Sec(".bss", kind=NOBITS, size=1 << 20, flags=ALLOC | WRITE))
    answer = hv.upload(b"p\0", draft.build())
    assert (answer.code, answer.step) == (-12, "layout")
    assert hv.upload(b"p\0", minimal().build()).code == 0


def test_empty_sections_got_no_address_in_some_releases() -> None:
    """Symbols of empty sections: garbage, then refused where used, in today's releases fine."""
    draft = minimal()
    draft.sections.append(Sec(".empty", b""))
    draft.symbols.append(Sym("nothing_here", ".empty", 0x10))
    draft.sections.append(Sec(".pointer", bytes(8), relocs=[Rel(0, 1, "nothing_here")]))
    _, payload = loaded(draft)
    names = {symbol.name: symbol.addr_virt for symbol in payload.symbols}
    assert names["nothing_here"] >= payload.base_virt
    _, payload = loaded(draft, "4.16.0")
    names = {symbol.name: symbol.addr_virt for symbol in payload.symbols}
    assert names["nothing_here"] == 0x10


def test_relocations_against_sections_that_are_not_loaded_are_refused_since_4_17() -> None:
    draft = minimal()
    draft.sections.append(Sec(".debug", b"12345678", flags=0))
    draft.symbols.append(Sym("debug_symbol", ".debug"))
    draft.sections.append(Sec(".pointer", bytes(8), relocs=[Rel(0, 1, "debug_symbol")]))
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    answer = hv.upload(b"p\0", draft.build())
    assert (answer.code, answer.step) == (-22, "relocations")
    loaded(draft, "4.16.0")


def test_kept_symbols_follow_the_five_rules() -> None:
    draft = minimal()
    draft.sections.append(Sec(".merged", b"abc\0", flags=ALLOC | MERGE))
    draft.sections.append(Sec(".debug", b"abc\0", flags=0))
    draft.symbols += [
        Sym(".Lmerged", ".merged"),
        Sym("merged", ".merged"),
        Sym(".Lplain", ".rodata"),
        Sym("debugging", ".debug"),
        Sym("", ".rodata"),
        Sym("absolute", 0xFFF1, 5),
        Sym("x" * 200, ".rodata", 1),
    ]
    _, payload = loaded(draft)
    names = {symbol.name: symbol.is_new for symbol in payload.symbols}
    assert set(names) == {
        "target_name_a1",
        "words_a1",
        "new_function",
        "merged",
        ".Lplain",
        "x" * 126,
    }
    assert [name for name, is_new in names.items() if not is_new] == ["new_function"]


def test_payloads_find_new_symbols_of_payloads_and_overridden_ones_in_xen() -> None:
    hv, below = loaded(minimal())
    above = minimal(build_id=B_ID, target="answer")
    above.symbols.append(Sym("words_a1", UND))
    above.symbols.append(Sym("xen_extra_version", UND))
    above.sections.append(
        Sec(".pointers", bytes(16), relocs=[Rel(0, 1, "words_a1"), Rel(8, 1, "xen_extra_version")])
    )
    assert hv.upload(b"q\0", above.build()).code == 0
    raw = bytes(hv.payloads[1].segments[-1].data)
    words = next(s.addr_virt for s in below.symbols if s.name == "words_a1")
    assert struct.pack("<QQ", words, hv.image.lookup("xen_extra_version") or 0) in raw
    overriding = minimal(build_id=b"\xc3" * 20)
    overriding.symbols.append(Sym("new_function_elsewhere", UND))
    assert hv.upload(b"r\0", overriding.build()).code == -2


def test_unloading_a_payload_that_others_refer_to_is_accepted_and_deadly() -> None:
    hv, _ = loaded(minimal())
    above = minimal(build_id=B_ID, target="answer")
    above.symbols.append(Sym("words_a1", UND))
    assert hv.upload(b"q\0", above.build()).code == 0
    assert hv.action(b"p\0", Command.UNLOAD).code == 0
    assert hv.action(b"q\0", Command.APPLY).code == 0
    with pytest.raises(Hazard, match="was unloaded"):
        hv.run_pending()


def test_addresses_in_payloads_have_names() -> None:
    _, payload = loaded(minimal())
    place = payload.functions[0].new_virt + 3
    assert name_in_payload(payload, place) == "new_function+0x3/0x8 [p]"
    assert name_in_payload(payload, payload.ro_virt) is None


def test_the_exception_table_is_sorted_in_place_and_means_the_same() -> None:
    draft = minimal()
    places = [6, 1, 4, 2]
    table = Sec(".ex_table", bytes(32), align=4)
    for index, place in enumerate(places):
        table.relocs.append(Rel(8 * index, 2, "new_function", place))
        table.relocs.append(Rel(8 * index + 4, 2, "new_function", place + 1))
    draft.sections.append(table)
    hv, payload = loaded(draft)
    new = payload.functions[0].new_virt
    assert payload.ex_table == {new + place: new + place + 1 for place in places}
    assert list(payload.ex_table) == sorted(payload.ex_table)
    start = hv.memory.read(payload.ro_virt, PAGE)
    found = []
    for offset in range(0, PAGE - 32, 4):
        rows = list(struct.iter_unpack("<ii", start[offset : offset + 32]))
        base = payload.ro_virt + offset
        found.append([base + 8 * i + addr for i, (addr, _) in enumerate(rows)])
    assert sorted(payload.ex_table) in found


def test_alternatives_are_applied_to_the_payload_at_upload() -> None:
    def draft(feature: int) -> Draft:
        out = minimal()
        add_code(out, "site", b"\x90" * 9 + b"\xc3")
        out.sections.append(
            Sec(
                ".altinstructions",
                struct.pack("<iiHBBBB", 0, 0, feature, 7, 5, 2, 0),
                relocs=[Rel(0, 2, "site", 0), Rel(4, 2, "call_code", 0)],
            )
        )
        out.sections.append(
            Sec(".altinstr_replacement", b"\xe8" + bytes(4), flags=ALLOC | EXEC,
                relocs=[Rel(1, 2, "target_function", -4)])
        )  # fmt: skip
        out.symbols.append(Sym("call_code", ".altinstr_replacement"))
        out.symbols.append(Sym("target_function", ".text.new", 4))
        return out

    for every_processor_has in (93, 0):  # LM, FPU
        hv, payload = loaded(draft(every_processor_has))
        names = {symbol.name: symbol.addr_virt for symbol in payload.symbols}
        code = hv.memory.read(names["site"], 10)
        assert code[0] == 0xE8
        reached = names["site"] + 5 + int.from_bytes(code[1:5], "little", signed=True)
        assert reached == names["target_function"]
        assert code[5:] == bytes.fromhex("0f1f4000c3")
    for is_missing in (0x8000 | 93, 31):
        hv, payload = loaded(draft(is_missing))
        names = {symbol.name: symbol.addr_virt for symbol in payload.symbols}
        assert hv.memory.read(names["site"], 10) == b"\x90" * 9 + b"\xc3"


def test_alt_call_sites_become_direct_since_4_21() -> None:
    draft = minimal()
    add_code(draft, "site", b"\xff\x15" + bytes(4) + b"\xc3", [Rel(2, 2, "pointer", -4)])
    draft.sections.append(
        Sec(".pointers", bytes(8), relocs=[Rel(0, 1, "new_function")], flags=ALLOC | WRITE)
    )
    draft.symbols.append(Sym("pointer", ".pointers"))
    draft.sections.append(Sec(".alt_call_sites", bytes(4), relocs=[Rel(0, 2, "site")]))
    for name, is_direct in (("4.21.0", True), ("4.20.0", False)):
        hv, payload = loaded(draft, name)
        names = {symbol.name: symbol.addr_virt for symbol in payload.symbols}
        code = hv.memory.read(names["site"], 7)
        assert (code[:2] == b"\x2e\xe8") == is_direct
        if is_direct:
            disp = int.from_bytes(code[2:6], "little", signed=True)
            assert names["site"] + 6 + disp == payload.functions[0].new_virt


@pytest.mark.parametrize(
    ("raw", "errno"),
    [
        (note(b"abcd"), 0),
        (note(b"abcd") + b"trailing", 0),
        (note(b"abcd")[:12], 22),
        (note(b"abcd", kind=4), 61),
        (note(b"abcd", descsz=0xFFFFFFFF), 22),
        (note(b"abcd", descsz=5), 22),
        (note(b"abcd", name=b"GN\0"), 22),
        (note(b"abcd", name=b"XEN\0"), 61),
        (note(b"abcd", name=b"GNU\0\0"), 0),
        (note(b""), 22),
        (note(b"", descsz=0) + b"x", 22),
    ],
)
def test_notes(raw: bytes, errno: int) -> None:
    if errno:
        with pytest.raises(XenRefusal) as found:
            parse_build_id(raw, step="s", passes_errno=True)
        assert found.value.errno == errno
        with pytest.raises(XenRefusal) as found:
            parse_build_id(raw, step="s", passes_errno=False)
        assert found.value.errno == 22
    else:
        assert parse_build_id(raw, step="s", passes_errno=True)


@pytest.mark.parametrize(
    ("name", "trap", "is_running"),
    [
        ("4.17.4", "0f0b", True),
        ("4.17.3", "0f0b", False),
        ("4.14.0", "0f0b", False),
        ("4.17.4", "d6", False),
        ("4.22.0", "d6", True),
        ("4.22.0", "0f0b", False),
    ],
)
def test_a_warn_in_a_preapply_hook_needs_its_region_and_its_instruction(
    name: str, trap: str, is_running: bool
) -> None:
    """Regions used to be registered at apply: a WARN before that found no table and crashed.

    Behind the trap the hook returns zero, so one that is skipped too far or too little shows.
    """
    draft = minimal()
    add_code(draft, "warns", bytes.fromhex(trap) + b"\x31\xc0\xc3")
    frame = Sec(".bug_frames.1", bytes(8), align=4, relocs=[Rel(0, 2, "warns")])
    draft.sections.append(frame)
    add_hook(draft, "preapply", "warns")
    hv, _ = loaded(draft, name)
    if is_running:
        # PC32 fills all 32 bits; the address is the low 24, as the compiler's macro arranges.
        assert hv.action(b"p\0", Command.APPLY).code == 0
        assert any(line.startswith("WARN at warns") for line in hv.console)
    else:
        with pytest.raises(Hazard, match="crash at warns"):
            hv.action(b"p\0", Command.APPLY)


@pytest.mark.parametrize(
    ("name", "feature", "code"),
    [
        ("4.22.0", 676, 0),
        ("4.22.0", 703, 0),
        ("4.22.0", 704, -34),
        ("4.23.0", 703, 0),
        ("4.20.3", 671, 0),
        ("4.20.3", 672, -34),
    ],
)
def test_an_alternative_names_a_feature_that_the_release_has(
    name: str, feature: int, code: int
) -> None:
    draft = minimal()
    draft.sections += [
        Sec(
            ".altinstructions",
            struct.pack("<iiHBBBB", 0, 0, feature, 1, 0, 0, 0),
            relocs=[Rel(0, 2, "new_function"), Rel(4, 2, "repl")],
        ),
        Sec(".altinstr_replacement", b"\x90", flags=ALLOC | EXEC),
    ]
    draft.symbols.append(Sym("repl", ".altinstr_replacement", info=0))
    hv = Hypervisor(tiny_xen(), release(name))
    assert hv.upload(b"p\0", draft.build()).code == code
    asked = Hypervisor(dataclasses.replace(tiny_xen(), feature_words=20), release(name))
    assert asked.upload(b"p\0", draft.build()).code == -34


def test_a_function_that_a_hook_only_marked_cannot_be_reverted_by_default() -> None:
    draft = minimal()
    # mov rax,[rdi+0x70]; mov dword [rax+4],1; xor eax,eax; ret: fstate[0].applied = 1.
    add_code(draft, "marks", bytes.fromhex("488b4770c7400401000000 31c0c3".replace(" ", "")))
    add_hook(draft, "apply", "marks")
    hv, payload = loaded(draft)
    hv.action(b"p\0", Command.APPLY)
    hv.run_pending()
    assert payload.state.name == "APPLIED"
    hv.action(b"p\0", Command.REVERT)
    with pytest.raises(Hazard, match="never patched"):
        hv.run_pending()


def test_memory_spans_segments_and_faults_outside() -> None:
    memory = Memory()
    for index in range(2):
        memory.map(
            MemorySegment(
                addr_virt=index * PAGE, data=bytearray(PAGE), perm=RW, name=f"{index}", owner="x"
            )
        )
    memory.write(PAGE - 2, b"abcd")
    assert memory.read(PAGE - 2, 4) == b"abcd"
    assert memory.read_c_string(PAGE - 2) == b"abcd"
    with pytest.raises(Hazard):
        memory.write(2 * PAGE - 1, b"xy")
    with pytest.raises(Hazard):
        memory.read(2 * PAGE, 1)


def test_errnos_have_names_and_words() -> None:
    assert (errno_name(-22), errno_text(22)) == ("EINVAL", "Invalid argument")
    assert (errno_name(200), errno_text(-200)) == ("E200", "Unknown error 200")


def test_the_first_section_of_a_name_counts() -> None:
    draft = minimal()
    draft.sections.insert(0, Sec(".livepatch.depends", note(XEN_ID)))
    draft.sections[-2].data = b"garbage"
    _, payload = loaded(draft)
    assert payload.depends == XEN_ID


@pytest.mark.parametrize(
    ("name", "build_id", "depends", "hooks", "counts", "called", "metadata"),
    [
        ("4.14.0", 264, 280, 328, 376, 384, 512),
        ("4.17.2", 264, 280, 328, 376, 384, 512),
        ("4.17.3", 272, 288, 336, 384, 392, 520),
        ("4.18.1", 272, 288, 336, 384, 392, 520),
        ("4.17.4", 288, 304, 352, 400, 408, 536),
        ("4.18.2", 288, 304, 352, 400, 408, 536),
        ("4.19.0", 288, 304, 352, 400, 408, 536),
        ("4.18.4", 288, 304, 336, 384, 392, 520),
        ("4.22.0", 288, 304, 336, 384, 392, 520),
    ],
)
def test_hooks_find_struct_payload_as_their_release_lays_it_out(
    name: str, build_id: int, depends: int, hooks: int, counts: int, called: int, metadata: int
) -> None:
    xen = Hypervisor(tiny_xen(), release(name))
    payload = LoadedPayload(
        name="é", build_id=b"1", depends=b"22", load_hooks=(1, 1, 1), unload_hooks=(1,) * 4,
        metadata=b"55555", hooks={"preapply": 6, "postrevert": 7},
    )  # fmt: skip
    raw = encode_argument(payload, xen)

    def word(offset: int, size: int = 4) -> int:
        return int.from_bytes(raw[offset : offset + size], "little")

    assert [word(build_id + 8), word(depends + 8), word(counts), word(counts + 4)] == [1, 2, 3, 4]
    assert [word(metadata + 8), word(hooks, 8), word(hooks + 40, 8)] == [5, 6, 7]
    assert raw[called : called + 3] == "é".encode() + b"\0"
