# SPDX-License-Identifier: Apache-2.0
"""The patched `xl`, built from the tree's own source, in a dom0 on a real Xen.

The tools are built once for each version of the series, in the cache folder (two minutes).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xsplice_plugins.cache import cache_folder, locked
from xsplice_plugins.realxen.agent import APPLETS
from xsplice_plugins.realxen.initramfs import pack_cpio
from xsplice_plugins.realxen.parts import prepare_parts

SERIES = sorted((Path(__file__).resolve().parents[2] / "xen-patches" / "xl").glob("*.patch"))
LIBRARIES = (
    *("toolcore", "toollog", "evtchn", "gnttab", "call", "foreignmemory", "devicemodel"),
    *("ctrl", "guest", "hypfs", "store", "light", "util"),
)
NEEDS = {
    "/usr/bin/autoconf": "autoconf",
    "/usr/bin/iasl": "acpica-tools",
    "/usr/bin/pkg-config": "pkg-config",
    "/usr/include/ncurses.h": "libncurses-dev",
    "/usr/include/uuid/uuid.h": "uuid-dev",
    "/usr/include/yajl/yajl_gen.h": "libyajl-dev",
    "/usr/include/zlib.h": "zlib1g-dev",
}
#: How the tools are configured: nothing that needs more than the packages above.
CONFIGURE = (
    "--disable-docs --disable-stubdom --disable-ocamltools --disable-golang --disable-seabios "
    "--disable-pvshim --disable-monitors --disable-xsmpolicy --disable-systemd --prefix=/usr "
    "--with-system-qemu=/usr/bin/qemu-system-x86_64"
)
BUILD = f"""
set -e
./autogen.sh
cp /usr/share/autoconf/build-aux/config.guess /usr/share/autoconf/build-aux/config.sub .
./configure {CONFIGURE}
make -C tools/include
for l in {" ".join(LIBRARIES)}; do make -C tools/libs/$l; done
make -C tools/xl
"""
INIT = """#!/bin/sh
export PATH=/bin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /run /var/lock /var/run /var/log /etc/xen /var/lib/xen; : > /etc/xen/xl.conf
for m in {modules}; do insmod /modules/$m.ko; done
mount -t xenfs xenfs /proc/xen
cd /payloads
step() {{ echo "@step $*"; "$@"; echo "@exit $?"; }}
{steps}
echo @done
echo o > /proc/sysrq-trigger
sleep 20
"""
STEPS = (
    "xl info xen_extra",
    "xl livepatch-load xen_hello_world.livepatch",
    "xl info xen_extra",
    "xl livepatch-load --timeout=1000 --json xen_bye_world.livepatch",
    "xl info xen_extra",
    "xl livepatch-revert xen_hello_world",
    "xl livepatch-replace xen_replace_world.livepatch",
    "xl livepatch-list",
    "xl livepatch-revert --timeout=1000 xen_replace_world",
    "xl info xen_extra",
    "xl livepatch-unload xen_hello_world",
    "xl livepatch-load xen_expectations_fail.livepatch",
    "xl livepatch-load -t 5000 xen_hello_world.livepatch",
    "xl livepatch-unload nobody",
    "xl livepatch-unload xen_bye_world",
    "xl livepatch-unload --json xen_replace_world",
)

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.xen,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("XSPLICE_QEMU") != "1", reason="XSPLICE_QEMU=1 is not set: no real Xen"
    ),
]


@pytest.fixture(scope="module")
def tools(xen_tree: Path) -> Path:
    """Return the folder `tools` of a tree with the series applied and `xl` built."""
    missing = sorted(package for path, package in NEEDS.items() if not Path(path).exists())
    if missing:
        pytest.skip(f"xl cannot be built; run: apt-get install {' '.join(missing)}")
    words = BUILD + "".join(patch.read_text() for patch in SERIES)
    folder = cache_folder(os.environ) / "xl" / hashlib.sha256(words.encode()).hexdigest()[:16]
    with locked(folder):
        if not (folder / "built").is_file():
            shutil.rmtree(folder / "tree", ignore_errors=True)
            subprocess.run(["cp", "-a", xen_tree, folder / "tree"], check=True)
            for patch in SERIES:
                subprocess.run(
                    ["patch", "-s", "-p1", "-F0", "-i", patch], cwd=folder / "tree", check=True
                )
            with (folder / "log").open("w") as log:
                built = subprocess.run(
                    ["sh", "-c", BUILD], cwd=folder / "tree", check=False, stdout=log, stderr=log
                )
            assert built.returncode == 0, (folder / "log").read_text()[-2000:]
            (folder / "built").touch()
    return folder / "tree" / "tools"


def libraries_of(tools: Path) -> dict[str, bytes]:
    """Return what `xl` loads, by file name."""
    places = ":".join(str(tools / "libs" / name) for name in LIBRARIES)
    listing = subprocess.run(
        ["ldd", tools / "xl" / "xl"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"LD_LIBRARY_PATH": places},
    ).stdout
    assert "not found" not in listing, listing
    found = re.findall(r"(\S+) => (\S+)", listing)
    return {f"lib/{name}": Path(path).read_bytes() for name, path in found}


@pytest.fixture(scope="module")
def answers(
    tools: Path, xen_tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[int, str]]:
    """Boot, run the steps, and return exit status and words of each."""
    parts = prepare_parts(cache_folder(os.environ), release="4.17", say=print)
    modules: list[str] = json.loads((parts.kernel.parent / "modules.json").read_text())
    init = INIT.format(modules=" ".join(modules), steps="\n".join(f"step {s}" for s in STEPS))
    files = libraries_of(tools) | {
        "init": init.encode(),
        "bin/busybox": (parts.initramfs.parent / "busybox").read_bytes(),
        "bin/xl": (tools / "xl" / "xl").read_bytes(),
        "lib64/ld-linux-x86-64.so.2": Path("/lib64/ld-linux-x86-64.so.2").read_bytes(),
    }
    for name in modules:
        files[f"modules/{name}.ko"] = (parts.kernel.parent / "modules" / f"{name}.ko").read_bytes()
    for path in sorted((xen_tree / "xen" / "test" / "livepatch").glob("*.livepatch")):
        files[f"payloads/{path.name}"] = path.read_bytes()
    folder = tmp_path_factory.mktemp("dom0")
    applets = {*APPLETS, "sh", "mount", "mkdir", "insmod", "sleep"}
    (folder / "initramfs").write_bytes(pack_cpio(files, {f"bin/{a}": "busybox" for a in applets}))
    (folder / "vmlinux").symlink_to(parts.kernel)
    (folder / "xen").symlink_to(xen_tree / "xen" / "xen")
    done = subprocess.run(
        [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "EPYC,-smap,-monitor"),
            *("-m", "512", "-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio"),
            *("-kernel", "xen", "-append", "console=com1 com1=115200,8n1 dom0_mem=384M,max:384M"),
            *("-initrd", "vmlinux console=hvc0 quiet panic=-1,initramfs"),
        ],
        cwd=folder,
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
    )
    console = done.stdout.decode(errors="replace").replace("\r", "")
    assert "@done" in console, console[-2000:]
    own = re.sub(r"^\(XEN\).*\n", "", console, flags=re.MULTILINE)
    found = re.findall(r"^@step .*\n((?:.*\n)*?)@exit (\d+)$", own, flags=re.MULTILINE)
    assert len(found) == len(STEPS), own
    return [(int(status), words) for words, status in found]


def test_each_step_succeeds_or_is_refused_as_it_should(answers: list[tuple[int, str]]) -> None:
    assert [status for status, _ in answers] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]


def test_xl_info_shows_what_the_payloads_change(answers: list[tuple[int, str]]) -> None:
    shown = [
        words.strip() for step, (_, words) in zip(STEPS, answers, strict=True) if "info" in step
    ]
    assert shown == [".5", "Hello World", "Bye World!", ".5"]


def test_list_is_told_as_json_and_as_a_table(answers: list[tuple[int, str]]) -> None:
    assert json.loads(answers[3][1]) == [
        {"name": "xen_hello_world", "state": "applied", "metadata": ["LIVEPATCH_RULEZ"]},
        {"name": "xen_bye_world", "state": "applied"},
    ]
    rows = [line.split() for line in answers[7][1].splitlines()]
    assert rows == [
        ["Name", "State", "Result", "Metadata"],
        ["xen_hello_world", "checked", "0", "LIVEPATCH_RULEZ"],
        ["xen_bye_world", "checked", "0"],
        ["xen_replace_world", "applied", "0"],
    ]
    assert json.loads(answers[15][1]) == []


def test_refusal_shows_the_hypervisors_own_words(answers: list[tuple[int, str]]) -> None:
    assert "hypervisor: livepatch: xen_hello_world: can't unload" in answers[5][1]
    assert "expectation failed: expected:deadc0debabe" in answers[11][1]
    assert "xen_expectations_fail was unloaded again" in answers[11][1]
    assert "timeout '5000' is not a number of milliseconds from 0 to 4294" in answers[12][1]
    assert "there is no payload of this name" in answers[13][1]
