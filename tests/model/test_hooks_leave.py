# SPDX-License-Identifier: Apache-2.0
"""What a hook may take of a CPU, and how it has to leave it; each rule beside what keeps it."""

from __future__ import annotations

import pytest

from tests.kit.acting import do, fresh, returning, state, with_hook
from tests.kit.payloads import minimal
from tests.model.test_running_host import SIZE, calling
from xsplice_plugins.hypervisor import Command, Hazard, Unknown

HOOKS = ("preapply", "load", "postapply")


def applied(kind: str, code: str) -> tuple[str, int]:
    """Apply a payload with one hook that does this and returns zero; give state and rc."""
    hv = fresh(("a", with_hook(minimal(), kind, bytes.fromhex(code) + returning(0))))
    do(hv, "a", Command.APPLY)
    return state(hv, "a")


def hazard(kind: str, code: str) -> str:
    with pytest.raises(Hazard) as caught:
        applied(kind, code)
    assert not isinstance(caught.value, Unknown), caught.value
    return caught.value.reason


def framed(size_bytes: int) -> str:
    """Write to the far end of a frame of the stack."""
    size = size_bytes.to_bytes(4, "little").hex()
    return f"4881ec{size} c6042401 4881c4{size}"  # sub rsp; movb $1, (%rsp); add rsp


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_has_what_is_left_of_a_stack_of_8_kib(kind: str) -> None:
    assert applied(kind, framed(5000)) == ("APPLIED", 0)
    for size_bytes in (5700, 12_000, 200_000):
        assert "overruns Xen's stack at a_hook" in hazard(kind, framed(size_bytes)).replace(
            f"{kind}_a1", "a_hook"
        )


@pytest.mark.parametrize(("size_bytes", "is_enough"), [(4400, True), (4800, False)])
def test_what_a_hook_calls_needs_stack_too(size_bytes: int, *, is_enough: bool) -> None:
    size = size_bytes.to_bytes(4, "little").hex()
    hv = calling(("_xmalloc", f"4881ec{size} {SIZE}"), end=f"4881c4{size}")
    if is_enough:
        assert do(hv, "a", Command.APPLY) == 0
    else:
        with pytest.raises(Hazard, match="overruns Xen's stack at _xmalloc"):
            do(hv, "a", Command.APPLY)
