# SPDX-License-Identifier: Apache-2.0
"""A hypervisor of a few functions that call each other, and records of a payload for it."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import TYPE_CHECKING

from msgspec import structs

from tests.kit.tiny_xen import PAGE, tiny_xen
from xsplice_plugins.artefacts import PayloadRecord, ReplacedFunction
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol, Region
from xsplice_plugins.hypervisor.image.memory import RO, RX, Perm

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
    function = structs.replace(
        made.functions[0], name=name, addr_old_virt=image.symbols[name].addr_virt
    )
    return structs.replace(made, functions=(function,))


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


def compiled(folder: Path, text: str) -> bytes:
    source = folder / "input.c"
    source.write_text(text)
    out = folder / "input.o"
    subprocess.run(["gcc", "-O2", "-c", str(source), "-o", str(out)], check=True)
    return out.read_bytes()
