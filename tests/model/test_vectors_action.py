# SPDX-License-Identifier: Apache-2.0
"""Every action vector of the livepatch specification's section 20.2, by its number."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.payloads import (
    ALLOC,
    UND,
    WRITE,
    Draft,
    Rel,
    Sec,
    Sym,
    add_code,
    add_hook,
    expectation,
    minimal,
    tiny_xen,
)
from xsplice_plugins.hypervisor import Command, Hazard, Host, Hypervisor, release
from xsplice_plugins.hypervisor.rendezvous import Cpu, CpuState

A_ID, B_ID, C_ID = b"\xa1" * 20, b"\xb2" * 20, b"\xc3" * 20
EAGAIN, EBUSY, EINVAL, ENOENT, EOPNOTSUPP, ERANGE = -11, -16, -22, -2, -95, -34


def state(hv: Hypervisor, name: str) -> tuple[str, int]:
    """Give state and rc."""
    status = hv.get(name.encode() + b"\0")[1]
    assert status is not None
    return status.state.name, status.rc


def load(hv: Hypervisor, name: str, draft: Draft) -> None:
    answer = hv.upload(name.encode() + b"\0", draft.build())
    assert answer.code == 0, answer


def ask(hv: Hypervisor, name: str, command: int, **options: int) -> int:
    """Ask for an action, leave its work pending."""
    return hv.action(name.encode() + b"\0", command, **options).code


def do(hv: Hypervisor, name: str, command: int, **options: int) -> int:
    """Ask for an action and let the CPUs do it."""
    code = ask(hv, name, command, **options)
    hv.run_pending()
    return code


def fresh(*drafts: tuple[str, Draft], name: str = "4.17.5", host: Host | None = None) -> Hypervisor:
    hv = Hypervisor(tiny_xen(), release(name), host=host)
    for payload, draft in drafts:
        load(hv, payload, draft)
    return hv


def with_data(draft: Draft) -> Draft:
    draft.sections.append(Sec(".data", b"12345678", flags=ALLOC | WRITE))
    return draft


def returning(value: int) -> bytes:
    """Machine code: mov eax, value; ret."""
    return b"\xb8" + (value & 0xFFFFFFFF).to_bytes(4, "little") + b"\xc3"


def with_hook(draft: Draft, kind: str, code: bytes) -> Draft:
    tag = draft.sec(".note.gnu.build-id").data[16:17].hex()
    add_code(draft, f"{kind}_{tag}", code)
    add_hook(draft, kind, f"{kind}_{tag}")
    return draft


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


def test_nodeps_does_not_exist_before_4_14() -> None:
    hv = fresh(("a", minimal(version=1)), ("b", minimal(version=1, build_id=B_ID)), name="4.13.5")
    do(hv, "a", Command.APPLY)
    assert do(hv, "b", Command.APPLY, flags=1) == EINVAL


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


def writable_funcs(draft: Draft) -> Draft:
    draft.sec(".livepatch.funcs").flags = ALLOC | WRITE
    return draft


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


FIRST_BYTES = tiny_xen().regions[0].data[0x100:0x108]


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


def counting_hook(draft: Draft, kind: str) -> Draft:
    """Add a hook that increments Xen's counter."""
    draft.symbols.append(Sym("counter", UND))
    code = b"\xff\x05\0\0\0\0\x31\xc0\xc3"
    tag = draft.sec(".note.gnu.build-id").data[16:17].hex()
    add_code(draft, f"{kind}_{tag}", code, [Rel(2, 2, "counter", -4)])
    add_hook(draft, kind, f"{kind}_{tag}")
    return draft


def counter(hv: Hypervisor) -> int:
    addr = hv.image.lookup("counter")
    assert addr is not None
    return int.from_bytes(hv.memory.read(addr, 4), "little")


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
