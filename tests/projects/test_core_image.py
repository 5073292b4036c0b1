# SPDX-License-Identifier: Apache-2.0
"""The embedded core: what its image and objects hold, and that its functions run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from unicorn import UcError

from tests.kit.core_machine import SCRATCH_VIRT, Machine, UndefinedInstructionError, probe

PROJECT = Path(__file__).resolve().parent / "core"
SOURCE_LINES_MAX = 800
TEXT_VIRT = 0xFFFF_82D0_4020_0000
RELOCATIONS = {"R_X86_64_PC32", "R_X86_64_PLT32", "R_X86_64_64"}
EFAULT, EINVAL, ENOSYS, EBUSY = 14, 22, 38, 16
BUG_WARN, BUG_BUG, BUG_ASSERT = 1, 2, 3

pytestmark = [pytest.mark.toolchain, pytest.mark.scons]


def output(*command: str | Path) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def scons(root: Path, *args: str) -> str:
    """Run SCons in a folder; return what it prints."""
    return output(sys.executable, "-m", "SCons", "-Q", "-C", root, *args)


def errno(code: int) -> int:
    """Return an error as the 64 bits of a result."""
    return 2**64 - code


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a built copy of the core."""
    root = tmp_path_factory.mktemp("image") / "core"
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("build"))
    scons(root)
    return root


@pytest.fixture
def image(core: Path) -> Path:
    return core / "build" / "xen-syms"


@pytest.fixture
def machine(image: Path) -> Machine:
    return Machine(image)


def test_the_core_stays_small() -> None:
    files = [p for p in PROJECT.rglob("*") if p.suffix in {".c", ".h", ".S", ".lds"}]
    assert sum(len(p.read_text().splitlines()) for p in files) <= SOURCE_LINES_MAX


def test_objects_have_only_relocations_that_a_payload_may_have(core: Path) -> None:
    seen = set()
    objects = [p for p in (core / "build").rglob("*.o") if ".named" not in p.name]
    assert len(objects) == len([*PROJECT.rglob("*.c"), *PROJECT.rglob("*.S")])
    for path in objects:
        for table in output("readelf", "-rW", path).split("Relocation section ")[1:]:
            if not table.startswith("'.rela.debug_"):
                seen |= set(re.findall(r"R_X86_64_\w+", table))
    assert seen == RELOCATIONS


def test_image_has_sections_of_a_hypervisor(image: Path) -> None:
    listed = output("readelf", "-SW", image)
    found = re.findall(r"\] (\.\S+) +\w+ +([0-9a-f]{16}) \S+ ([0-9a-f]+)", listed)
    sections = {name: (int(addr, 16), int(size, 16)) for name, addr, size in found}
    wanted = ".text .rodata .note.gnu.build-id .init.text .init.data .data.read_mostly .data .bss"
    in_memory = [name for name, (addr, _size) in sections.items() if addr]
    assert in_memory == wanted.split()
    assert all(sections[name][1] for name in in_memory)
    assert sections[".text"][0] == TEXT_VIRT
    assert sections[".note.gnu.build-id"][1] == 36


def test_image_names_locals_by_path_and_tables_by_brackets(machine: Machine, image: Path) -> None:
    names = machine.symbols.addr_virt
    locals_wanted = {
        "arch/x86/domain.c#reset",
        "common/domain.c#reset",
        "common/console.c#reply",
        "common/kernel.c#reply",
        "common/domain.c#next_domid.0",
        "common/domctl.c#domctl_ops",
    }
    assert locals_wanted <= names.keys()
    stop = "__stop_bug_frames_"
    kinds = ["__start_bug_frames", *(f"{stop}{kind}" for kind in range(4))]
    sizes = [names[b] - names[a] for a, b in pairwise(kinds)]
    assert all(sizes), "each kind of bug frame is there"
    assert (names["__stop___ex_table"] - names["__start___ex_table"]) // 8 == 2
    assert (names["__alt_instructions_end"] - names["__alt_instructions"]) == 3 * 14
    assert names["_stext"] < names["_etext"] < names["_sinittext"] < names["_einittext"]
    assert names["_sinittext"] <= names["init_core"] < names["_einittext"]
    assert "OBJECT" in output("readelf", "-sW", image)
    assert "per_cpu__hypercall_count" in names


def test_image_is_the_same_in_every_folder(core: Path, tmp_path: Path) -> None:
    """Neither the folder, nor where the SConstruct is, nor -j reaches the build-id."""
    below = tmp_path / "a folder with spaces" / "top"
    shutil.copytree(PROJECT, below / "my projects" / "core", ignore=shutil.ignore_patterns("build"))
    (below / "SConstruct").write_text(
        'names = {"env": Environment(tools=["default"]), "core_build": "#an out"}\n'
        'core = SConscript(["my projects/core/SConscript"], exports=names)\n'
        'Default(core["image"])\n'
        'assert len(core["objects"]) == 12\n'
    )
    scons(below, "-j4")
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (below / "an out" / "xen-syms", core / "build" / "xen-syms")
    ]
    assert digests[0] == digests[1]


def test_a_compile_command_repeats_as_it_stands_in_another_copy(core: Path, tmp_path: Path) -> None:
    """Only the output's path is replaced; $PWD makes even DWARF the same."""
    copy = tmp_path / "copy"
    shutil.copytree(core, copy)
    scons(copy, "-c")
    lines = [line for line in scons(copy, "-n", "VERBOSE=1").splitlines() if " -c " in line]
    assert len(lines) == 12
    for line in lines:
        path = next(word for word in line.split() if word.endswith(".o"))
        command = line.replace(path, "replayed.o")
        environ = {"PATH": os.environ["PATH"], "PWD": "/proc/self/cwd"}
        subprocess.run(["sh", "-c", command], check=True, cwd=copy, env=environ)
        assert (copy / "replayed.o").read_bytes() == (core / path).read_bytes(), path


def test_second_build_does_nothing_and_a_header_rebuilds_its_readers(
    core: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(core, copy)
    assert "is up to date" in scons(copy)
    header = copy / "include" / "public" / "xen.h"
    header.write_text(header.read_text() + "\n")
    printed = scons(copy)
    rebuilt = set(re.findall(r"CC +build/(\S+)", printed))
    assert rebuilt == {
        "arch/x86/setup.o",
        "common/console.o",
        "common/domctl.o",
        "common/hypercall.o",
        "common/kernel.o",
    }
    assert "LD " not in printed, "equal objects end the build early"


def test_version_functions_answer(image: Path) -> None:
    assert probe(image, "xen_extra_version", [], "string") == ".0-core"
    assert probe(image, "xen_major_version", [], "int") == 4
    assert probe(image, "do_xen_version", [0, 0, 0], "int") == 0x40011


def test_version_hypercall_copies_strings_and_the_build_id(machine: Machine, image: Path) -> None:
    assert machine.call("do_hypercall", 17, 1, SCRATCH_VIRT) == 0
    assert machine.read_string(SCRATCH_VIRT) == ".0-core"
    assert machine.call("do_hypercall", 17, 10, SCRATCH_VIRT) == 20
    build_id = bytes(machine.engine.mem_read(SCRATCH_VIRT, 20)).hex()
    assert f"Build ID: {build_id}" in output("readelf", "-nW", image)
    assert machine.call("do_hypercall", 17, 4, SCRATCH_VIRT) == errno(ENOSYS)
    assert machine.call("do_hypercall", 5, 0, 0) == errno(ENOSYS)


def test_domains_are_made_and_destroyed(machine: Machine) -> None:
    create, destroy, info = 0, 1, 4
    domid = machine.call("do_domctl", create, 0, machine.write_scratch(b"guest"))
    assert domid == 1
    assert machine.call("do_domctl", info, domid, machine.write_scratch(b"")) == 0
    assert machine.read_string(SCRATCH_VIRT) == "guest"
    assert machine.call("do_domctl", destroy, domid, 0) == 0
    assert machine.call("do_domctl", destroy, 0, 0) == errno(EBUSY)


def test_a_bad_guest_pointer_is_survived_through_the_exception_table(machine: Machine) -> None:
    max_mem = 5
    assert machine.call("do_domctl", max_mem, 0, 0x1000) == errno(EFAULT)
    assert machine.call("do_domctl", max_mem, 0, machine.write_scratch(b"\x07")) == 0
    assert machine.call("do_console_io", 0, 5, 0x1000) == errno(EFAULT)


def test_a_fault_without_an_entry_is_not_survived(machine: Machine) -> None:
    with pytest.raises(UcError):
        machine.call("strlen", 0x1000)


@pytest.mark.parametrize(
    ("function", "args", "kind", "where"),
    [
        ("common/domctl.c#op_unpause", (SCRATCH_VIRT, 0), BUG_WARN, "domctl.c: WARN_ON("),
        ("domain_destroy", (SCRATCH_VIRT,), BUG_BUG, "domain.c: BUG_ON("),
        ("common/console.c#console_write", (0, 257), BUG_ASSERT, "console.c: ASSERT("),
    ],
    ids=["warn", "bug", "assert"],
)
def test_bug_frames_lead_back_to_the_source_line(
    machine: Machine, function: str, args: tuple[int, ...], kind: int, where: str
) -> None:
    source, text = where.split(": ")
    machine.write_scratch(b"")
    with pytest.raises(UndefinedInstructionError) as trap:
        machine.call(function, *args)
    frame = machine.call("do_invalid_op", trap.value.args[0])
    line = (PROJECT / "common" / source).read_text().splitlines()[(frame & 0xFFFF) - 1]
    assert frame >> 16 == kind
    assert text in line
    assert machine.call("do_invalid_op", trap.value.args[0] + 1) == errno(2)


def test_boot_applies_alternatives_once_and_keeps_the_answers(machine: Machine) -> None:
    lfence, mfence = b"\x0f\xae\xe8", b"\x0f\xae\xf0"
    addr = machine.addr("cpu_settle")
    assert machine.call("cpu_settle", 7) == 21
    assert mfence in machine.engine.mem_read(addr, 16)
    assert machine.call("init_core", 0) == 1
    assert lfence in machine.engine.mem_read(addr, 16)
    assert mfence not in machine.engine.mem_read(addr, 16)
    assert machine.call("cpu_settle", 7) == 21
    assert machine.call("do_console_io", 2) == 2
