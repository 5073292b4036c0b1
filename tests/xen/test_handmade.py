# SPDX-License-Identifier: Apache-2.0
"""Section 13's scenarios as payloads of our own: in the model, and on a real Xen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xsplice_plugins import cli, hypervisor, pipeline
from xsplice_plugins.hypervisor import BootedImage, Command, Hypervisor, boot
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.toolstack import scenarios
from xsplice_plugins.toolstack.scenarios import Played, Table

RELEASE = hypervisor.release("4.17.5")
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "xen-patches" / "regression" / "handmade"
TABLE = scenarios.read_table(FOLDER / "scenarios.json")
#: Rows of the table of Xen's own test payloads, docs/loader.md#actions.
LISTED = {*(f"T{number}" for number in range(1, 15)), "T1a", "T1b", "T1c", "T2n", "T3a", "T14r"}

pytestmark = pytest.mark.xen
real = [
    pytest.mark.qemu,
    pytest.mark.skipif(
        os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
    ),
]


@pytest.fixture(scope="module")
def payloads(xen_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Build all payloads of the table once."""
    tree = locate_tree(xen_tree)
    out = tmp_path_factory.mktemp("handmade")
    base = pipeline.base_of_tree(xen_tree)
    run = pipeline.open_run({}, base, environ={})
    return scenarios.build_table(run, tree, TABLE, FOLDER, out)


@pytest.fixture(scope="module")
def image(xen_tree: Path) -> BootedImage:
    """Open the built hypervisor once."""
    release = RELEASE
    return boot((xen_tree / "xen/xen-syms").read_bytes(), release=release)


def only(scenario: str) -> Table:
    """Return the table with one scenario."""
    chosen = tuple(row for row in TABLE.scenarios if row.id == scenario)
    return Table(schema=1, payloads=TABLE.payloads, scenarios=chosen)


IDS = [row.id for row in TABLE.scenarios]


def test_every_row_of_the_table_is_there() -> None:
    assert set(IDS) >= LISTED
    assert len(IDS) == len(set(IDS))


def test_every_source_is_used_and_says_its_licence() -> None:
    used = {file for row in TABLE.payloads.values() for file in row.sources}
    included = {"action.c", "state.h"}
    there = {path.name for path in FOLDER.glob("*.[ch]")}
    assert there == used | included
    for name in there:
        first = (FOLDER / name).read_text().splitlines()[0]
        assert first == "/* SPDX-License-Identifier: GPL-2.0-only */"


@pytest.mark.parametrize("scenario", IDS)
def test_scenario_goes_as_the_table_says_in_the_model(
    payloads: dict[str, bytes], image: BootedImage, scenario: str
) -> None:
    (outcome,) = scenarios.play_in_model(
        only(scenario), payloads, image, hypervisor.release("4.17.5")
    )
    assert outcome.differences == ()


def test_a_wrong_table_is_noticed(payloads: dict[str, bytes], image: BootedImage) -> None:
    table = only("T1")
    (scenario,) = table.scenarios
    wrong = scenarios.Scenario(
        id="wrong",
        what="",
        steps=(
            scenario.steps[0],
            scenarios.StepRow(do="apply", name="hello", state="CHECKED", rc=-22, extra="Bye"),
        ),
    )
    table = Table(schema=1, payloads=table.payloads, scenarios=(wrong,))
    (outcome,) = scenarios.play_in_model(table, payloads, image, RELEASE)
    assert outcome.differences == (
        "apply hello: state is 'APPLIED', the table says 'CHECKED'",
        "apply hello: rc is 0, the table says -22",
        "apply hello: extra version is 'Hello World', the table says 'Bye'",
    )


def test_nops_stand_where_the_body_was_and_the_jump_stays(
    payloads: dict[str, bytes], image: BootedImage
) -> None:
    hv = Hypervisor(image, RELEASE)
    symbol = image.symbols["add_taint"]
    before = hv.memory.read(symbol.addr_virt, symbol.size_bytes, step="test")
    assert before[-5] == 0xE9, "4.17 leaves by a jump to the return thunk"
    assert hv.upload(b"nop\0", payloads["nop"]).code == 0
    hv.action(b"nop\0", Command.APPLY)
    hv.run_pending()
    during = hv.memory.read(symbol.addr_virt, symbol.size_bytes, step="test")
    assert during == bytes.fromhex("660f1f440000") + before[-5:]
    hv.action(b"nop\0", Command.REVERT)
    hv.run_pending()
    assert hv.memory.read(symbol.addr_virt, symbol.size_bytes, step="test") == before


def test_pitfall_3_is_refused(
    xen_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the last byte of ``xen_minor_version``, as in Xen's own test payload."""
    source = tmp_path / "hotfix.c"
    source.write_text('#include <xsplice.h>\nXSPLICE_NOP("xen_minor_version", 0, 9);\n')
    words = ["build", str(source), "--xen", str(xen_tree), "--name", "fix"]
    assert cli.main([*words, "--out", str(tmp_path / "out" / "fix.livepatch")]) == 2
    said = capsys.readouterr().err
    assert "the range 0x0 to 0x9 of `xen_minor_version` splits `jmp" in said
    assert not (tmp_path / "out").exists()


def test_metadata_is_listed(payloads: dict[str, bytes], image: BootedImage) -> None:
    hv = Hypervisor(image, RELEASE)
    hv.upload(b"hello\0", payloads["hello"])
    listing = hv.list_payloads()[1]
    assert listing is not None
    assert listing.entries[0].metadata == b"name=hello\0LIVEPATCH=hello\0"


def test_the_tree_is_not_written_to(xen_tree: Path, tmp_path: Path) -> None:
    folder = xen_tree / "xen" / "common"
    before = {path: path.lstat().st_mtime_ns for path in sorted(folder.iterdir())}
    source = FOLDER / "hello.c"
    words = ["build", str(source), "--xen", str(xen_tree), "--name", "fix", "--signer", "none"]
    assert cli.main([*words, "--out", str(tmp_path / "fix.livepatch")]) == 0
    assert {path: path.lstat().st_mtime_ns for path in sorted(folder.iterdir())} == before


def test_types_of_4_17s_functions_are_compared(
    xen_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "hotfix.c"
    source.write_text(
        "#include <xsplice.h>\nstatic int mine(void) { return 5; }\n"
        'XSPLICE_REPLACE("xen_extra_version", mine);\n'
    )
    words = ["build", str(source), "--xen", str(xen_tree), "--name", "fix"]
    assert cli.main([*words, "--out", str(tmp_path / "fix.livepatch")]) == 2
    assert "`xen_extra_version` is `const char * (void)`" in capsys.readouterr().err


SCONSTRUCT = """
env = Environment(tools=["xsplice"], toolpath=[{tools!r}], XEN={xen!r}, SIGNER="none")
env.XspliceSource("hello", ["hello.c"])
"""


@pytest.mark.scons
def test_scons_builds_and_proves_a_hand_written_payload(xen_tree: Path, tmp_path: Path) -> None:
    tools = str(ROOT / "site_scons" / "site_tools")
    (tmp_path / "SConstruct").write_text(SCONSTRUCT.format(tools=tools, xen=str(xen_tree)))
    (tmp_path / "hello.c").write_text((FOLDER / "hello.c").read_text())

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "SCons", "-Q", "xsplice-verify"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "xen_extra_version" in run()
    record = json.loads((tmp_path / "build/hello/hello.payload.json").read_text())
    assert [row["name"] for row in record["functions"]] == ["xen_extra_version"]
    report = json.loads((tmp_path / "build/hello/hello.verify.json").read_text())
    assert report["verdict"] == "proved"
    states = {row["name"]: row["state"] for row in report["obligations"]}
    absent = {name for name, state in states.items() if state == "does not apply"}
    assert absent >= {"complete", "lines", "layout", "stack"}
    assert {name for name, state in states.items() if state == "held"} >= {"data", "loader"}
    assert run().startswith("PROVED: hello on Xen ")
    text = (tmp_path / "hello.c").read_text()
    (tmp_path / "hello.c").write_text(text.replace("Hello World", "Other World"))
    assert "handmade.diffs" in run()
    assert b"Other World" in (tmp_path / "build/hello/hello.livepatch").read_bytes()


def _on_xen(xen_tree: Path, tmp_path: Path, places: str) -> list[Played]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "xsplice_plugins", "play", str(FOLDER / "scenarios.json")),
            *("--xen", str(xen_tree), "--out", str(tmp_path / "out"), "--on", places, "--json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 5}, done.stderr
    return [
        Played(**row | {"differences": tuple(row["differences"])})
        for row in json.loads(done.stdout)
    ]


@pytest.mark.parametrize(
    "places",
    ["model", pytest.param("model,qemu", marks=[*real, pytest.mark.slow])],
)
def test_one_command_builds_and_plays_all(xen_tree: Path, tmp_path: Path, places: str) -> None:
    outcomes = _on_xen(xen_tree, tmp_path, places)
    assert [row for row in outcomes if row.differences] == []
    assert len(outcomes) == len(IDS) * len(places.split(","))


def test_execution_is_taken_over_inside_a_function_and_at_an_address(
    xen_tree: Path, tmp_path: Path, image: BootedImage, capsys: pytest.CaptureFixture[str]
) -> None:
    addr = image.symbols["xen_extra_version"].addr_virt
    places = {"inside": 'AT("xen_extra_version", 7', "address": f"ADDRESS({addr:#x}"}
    for name, place in places.items():
        source = tmp_path / f"{name}.c"
        source.write_text(
            f'#include <xsplice.h>\nstatic const char *mine(void) {{ return "{name}"; }}\n'
            f"XSPLICE_REPLACE_{place}, mine);\n"
        )
        out = tmp_path / f"{name}.livepatch"
        words = ["build", str(source), "--xen", str(xen_tree), "--name", name, "--signer", "none"]
        assert cli.main([*words, "--out", str(out)]) == 0
        step = scenarios.StepRow
        steps = (
            step(do="upload", name=name, state="CHECKED"),
            step(do="apply", name=name, state="APPLIED", extra=name),
            step(do="revert", name=name, state="CHECKED"),
        )
        table = Table(
            schema=1,
            payloads={},
            scenarios=(scenarios.Scenario(id=name, what="", steps=steps),),
        )
        (outcome,) = scenarios.play_in_model(table, {name: out.read_bytes()}, image, RELEASE)
        assert outcome.differences == ()
    assert "in this xen only" in capsys.readouterr().out
