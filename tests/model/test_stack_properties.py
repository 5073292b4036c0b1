# SPDX-License-Identifier: Apache-2.0
"""Any order of operations on any stack: bytes come back, nothing leaks, the state stays sane."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.payloads import ALLOC, WRITE, XEN_ID, Sec, minimal
from tests.kit.tiny_xen import allocated, tiny_xen
from xsplice_plugins.hypervisor import Command, Hypervisor, State, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch

IMAGES = {arch.name: tiny_xen(arch) for arch in (X86_64, ARM64, ARM32)}
TARGETS = ("xen_extra_version", "guarded", "answer", "common/busy.c#busy")
IDS = tuple(bytes([0xA0 + index]) * 20 for index in range(4))
RELEASES = ("4.8.0", "4.10.0", "4.13.5", "4.14.0", "4.16.3", "4.17.5", "4.19.0", "4.22.0")


def payload(arch: Arch, version: int, index: int, depends: int, *, has_data: bool) -> bytes:
    """Build payload number ``index`` on top of ``depends`` (-1: on Xen)."""
    draft = minimal(
        arch,
        version=version,
        target=TARGETS[index % 2],
        build_id=IDS[index],
        depends=XEN_ID if depends < 0 else IDS[depends],
        by_name=True,
    )
    if has_data:
        draft.sections.append(Sec(".data", b"12345678", flags=ALLOC | WRITE))
    return draft.build()


payloads = st.lists(
    st.tuples(st.integers(-1, 3), st.booleans()), min_size=4, max_size=4
)  # what each depends on, and whether it has data
operations = st.lists(
    st.tuples(
        st.sampled_from(["upload", *Command]),
        st.integers(0, 3),
        st.integers(0, 1),
        st.booleans(),
    ),
    max_size=40,
)


def check(hv: Hypervisor, before: str) -> None:
    """Test what must hold after every single operation."""
    assert [p for p in hv.payloads if p.state == State.APPLIED] == sorted(
        hv.applied, key=hv.payloads.index
    )
    assert len(hv.arena.in_use()) == len(hv.payloads)
    if not hv.applied:
        assert hv.memory.digest(owner="xen") == before
    for function in (f for p in hv.payloads for f in p.functions):
        owner = next(p for p in hv.payloads if function in p.functions)
        assert function.is_applied == (owner.state == State.APPLIED)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    arch=st.sampled_from([X86_64, ARM64, ARM32]),
    name=st.sampled_from(RELEASES),
    stack=payloads,
    todo=operations,
)
def test_any_order_of_operations_restores_every_byte_and_leaks_nothing(
    arch: Arch,
    name: str,
    stack: list[tuple[int, bool]],
    todo: list[tuple[str | Command, int, int, bool]],
) -> None:
    wanted = release(name)
    hv = Hypervisor(IMAGES[arch.name], wanted)
    files = [
        payload(arch, wanted.payload_version, index, depends, has_data=has_data)
        for index, (depends, has_data) in enumerate(stack)
    ]
    before = hv.memory.digest(owner="xen")
    for command, index, flags, waits in todo:
        label = b"p%d\0" % index
        if isinstance(command, Command):
            hv.action(label, command, flags=flags)
            if not waits:
                hv.run_pending()
                check(hv, before)
        else:
            hv.upload(label, files[index])
    hv.run_pending()
    for item in reversed(list(hv.applied)):
        assert hv.action(item.name.encode() + b"\0", Command.REVERT).code == 0
        hv.run_pending()
        check(hv, before)
    for item in list(hv.payloads):
        assert hv.action(item.name.encode() + b"\0", Command.UNLOAD).code == 0
    assert not hv.arena.in_use()
    assert not allocated(hv)
    assert hv.memory.digest(owner="xen") == before
