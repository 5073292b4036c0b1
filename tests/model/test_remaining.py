# SPDX-License-Identifier: Apache-2.0
"""What hooks leave in the hypervisor for good is said, and changes no verdict."""

from __future__ import annotations

import pytest

from tests.kit.acting import do, fresh
from tests.kit.payloads import minimal
from tests.model.test_failing_actions import BORROW, GIVE_BACK, draft_of, proof
from xsplice_plugins.hypervisor import Command
from xsplice_plugins.hypervisor.proof.remaining import remaining, xens_data

SET = ("c7050000000005000000", [(2, 2, "counter", -8)])  # movl $5, counter(%rip)
RESET = ("c7050000000000000000", [(2, 2, "counter", -8)])  # movl $0, counter(%rip)
KEEPS = "counter keeps what hooks wrote after the unload"
ALLOCATED = "100 bytes that hooks allocated stay allocated after the unload"


@pytest.mark.parametrize("kind", ["load", "unload", "postrevert"])
def test_value_that_no_hook_puts_back_is_said(kind: str) -> None:
    report = proof(draft_of(**{kind: (SET,)}))
    assert (report.verdict, report.remarks) == ("proved", (KEEPS,))


@pytest.mark.parametrize("undone", ["unload", "postrevert"])
def test_value_that_a_hook_puts_back_is_not(undone: str) -> None:
    report = proof(draft_of(load=(SET,), **{undone: (RESET,)}))
    assert (report.verdict, report.remarks) == ("proved", ())


def test_memory_that_no_hook_frees_is_said() -> None:
    report = proof(draft_of(postapply=(BORROW,)))
    assert (report.verdict, report.remarks) == ("proved", (ALLOCATED,))


def test_memory_that_a_hook_frees_is_not() -> None:
    report = proof(draft_of(postapply=(BORROW,), postrevert=(GIVE_BACK,)))
    assert (report.verdict, report.remarks) == ("proved", ())


def test_both_are_said() -> None:
    report = proof(draft_of(load=(SET,), postapply=(BORROW,)))
    assert report.remarks == (KEEPS, ALLOCATED)


def test_payload_without_hooks_leaves_nothing() -> None:
    hv = fresh(("a", minimal()))
    before = xens_data(hv)
    for command in (Command.APPLY, Command.REVERT, Command.UNLOAD):
        do(hv, "a", command)
    assert remaining(hv, before) == ()
