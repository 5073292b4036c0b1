# SPDX-License-Identifier: Apache-2.0
"""A hypervisor of three pages, for payloads that replace its few functions."""

from tests.kit.payloads import ENDBR64, XEN_ID
from xsplice_plugins.hypervisor import BootedImage, KnownSymbol, Region, Xen
from xsplice_plugins.hypervisor.facts.arches import X86_64, Arch
from xsplice_plugins.hypervisor.image.memory import RO, RW, RX, MemorySegment

PAGE = 4096
TEXT_VIRT = {"x86_64": 0xFFFF82D040200000, "arm64": 0x200000, "arm32": 0x200000}
EXTRA_VERSION = 0x100
GUARDED = 0x200
ANSWER = 0x300
SEALED = 0x400
BUSY = 0x500


def _text(arch: Arch, virt: int) -> bytes:
    out = bytearray((b"\xcc" if arch == X86_64 else b"\0") * PAGE)
    if arch == X86_64:
        lea = 0x1000 - (EXTRA_VERSION + 7)
        for place, code in (
            (EXTRA_VERSION, b"\x48\x8d\x05" + lea.to_bytes(4, "little") + b"\xc3" + b"\x90" * 5),
            (GUARDED, ENDBR64 + bytes.fromhex("b807000000c3") + b"\x90" * 6),
            (ANSWER, bytes.fromhex("b82a000000c3") + b"\x90" * 10),
            (SEALED, bytes.fromhex("660f1f01") + bytes.fromhex("b809000000c3") + b"\x90" * 6),
            (BUSY, bytes.fromhex("83c701897d00c3") + b"\x90" * 9),
        ):
            out[place : place + len(code)] = code
    return bytes(out)


def _by_name(*symbols: KnownSymbol) -> dict[str, KnownSymbol]:
    return {symbol.name: symbol for symbol in symbols}


def tiny_xen(
    arch: Arch = X86_64, *, build_id: bytes | None = XEN_ID, arena_bytes: int = 8 << 20
) -> BootedImage:
    """Make a hypervisor of three pages with a few functions."""
    virt = TEXT_VIRT[arch.name]
    functions = {
        "xen_extra_version": (EXTRA_VERSION, 13),
        "guarded": (GUARDED, 16),
        "answer": (ANSWER, 16),
        "sealed": (SEALED, 16),
        "common/busy.c#busy": (BUSY, 16),
    }
    return BootedImage(
        arch=arch,
        regions=(
            Region(name="text", addr_virt=virt, data=_text(arch, virt), perm=RX),
            Region(
                name="rodata",
                addr_virt=virt + PAGE,
                data=b"original\0".ljust(PAGE, b"\0"),
                perm=RO,
            ),
            Region(name="data", addr_virt=virt + 2 * PAGE, data=bytes(PAGE), perm=RW),
        ),
        symbols=_by_name(
            *(
                KnownSymbol(name=name, addr_virt=virt + offset, size_bytes=size, is_function=True)
                for name, (offset, size) in functions.items()
            ),
            KnownSymbol(
                name="words_of_xen", addr_virt=virt + PAGE, size_bytes=9, is_function=False
            ),
            KnownSymbol(name="counter", addr_virt=virt + 2 * PAGE, size_bytes=8, is_function=False),
        ),
        build_id=build_id,
        digest=f"{arch.name} {build_id!r}",
        arena=(virt + 3 * PAGE, virt + 3 * PAGE + arena_bytes),
    )


def allocated(xen: Xen) -> list[MemorySegment]:
    """Return what is mapped and does not belong to the image."""
    return [segment for segment in xen.memory.segments() if segment.owner != "xen"]
