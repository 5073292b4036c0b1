# SPDX-License-Identifier: Apache-2.0
"""Actions beyond the vectors: re-apply, hooks, releases that keep state in the records."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.acting import (
    ask,
    counter,
    counting_hook,
    do,
    fresh,
    returning,
    state,
    with_data,
    with_hook,
    writable_funcs,
)
from tests.kit.payloads import (
    Draft,
    Rel,
    add_hook,
    expectation,
    minimal,
)
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.hypervisor import Command, Hazard, Host
from xsplice_plugins.hypervisor.state.rendezvous import Cpu

A_ID, B_ID, C_ID = b"\xa1" * 20, b"\xb2" * 20, b"\xc3" * 20
EAGAIN, EBUSY, EINVAL = -11, -16, -22
FIRST_BYTES = tiny_xen().regions[0].data[0x100:0x108]


def test_nodeps_does_not_exist_before_4_14() -> None:
    hv = fresh(("a", minimal(version=1)), ("b", minimal(version=1, build_id=B_ID)), name="4.13.5")
    do(hv, "a", Command.APPLY)
    assert do(hv, "b", Command.APPLY, flags=1) == EINVAL


@pytest.mark.parametrize(
    ("name", "make", "rc"),
    [
        ("4.7.6", lambda: with_data(minimal(version=1)), 0),
        ("4.8.0", lambda: minimal(version=1), EINVAL),
        ("4.9.4", lambda: minimal(version=1), EINVAL),
        ("4.10.0", lambda: minimal(version=1), 0),
        ("4.8.0", lambda: writable_funcs(minimal(version=1)), 0),
        ("4.17.5", lambda: writable_funcs(minimal()), 0),
        ("4.17.5", minimal, 0),
        ("4.17.5", lambda: with_data(minimal()), EINVAL),
        ("4.17.5", lambda: with_data(writable_funcs(minimal())), EINVAL),
    ],
)
def test_the_re_apply_table(name: str, make: Callable[[], Draft], rc: int) -> None:
    hv = fresh(("a", make()), name=name)
    do(hv, "a", Command.APPLY)
    do(hv, "a", Command.REVERT)
    assert do(hv, "a", Command.APPLY) == 0
    assert state(hv, "a") == ("CHECKED" if rc else "APPLIED", rc)


def test_expectations_see_the_jump_of_a_payload_below() -> None:
    above = minimal(build_id=B_ID, depends=A_ID)
    above.record(expect=expectation(FIRST_BYTES))
    hv = fresh(("a", minimal()), ("b", above))
    do(hv, "a", Command.APPLY)
    assert do(hv, "b", Command.APPLY) == EINVAL


def test_replace_looks_at_expectations_after_everything_was_reverted() -> None:
    c = minimal(build_id=C_ID)
    c.record(expect=expectation(b"\xde\xad"))
    hv = fresh(("a", minimal()), ("c", c))
    do(hv, "a", Command.APPLY)
    assert do(hv, "c", Command.REPLACE) == 0
    assert state(hv, "c") == ("CHECKED", EINVAL)
    assert state(hv, "a") == ("CHECKED", 0)
    status = hv.get(b"c\0")[1]
    assert status is not None
    assert status.why.startswith("xen_extra_version: expected dead, memory has ")
    assert status.why.endswith("; a reverted, c not applied: the host is unpatched")
    assert "SYSTEM MIGHT BE INSECURE: Replace action has been aborted" in "".join(hv.console)


def test_a_replace_that_stops_in_the_middle_says_what_is_left() -> None:
    b = with_hook(minimal(build_id=B_ID, depends=A_ID), "revert", returning(-5))
    hv = fresh(("a", minimal()), ("b", b), ("c", minimal(build_id=C_ID)))
    do(hv, "a", Command.APPLY)
    do(hv, "b", Command.APPLY)
    do(hv, "c", Command.REPLACE)
    status = hv.get(b"c\0")[1]
    assert status is not None
    assert status.why == "b could not be reverted; c not applied: the others stay applied"


def test_a_replace_that_succeeds_has_nothing_to_say() -> None:
    hv = fresh(("a", minimal()), ("c", minimal(build_id=C_ID)))
    do(hv, "a", Command.APPLY)
    do(hv, "c", Command.REPLACE)
    status = hv.get(b"c\0")[1]
    assert status is not None
    assert (status.state.name, status.why) == ("APPLIED", "")
    assert "INSECURE" not in "".join(hv.console)


def test_prerevert_vetoes() -> None:
    hv = fresh(("a", with_hook(minimal(), "prerevert", returning(-1))))
    do(hv, "a", Command.APPLY)
    assert do(hv, "a", Command.REVERT) == -1
    assert state(hv, "a") == ("APPLIED", -1)


@pytest.mark.parametrize(("kind", "count"), [("load", 1), ("unload", 1), ("postapply", 1)])
def test_hooks_run_at_apply_and_revert_and_not_at_upload(kind: str, count: int) -> None:
    hv = fresh(("a", counting_hook(minimal(), kind)))
    assert counter(hv) == 0
    do(hv, "a", Command.APPLY)
    do(hv, "a", Command.REVERT)
    assert counter(hv) == count
    do(hv, "a", Command.UNLOAD)
    assert counter(hv) == count


def test_a_rendezvous_that_fails_does_not_run_postapply() -> None:
    cpus = [Cpu(number=0), Cpu(number=1, is_stuck=True)]
    hv = fresh(("a", counting_hook(minimal(), "postapply")), host=Host(cpus=cpus))
    do(hv, "a", Command.APPLY)
    assert counter(hv) == 0


def test_hotplug_leaves_rc_stuck_until_the_payload_is_reverted() -> None:
    hv = fresh(("a", minimal()), host=Host(is_hotplug_busy=True))
    assert do(hv, "a", Command.APPLY) == EBUSY
    assert state(hv, "a") == ("CHECKED", EAGAIN)


def test_a_bug_in_a_hook_is_a_hazard_and_a_null_load_hook_too() -> None:
    hv = fresh(("a", with_hook(minimal(), "preapply", b"\x0f\x0b")))
    with pytest.raises(Hazard, match="crash at preapply_a1"):
        ask(hv, "a", Command.APPLY)
    draft = minimal()
    add_hook(draft, "load", "new_function")
    draft.sec(".livepatch.hooks.load").relocs = []
    hv = fresh(("a", draft))
    ask(hv, "a", Command.APPLY)
    with pytest.raises(Hazard):
        hv.run_pending()


@pytest.mark.parametrize(
    ("name", "is_writable", "is_hazard"),
    [
        ("4.16.3", False, False),
        ("4.16.4", False, True),
        ("4.16.7", True, False),
        ("4.17.0", False, False),
        ("4.17.1", False, True),
        ("4.17.2", False, True),
        ("4.17.3", False, False),
        ("4.18.0", False, True),
        ("4.18.0", True, False),
        ("4.18.1", False, False),
    ],
)
def test_read_only_records_crash_the_releases_that_write_into_them(
    name: str, is_writable: bool, is_hazard: bool
) -> None:
    draft = writable_funcs(minimal()) if is_writable else minimal()
    hv = fresh(("a", draft), name=name)
    ask(hv, "a", Command.APPLY)
    if is_hazard:
        with pytest.raises(Hazard, match="read-only records"):
            hv.run_pending()
    else:
        hv.run_pending()
        assert state(hv, "a") == ("APPLIED", 0)


def test_state_in_the_file_is_believed_before_4_17_3() -> None:
    draft = writable_funcs(minimal())
    draft.record(applied=1)
    hv = fresh(("a", draft), name="4.14.0")
    before = hv.memory.digest(owner="xen")
    do(hv, "a", Command.APPLY)
    assert state(hv, "a") == ("APPLIED", 0)
    assert hv.memory.digest(owner="xen") == before, "the record was skipped"
    hv = fresh(("a", draft), name="4.17.5")
    do(hv, "a", Command.APPLY)
    assert hv.memory.digest(owner="xen") != before


def test_records_that_overlap_are_a_hazard() -> None:
    draft = minimal()
    funcs = draft.sec(".livepatch.funcs")
    funcs.data *= 2
    funcs.relocs += [Rel(rel.offset + 104, rel.kind, rel.symbol) for rel in funcs.relocs]
    hv = fresh(("a", draft))
    ask(hv, "a", Command.APPLY)
    with pytest.raises(Hazard, match="overlap"):
        hv.run_pending()
