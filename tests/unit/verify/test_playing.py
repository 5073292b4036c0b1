# SPDX-License-Identifier: Apache-2.0
"""What the verifier ``qemu`` makes of a life, an upgrade and CPUs that are late.

The machine here answers as the model does, so that each test can change one answer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from msgspec.structs import replace

from tests.kit.acting import with_hook
from tests.kit.payloads import minimal
from tests.model.test_running_host import AT_COUNTER, code_of
from tests.unit.verify.test_leftovers import BASE, HEAP, INSIDE, Host, image
from xsplice_plugins import hypervisor
from xsplice_plugins.artefacts import Finding, Severity, VerifyRequest
from xsplice_plugins.hypervisor import BootedImage, Hypervisor, release
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.realxen.results import LATE, RunResult, Step, StepResult
from xsplice_plugins.testing.samples import sample_payload
from xsplice_plugins.verify import model as model_plugin
from xsplice_plugins.verify import qemu as plugin
from xsplice_plugins.verify.playing import World, memory_findings, play
from xsplice_plugins.verify.predict import predict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xsplice_plugins.realxen.machine import Look, Machine
    from xsplice_plugins.realxen.memory import Memory

RELEASE = release("4.17.5")
NEEDS_COUNTER = code_of("833805 0f95c0 0fb6c0 c3")  # 0, "go on", where the word at rax is 5
NEW_ID = b"\xb2" * 20


@dataclass(kw_only=True)
class StandIn:
    """A machine whose Xen is the model, on a host with some word in its counter."""

    counter: int = 5
    left: int = 0  #: what is put into the heap once something was unloaded
    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    tries: int = 1
    has_memory: bool = True
    has_tool: bool = True
    can_be_busy: bool = True
    packages: tuple[str, ...] = ("kernel_1",)
    qemu: str = "QEMU 7"
    console_logs: list[str] = field(default_factory=list)

    def host(self) -> Host:
        """Give its memory before anything is uploaded."""
        made = Host()
        made.put(0x102000, self.counter)
        return made

    def memory(self) -> Memory:
        """Give it as a machine does."""
        return self.host().made.memory()

    def run(
        self,
        steps: Sequence[Step],
        payloads: Mapping[str, bytes],
        *,
        console_log: Path | None = None,
        agent: str = "tool",
        looks: Mapping[int, Look] | None = None,
    ) -> RunResult:
        """Answer as the model does, with what is to be changed, and let everybody look."""
        assert agent == "hypercall" or not looks
        world = World(image=image(), release=RELEASE, machine=self)  # type: ignore[arg-type]
        answers = predict(
            steps, payloads, image=world.with_memory(), release=RELEASE,
            hv=Hypervisor(world.with_memory(), RELEASE),
        )  # fmt: skip
        results = [
            StepResult(
                step=step,
                outcome="crashed" if answer.hazard else "done",
                error=answer.error,
                state=answer.state,
                rc=answer.rc,
                tries=self.tries if step.flags else 1,
            )
            for step, answer in zip(steps, answers, strict=False)
        ]
        for number, change in self.changes.items():
            results[number] = replace(results[number], **change)
        self.console_logs.append(console_log.name if console_log else "")
        self._look(steps, looks or {})
        crash = next(("BUG" for result in results if result.outcome != "done"), "")
        return RunResult(steps=tuple(results), restored=True, crash=crash, console="")

    def _look(self, steps: Sequence[Step], looks: Mapping[int, Look]) -> None:
        host = self.host()
        for number in sorted(looks):
            if steps[number].verb == "unload":
                host.unload()
                if self.left:
                    host.put(HEAP, self.left)
            else:
                host.map_payload()
            looks[number](host.made.memory())


def world_of(machine: StandIn) -> World:
    return World(image=image(), release=RELEASE, machine=machine)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _as_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model not ask for its version: the tiny hypervisor has none."""
    monkeypatch.setattr(
        "xsplice_plugins.verify.playing.predict",
        lambda steps, payloads, *, image, release: predict(
            steps, payloads, image=image, release=release, hv=Hypervisor(image, release)
        ),
    )


def steps_of(*verbs: str) -> tuple[Step, ...]:
    return tuple(
        Step(verb=verb, name="p", payload="p" if verb == "upload" else "") for verb in verbs
    )


LIFE = steps_of("upload", "apply", "revert", "unload")


def asking() -> bytes:
    return with_hook(minimal(), "preapply", AT_COUNTER + NEEDS_COUNTER).build()


@pytest.mark.parametrize(("counter", "result"), [(5, 0), (6, 1)])
def test_what_depends_on_a_host_is_predicted_with_the_saved_machines_memory(
    tmp_path: Path, counter: int, result: int
) -> None:
    without = predict(
        LIFE, {"p": asking()}, image=image(), release=RELEASE, hv=Hypervisor(image(), RELEASE)
    )
    assert "depends on counter" in without[-1].unknown
    world = world_of(StandIn(counter=counter))
    played = play(world, LIFE, {"p": asking()}, console_log=tmp_path / "log")
    assert not any(answer.unknown for answer in played.predicted)
    assert played.predicted[1].rc == result


@pytest.mark.parametrize(
    ("left", "severity", "words"),
    [
        (0, Severity.HELD, "no address of it in 1 MiB of Xen's memory after unload"),
        (INSIDE, Severity.HAZARD, "is still held at Xen's heap at 0xffff830000110000 after p was"),
        (BASE - 8, Severity.HELD, "no address of it"),
    ],
)
def test_memory_is_searched_after_the_unload(
    tmp_path: Path, left: int, severity: Severity, words: str
) -> None:
    world, payloads = world_of(StandIn(left=left)), {"p": minimal().build()}
    played = play(world, LIFE, payloads, console_log=tmp_path / "log")
    (finding,) = memory_findings(world, "p", played, payloads)
    assert (finding.check, finding.severity) == ("qemu.memory", severity)
    assert words in finding.text


def test_what_is_held_is_named_by_the_payloads_own_symbols(tmp_path: Path) -> None:
    payloads = {"p": minimal().build()}
    hv = Hypervisor(image(), RELEASE)
    hv.upload(b"p\0", payloads["p"])
    loaded = hv.payloads[0]
    symbol = next(s for s in loaded.symbols if s.addr_virt < loaded.base_virt + 0x2000)
    world = world_of(StandIn(left=BASE + symbol.addr_virt - loaded.base_virt))
    played = play(world, LIFE, payloads, console_log=tmp_path / "log")
    (finding,) = memory_findings(world, "p", played, payloads)
    assert finding.text.startswith(f"address of {symbol.name} is still held")


def test_memory_that_was_not_searched_whole_is_not_checked(tmp_path: Path) -> None:
    world, payloads = world_of(StandIn()), {"p": minimal().build()}
    played = play(world, LIFE, payloads, console_log=tmp_path / "log")
    partly = replace(played.searches[3], problem="its heap was left out")
    (finding,) = memory_findings(world, "p", replace(played, searches={3: partly}), payloads)
    assert finding.severity is Severity.UNCHECKED
    assert finding.text.endswith("its heap was left out")


def test_a_machine_whose_memory_cannot_be_read_is_not_looked_at(tmp_path: Path) -> None:
    machine = StandIn(has_memory=False, left=INSIDE)
    world, payloads = world_of(machine), {"p": minimal().build()}
    played = play(world, LIFE, payloads, console_log=tmp_path / "log")
    assert (played.searches, len(played.run.steps)) == ({}, len(LIFE))
    (finding,) = memory_findings(world, "p", played, payloads)
    assert finding.severity is Severity.INFO, "it shows nothing, and is not called held"
    assert finding.text.startswith("not checked: memory of a machine for")


def test_what_was_never_unloaded_is_not_searched_for(tmp_path: Path) -> None:
    world, payloads = world_of(StandIn(changes={3: {"error": 22}})), {"p": minimal().build()}
    played = play(world, LIFE, payloads, console_log=tmp_path / "log")
    assert memory_findings(world, "p", played, payloads) == []


def upgraded(tmp_path: Path, machine: StandIn) -> list[Finding]:
    old = tmp_path / "old.livepatch"
    old.write_bytes(minimal().build())
    new = minimal(build_id=NEW_ID).build()
    return plugin._upgrade(new, "new", (old,), tmp_path, world_of(machine))


def test_an_upgrade_is_played_on_the_machine(tmp_path: Path) -> None:
    machine = StandIn()
    found = upgraded(tmp_path, machine)
    assert [finding.check for finding in found] == ["qemu.upgrade", "qemu.upgrade.memory"]
    assert [finding.obligation for finding in found] == ["stack", "data"]
    assert all(finding.severity is Severity.HELD for finding in found)
    assert "in the place of old by replace, twice" in found[0].text
    assert machine.console_logs[0] == "new.upgrade-console.log"


def test_an_upgrade_that_a_real_xen_refuses_is_an_error_and_the_model_is_wrong(
    tmp_path: Path,
) -> None:
    machine = StandIn(changes={3: {"rc": -22, "state": "CHECKED", "console": ("(XEN) why",)}})
    found = upgraded(tmp_path, machine)
    assert [(f.check, f.severity) for f in found[:2]] == [
        ("qemu.upgrade", Severity.ERROR),
        ("qemu.upgrade.agreement", Severity.ERROR),
    ]
    assert found[0].text == "real Xen refused replace with error 22: (XEN) why"


def test_what_the_new_payload_keeps_of_the_old_one_is_found(tmp_path: Path) -> None:
    found = upgraded(tmp_path, StandIn(left=INSIDE))
    held = [f for f in found if f.check == "qemu.upgrade.memory"]
    assert {f.severity for f in held} == {Severity.HAZARD}


def retried(tmp_path: Path, pair: StandIn) -> list[Finding]:
    life = plugin.life_of("fix", minimal().build(), [])
    return plugin._retried(life, "fix", tmp_path, world_of(StandIn()), as_machine(pair))


def as_machine(machine: StandIn) -> Machine:
    return machine  # type: ignore[return-value]


def test_a_late_first_try_and_a_second_one_that_does_it_are_told(tmp_path: Path) -> None:
    (finding,) = retried(tmp_path, StandIn(tries=2))
    assert (finding.check, finding.severity) == ("qemu.busy", Severity.HELD)
    assert (
        "got no time ended with -EBUSY and changed nothing; asked again, they did" in finding.text
    )
    prompt = StandIn(tries=1)
    (finding,) = retried(tmp_path, prompt)
    assert finding.severity is Severity.INFO, "nothing was shown"
    assert len(prompt.console_logs) == 3, "it was tried again"
    assert "could not be brought about" in finding.text


def test_a_machine_that_cannot_be_busy_is_asked_without(tmp_path: Path) -> None:
    (finding,) = retried(tmp_path, StandIn(tries=2, can_be_busy=False))
    assert (finding.severity, finding.text[:25]) == (Severity.HELD, "on two CPUs, apply and re")
    assert finding.evidence is not None
    assert {"busy", "idle"}.isdisjoint(row["verb"] for row in finding.evidence["steps"])


def test_a_dom0_that_does_not_get_busy_shows_nothing_and_refuses_nothing(tmp_path: Path) -> None:
    (finding,) = retried(tmp_path, StandIn(tries=2, changes={0: {"error": 11}}))
    assert (finding.check, finding.severity) == ("qemu.busy", Severity.INFO)
    assert "could not be brought about" in finding.text


def test_a_revert_that_stays_busy_says_what_to_do(tmp_path: Path) -> None:
    found = retried(tmp_path, StandIn(tries=8, changes={4: {"rc": -16, "state": "APPLIED"}}))
    assert [f.severity for f in found] == [Severity.ERROR, Severity.ERROR]
    assert "refused revert with error 16 (its CPUs did not meet in 8 tries; ask again)" in (
        found[0].text
    )
    assert "the model is wrong" in found[1].text


def test_the_model_tries_again_as_the_agent_does() -> None:
    busy = [replace(step, flags=LATE) if step.verb != "unload" else step for step in LIFE]
    hv = Hypervisor(image(), RELEASE)
    answers = predict(busy, {"p": minimal().build()}, image=image(), release=RELEASE, hv=hv)
    assert [answer.rc for answer in answers] == [0, 0, 0, 0]
    met = [meeting.is_met for meeting in hv.meetings]
    assert met == [False, True, False, True]


def judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counter: int,
    *verifiers: str,
    expected: Path | None = None,
    has_memory: bool = True,
) -> Finding:
    """Give the finding on a hook that asks the counter; `answer` reads what it is given."""
    made = image()
    text = bytearray(made.regions[0].data)
    text[0x300:0x303] = code_of("8b07 c3")  # mov eax, [rdi]; ret
    reading = dataclasses.replace(
        made, regions=(structs.replace(made.regions[0], data=bytes(text)), *made.regions[1:])
    )
    monkeypatch.setattr(hypervisor, "boot", lambda _data, **_options: reading)
    machine = StandIn(counter=counter, has_memory=has_memory)
    monkeypatch.setattr(model_plugin, "machine_of", lambda *_: machine)
    path = tmp_path / "xen-syms"
    path.write_bytes(b"")
    request = VerifyRequest(
        payload_path=tmp_path / "p", image_path=path, release="4.17.5", expected=expected
    )
    config = Config(verifiers=verifiers)
    found = model_plugin.verify_in_model(asking(), sample_payload()[1], request, config)
    return next(finding for finding in found if finding.check == "model")


def test_without_qemu_the_model_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = judged(tmp_path, monkeypatch, 5, "model")
    assert finding.severity is Severity.UNCHECKED
    assert "depends on counter" in finding.text
    assert "saved machine" not in finding.text


@pytest.mark.parametrize(("counter", "severity"), [(5, Severity.HELD), (6, Severity.ERROR)])
def test_with_qemu_it_is_decided_and_says_with_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counter: int, severity: Severity
) -> None:
    finding = judged(tmp_path, monkeypatch, counter, "model", "qemu")
    assert finding.severity is severity
    assert finding.text.endswith(
        "(decided with memory of the saved machine: depends on counter, which only a running host "
        "knows)"
    )


def test_with_a_machine_that_cannot_be_read_it_stays_open_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = judged(tmp_path, monkeypatch, 5, "model", "qemu", has_memory=False)
    assert finding.severity is Severity.UNCHECKED
    assert finding.text.endswith("(memory of this kind of machine cannot be read)")


def test_an_image_keeps_what_it_was_after_it_lent_its_data(tmp_path: Path) -> None:
    before: BootedImage = image()
    world = World(image=before, release=RELEASE, machine=as_machine(StandIn()))
    assert world.with_memory().regions[2].data[:1] == b"\5"
    assert before.regions[2].data == bytes(4096)


@pytest.mark.parametrize(
    ("expected", "severity"), [(0, Severity.UNCHECKED), (5, Severity.HELD), (9, Severity.UNCHECKED)]
)
def test_an_answer_that_somebody_expects_of_the_file_is_not_held_against_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: int, severity: Severity
) -> None:
    path = tmp_path / "expected.json"
    path.write_text(
        '{"effect": [{"probe": "answer", "args": ["counter"], "type": "int",'
        f' "before": {expected}, "during": null, "after": null}}]}}'
    )
    finding = judged(tmp_path, monkeypatch, 5, "model", "qemu", expected=path)
    assert finding.severity is severity
    assert "depends on counter" in finding.text


def test_another_machines_answers_are_not_held_against_this_ones_memory(tmp_path: Path) -> None:
    """What the model decides with one machine's memory it does not know of another."""
    life = plugin.life_of("fix", asking(), [])
    for pair, severity in (
        (StandIn(tries=2), Severity.HELD),
        (StandIn(tries=2, counter=6), Severity.ERROR),
    ):
        (finding,) = plugin._retried(life, "fix", tmp_path, world_of(StandIn()), as_machine(pair))
        assert finding.severity is severity
    assert finding.text.startswith("on two busy CPUs that came too late at first: real Xen refused")
