# SPDX-License-Identifier: Apache-2.0
"""Actions, a numbered case each: the answer, ``rc`` and state of docs/loader.md#actions."""

from __future__ import annotations

import pytest

from tests.kit.acting import (
    ask,
    counter,
    counting_hook,
    do,
    fresh,
    load,
    returning,
    state,
    with_data,
    with_hook,
)
from tests.kit.payloads import (
    add_hook,
    expectation,
    minimal,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Command, Hazard, Host, Hypervisor
from xsplice_plugins.hypervisor.state.rendezvous import Cpu, CpuState

A_ID, B_ID, C_ID = b"\xa1" * 20, b"\xb2" * 20, b"\xc3" * 20


EAGAIN, EBUSY, EINVAL, ENOENT, EOPNOTSUPP, ERANGE = -11, -16, -22, -2, -95, -34


FIRST_BYTES = tiny_xen().regions[0].data[0x100:0x108]


def test_a1_apply_is_scheduled_then_done() -> None:
    hv = fresh(("a", minimal()))
    assert ask(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("CHECKED", EAGAIN)
    hv.run_pending()
    assert state(hv, "a") == ("APPLIED", 0)


@pytest.mark.parametrize("command", [Command.APPLY, Command.REPLACE])
def test_a2_applying_twice_does_nothing(command: Command) -> None:
    hv = fresh(("a", minimal()))
    do(hv, "a", Command.APPLY)
    before = hv.memory.digest()
    assert do(hv, "a", command) == 0
    assert state(hv, "a") == ("APPLIED", 0)
    assert hv.memory.digest() == before
    assert len(hv.applied) == 1


def test_a3_reverting_what_is_not_applied_does_nothing() -> None:
    hv = fresh(("a", minimal()))
    assert do(hv, "a", Command.REVERT) == 0
    assert state(hv, "a") == ("CHECKED", 0)


def test_a4_a5_only_checked_payloads_are_unloaded() -> None:
    hv = fresh(("a", minimal()))
    do(hv, "a", Command.APPLY)
    assert do(hv, "a", Command.UNLOAD) == EINVAL
    assert state(hv, "a") == ("APPLIED", 0)
    do(hv, "a", Command.REVERT)
    stamp = hv.stamp
    assert do(hv, "a", Command.UNLOAD) == 0
    assert hv.stamp == stamp + 1
    assert hv.get(b"a\0")[0].code == ENOENT
    assert not hv.arena.in_use()


@pytest.mark.parametrize("command", [1, 2, 3, 4, 9])
def test_a6_an_unknown_name(command: int) -> None:
    assert do(fresh(), "nobody", command) == ENOENT


@pytest.mark.parametrize("command", [0, 5, 9])
def test_a7_an_unknown_command(command: int) -> None:
    assert do(fresh(("a", minimal())), "a", command) == EOPNOTSUPP


@pytest.mark.parametrize(("name", "code"), [("4.14.0", EINVAL), ("4.13.5", 0)])
def test_a8_the_pad_word(name: str, code: int) -> None:
    version = 1 if name.startswith("4.13") else 2
    hv = fresh(("a", minimal(version=version)), name=name)
    assert do(hv, "a", Command.APPLY, pad=1) == code


def test_a8_the_pad_is_looked_at_before_the_name() -> None:
    assert do(fresh(), "nobody", Command.APPLY, pad=1) == EINVAL


@pytest.mark.parametrize("command", [1, 2, 3, 4, 9])
def test_a9_work_is_pending_on_this_payload(command: int) -> None:
    hv = fresh(("a", minimal()))
    ask(hv, "a", Command.APPLY)
    assert ask(hv, "a", command) == EBUSY
    assert state(hv, "a") == ("CHECKED", EAGAIN)


def test_a10_work_pending_on_another_payload_leaves_rc_stuck() -> None:
    hv = fresh(("a", minimal()), ("b", minimal(build_id=B_ID)))
    ask(hv, "a", Command.APPLY)
    assert ask(hv, "b", Command.APPLY) == EBUSY
    hv.run_pending()
    assert state(hv, "a") == ("APPLIED", 0)
    assert state(hv, "b") == ("CHECKED", EAGAIN)


def stack_of_two() -> Hypervisor:
    hv = fresh(("a", minimal()), ("b", minimal(build_id=B_ID, depends=A_ID)))
    assert (do(hv, "a", Command.APPLY), do(hv, "b", Command.APPLY)) == (0, 0)
    return hv


def test_a11_only_the_top_of_the_stack_is_reverted() -> None:
    hv = stack_of_two()
    assert do(hv, "a", Command.REVERT) == EBUSY
    assert state(hv, "a") == ("APPLIED", 0)
    assert do(hv, "b", Command.REVERT) == 0
    assert do(hv, "a", Command.REVERT) == 0
    assert not hv.applied


def test_a12_a13_a_payload_depends_on_the_top_unless_told_otherwise() -> None:
    hv = fresh(("a", minimal()), ("b", minimal(build_id=B_ID)))
    do(hv, "a", Command.APPLY)
    assert do(hv, "b", Command.APPLY) == EINVAL
    assert state(hv, "b") == ("CHECKED", 0)
    assert do(hv, "b", Command.APPLY, flags=1) == 0
    assert state(hv, "b") == ("APPLIED", 0)


def test_a14_replace_depends_on_xen() -> None:
    hv = fresh(("a", minimal()), ("c", minimal(build_id=C_ID, depends=A_ID)))
    do(hv, "a", Command.APPLY)
    assert do(hv, "c", Command.REPLACE, flags=1) == EINVAL
    assert state(hv, "c") == ("CHECKED", 0)


def test_a15_replace_reverts_all_others() -> None:
    hv = stack_of_two()
    load(hv, "c", minimal(build_id=C_ID))
    assert do(hv, "c", Command.REPLACE) == 0
    assert [state(hv, name) for name in "abc"] == [
        ("CHECKED", 0),
        ("CHECKED", 0),
        ("APPLIED", 0),
    ]
    assert [payload.name for payload in hv.applied] == ["c"]


@pytest.mark.parametrize("kind", ["preapply", "postapply", "prerevert", "postrevert"])
def test_a16_replace_refuses_hooks_it_cannot_run(kind: str) -> None:
    a = with_hook(minimal(), kind, returning(0))
    hv = fresh(("a", a), ("c", minimal(build_id=C_ID)))
    do(hv, "a", Command.APPLY)
    assert do(hv, "c", Command.REPLACE) == EOPNOTSUPP
    assert state(hv, "c") == ("CHECKED", 0)


def test_a16_action_hooks_do_not_stand_in_the_way_of_replace() -> None:
    a = minimal()
    add_hook(a, "load", "new_function")
    hv = fresh(("a", a), ("c", minimal(build_id=C_ID)))
    do(hv, "a", Command.APPLY)
    assert do(hv, "c", Command.REPLACE) == 0
    assert state(hv, "c") == ("APPLIED", 0)


def test_a17_a18_dirty_data_forbids_apply_and_not_replace() -> None:
    hv = fresh(("a", with_data(minimal())))
    do(hv, "a", Command.APPLY)
    do(hv, "a", Command.REVERT)
    assert do(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("CHECKED", EINVAL)
    assert do(hv, "a", Command.REPLACE) == 0
    assert state(hv, "a") == ("APPLIED", 0)


def test_a19_a_cpu_that_never_comes() -> None:
    cpus = [Cpu(number=0, state=CpuState.HYPERCALL), Cpu(number=1, is_stuck=True)]
    hv = fresh(("a", minimal()), host=Host(cpus=cpus))
    before = hv.memory.digest()
    assert do(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("CHECKED", EBUSY)
    assert hv.memory.digest() == before
    cpus[1].is_stuck = False
    assert do(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("APPLIED", 0)


@pytest.mark.parametrize(("name", "rc"), [("4.11.2", 0), ("4.11.3", EBUSY), ("4.17.5", EBUSY)])
def test_a20_an_active_waitqueue(name: str, rc: int) -> None:
    version = 1 if name.startswith("4.11") else 2
    hv = fresh(("a", minimal(version=version)), name=name, host=Host(has_waitqueue=True))
    assert do(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("CHECKED" if rc else "APPLIED", rc)


def test_a21_replace_under_a_waitqueue_leaves_nothing_applied() -> None:
    hv = fresh(("a", minimal()), ("c", minimal(build_id=C_ID)))
    do(hv, "a", Command.APPLY)
    hv.host.has_waitqueue = True
    assert do(hv, "c", Command.REPLACE) == 0
    assert state(hv, "a") == ("CHECKED", 0)
    assert state(hv, "c") == ("CHECKED", EBUSY)
    assert not hv.applied


@pytest.mark.parametrize(
    ("expect", "old_size", "code"),
    [
        (expectation(FIRST_BYTES), 13, 0),
        (expectation(b"\xde\xad"), 13, EINVAL),
        (expectation(b"\xde\xad", enabled=0), 13, 0),
        (expectation(FIRST_BYTES), 7, ERANGE),
        (expectation(FIRST_BYTES), 8, 0),
        (expectation(FIRST_BYTES, rsv=1), 13, EINVAL),
        (expectation(b"anything", length=0), 13, 0),
    ],
    ids=["match", "A22", "disabled", "A23", "A23-fits", "A24", "empty"],
)
def test_a22_a23_a24_expectations(expect: bytes, old_size: int, code: int) -> None:
    draft = minimal()
    draft.record(expect=expect, old_size=old_size)
    hv = fresh(("a", draft))
    assert do(hv, "a", Command.APPLY) == code
    assert state(hv, "a") == (("CHECKED", 0) if code else ("APPLIED", 0))


def test_a25_preapply_vetoes() -> None:
    hv = fresh(("a", with_hook(minimal(), "preapply", returning(-5))))
    before = hv.memory.digest(code_only=True)
    assert do(hv, "a", Command.APPLY) == -5
    assert state(hv, "a") == ("CHECKED", -5)
    assert hv.memory.digest(code_only=True) == before


def test_a26_an_apply_hook_that_lies_panics_the_host() -> None:
    hv = fresh(("a", with_hook(minimal(), "apply", returning(0))))
    assert ask(hv, "a", Command.APPLY) == 0
    with pytest.raises(Hazard, match="partially applied"):
        hv.run_pending()
    with pytest.raises(Hazard, match="the host is down"):
        hv.upload(b"b\0", b"x")


def test_a27_a_failing_revert_hook_keeps_the_payload_and_postrevert_runs() -> None:
    draft = counting_hook(with_hook(minimal(), "revert", returning(-5)), "postrevert")
    hv = fresh(("a", draft))
    do(hv, "a", Command.APPLY)
    assert do(hv, "a", Command.REVERT) == 0
    assert state(hv, "a") == ("APPLIED", -5)
    assert counter(hv) == 1


def test_a28_name_pads() -> None:
    hv = fresh(("a", minimal()))
    assert hv.action(b"a\0", Command.APPLY, name_pad=(0, 0, 1)).code == EINVAL
