# SPDX-License-Identifier: Apache-2.0
"""A real Xen under QEMU: its own test payloads behave as docs/loader.md#actions says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.build import scons
from tests.kit.processes import children_of, is_running
from xsplice_plugins.realxen import Machine, RunResult, Step
from xsplice_plugins.verify.qemu import VISIBLE

if TYPE_CHECKING:
    from xsplice_plugins.realxen.machine import AgentKind

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.xen,
    pytest.mark.skipif(
        os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
    ),
]


@pytest.fixture(scope="session")
def machine(xen_tree: Path) -> Machine:
    """Give a booted and saved machine of the tree's hypervisor."""
    return Machine.prepare(xen_tree / "xen" / "xen")


@pytest.fixture(scope="session")
def payloads(xen_tree: Path) -> dict[str, bytes]:
    """Give the in-tree test payloads."""
    folder = xen_tree / "xen" / "test" / "livepatch"
    found = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.livepatch"))}
    assert len(found) >= 14
    return found


def upload(name: str, payload: str) -> Step:
    return Step(verb="upload", name=name, payload=payload)


def act(verb: str, name: str) -> Step:
    return Step(verb=verb, name=name)


def seen(run: RunResult) -> list[tuple[int, str, str]]:
    """Give error, state and extra version of each step."""
    return [(step.error, step.state, step.extra) for step in run.steps]


both_agents = pytest.mark.parametrize("agent", ["tool", "hypercall"])


@both_agents
def test_hello_changes_the_extra_version_and_revert_gives_it_back(
    machine: Machine, payloads: dict[str, bytes], agent: AgentKind
) -> None:
    steps = [
        Step(verb="extra"),
        upload("h", "xen_hello_world"),
        act("apply", "h"),
        act("revert", "h"),
        act("unload", "h"),
    ]
    run = machine.run(steps, payloads, agent=agent)
    assert run.restored
    assert seen(run) == [
        (0, "", ".5"),
        (0, "CHECKED", ".5"),
        (0, "APPLIED", "Hello World"),
        (0, "CHECKED", ".5"),
        (0, "", ".5"),
    ]


@both_agents
def test_stacking_and_replace(
    machine: Machine, payloads: dict[str, bytes], agent: AgentKind
) -> None:
    steps = [
        upload("t1", "xen_hello_world"),
        upload("t2", "xen_bye_world"),
        upload("t3", "xen_replace_world"),
        act("apply", "t2"),
        act("apply", "t1"),
        act("apply", "t2"),
        act("revert", "t1"),
        act("apply", "t3"),
        act("replace", "t3"),
        Step(verb="list"),
        act("revert", "t3"),
    ]
    run = machine.run(steps, payloads, agent=agent)
    assert seen(run)[3:] == [
        (22, "CHECKED", ".5"),
        (0, "APPLIED", "Hello World"),
        (0, "APPLIED", "Bye World!"),
        (16, "APPLIED", "Bye World!"),
        (22, "CHECKED", "Bye World!"),
        # The hypervisor copies extra versions into 16 bytes, the last of them NUL.
        (0, "APPLIED", "Hello Again Wor"),
        (0, "", run.steps[8].extra),
        (0, "CHECKED", ".5"),
    ]
    assert run.steps[6].tries == 1, "a refusal with -EBUSY is not tried again"
    assert [entry[:2] for entry in run.steps[9].listed] == [
        ("t1", "CHECKED"),
        ("t2", "CHECKED"),
        ("t3", "APPLIED"),
    ]


@both_agents
def test_a_payload_for_another_build_is_refused_with_the_checks_name(
    machine: Machine, payloads: dict[str, bytes], xen_tree: Path, agent: AgentKind
) -> None:
    notes = subprocess.run(
        ["readelf", "-n", str(xen_tree / "xen" / "xen-syms")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    build_id = bytes.fromhex(notes.partition("Build ID: ")[2].split()[0])
    hello = payloads["xen_hello_world"]
    other = hello.replace(build_id, bytes([build_id[0] ^ 1]) + build_id[1:])
    assert other != hello
    run = machine.run([upload("x", "other")], {"other": other}, agent=agent)
    (step,) = run.steps
    assert (step.error, step.state) == (22, "")
    assert any("check against hypervisor build-id failed" in line for line in step.console)


def test_a_payload_that_destroys_the_hypervisor_is_seen_and_ends(
    machine: Machine, payloads: dict[str, bytes], tmp_path: Path
) -> None:
    """Tell the story of the in-tree NOP payload: accepted by 4.17, and deadly."""
    log = tmp_path / "console.log"
    steps = [upload("nop", "xen_nop"), act("apply", "nop"), Step(verb="extra")]
    run = machine.run(steps, payloads, console_log=log)
    assert "DOUBLE FAULT" in run.crash
    assert [step.outcome for step in run.steps] == ["done", "crashed", "not-run"]
    assert run.seconds < 20
    assert "DOUBLE FAULT" in log.read_text()


def test_a_cold_boot_gives_the_same_answers(machine: Machine, payloads: dict[str, bytes]) -> None:
    steps = [upload("h", "xen_hello_world"), act("apply", "h")]
    warm = machine.run(steps, payloads)
    cold = machine.run(steps, payloads, cold=True)
    assert (warm.restored, cold.restored) == (True, False)
    assert seen(warm) == seen(cold)


def test_a_damaged_saved_machine_falls_back_to_a_cold_boot(
    machine: Machine, payloads: dict[str, bytes], tmp_path: Path
) -> None:
    twin = Machine(folder=tmp_path / "q" / "m" / "twin", packages=(), qemu="")
    twin.folder.mkdir(parents=True)
    for name in ("xen", "vmlinux", "initramfs"):
        (twin.folder / name).symlink_to(machine.folder / name)
    (twin.folder / "saved").write_bytes(b"not a machine")
    run = twin.run([Step(verb="extra")], payloads)
    assert not run.restored
    assert run.steps[0].extra == ".5"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.mark.parametrize("run", range(20))
def test_an_interrupted_run_leaves_nothing_behind(
    machine: Machine, xen_tree: Path, tmp_path: Path, run: int
) -> None:
    """Interrupt twenty runs, by three signals, each a little later than the one before."""
    number = SIGNALS[run % len(SIGNALS)]
    payload = xen_tree / "xen" / "test" / "livepatch" / "xen_hello_world.livepatch"
    command = [sys.executable, "-m", "xsplice_plugins", "try"]
    command += ["--xen", str(xen_tree / "xen" / "xen"), str(payload)]
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    found: list[int] = []
    while not found and time.monotonic() < deadline:
        time.sleep(0.02)
        found = children_of(running.pid, b"qemu-system")
    assert found
    time.sleep(0.04 * run)
    running.send_signal(number)
    assert running.wait(10) == (-number if number is signal.SIGKILL else 130)
    while any(map(is_running, found)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, found))
    assert list(tmp_path.iterdir()) == []


def test_scons_puts_the_real_hypervisors_answer_beside_the_models(
    xen_tree: Path, tmp_path: Path
) -> None:
    case = ROOT / "xen-patches" / "regression" / "4.17" / "extra-version"
    run = scons(
        "xsplice-verify",
        tmp_path,
        XEN=xen_tree,
        PATCH=case / "fix.patch",
        EXPECT=case / "expected.json",
        NAME="fix",
        ON="model,qemu",
    )
    run.assert_success()
    report = json.loads((tmp_path / "fix" / "fix.verify.json").read_text())
    assert report["verdict"] == "proved"
    found = [f for f in report["findings"] if f["check"].startswith("qemu")]
    checks = [finding["check"] for finding in found]
    assert checks == ["qemu", "qemu.memory", *["qemu.effect"] * 3, "qemu.busy"]
    steps = found[0]["evidence"]["steps"]
    assert [(step["verb"], step["observed"]["extra"]) for step in steps] == [
        ("extra", ".5"),
        ("upload", ".5"),
        ("apply", ".5-xsplice"),
        ("revert", ".5"),
        ("unload", ".5"),
    ]
    assert all(step["predicted"]["extra"] == step["observed"]["extra"] for step in steps)
    assert "finished APPLY with rc=0" in (tmp_path / "fix" / "fix.console.log").read_text()


REGRESSION = ROOT / "xen-patches" / "regression" / "4.17"


def visible_effects() -> dict[str, list[dict[str, str]]]:
    """Give the regression hot-patches with an effect that dom0 can ask for."""
    found = {}
    for path in sorted(REGRESSION.glob("*/expected.json")):
        effects = [e for e in json.loads(path.read_text())["effect"] if e["probe"] in VISIBLE]
        if effects:
            found[path.parent.name] = effects
    return found


@pytest.mark.parametrize("case", visible_effects())
def test_what_a_hot_patch_promises_is_seen_on_the_real_hypervisor(
    case: str, xen_tree: Path, tmp_path: Path
) -> None:
    run = scons(
        "xsplice-verify",
        tmp_path,
        XEN=xen_tree,
        PATCH=REGRESSION / case / "fix.patch",
        EXPECT=REGRESSION / case / "expected.json",
        NAME="fix",
        ON="qemu",
    )
    run.assert_success()
    report = json.loads((tmp_path / "fix" / "fix.verify.json").read_text())
    found = [f["text"] for f in report["findings"] if f["check"] == "qemu.effect"]
    assert found == [
        f"{effect['probe']} {moment}: expected {effect[moment]!r}, real Xen says {effect[moment]!r}"
        for effect in visible_effects()[case]
        for moment in ("before", "during", "after")
    ]
