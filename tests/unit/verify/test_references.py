# SPDX-License-Identifier: Apache-2.0
"""What the bytes of x86 code refer to: whole instructions count, parts of others do not."""

from __future__ import annotations

import pytest

from xsplice_plugins.hypervisor.facts.branches import byte_references

BASE = 0x1000
NOPS = b"\x90" * 16


def found(code: bytes) -> list[tuple[int, bool]]:
    """Return address and kind of what code refers to."""
    return [(target, is_branch) for _, target, is_branch in byte_references(code + NOPS, BASE)]


@pytest.mark.parametrize(
    ("code", "is_branch"),
    [
        (b"\xe8\x10\0\0\0", True),
        (b"\xe9\x10\0\0\0", True),
        (b"\x2e\xe9\x10\0\0\0", True),
        (b"\x0f\x84\x10\0\0\0", True),
        (b"\x48\x8d\x05\x10\0\0\0", False),
    ],
    ids=["call", "jmp", "jmp with a prefix", "je", "lea"],
)
def test_instruction_with_a_distance_is_a_reference(code: bytes, *, is_branch: bool) -> None:
    assert found(code) == [(BASE + len(code) + 0x10, is_branch)]


@pytest.mark.parametrize(
    "before",
    [b"\x4d\x89\xe8", b"\x0f\xae\xe8"],
    ids=["mov %r13,%r8", "lfence"],
)
def test_end_of_another_instruction_is_no_call(before: bytes) -> None:
    """Its last byte looks like the start of a call: two calls, one within the other."""
    call = b"\xe8\xf7\xed\xff\xff"
    assert found(before + call) == [(BASE + len(before) + 5 - 0x1209, True)]


def test_constant_is_no_call() -> None:
    assert found(b"\x48\xb8\0\0\0\xe8\x10\0\0\0") == []
