# SPDX-License-Identifier: Apache-2.0
"""The bytes that are written over old functions, against the numbers of docs/loader.md#patching."""

from __future__ import annotations

import pytest

from tests.kit.payloads import minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Command, CpuProfile, Hazard, Hypervisor, release
from xsplice_plugins.hypervisor.act.patching import patch, unpatch
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch
from xsplice_plugins.hypervisor.facts.cpu import EPYC, K8, ideal_nops
from xsplice_plugins.hypervisor.image.alternatives import ENDBR64
from xsplice_plugins.hypervisor.image.memory import RO, RW, RX, Lift, Memory, MemorySegment
from xsplice_plugins.hypervisor.state.payload import Function

PAGE = 4096


def patched(
    arch: Arch, old: int, new: int, head: bytes, *, new_size: int = 0, name: str = "4.17.5"
) -> tuple[bytes, Function]:
    """Patch one function in a page of its own, and see that unpatching restores it."""
    xen = Hypervisor(tiny_xen(arch), release(name))
    base = old & ~(PAGE - 1)
    data = bytearray(b"\xcc" * PAGE)
    data[old - base : old - base + len(head)] = head
    xen.memory.map(MemorySegment(addr_virt=base, data=data, perm=RX, name="text", owner="xen"))
    before = bytes(data)
    function = Function(
        record_virt=0,
        name_virt=0,
        name="f",
        new_virt=new,
        old_virt=old,
        new_size_bytes=new_size,
        old_size_bytes=64,
        expectation=None,
    )
    xen.memory.lift = Lift.ALL
    patch(function, xen)
    result = bytes(data[old - base : old - base + 16])
    unpatch(function, xen)
    assert bytes(data) == before
    return result, function


@pytest.mark.parametrize(
    ("head", "name", "wanted"),
    [
        (ENDBR64, "4.17.5", ENDBR64 + bytes.fromhex("e907006000")),
        (b"\x90" * 4, "4.17.5", bytes.fromhex("e90b006000")),
        (ENDBR64, "4.14.4", bytes.fromhex("e90b006000")),
        (bytes.fromhex("660f1f01"), "4.17.0", bytes.fromhex("660f1f01e907006000")),
        (bytes.fromhex("660f1f01"), "4.16.7", bytes.fromhex("e90b006000")),
    ],
    ids=["endbr", "plain", "unaware", "poison", "poison-unknown"],
)
def test_x86_jump_of_the_worked_example(head: bytes, name: str, wanted: bytes) -> None:
    found, _ = patched(X86_64, 0xFFFF82D080200000, 0xFFFF82D080800010, head, name=name)
    assert found.startswith(wanted)


def test_arm_branches_of_the_worked_example() -> None:
    found, _ = patched(ARM64, 0x204000, 0xA00000, b"")
    assert found[:4] == (0x141FF000).to_bytes(4, "little")
    found, _ = patched(ARM32, 0x204000, 0xA00000, b"")
    assert found[:4] == (0xEA1FEFFE).to_bytes(4, "little")


def test_arm64_plus_128_mib_passes_the_load_test_and_cannot_be_encoded() -> None:
    with pytest.raises(Hazard, match="cannot be encoded"):
        patched(ARM64, 0x204000, 0x204000 + (128 << 20), b"")
    found, _ = patched(ARM64, 0x10000000, 0x10000000 - (128 << 20), b"")
    assert found[:4] == (0x16000000).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("arch", "head", "size", "wanted"),
    [
        (X86_64, b"", 9, "660f1f8400000000 00"),
        (X86_64, b"", 11, "660f1f840000000000 6690"),
        (X86_64, ENDBR64, 6, "f30f1efa 6690"),
        (ARM64, b"", 8, "1f2003d51f2003d5"),
        (ARM32, b"", 4, "0000a0e1"),
    ],
)
def test_nop_records(arch: Arch, head: bytes, size: int, wanted: str) -> None:
    found, function = patched(arch, 0x204000, 0, head, new_size=size)
    assert found[:size].hex() == wanted.replace(" ", "")
    assert found[size:] == (b"\xcc" * 16)[size:]
    assert len(function.saved) == size - function.patch_offset


def test_nops_of_endbr64_only_write_nothing_and_fewer_underflow() -> None:
    found, function = patched(X86_64, 0x204000, 0, ENDBR64, new_size=4)
    assert found[:4] == ENDBR64
    assert function.saved == b""
    with pytest.raises(Hazard, match="underflow"):
        patched(X86_64, 0x204000, 0, ENDBR64, new_size=3)


@pytest.mark.parametrize("length", range(41))
@pytest.mark.parametrize("cpu", [EPYC, K8], ids=lambda cpu: cpu.name)
def test_nops_fill_exactly(cpu: CpuProfile, length: int) -> None:
    assert len(ideal_nops(cpu, length)) == length


@pytest.mark.parametrize(
    ("lift", "text", "rodata"),
    [
        (Lift.NONE, False, False),
        (Lift.TEXT, True, False),
        (Lift.TEXT_AND_RODATA, True, True),
        (Lift.ALL, True, True),
    ],
)
def test_write_protection_is_lifted_as_far_as_the_release_does(
    lift: Lift, text: bool, rodata: bool
) -> None:
    memory = Memory()
    memory.lift = lift
    assert (memory.may_write(RX), memory.may_write(RO)) == (text, rodata)
    assert memory.may_write(RW)


def test_text_is_write_protected_but_for_the_patching() -> None:
    memory = Memory()
    memory.map(MemorySegment(addr_virt=0, data=bytearray(PAGE), perm=RX, name="text", owner="xen"))
    with pytest.raises(Hazard, match="text is read-only"):
        memory.write(0, b"x")
    memory.lift = Lift.ALL
    memory.write(0, b"x")


def test_a_payload_writes_five_bytes_and_no_other() -> None:
    hv = Hypervisor(tiny_xen(), release("4.17.5"))
    text = hv.memory.segments()[0]
    before = bytes(text.data)
    hv.upload(b"a\0", minimal().build())
    assert bytes(text.data) == before
    hv.action(b"a\0", Command.APPLY)
    hv.run_pending()
    function = hv.payloads[0].functions[0]
    disp = function.new_virt - (text.addr_virt + 0x105)
    wanted = bytearray(before)
    wanted[0x100:0x105] = b"\xe9" + disp.to_bytes(4, "little", signed=True)
    assert text.data == wanted
    assert hv.memory.lift is Lift.NONE
