# SPDX-License-Identifier: Apache-2.0
"""Remarks on what a payload reaches: when its functions run, and what keeps the old value."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kit.payloads import Sec, minimal
from tests.kit.tiny_xen import PAGE, tiny_xen
from xsplice_plugins.artefacts import Finding, PayloadRecord, ReplacedFunction, Severity
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol, Region
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch
from xsplice_plugins.hypervisor.image.memory import RO, RX, Perm
from xsplice_plugins.verify.callgraph import read_calls
from xsplice_plugins.verify.effects import effect_findings

if TYPE_CHECKING:
    from pathlib import Path

TEXT = 0xFFFF82D040200000
INIT = TEXT + 0x100000
TABLES = TEXT + 0x200000
STRIDE = 64
RET = b"\xc3"
#: Function to those that it calls.
CALLS = {
    "start_secondary": ("identify_cpu",),
    "identify_cpu": ("set_up_cpu",),
    "set_up_cpu": (),
    "init_vendor": ("tune_vendor",),
    "tune_vendor": (),
    "cpu_callback": (),
    "do_nmi": ("count_nmi", "fatal_trap"),
    "count_nmi": (),
    "fatal_trap": ("show_registers",),
    "show_registers": (),
    "kexec_crash": ("save_note",),
    "save_note": (),
    "do_domctl": ("shared", "set_domain"),
    "set_domain": (),
    "shared": (),
    "file.c#first_cpu": (),
    "late": (),
    "taken": (),
    "start_secondary_too": ("shared",),
    "power.c#enter_state_helper": ("set_up_again",),
    "set_up_again": (),
    "set_up_once": ("boot_and_later",),
    "set_up_any_time": ("later_and_boot",),
    "boot_and_later": (),
    "later_and_boot": (),
    "do_sysctl": ("boot_and_later", "later_and_boot", "set_up_any_time"),
    "called_and_handed": (),
    "worker": (),
    "z_handed": ("worker",),
}
INIT_CALLS = {
    "start_xen": (
        *("identify_cpu", "late", "file.c#first_cpu", "set_up_again", "set_up_once"),
        *("set_up_any_time", "called_and_handed", "worker"),
    )
}
#: What `start_xen` hands on, as to a timer.
HANDED = ("taken", "called_and_handed", "z_handed")
#: Table to what it points at.
POINTERS = {
    "amd_cpu_dev": "init_vendor",
    "tick.c#cpu_nfb": "cpu_callback",
    "hypercalls": "do_domctl",
}


def image() -> BootedImage:
    """Lay the functions out, 64 bytes each, and let them call each other."""
    places = {name: TEXT + STRIDE * n for n, name in enumerate(CALLS)}
    places |= {name: INIT + STRIDE * n for n, name in enumerate(INIT_CALLS)}
    tables = {name: TABLES + 8 * n for n, name in enumerate(POINTERS)}
    text, init = bytearray(b"\xcc" * PAGE), bytearray(b"\xcc" * PAGE)
    for calls, area, start in ((CALLS, text, TEXT), (INIT_CALLS, init, INIT)):
        for name, callees in calls.items():
            code = b""
            for callee in callees:
                end = places[name] + len(code) + 5
                code += b"\xe8" + (places[callee] - end).to_bytes(4, "little", signed=True)
            for taken in HANDED if name == "start_xen" else ():  # lea rdi, [taken]
                end = places[name] + len(code) + 7
                code += b"\x48\x8d\x3d" + (places[taken] - end).to_bytes(4, "little", signed=True)
            at = places[name] - start
            area[at : at + len(code) + 1] = code + RET
    data = b"".join(places[target].to_bytes(8, "little") for target in POINTERS.values())
    symbols = [
        *(
            KnownSymbol(name=n, addr_virt=a, size_bytes=STRIDE, is_function=True)
            for n, a in places.items()
        ),
        *(
            KnownSymbol(name=n, addr_virt=a, size_bytes=8, is_function=False)
            for n, a in tables.items()
        ),
    ]
    return dataclasses.replace(
        tiny_xen(),
        regions=(
            Region(name="text", addr_virt=TEXT, data=bytes(text), perm=RX),
            Region(name="init", addr_virt=INIT, data=bytes(init), perm=Perm.NONE),
            Region(name="rodata", addr_virt=TABLES, data=data.ljust(PAGE, b"\0"), perm=RO),
        ),
        symbols={symbol.name: symbol for symbol in symbols},
    )


IMAGE = image()


def record_at(name: str, image: BootedImage) -> PayloadRecord:
    """Return the record of a function of another image than the usual one."""
    made = record("shared")
    function = dataclasses.replace(
        made.functions[0], name=name, addr_old_virt=image.symbols[name].addr_virt
    )
    return dataclasses.replace(made, functions=(function,))


def record(
    name: str, *, reason: str = "its instructions changed", size: int = STRIDE
) -> PayloadRecord:
    function = ReplacedFunction(
        name=name,
        addr_old_virt=IMAGE.symbols[name].addr_virt,
        size_old_bytes=size,
        size_new_bytes=size,
        section_new=".text",
        expect="",
        expect_note="",
        reason=reason,
        object_path="common/file.o",
    )
    return PayloadRecord(
        name="fix",
        release="4.17.5",
        machine=62,
        build_id="",
        depends="",
        xen_depends="",
        digest="",
        size_bytes=0,
        functions=(function,),
        new=(),
        hooks=(),
        references=(),
    )


@pytest.fixture(scope="session")
def other_object(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Compile an object that holds none of the functions."""
    return compiled(tmp_path_factory.mktemp("other"), "int unrelated;")


def compiled(folder: Path, text: str) -> bytes:
    source = folder / "input.c"
    source.write_text(text)
    out = folder / "input.o"
    subprocess.run(["gcc", "-O2", "-c", str(source), "-o", str(out)], check=True)
    return out.read_bytes()


CPU = "runs only when a CPU comes up"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("identify_cpu", f"`identify_cpu` {CPU} (`start_secondary` -> `identify_cpu`)"),
        ("set_up_cpu", f"{CPU} (`start_secondary` -> `identify_cpu` -> `set_up_cpu`)"),
        ("set_up_cpu", "; what it stored at boot is the old code's"),
        ("set_up_again", f"{CPU} (`enter_state_helper` -> `set_up_again`)"),
        ("set_up_again", "; what it stored at boot is the old code's"),
        ("init_vendor", f"{CPU} (`amd_cpu_dev` -> `init_vendor`)"),
        ("tune_vendor", f"{CPU} (`amd_cpu_dev` -> `init_vendor` -> `tune_vendor`)"),
        ("cpu_callback", "only when a CPU comes or goes (`cpu_nfb` -> `cpu_callback`)"),
        ("late", "`late` runs only while the host boots (`start_xen` -> `late`)"),
        ("file.c#first_cpu", "`first_cpu` runs only while the host boots"),
        ("do_nmi", "`do_nmi` is reached from an NMI or a machine check"),
        ("count_nmi", "(`do_nmi` -> `count_nmi`)"),
        ("save_note", "the way into a crash kernel"),
    ],
)
def test_when_a_function_runs_is_said_with_the_chain(
    name: str, words: str, other_object: bytes
) -> None:
    (finding,) = effect_findings(other_object, record(name), IMAGE)
    assert words in finding.text
    assert (finding.check, finding.severity, finding.subject) == ("effect", Severity.WARNING, name)


@pytest.mark.parametrize(
    "name", ["shared", "set_domain", "do_domctl", "show_registers", "taken", "z_handed"]
)
def test_functions_that_run_at_any_time_get_no_remark(name: str, other_object: bytes) -> None:
    """One of them is reached from an NMI only where the host dies; two are stored by boot code."""
    assert effect_findings(other_object, record(name), IMAGE) == ()


@pytest.mark.parametrize("name", ["called_and_handed", "worker"])
def test_what_boot_code_hands_on_runs_later_though_boot_code_calls_it_too(
    name: str, other_object: bytes
) -> None:
    """It is a callback itself, or a callback calls it; `late` is only called."""
    assert effect_findings(other_object, record(name), IMAGE) == ()
    (finding,) = effect_findings(other_object, record("late"), IMAGE)
    assert "runs only while the host boots" in finding.text


def test_other_machines_get_no_remark(other_object: bytes) -> None:
    other = dataclasses.replace(IMAGE, arch=ARM32)
    assert read_calls(other).callers == {}
    assert effect_findings(other_object, record("identify_cpu"), other) == ()


@pytest.mark.parametrize(
    ("arch", "kind", "is_said"), [(ARM64, 1, True), (ARM64, 2, False), (X86_64, 1, False)]
)
def test_a_warn_that_comes_with_a_payload_is_no_warn_on_arm(
    arch: Arch, kind: int, *, is_said: bool
) -> None:
    draft = minimal(arch)
    draft.sections.append(Sec(f".bug_frames.{kind}", bytes(32), align=4))
    other = dataclasses.replace(IMAGE, arch=arch)
    found = effect_findings(draft.build(), record("identify_cpu"), other)
    said = [finding for finding in found if "a WARN in a payload stops the host" in finding.text]
    assert [finding.severity for finding in said] == [Severity.UNCHECKED] * is_said
    assert all(finding.text.startswith("2 WARN come with it") for finding in said)


def test_a_changed_callee_is_named(other_object: bytes) -> None:
    reason = "`helper` was inlined into `shared`"
    (finding,) = effect_findings(other_object, record("shared", reason=reason), IMAGE)
    assert finding.text == f"`shared` itself may be unchanged: {reason}"


SOURCE = """
struct timer {{ long pad[4]; unsigned char source; int other; }};
void shared(struct timer *t) {{ t->source = {source}; t->other = {other}; {more} }}
"""


def stores(tmp_path: Path, before: str, after: str) -> tuple[Finding, ...]:
    """Give the remarks for one version of the function replaced by another."""
    old = read_elf(compiled(tmp_path, before), "old").section_by_name[".text"].data
    new = compiled(tmp_path, after)
    text = bytearray(IMAGE.regions[0].data)
    start = IMAGE.symbols["shared"].addr_virt - TEXT
    text[start : start + len(old)] = old
    changed = dataclasses.replace(IMAGE.regions[0], data=bytes(text))
    patched = dataclasses.replace(IMAGE, regions=(changed, *IMAGE.regions[1:]))
    return effect_findings(new, record("shared", size=len(old)), patched)


def test_a_constant_that_lives_on_in_objects_is_said(tmp_path: Path) -> None:
    before = SOURCE.format(source=1, other=7, more="")
    (finding,) = stores(tmp_path, before, SOURCE.format(source=4, other=7, more=""))
    assert finding.text == (
        "`shared` stores 0x4 where it stored 0x1 (into objects at offset 0x20): those that exist "
        "keep the old value"
    )


@pytest.mark.parametrize(
    "after",
    [
        SOURCE.format(source=1, other=7, more=""),
        SOURCE.format(source=1, other=7, more="t->pad[0] = 3;"),  # a new store, no changed one
        "struct timer; void shared(struct timer *t) { }",
    ],
)
def test_what_stores_the_same_or_nothing_gets_no_remark(tmp_path: Path, after: str) -> None:
    assert stores(tmp_path, SOURCE.format(source=1, other=7, more=""), after) == ()


VECTOR = '{ asm volatile("pxor %%xmm0, %%xmm0" :: "r"(t)); }'
PLAIN = '{ asm volatile("lfence" :: "r"(t)); }'


@pytest.mark.parametrize(
    ("before", "after", "is_said"),
    [(PLAIN, VECTOR, True), (VECTOR, VECTOR, False), (VECTOR, PLAIN, False), (PLAIN, PLAIN, False)],
)
def test_a_register_of_guests_that_comes_to_be_used_is_said(
    tmp_path: Path, before: str, after: str, *, is_said: bool
) -> None:
    head = "void shared(void *t) "
    found = stores(tmp_path, head + before, head + after)
    assert [finding.severity for finding in found] == [Severity.WARNING] * is_said
    for finding in found:
        assert finding.text.startswith(
            "`shared` uses a register of floating-point or vectors (pxor xmm0,xmm0)"
        )


def test_a_payload_that_cannot_be_read_is_said() -> None:
    (finding,) = effect_findings(b"no ELF file", record("shared"), IMAGE)
    assert finding.severity is Severity.UNCHECKED
    assert finding.text.startswith("not looked at: fix: ")


def test_what_boot_called_and_still_runs_is_named(tmp_path: Path) -> None:
    """Boot code called it and it stored: with nothing stored, nothing is left."""
    image = with_boot_call("shared")
    code = read_elf(compiled(tmp_path, STORING), "old").section_by_name[".text"].data
    (finding,) = effect_findings(compiled(tmp_path, STORING), record("shared"), filled(image, code))
    assert finding.text == (
        "`shared` was called at boot by `boot_user`: what it stored then is the old code's"
    )
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(("name", "is_said"), [("boot_and_later", True), ("later_and_boot", False)])
def test_what_boot_called_through_others_is_named(
    tmp_path: Path, name: str, *, is_said: bool
) -> None:
    """What lies between runs at boot alone; else any function would be one that boot calls."""
    code = read_elf(compiled(tmp_path, STORING), "old").section_by_name[".text"].data
    found = effect_findings(
        compiled(tmp_path, STORING), record(name, size=len(code)), filled(IMAGE, code, name)
    )
    assert [finding.text for finding in found] == [
        f"`{name}` was called at boot by `set_up_once`: what it stored then is the old code's"
    ] * is_said


def test_what_a_vendors_table_leads_to_was_not_called_at_boot_for_certain(
    other_object: bytes,
) -> None:
    (finding,) = effect_findings(other_object, record("tune_vendor"), IMAGE)
    assert "stored at boot" not in finding.text


@pytest.mark.parametrize(
    "text", ["int shared(int *p) { return *p; }", "int shared(int a) { return a; }"]
)
def test_what_stores_nothing_left_nothing_at_boot(tmp_path: Path, text: str) -> None:
    code = read_elf(compiled(tmp_path, text), "old").section_by_name[".text"].data
    image = filled(with_boot_call("shared"), code)
    assert effect_findings(compiled(tmp_path, text), record("shared"), image) == ()


def test_a_return_by_way_of_a_thunk_stores_nothing(tmp_path: Path) -> None:
    other = compiled(tmp_path, "int unrelated;")
    place = IMAGE.symbols["shared"].addr_virt
    for name, said in (("__x86_return_thunk", 0), ("elsewhere", 1)):
        end = IMAGE.symbols["late"].addr_virt - (place + 5)
        image = filled(with_boot_call("shared"), b"\xe9" + end.to_bytes(4, "little", signed=True))
        symbols = {**image.symbols, name: dataclasses.replace(IMAGE.symbols["late"], name=name)}
        image = dataclasses.replace(image, symbols=symbols)
        assert len(effect_findings(other, record("shared", size=5), image)) == said


STORING = "void shared(int *p) { *p = 1; }"


def filled(image: BootedImage, code: bytes, name: str = "shared") -> BootedImage:
    """Give a function a body."""
    text = bytearray(image.regions[0].data)
    start = image.symbols[name].addr_virt - TEXT
    text[start : start + len(code)] = code
    changed = dataclasses.replace(image.regions[0], data=bytes(text))
    return dataclasses.replace(image, regions=(changed, *image.regions[1:]))


def with_boot_call(name: str) -> BootedImage:
    """Add a function to the boot code that calls another one."""
    place = INIT + 8 * STRIDE
    end = place + 5
    call = b"\xe8" + (IMAGE.symbols[name].addr_virt - end).to_bytes(4, "little", signed=True)
    init = bytearray(IMAGE.regions[1].data)
    init[place - INIT : place - INIT + 6] = call + RET
    symbol = KnownSymbol(name="boot_user", addr_virt=place, size_bytes=STRIDE, is_function=True)
    return dataclasses.replace(
        IMAGE,
        regions=(
            IMAGE.regions[0],
            dataclasses.replace(IMAGE.regions[1], data=bytes(init)),
            IMAGE.regions[2],
        ),
        symbols={**IMAGE.symbols, "boot_user": symbol},
    )


def arm_word(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def arm_image(code: bytes, boot: bytes) -> BootedImage:
    """Lay out two functions of arm64, 64 bytes each, and boot code behind them."""
    text, init = (code.ljust(PAGE, b"\0"), boot.ljust(PAGE, b"\0"))
    places = {"first": TEXT, "second": TEXT + STRIDE, "start_xen": INIT}
    symbols = {
        name: KnownSymbol(name=name, addr_virt=at, size_bytes=STRIDE, is_function=True)
        for name, at in places.items()
    }
    listing = KnownSymbol(
        name="symbols_addresses", addr_virt=TABLES, size_bytes=16, is_function=False
    )
    return dataclasses.replace(
        IMAGE,
        arch=ARM64,
        regions=(
            Region(name="text", addr_virt=TEXT, data=text, perm=RX),
            Region(name="init", addr_virt=INIT, data=init, perm=Perm.NONE),
            Region(
                name="rodata",
                addr_virt=TABLES,
                perm=RO,
                data=b"".join(at.to_bytes(8, "little") for at in places.values()),
            ),
        ),
        symbols={**symbols, "symbols_addresses": listing},
    )


@pytest.mark.parametrize(
    "branch",
    [
        0x94000000 | STRIDE // 4,  # bl
        0x14000000 | STRIDE // 4,  # b
        0x54000001 | STRIDE // 4 << 5,  # b.ne
        0xB4000003 | STRIDE // 4 << 5,  # cbz x3
        0x36000004 | STRIDE // 4 << 5,  # tbz w4, #0
    ],
)
def test_calls_of_arm64_are_read(branch: int) -> None:
    graph = read_calls(arm_image(arm_word(branch), b""))
    assert graph.callers == {"second": frozenset({"first"})}
    assert graph.takers == {}  # the list of all functions takes no address


@pytest.mark.parametrize(
    "word", [0x94000000 | STRIDE // 4 + 1, 0x54000010 | STRIDE // 4 << 5, 0x58000000 | 2 << 5]
)
def test_what_is_no_call_of_arm64_is_none(word: int) -> None:
    """A branch into a function, a branch that is none, a load."""
    assert read_calls(arm_image(arm_word(word), b"")).callers == {}


@pytest.mark.parametrize("gap", [0, 12])
def test_an_address_of_arm64_is_made_of_two_instructions(gap: int) -> None:
    nop = arm_word(0xD503201F)
    code = arm_word(0x90000000 | 3) + nop * gap + arm_word(0x91000000 | STRIDE << 10 | 3 << 5 | 3)
    takers = read_calls(arm_image(code, b"")).takers
    assert takers == ({"second": frozenset({"first"})} if gap == 0 else {})


def test_boot_code_of_arm64_is_told_apart(other_object: bytes) -> None:
    distance = (TEXT + STRIDE - INIT) // 4
    image = arm_image(b"", arm_word(0x94000000 | distance & 0x3FFFFFF))
    (finding,) = effect_findings(other_object, record_at("second", image), image)
    assert "`second` runs only while the host boots (`start_xen` -> `second`)" in finding.text
