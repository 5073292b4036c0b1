# SPDX-License-Identifier: Apache-2.0
"""No input, however damaged, gets anything out of the model but the model's own verdicts."""

from __future__ import annotations

import random

import pytest

from tests.kit.mutate import mutate, rich
from tests.kit.tiny_xen import allocated, tiny_xen
from xsplice_plugins.hypervisor import BootedImage, Command, Hazard, Hypervisor, errno_text, release
from xsplice_plugins.hypervisor.facts.arches import ARM32, ARM64, X86_64, Arch

INPUTS_PER_GROUP = 1_600
GROUPS = (
    (X86_64, "4.7.0"),
    (X86_64, "4.7.6"),
    (X86_64, "4.9.4"),
    (X86_64, "4.13.5"),
    (X86_64, "4.14.0"),
    (X86_64, "4.16.7"),
    (X86_64, "4.17.0"),
    (X86_64, "4.17.5"),
    (X86_64, "4.20.3"),
    (X86_64, "4.22.0"),
    (ARM64, "4.8.0"),
    (ARM64, "4.17.5"),
    (ARM64, "4.21.0"),
    (ARM32, "4.17.5"),
)


def judge(data: bytes, image: BootedImage, name: str) -> str:
    """Upload, apply, revert and unload; give the outcome in a word."""
    hv = Hypervisor(image, release(name), hook_runner=lambda *_: 0)
    code_before = hv.memory.digest(code_only=True)
    try:
        answer = hv.upload(b"damaged\0", data)
        if answer.code == 0:
            for command in (Command.APPLY, Command.REVERT, Command.UNLOAD):
                answer = hv.action(b"damaged\0", command)
                hv.run_pending()
                assert answer.code == 0 or not errno_text(answer.code).startswith("Unknown")
    except Hazard as hazard:
        return "hazard" if hazard.step and hazard.reason else "hazard without a reason"
    if hv.payloads:
        # A refused action leaves the payload loaded; nothing of Xen's own code may differ.
        assert hv.payloads[0].state.name == "CHECKED"
    else:
        assert not hv.arena.in_use()
        assert not allocated(hv)
    assert hv.memory.digest(owner="xen", code_only=True) == code_before
    if answer.code:
        assert not errno_text(answer.code).startswith("Unknown")
        return "refused"
    return "accepted"


@pytest.mark.parametrize(("arch", "name"), GROUPS, ids=lambda value: getattr(value, "name", value))
def test_damage_gives_verdicts_and_nothing_else(arch: Arch, name: str) -> None:
    image = tiny_xen(arch)
    valid = rich(arch, release(name)).build()
    assert judge(valid, image, name) == "accepted"
    rng = random.Random(f"{arch.name} {name}")  # noqa: S311  # reproducible, not secret
    seen = {judge(mutate(valid, rng), image, name) for _ in range(INPUTS_PER_GROUP)}
    assert seen == {"accepted", "refused", "hazard"}
