# SPDX-License-Identifier: Apache-2.0
"""``ON=qemu`` on a real Xen 4.17.5: what it finds, each with a right payload beside it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xsplice_plugins import cli
from xsplice_plugins.hypervisor import BootedImage, boot, prove, release
from xsplice_plugins.realxen import Machine
from xsplice_plugins.verify.saved import with_saved_memory

HOOKS = Path(__file__).resolve().parents[2] / "xen-patches" / "regression" / "handmade" / "hooks"
TABLE: dict[str, Any] = json.loads((HOOKS / "answers.json").read_text())["hooks"]
OPEN = sorted(name for name, row in TABLE.items() if row["model"] == "unknown")
RELEASE = release("4.17.5")

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.xen,
    pytest.mark.skipif(
        os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
    ),
]

HEAD = """#include <xen/lib.h>
#include <xen/errno.h>
#include <xen/keyhandler.h>
#include <xen/livepatch.h>
#include <xen/notifier.h>
#include <xen/sched.h>
#include <xen/time.h>
#include <xen/timer.h>
#include <xen/xmalloc.h>
#include <xsplice.h>
static struct notifier_block *kept;
static struct timer timer;
static int heard(struct notifier_block *block, unsigned long action, void *cpu) { return 0; }
static void cf_check pressed(unsigned char key) { printk("pressed\\n"); }
static void cf_check rang(void *data) { }
static void cf_check on(struct payload *p) { %s }
XSPLICE_POSTAPPLY_HOOK(on);
static void cf_check off(struct payload *p) { %s }
XSPLICE_POSTREVERT_HOOK(off);
static void *all[] __used = { &kept, &timer, heard, pressed, rang };
static unsigned int minor(void) { return 66; }
XSPLICE_REPLACE("xen_minor_version", minor);
"""
HEAP = "kept = xzalloc(struct notifier_block); kept->notifier_call = heard;"
TIMER = "init_timer(&timer, rang, NULL, 0); set_timer(&timer, NOW() + SECONDS(9));"
MINOR = 'static unsigned int n(void) { return %d; }\nXSPLICE_REPLACE("xen_minor_version", n);\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One tree, one folder: payloads from text, and what both verifiers say of them."""

    tree: Path
    folder: Path

    def build(self, name: str, text: str, *old: str) -> Path:
        """Build a payload that takes the place of others, if any are named."""
        source, path = self.folder / f"{name}.c", self.folder / f"{name}.livepatch"
        source.write_text(text)
        words = ["build", str(source), "--xen", str(self.tree), "--name", name, "--signer", "none"]
        assert cli.main([*words, *self._old(old), "--out", str(path)]) == 0
        return path

    def judge(self, name: str, *old: str) -> dict[str, list[dict[str, Any]]]:
        """Give what was found, by check."""
        out = self.folder / f"{name}.json"
        path = self.folder / f"{name}.livepatch"
        words = ["verify", str(path), "--xen-syms", str(self.tree / "xen" / "xen-syms")]
        words += ["--on", "model,qemu", "--signer", "none", "--out", str(out), *self._old(old)]
        assert cli.main(words) == 5, "a hand-written payload has no rebuild to be compared with"
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in json.loads(out.read_text())["findings"]:
            found.setdefault(finding["check"], []).append(finding)
        return found

    def _old(self, names: tuple[str, ...]) -> list[str]:
        paths = [str(self.folder / f"{name}.livepatch") for name in names]
        return ["--supersedes", *paths] if paths else []


@pytest.fixture
def bench(xen_tree: Path, tmp_path: Path) -> Bench:
    return Bench(tree=xen_tree, folder=tmp_path)


def severities(found: list[dict[str, Any]]) -> set[str]:
    return {finding["severity"] for finding in found}


@pytest.mark.parametrize(
    ("on", "off", "where"),
    [
        ('register_keyhandler(33, pressed, "text", 0);', "", "common/keyhandler.c#key_table+0x"),
        (HEAP, "", "Xen's heap at 0xffff83"),
        (HEAP, "xfree(kept);", ""),
        (TIMER, "kill_timer(&timer);", ""),
    ],
    ids=["data", "heap", "freed", "timer"],
)
def test_an_address_that_is_left_is_found_and_one_taken_back_is_not(
    bench: Bench, on: str, off: str, where: str
) -> None:
    bench.build("p", HEAD % (on, off))
    found = bench.judge("p")
    assert severities(found["qemu"]) == {"held"}, found["qemu"][0]["text"]
    (first, *_) = found["qemu.memory"]
    if where:
        assert severities(found["qemu.memory"]) == {"hazard"}
        assert first["text"].startswith("address of p.c#")
        assert f"is still held at {where}" in first["text"]
        assert first["text"].endswith("after p was unloaded; take it back in a hook")
    else:
        assert first["severity"] == "held", first["text"]
        assert severities(found["qemu.busy"]) == {"held"}


def test_an_upgrade_is_played_on_a_real_xen(bench: Bench) -> None:
    bench.build("v1", "#include <xsplice.h>\n" + MINOR % 61)
    bench.build("v2", "#include <xsplice.h>\n" + MINOR % 62, "v1")
    found = bench.judge("v2", "v1")
    (finding,) = found["qemu.upgrade"]
    assert finding["severity"] == "held", finding["text"]
    steps = finding["evidence"]["steps"]
    assert [(s["verb"], s["name"], s["observed"]["version"]) for s in steps] == [
        ("upload", "v1", "4.17"),
        ("apply", "v1", "4.61"),
        ("upload", "v2", "4.61"),
        ("replace", "v2", "4.62"),
        ("unload", "v1", "4.62"),
        ("revert", "v2", "4.17"),
        ("unload", "v2", "4.17"),
    ]
    assert all(step["predicted"]["version"] == step["observed"]["version"] for step in steps)
    assert severities(found["qemu.upgrade.memory"]) == {"held"}


def test_an_upgrade_that_leaves_the_host_unpatched_is_refused_by_a_real_xen(bench: Bench) -> None:
    bench.build("v1", "#include <xsplice.h>\n" + MINOR % 61)
    expects = 'XSPLICE_EXPECT("xen_minor_version", 0xe9);\n'  # v1's jump, which replace takes away
    bench.build("v2", "#include <xsplice.h>\n" + MINOR % 62 + expects, "v1")
    found = bench.judge("v2", "v1")
    (finding,) = found["qemu.upgrade"]
    assert (finding["severity"], finding["step"]) == ("error", "replace")
    assert finding["text"].startswith("real Xen refused replace with error 22: (XEN) livepatch:")
    replaced = finding["evidence"]["steps"][3]
    assert replaced["observed"]["version"] == replaced["predicted"]["version"] == "4.17"
    assert "qemu.upgrade.agreement" not in found


TWICE = """#include <xen/lib.h>
#include <xen/livepatch.h>
#include <xen/errno.h>
#include <xsplice.h>
static unsigned int asked;
static int cf_check ask(struct payload *payload) { return asked++ < %d ? 0 : -EPERM; }
XSPLICE_PREREVERT_HOOK(ask);
"""


@pytest.mark.parametrize("most", [1, 2])
def test_asking_again_after_ebusy_is_played(bench: Bench, most: int) -> None:
    """A hook that lets itself be asked once makes a payload that a busy host cannot revert."""
    bench.build("p", TWICE % most + MINOR % 66)
    found = bench.judge("p")
    assert severities(found["qemu"]) == {"held"}, found["qemu"][0]["text"]
    (finding,) = found["qemu.busy"]
    steps = finding["evidence"]["steps"]
    assert steps[3]["observed"]["tries"] == 2
    assert (steps[0]["verb"], steps[0]["observed"]["error"]) == ("busy", 0)
    if most == 1:
        assert (finding["severity"], finding["errno"], finding["step"]) == ("error", 1, "revert")
        assert (
            "on two busy CPUs that came too late at first: real Xen refused revert"
            in finding["text"]
        )
    else:
        assert finding["severity"] == "held"
        assert steps[4]["observed"]["tries"] == 2
        assert "asked again, they did it" in finding["text"]
        assert [row.split(" ")[0] for row in steps[-1]["output"]] == ["cpu=1", "cpu=0"]
    assert "qemu.busy.agreement" not in found, "the model asks twice as well"


@pytest.fixture(scope="module")
def host(xen_tree: Path) -> BootedImage:
    """Open the built hypervisor with memory of its saved machine."""
    image = boot((xen_tree / "xen" / "xen-syms").read_bytes(), release=RELEASE)
    return with_saved_memory(image, Machine.prepare(xen_tree / "xen" / "xen").memory())


@pytest.mark.parametrize("name", OPEN)
def test_the_saved_machines_memory_decides_and_contradicts_no_real_xen(
    bench: Bench, host: BootedImage, name: str
) -> None:
    row = TABLE[name]
    path = bench.build(name, (HOOKS / f"{name}.c").read_text())
    report = prove([(name, path.read_bytes())], host, RELEASE)
    assert report.verdict == row["seeded"], report.reason
    agrees = {0: "proved", "crash": "hazard"}
    assert row["seeded"] in {"unknown", agrees.get(row["real"], "refused")}


@pytest.mark.parametrize(("name", "severity"), [("domain-walk", "held"), ("bug-on-dom0", "hazard")])
def test_a_decided_hook_says_so_and_a_real_xen_agrees(
    bench: Bench, name: str, severity: str
) -> None:
    bench.build(name, (HOOKS / f"{name}.c").read_text())
    found = bench.judge(name)
    (finding,) = found["model"]
    assert finding["severity"] == severity
    assert "(decided with memory of the saved machine: depends on" in finding["text"]
    assert severities(found["qemu"]) == {severity}
    assert "qemu.agreement" not in found
