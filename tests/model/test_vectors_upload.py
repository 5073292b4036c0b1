# SPDX-License-Identifier: Apache-2.0
"""Uploads, a numbered damage each: the answer that docs/loader.md#upload gives."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.kit.payloads import (
    ABS,
    ALLOC,
    COMMON,
    EXEC,
    NOBITS,
    OTHER_XEN_ID,
    PAYLOAD_ID,
    REL,
    SYMTAB,
    UND,
    WRITE,
    Draft,
    Rel,
    Sec,
    Sym,
    add_hook,
    minimal,
    note,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Hazard, Hypervisor, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch

HAZARD = "hazard"
EPERM, ENOENT, EEXIST, EINVAL, ENODATA, EOVERFLOW = -1, -2, -17, -22, -61, -75
EOPNOTSUPP, ENOSPC, ENOSYS = -95, -28, -38
RET = b"\xc3"


@dataclass(frozen=True)
class Vector:
    """One row: a change of the minimal payload, a release, and the verdict."""

    id: str
    change: Callable[[Draft], object]
    verdict: int | str
    release: str = "4.17.5"
    arch: Arch = X86_64
    step: str = ""


def header(**fields: int | bytes) -> Callable[[Draft], object]:
    return lambda draft: draft.header.update(fields)


def ident(index: int, value: int) -> Callable[[Draft], object]:
    def change(draft: Draft) -> None:
        raw = bytearray(draft.build()[:16])
        raw[index] = value
        draft.header["ident"] = bytes(raw)

    return change


def section(**fields: object) -> Callable[[Draft], object]:
    """Add one section."""
    values: dict[str, object] = {"name": ".extra", "data": b"12345678", **fields}
    return lambda draft: draft.sections.append(Sec(**values))  # type: ignore[arg-type]  # a table


def symbol(*args: object, **fields: object) -> Callable[[Draft], object]:
    return lambda draft: draft.symbols.append(Sym(*args, **fields))  # type: ignore[arg-type]


def rec(**fields: int | bytes) -> Callable[[Draft], object]:
    """Change the function record."""

    def change(draft: Draft) -> None:
        draft.record(**fields)
        places = {"name": 0, "new_addr": 1, "old_addr": 2}
        fixed = {places[name] * draft.arch.pointer_bytes for name in fields if name in places}
        funcs = draft.sec(".livepatch.funcs")
        funcs.relocs = [rel for rel in funcs.relocs if rel.offset not in fixed]

    return change


def target(name: str, **fields: int | bytes) -> Callable[[Draft], object]:
    """Patch another function of the tiny hypervisor."""

    def change(draft: Draft) -> None:
        draft.record(**fields)
        draft.symbol("xen_extra_version").name = name
        for rel in draft.sec(".livepatch.funcs").relocs:
            rel.symbol = name if rel.symbol == "xen_extra_version" else rel.symbol

    return change


def text_reloc(kind: int, symbol_name: str | int, addend: int = 0, offset: int = 3) -> object:
    def change(draft: Draft) -> None:
        draft.sec(".text.new").relocs.append(Rel(offset, kind, symbol_name, addend))

    return change


def many_sections(total: int) -> Callable[[Draft], object]:
    def change(draft: Draft) -> None:
        # NULL, the symbol table, two string tables and two relocation sections come on top.
        have = len(draft.sections) + 6
        draft.sections += [Sec(f".pad{i}", b"x") for i in range(total - have)]

    return change


def drop(*names: str) -> Callable[[Draft], object]:
    return lambda draft: draft.drop(*names)


def resize(name: str, size: int) -> Callable[[Draft], object]:
    def change(draft: Draft) -> None:
        wanted = draft.sec(name)
        wanted.data = wanted.data.ljust(size, b"\0")[:size]
        if size == 0:
            wanted.relocs = []

    return change


def replace(name: str, data: bytes) -> Callable[[Draft], object]:
    def change(draft: Draft) -> None:
        draft.sec(name).data = data

    return change


def hooks_only(draft: Draft) -> None:
    draft.drop(".livepatch.funcs")
    add_hook(draft, "load", "new_function")


def rel_section(draft: Draft) -> None:
    draft.sections.append(
        Sec(".rel.text", struct.pack("<QQ", 0, 1 << 32 | 2), flags=0, kind=REL, entsize=16,
            link=".symtab", info=".text.new")
    )  # fmt: skip


def arm32_rel(draft: Draft) -> None:
    draft.reloc_kind = REL


def debug_relocs(draft: Draft) -> None:
    draft.sections.append(Sec(".debug_info", bytes(8), flags=0, relocs=[Rel(99, 77, 0)]))


def sh_link_wrong(draft: Draft) -> None:
    draft.sections.append(
        Sec(".rela.extra", bytes(24), flags=0, kind=4, entsize=24, link=".strtab", info=".text.new")
    )


def two_symtabs(draft: Draft) -> None:
    draft.sections.append(Sec(".symtab", flags=0, kind=SYMTAB, link=".strtab", entsize=24))
    draft.sections.append(Sec(".symtab2", bytes(24), flags=0, kind=SYMTAB, link=".strtab"))


def alternatives(
    *,
    replacement: bool = True,
    repl_bytes: int = 1,
    feature: int = 93,
    at: int = 0,
    size: int = 1,
    flags: int = ALLOC | EXEC,
) -> Callable[[Draft], object]:
    """Add one alternative over part of the text's 16 bytes, 14-byte format."""

    def change(draft: Draft) -> None:
        draft.sections.append(
            Sec(
                ".altinstructions",
                struct.pack("<iiHBBBB", 0, 0, feature, size, repl_bytes, 0, 0),
                relocs=[
                    Rel(0, 2, "new_function", at),
                    Rel(4, 2, "repl" if replacement and flags else "new_function", 0),
                ],
            )
        )
        if replacement:
            draft.sections.append(Sec(".altinstr_replacement", b"\x90" * 8, flags=flags))
            draft.symbols.append(Sym("repl", ".altinstr_replacement", info=0))

    return change


def nothing(_draft: Draft) -> None:
    """Change nothing."""


def far_symbol(draft: Draft) -> None:
    virt = 0xFFFF82D040200000 + (4 << 30)
    draft.symbols.append(Sym("far", ABS, virt))
    draft.sec(".text.new").relocs.append(Rel(3, 2, "far", -4))


VECTORS = (
    Vector("U1", nothing, 0),
    Vector("U7-ET_DYN", header(type=3), EOPNOTSUPP, step="header"),
    Vector("U7-OSABI-GNU", ident(7, 3), EOPNOTSUPP),
    Vector("U7-ABIVERSION", ident(8, 1), EOPNOTSUPP),
    Vector("U7-phnum", header(phnum=1), EOPNOTSUPP),
    Vector("U7-arm64", header(machine=183), EOPNOTSUPP),
    Vector("U7-ELFCLASS32", ident(4, 1), EOPNOTSUPP),
    Vector("U7-big-endian", ident(5, 2), EOPNOTSUPP),
    Vector("U8-FREEBSD", ident(7, 9), 0),
    Vector("U9-1024", many_sections(1024), EOPNOTSUPP, step="header"),
    Vector("U9-1023", many_sections(1023), 0),
    Vector("U10-shstrndx-0", header(shstrndx=0), EINVAL),
    Vector("U10-shstrndx-shnum", header(shnum=5, shstrndx=5), EINVAL),
    Vector("U10-shoff-len", header(shoff=1 << 20), EINVAL),
    Vector("U10-shentsize-63", header(shentsize=63), EINVAL),
    Vector("U11", section(kind=NOBITS, offset=0, size=0), EINVAL, step="sections"),
    Vector("U11-neighbour", section(kind=NOBITS, offset=64, size=0), 0),
    Vector("U12-4.10", section(align=3), EOPNOTSUPP),
    Vector("U12-4.9", section(align=3), 0, release="4.9.4"),
    Vector("U13-4.10", section(addr=1, align=8), EINVAL),
    Vector("U13-4.9", section(addr=1, align=8), 0, release="4.9.4"),
    Vector("U14", two_symtabs, EOPNOTSUPP, step="sections"),
    Vector("U15", section(kind=NOBITS, size=(2 << 20) + 1), EINVAL, step="sections"),
    Vector("U15-2MiB", section(kind=NOBITS, size=2 << 20), 0),
    Vector("U15-4.7", section(kind=NOBITS, size=(2 << 20) + 1), 0, release="4.7.6"),
    Vector("U16", section(flags=ALLOC | WRITE | EXEC), EOPNOTSUPP, step="layout"),
    Vector("U17", symbol("blob", COMMON, 8, 8), EINVAL, step="symbols"),
    Vector("U18", symbol("no_such", UND), ENOENT, step="symbols"),
    Vector("U18-weak", symbol("no_such", UND, info=0x20), ENOENT),
    Vector("U19", symbol("xen_extra_version+0x4", UND), ENOENT),
    Vector("U19-neighbour", symbol("common/busy.c#busy", UND), 0),
    Vector("U20-32S", text_reloc(11, "new_function"), EOPNOTSUPP, step="relocations"),
    Vector("U20-GOTPCREL", text_reloc(9, "new_function"), EOPNOTSUPP),
    Vector("U20-NONE", text_reloc(0, "new_function"), 0),
    Vector("U21", far_symbol, EOVERFLOW, step="relocations"),
    Vector("U22", text_reloc(2, "new_function", offset=8), EINVAL),
    Vector("U22-last", text_reloc(2, "new_function", offset=4), 0),
    Vector("U22-one-over", text_reloc(2, "new_function", offset=5), EINVAL),
    Vector("U23", text_reloc(2, 0), EOPNOTSUPP),
    Vector("U23-none", text_reloc(0, 0), EOPNOTSUPP),
    Vector("U23-4.7.4", text_reloc(2, 0), EOPNOTSUPP, release="4.7.4"),
    Vector("U23-4.7.3", text_reloc(2, 0), HAZARD, release="4.7.3"),
    Vector("U24", sh_link_wrong, EINVAL, step="relocations"),
    Vector("U25", debug_relocs, 0),
    Vector("U26", rel_section, EOPNOTSUPP),
    Vector("U26-arm64", rel_section, ENOSYS, arch=ARM64),
    Vector("U26-arm32", arm32_rel, 0, arch=ARM32),
    Vector("U27", rec(version=1), EOPNOTSUPP, step="function-records"),
    Vector("U28-103", resize(".livepatch.funcs", 103), EINVAL, step="function-records"),
    Vector("U28-208", resize(".livepatch.funcs", 208), EOPNOTSUPP),
    Vector("U29", rec(old_size=0), EINVAL),
    Vector("U30", rec(old_size=4), EINVAL),
    Vector("U30-5", rec(old_size=5), 0),
    Vector("U31-aware", target("guarded", old_size=8), EINVAL),
    Vector("U31-aware-9", target("guarded", old_size=9), 0),
    Vector("U31-4.14.5", target("guarded", old_size=8), EINVAL, release="4.14.5"),
    Vector("U31-4.14.4", target("guarded", old_size=8), 0, release="4.14.4"),
    Vector("U31-4.16.0", target("guarded", old_size=8), 0, release="4.16.0"),
    Vector("U31-poison-4.17", target("sealed", old_size=8), EINVAL),
    Vector("U31-poison-4.16", target("sealed", old_size=8), 0, release="4.16.7"),
    Vector("U32", rec(new_addr=0, new_size=32, old_size=40), EOPNOTSUPP),
    Vector("U32-31", rec(new_addr=0, new_size=31, old_size=40), 0),
    Vector("U33", rec(new_addr=0, new_size=12, old_size=10), EINVAL),
    Vector("U33-10", rec(new_addr=0, new_size=10, old_size=10), 0),
    Vector("U33-arm64", rec(new_addr=0, new_size=12, old_size=10), 0, arch=ARM64),
    Vector("U34", rec(new_addr=0, new_size=6), EOPNOTSUPP, arch=ARM64),
    Vector("U34-arm32", rec(new_addr=0, new_size=6), EOPNOTSUPP, arch=ARM32),
    Vector("U36", rec(new_addr=0xFFFF82D040200100 - (1 << 31)), EOVERFLOW),
    Vector("U36-inside", rec(new_addr=0xFFFF82D040200100 - (1 << 31) + 1), 0),
    Vector("U36-below", rec(new_addr=0xFFFF82D040200100 + (1 << 31)), 0),
    Vector("U36-below-1", rec(new_addr=0xFFFF82D040200100 + (1 << 31) + 1), EOVERFLOW),
    Vector("U37", drop(".livepatch.funcs"), EINVAL, step="mandatory-sections"),
    Vector("U37-v1", drop(".livepatch.funcs"), EINVAL, release="4.13.5"),
    Vector("U38", hooks_only, 0),
    Vector("U38-v1", hooks_only, EINVAL, release="4.13.5"),
    Vector("U39", lambda draft: add_hook(draft, "load"), EINVAL, step="mandatory-sections"),
    Vector("U39-4.13", lambda draft: add_hook(draft, "load"), 0, release="4.13.5"),
    Vector("U39-4.8", lambda draft: add_hook(draft, "load"), 0, release="4.8.0"),
    Vector(
        "U40", lambda draft: add_hook(draft, "preapply", "new_function", "new_function"), EINVAL,
        step="hooks",
    ),
    Vector("U41", drop(".livepatch.xen_depends"), EINVAL, step="mandatory-sections"),
    Vector("U41-4.20", drop(".livepatch.xen_depends"), EINVAL, "4.20.0", step="xen-depends"),
    Vector("U42", replace(".livepatch.xen_depends", note(OTHER_XEN_ID)), EINVAL,
           step="xen-depends"),
    Vector("U43", replace(".note.gnu.build-id", note(PAYLOAD_ID, kind=1)), EINVAL),
    Vector("U43-4.18.3", replace(".note.gnu.build-id", note(PAYLOAD_ID, kind=1)), EINVAL, "4.18.3"),
    Vector("U43-4.18.4", replace(".note.gnu.build-id", note(PAYLOAD_ID, kind=1)), ENODATA,
           "4.18.4"),
    Vector("U43-depends", replace(".livepatch.depends", note(PAYLOAD_ID, kind=1)), ENODATA,
           "4.20.0"),
    Vector("U43-xen", replace(".livepatch.xen_depends", note(PAYLOAD_ID, kind=1)), EINVAL,
           "4.20.0"),
    Vector("U43-name", replace(".note.gnu.build-id", note(PAYLOAD_ID, name=b"XEN\0")), EINVAL),
    Vector("U44", replace(".note.gnu.build-id", note(b"", descsz=0) + bytes(8)), EINVAL),
    Vector("U44-overflow", replace(".note.gnu.build-id", note(b"abcd", descsz=5)), EINVAL),
    Vector("U45", symbol("answer", ".text.new", 4), EEXIST, step="symbol-table"),
    Vector("U45-override", symbol("answer", ".text.new", 0), 0),
    Vector("U45-local", symbol("answer", ".rodata", 0, info=0), EEXIST),
    Vector("U47", section(name=".modinfo", data=b"a=b"), EINVAL, step="modinfo"),
    Vector("U47-nul", section(name=".modinfo", data=b"a=b\0"), 0),
    Vector("U47-v1", section(name=".modinfo", data=b"a=b"), 0, release="4.13.5"),
    Vector("U47-empty", section(name=".modinfo", data=b""), HAZARD),
    Vector("U48-12", section(name=".ex_table", data=bytes(12)), EINVAL, step="exception-table"),
    Vector("U48-16", section(name=".ex_table", data=bytes(16)), 0),
    Vector("U48-0-4.9", section(name=".ex_table", data=b""), EINVAL, release="4.9.4"),
    Vector("U48-0-4.10", section(name=".ex_table", data=b""), 0, release="4.10.0"),
    Vector("U49", section(name=".ex_table"), EOPNOTSUPP, arch=ARM64, step="exception-table"),
    Vector("U49-calls", section(name=".alt_call_sites"), EOPNOTSUPP, "4.21.0", ARM64),
    Vector("U49-calls-4.20", section(name=".alt_call_sites"), 0, "4.20.3", ARM64),
    Vector("U50", alternatives(replacement=False), EINVAL, "4.18.0", step="alternatives"),
    Vector("U50-4.17.4", alternatives(replacement=False), EINVAL, "4.17.4"),
    Vector("U50-4.17.3", alternatives(replacement=False), 0, "4.17.3"),
    Vector("U50-last", alternatives(at=15), 0),
    Vector("U50-behind", alternatives(at=16), EINVAL, step="alternatives"),
    Vector("U50-empty-behind", alternatives(at=16, size=0, repl_bytes=0), 0),
    Vector("U50-empty-outside", alternatives(at=17, size=0, repl_bytes=0), EINVAL),
    Vector("U50-before", alternatives(at=-1), EINVAL, step="alternatives"),
    Vector("U50-not-placed", alternatives(flags=0), EINVAL, step="alternatives"),
    Vector("U51-neighbour", alternatives(), 0, "4.20.0"),
    Vector("U51-4.20", alternatives(repl_bytes=2), ENOSPC, "4.20.0", step="alternatives"),
    Vector("U51-4.18.4", alternatives(repl_bytes=2), ENOSPC, "4.18.4"),
    Vector("U51-4.17", alternatives(repl_bytes=2), HAZARD),
    Vector("U51-feature", alternatives(feature=0x7FFF), -34, "4.20.0"),
    Vector("U52", section(name=".livepatch.funcs", data=b"ignored"), 0),
    Vector("U54", symbol("$t.x", ".text.new"), EINVAL, arch=ARM32, step="symbol-names"),
    Vector("U54-$tx", symbol("$tx", ".text.new"), 0, arch=ARM32),
    Vector("U54-arm64", symbol("$t.x", ".text.new", 4), 0, arch=ARM64),
)  # fmt: skip


def answer_of(vector: Vector) -> tuple[int | str, str]:
    """Upload a vector's payload into a fresh hypervisor."""
    wanted = release(vector.release)
    draft = minimal(vector.arch, version=wanted.payload_version)
    vector.change(draft)
    hv = Hypervisor(tiny_xen(vector.arch), wanted)
    before = hv.memory.digest()
    try:
        answer = hv.upload(b"test\0", draft.build())
    except Hazard as hazard:
        return HAZARD, hazard.step
    if answer.code:
        assert hv.memory.digest() == before, "a refused upload leaves nothing"
        assert not hv.arena.in_use()
        assert hv.stamp == 1
        assert answer.reason
    return answer.code, answer.step


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_upload_vector(vector: Vector) -> None:
    code, step = answer_of(vector)
    assert code == vector.verdict, step
    if vector.step:
        assert step == vector.step


def test_no_number_is_left_out() -> None:
    single = {"U2", "U3", "U4", "U5", "U6", "U35", "U46", "U53"}
    found = {vector.id.partition("-")[0] for vector in VECTORS} | single
    assert found == {f"U{number}" for number in range(1, 55)}
