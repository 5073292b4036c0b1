# SPDX-License-Identifier: Apache-2.0
"""The real 4.17 tree in the model: its own test payloads, row by row (docs/loader.md#actions)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.payloads import XEN_ID, minimal, note
from xsplice_plugins.hypervisor import (
    BootedImage,
    Command,
    Hazard,
    Hypervisor,
    Probe,
    boot,
    prove,
    release,
)
from xsplice_plugins.hypervisor.run.execute import call_function
from xsplice_plugins.releases import known_releases, spelled

pytestmark = pytest.mark.xen
XEN = release("4.17.5")
FOLDER = Path("xen/test/livepatch")
EXTRA = Probe(
    function="xen_extra_version", kind="string", before=".5", during="Hello World", after=".5"
)


@pytest.fixture(scope="session")
def image(xen_tree: Path) -> BootedImage:
    """Open the built hypervisor once."""
    return boot((xen_tree / "xen/xen-syms").read_bytes(), release=XEN)


@pytest.fixture
def hv(image: BootedImage) -> Hypervisor:
    """Boot it anew."""
    return Hypervisor(image, XEN)


class Stage:
    """The scenario's verbs, on the in-tree payloads."""

    def __init__(self, hv: Hypervisor, tree: Path) -> None:
        self.hv = hv
        self.tree = tree

    def upload(self, payload: str, name: str | None = None) -> int:
        """Upload an in-tree payload."""
        data = (self.tree / FOLDER / f"{payload}.livepatch").read_bytes()
        return self.hv.upload((name or payload).encode() + b"\0", data).code

    def do(self, name: str, command: Command, **options: int) -> int:
        """Ask for an action and let the CPUs do it."""
        code = self.hv.action(name.encode() + b"\0", command, **options).code
        self.hv.run_pending()
        return code

    def state(self, name: str) -> tuple[str, int]:
        """Give state and rc."""
        status = self.hv.get(name.encode() + b"\0")[1]
        assert status is not None
        return status.state.name, status.rc

    def extra(self) -> str:
        """Ask the running image for its extra version."""
        addr = self.hv.image.lookup("xen_extra_version")
        assert addr is not None
        pointer = call_function(self.hv, addr, (), step="probe", is_pure=True)
        return self.hv.memory.read_c_string(pointer).decode()


@pytest.fixture
def stage(hv: Hypervisor, xen_tree: Path) -> Stage:
    """Set the scene."""
    return Stage(hv, xen_tree)


def test_names_are_those_of_xens_own_map(image: BootedImage, xen_tree: Path) -> None:
    rows = (xen_tree / "xen/xen-syms.map").read_text().splitlines()
    wanted = {name: int(addr, 16) for addr, _, name in (row.split(maxsplit=2) for row in rows)}
    assert {name: symbol.addr_virt for name, symbol in image.symbols.items()} == wanted


def test_the_build_id_is_readelfs(image: BootedImage, xen_tree: Path) -> None:
    text = subprocess.run(
        ["readelf", "-n", xen_tree / "xen/xen-syms"], check=True, capture_output=True, text=True
    ).stdout
    assert image.build_id is not None
    assert f"Build ID: {image.build_id.hex()}" in text


def test_text_after_boot_differs_where_a_real_hosts_does(
    image: BootedImage, xen_tree: Path
) -> None:
    """Text read out of a booted 4.17.5: 827 functions differ, 7, 10 and 125 of them early."""
    raw = (xen_tree / "xen/xen-syms").read_bytes()
    text = image.regions[0]
    start = int.from_bytes(raw[64 + 8 : 64 + 16], "little")
    first: dict[str, int] = {}
    for index in range(image.symbols["_etext"].addr_virt - text.addr_virt):
        if raw[start + index] != text.data[index]:
            symbol = image.function_at(text.addr_virt + index)
            if symbol is not None:
                offset = text.addr_virt + index - symbol.addr_virt
                first[symbol.name] = min(first.get(symbol.name, offset), offset)
    assert len(first) == 827
    early = [sum(offset < limit for offset in first.values()) for limit in (5, 9, 31)]
    assert early == [7, 10, 125]
    assert {"hvm_get_reg", "iommu_update_ire_from_apic", "send_IPI_self"} <= set(first)


def test_t1_hello_world(stage: Stage) -> None:
    assert stage.extra() == ".5"
    assert stage.upload("xen_hello_world") == 0
    assert stage.do("xen_hello_world", Command.APPLY) == 0
    assert stage.extra() == "Hello World"
    listing = stage.hv.list_payloads()[1]
    assert listing is not None
    assert listing.entries[0].metadata == b"LIVEPATCH_RULEZ\0"
    assert "hi_func: Hi! (called 1 times)" in stage.hv.console
    assert stage.do("xen_hello_world", Command.REVERT) == 0
    assert "hi_func: Hi! (called 2 times)" in stage.hv.console
    assert stage.extra() == ".5"


def test_t1a_re_apply_needs_a_new_upload(stage: Stage) -> None:
    stage.upload("xen_hello_world")
    stage.do("xen_hello_world", Command.APPLY)
    stage.do("xen_hello_world", Command.REVERT)
    assert stage.do("xen_hello_world", Command.APPLY) == 0
    assert stage.state("xen_hello_world") == ("CHECKED", -22)
    assert stage.do("xen_hello_world", Command.UNLOAD) == 0
    assert stage.upload("xen_hello_world") == 0
    stage.do("xen_hello_world", Command.APPLY)
    assert stage.state("xen_hello_world") == ("APPLIED", 0)


def test_t1b_t1c_twice(stage: Stage) -> None:
    assert stage.upload("xen_hello_world") == 0
    assert stage.upload("xen_hello_world", "other") == -17
    assert stage.upload("xen_hello_world") == -17


def test_t2_stacking(stage: Stage) -> None:
    stage.upload("xen_hello_world")
    stage.upload("xen_bye_world")
    assert stage.do("xen_bye_world", Command.APPLY) == -22
    assert stage.do("xen_hello_world", Command.APPLY) == 0
    assert stage.do("xen_bye_world", Command.APPLY) == 0
    assert stage.extra() == "Bye World!"
    assert stage.do("xen_hello_world", Command.REVERT) == -16
    assert stage.do("xen_bye_world", Command.REVERT) == 0
    assert stage.extra() == "Hello World"
    assert stage.do("xen_hello_world", Command.REVERT) == 0
    assert stage.extra() == ".5"


def test_t2n_nodeps(stage: Stage) -> None:
    assert stage.upload("xen_bye_world") == 0
    assert stage.do("xen_bye_world", Command.APPLY, flags=1) == 0
    assert stage.extra() == "Bye World!"


def test_t3_replace(stage: Stage) -> None:
    for name in ("xen_hello_world", "xen_bye_world"):
        stage.upload(name)
        stage.do(name, Command.APPLY)
    assert stage.upload("xen_replace_world") == 0
    assert stage.do("xen_replace_world", Command.APPLY) == -22
    assert stage.do("xen_replace_world", Command.REPLACE) == 0
    assert stage.extra() == "Hello Again World!"
    assert stage.state("xen_hello_world") == ("CHECKED", 0)
    assert stage.state("xen_bye_world") == ("CHECKED", 0)
    assert stage.state("xen_replace_world") == ("APPLIED", 0)


def test_t4_nop_is_applied_and_deadly(stage: Stage) -> None:
    before = stage.hv.memory.digest(owner="xen")
    assert stage.upload("xen_nop") == 0
    stage.do("xen_nop", Command.APPLY)
    assert stage.state("xen_nop") == ("APPLIED", 0)
    addr = stage.hv.image.lookup("xen_minor_version")
    assert addr is not None
    with pytest.raises(Hazard):
        call_function(stage.hv, addr, (), step="probe", is_pure=True)
    stage.do("xen_nop", Command.REVERT)
    assert stage.hv.memory.digest(owner="xen") == before
    stage.do("xen_nop", Command.APPLY)
    assert stage.state("xen_nop") == ("APPLIED", 0)


def test_t4_proof_is_a_hazard(image: BootedImage, xen_tree: Path) -> None:
    data = (xen_tree / FOLDER / "xen_nop.livepatch").read_bytes()
    report = prove([("xen_nop", data)], image, XEN)
    assert (report.verdict, report.step) == ("hazard", "nop-record")
    assert "xen_minor_version" in report.reason


def test_t5_no_xen_depends(stage: Stage) -> None:
    assert stage.upload("xen_no_xen_buildid") == -22


def test_t6_hooks_before_and_after(stage: Stage) -> None:
    name = "xen_prepost_hooks"
    stage.upload(name)
    assert stage.do(name, Command.APPLY) == 0
    assert stage.do(name, Command.REVERT) == -1
    assert stage.state(name) == ("APPLIED", -1)
    assert stage.do(name, Command.REVERT) == 0
    assert stage.state(name) == ("CHECKED", 0)
    stage.upload("xen_replace_world")
    assert stage.do(name, Command.REPLACE) == -95


def test_t7_preapply_vetoes(stage: Stage) -> None:
    name = "xen_prepost_hooks_fail"
    stage.upload(name)
    assert stage.do(name, Command.APPLY) == -22
    assert stage.state(name) == ("CHECKED", -22)
    assert stage.do(name, Command.UNLOAD) == 0


@pytest.mark.parametrize("name", ["xen_action_hooks", "xen_action_hooks_nofunc"])
def test_t8_t9_action_hooks_change_no_byte(stage: Stage, name: str) -> None:
    before = stage.hv.memory.digest(owner="xen")
    assert stage.upload(name) == 0
    stage.do(name, Command.APPLY)
    assert stage.state(name) == ("APPLIED", 0)
    assert stage.extra() == ".5"
    assert stage.hv.memory.digest(owner="xen") == before
    stage.do(name, Command.REVERT)
    assert stage.state(name) == ("CHECKED", 0)


def test_t10_flags_are_as_hooks_expect(stage: Stage) -> None:
    name = "xen_action_hooks_marker"
    stage.upload(name)
    stage.do(name, Command.APPLY)
    assert (stage.state(name), stage.extra()) == (("APPLIED", 0), "Hello World")
    stage.do(name, Command.REVERT)
    assert (stage.state(name), stage.extra()) == (("CHECKED", 0), ".5")


def test_t11_an_apply_hook_that_fails(stage: Stage) -> None:
    name = "xen_action_hooks_noapply"
    stage.upload(name)
    assert stage.do(name, Command.APPLY) == 0
    assert stage.state(name) == ("CHECKED", -22)
    assert any("post_apply_hook" in line for line in stage.hv.console)
    assert stage.do(name, Command.UNLOAD) == 0


def test_t12_a_hook_that_reverts_on_its_own(stage: Stage) -> None:
    name = "xen_action_hooks_norevert"
    before = stage.hv.memory.digest(owner="xen", code_only=True)
    stage.upload(name)
    stage.do(name, Command.APPLY)
    assert stage.extra() == "Hello World"
    assert stage.do(name, Command.REVERT) == 0
    assert stage.state(name) == ("CHECKED", -22)
    assert stage.hv.memory.digest(owner="xen", code_only=True) == before
    assert not stage.hv.applied


def test_t13_t14_expectations(stage: Stage) -> None:
    stage.upload("xen_expectations")
    assert stage.do("xen_expectations", Command.APPLY) == 0
    stage.do("xen_expectations", Command.REVERT)
    # Both bring a record of the same name, so they cannot be loaded together.
    assert stage.upload("xen_expectations_fail") == -17
    stage.do("xen_expectations", Command.UNLOAD)
    assert stage.upload("xen_expectations_fail") == 0
    assert stage.do("xen_expectations_fail", Command.APPLY) == -22
    assert stage.state("xen_expectations_fail") == ("CHECKED", 0)


def test_t14r_replace_fails_after_everything_was_reverted(stage: Stage) -> None:
    stage.upload("xen_hello_world")
    stage.do("xen_hello_world", Command.APPLY)
    stage.upload("xen_expectations_fail")
    assert stage.do("xen_expectations_fail", Command.REPLACE) == 0
    assert stage.state("xen_expectations_fail") == ("CHECKED", -22)
    assert stage.state("xen_hello_world") == ("CHECKED", 0)
    assert stage.extra() == ".5"


def test_the_exception_table_catches_the_payloads_own_fault(stage: Stage) -> None:
    """The hello payload reads a non-canonical address on purpose and survives by its table."""
    stage.upload("xen_hello_world")
    stage.do("xen_hello_world", Command.APPLY)
    payload = stage.hv.payloads[0]
    assert len(payload.ex_table) == 1
    assert stage.extra() == "Hello World"
    payload.ex_table = {}
    with pytest.raises(Hazard, match="crash at xen_hello_world"):
        stage.extra()


def test_init_functions_are_gone_after_boot(hv: Hypervisor) -> None:
    draft = minimal(target="common/kernel.c#cmdline_parse", by_name=True)
    assert draft.arch == hv.image.arch
    init = next(s for s in hv.image.symbols.values() if hv.image.is_init(s.addr_virt))
    draft = minimal(target=init.name, by_name=True, depends=hv.image.build_id or XEN_ID)
    draft.sec(".livepatch.xen_depends").data = note(hv.image.build_id or XEN_ID)
    with pytest.raises(Hazard, match="freed after boot"):
        hv.upload(b"a\0", draft.build())


def hello(xen_tree: Path) -> tuple[str, bytes]:
    """Give the in-tree payload."""
    return ("hello", (xen_tree / FOLDER / "xen_hello_world.livepatch").read_bytes())


def test_the_proof_is_the_same_every_time(image: BootedImage, xen_tree: Path) -> None:
    every = [release(spelled(version)) for version in known_releases()]
    reports = [
        prove([hello(xen_tree)], image, XEN, probes=[EXTRA], compared=every) for _ in range(2)
    ]
    assert reports[0] == reports[1]
    assert reports[0].verdict == "proved"
    assert {answer.release for answer in reports[0].differences} == {
        wanted.name for wanted in every if wanted.payload_version == 1
    }


PROGRAM = """
import sys
from pathlib import Path
from xsplice_plugins.hypervisor import Probe, boot, prove, release
image = boot(Path(sys.argv[1]).read_bytes(), release=release("4.17.5"))
probes = [
    Probe(function="xen_extra_version", kind="string", during="Hello World"),
    Probe(function="xen_minor_version", before=17),
]
data = Path(sys.argv[2]).read_bytes()
assert prove([("hello", data)], image, release("4.17.5"), probes=probes).verdict == "proved"
"""


def test_a_fresh_process_proves_a_payload_with_probes(xen_tree: Path) -> None:
    """What it costs is in the benchmark."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            xen_tree / "xen/xen-syms",
            xen_tree / FOLDER / "xen_hello_world.livepatch",
        ],
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0


def stack_of(count: int, build_id: bytes) -> list[tuple[str, bytes]]:
    """Build payloads that each replace the same function on top of the one before."""
    out = []
    below = build_id
    for index in range(count):
        own = bytes([index + 1]) * 20
        draft = minimal(build_id=own, depends=below, text=b"layer %d" % index)
        draft.record(old_size=12)
        draft.sec(".livepatch.xen_depends").data = note(build_id)
        out.append((f"p{index}", draft.build()))
        below = own
    return out


def test_fifty_payloads_cost_no_more_than_55_times_one(image: BootedImage) -> None:
    build_id = image.build_id or b""
    stack = stack_of(50, build_id)
    probe = Probe(function="xen_extra_version", kind="string", before=".5", after=".5")
    costs = []
    for payloads in (stack[:1], stack):
        started = time.process_time()
        report = prove(payloads, image, XEN, probes=[probe])
        costs.append(time.process_time() - started)
        assert report.verdict == "proved", report.reason
    assert costs[1] <= 55 * costs[0]
