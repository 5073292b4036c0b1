# SPDX-License-Identifier: Apache-2.0
"""The parts of the real-Xen judge that need no QEMU: job lists, answers, archives, agents."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.kit.processes import number_in, wait_for_end
from xsplice_plugins.errors import ConfigError, VerifyError
from xsplice_plugins.realxen import agent, initramfs, machine, results, session
from xsplice_plugins.realxen.platforms import ARM64, PLATFORMS, X86_64, Platform, platform_of
from xsplice_plugins.realxen.results import Step

LISTING = [
    " ID                                     | status     | metadata",
    "----------------------------------------+------------+---------------",
    "hello                                   | APPLIED    | LIVEPATCH_RULEZ",
    "sad                                     | CHECKED (22, Invalid argument)    |",
    "busy                                    | APPLIED (-16, Device or resource busy)    | a|b",
    "",
]


def console(*lines: str) -> str:
    """Give a console's text; lines of the agent begin with a dot."""
    marked = [f"{results.MARK} {line[1:]}" if line.startswith(".") else line for line in lines]
    return "\r\n".join(marked) + "\r\n"


def test_a_job_line_carries_number_verb_name_file_and_flags() -> None:
    upload = Step(verb="upload", name="fix", payload="key")
    assert upload.line(0, {"key": "p0"}) == "0 upload fix p0"
    assert Step(verb="apply", name="fix", flags=("--nodeps",)).line(7, {}) == "7 apply fix --nodeps"
    assert Step(verb="extra").line(1, {}) == "1 extra"


@pytest.mark.parametrize(
    "step",
    [
        Step(verb="explode", name="x"),
        Step(verb="apply", name="a b"),
        Step(verb="apply", name="$(reboot)"),
        Step(verb="apply", name="a*"),
        Step(verb="apply", name="x" * 128),
        Step(verb="apply", name="ok", flags=(";",)),
        Step(verb="upload", name="x", payload="not-there"),
    ],
    ids=["verb", "space", "shell", "glob", "long", "flag", "payload"],
)
def test_a_job_that_a_shell_could_misread_is_refused(step: Step) -> None:
    with pytest.raises(VerifyError):
        step.line(0, {"key": "p0"})
    assert Step(verb="apply", name="x" * 127).line(0, {})


def test_the_tools_listing_is_read_with_its_results() -> None:
    assert results.parse_listed(LISTING) == (
        ("hello", "APPLIED", 0),
        ("sad", "CHECKED", -22),
        ("busy", "APPLIED", -16),
    )
    assert results.parse_listed(["Nothing to list"]) == ()


def test_the_tools_error_number_is_read() -> None:
    assert results.parse_error(["Applying x... failed", "Error 22: Invalid argument"]) == 22
    assert results.parse_error(["Applying x... completed"]) == 0


def test_console_lines_belong_to_their_step() -> None:
    steps = (Step(verb="upload", name="a", payload="a"), Step(verb="apply", name="a"))
    text = console(
        "(XEN) before",
        ".begin 0",
        "(XEN) one",
        ".out Uploading",
        ".lst " + "a".ljust(40) + "| CHECKED    | ",
        ".end 0 status=0 tries=1 version=4.17 extra=<.5>",
        "(XEN) between",
        ".begin 1",
        "(XEN) two",
        ".end 1 status=1 tries=3 ret=-22 state=CHECKED rc=-16 version=4.17 extra=<.5>",
    )
    first, second = results.parse_console(text, steps, broken="timeout")
    assert (first.console, first.output, first.state) == (("(XEN) one",), ("Uploading",), "CHECKED")
    assert (second.error, second.rc, second.tries) == (22, -16, 3)
    assert (first.accepted, second.accepted) == (True, False)


def test_a_line_of_the_hypervisor_in_front_of_a_mark_is_kept_apart() -> None:
    text = (
        console(".begin 0")
        + "(XEN) half a li"
        + console(".end 0 status=0 tries=1 version=4.17 extra=<.5>")
    )
    (only,) = results.parse_console(text, [Step(verb="extra")], broken="timeout")
    assert (only.outcome, only.console) == ("done", ("(XEN) half a li",))


def test_steps_after_a_crash_were_not_run() -> None:
    steps = [Step(verb="extra")] * 3
    text = console(
        ".begin 0",
        ".end 0 status=0 tries=1 version=4.17 extra=<.5>",
        ".begin 1",
        *["(XEN) *** DOUBLE FAULT ***"] * 500,
    )
    found = results.parse_console(text, steps, broken="crashed")
    assert [step.outcome for step in found] == ["done", "crashed", "not-run"]
    assert found[1].console == ("(XEN) *** DOUBLE FAULT *** (repeated 500 times)",)


def test_an_answer_that_cannot_be_read_is_an_error_not_a_guess() -> None:
    with pytest.raises(VerifyError, match="cannot be read"):
        results.parse_console(
            console(".begin 0", ".end 0 status=zero"), [Step(verb="extra")], broken="timeout"
        )


@pytest.mark.parametrize(
    ("line", "is_crash"),
    [
        ("(XEN) *** DOUBLE FAULT ***", True),
        ("(XEN) Panic on CPU 0:", True),
        ("(XEN) CPU0: Unexpected Trap: Undefined Breakpoint Value", True),
        ("[    1.0] Kernel panic - not syncing: x", True),
        ("(XEN) livepatch: x finished APPLY with rc=0", False),
        ("(XEN) arch/x86/x.c:1: fault", False),
    ],
)
def test_a_crash_is_told_from_ordinary_words(line: str, *, is_crash: bool) -> None:
    assert bool(results.crash_line(line)) is is_crash


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_initramfs_is_what_cpio_unpacks(tmp_path: Path) -> None:
    files = {"init": b"#!/bin/sh\n", "a/b/c": b"x" * 4097, "empty": b""}
    packed = initramfs.pack_cpio(files, {"bin/sh": "busybox"})
    assert packed == initramfs.pack_cpio(dict(reversed(files.items())), {"bin/sh": "busybox"})
    listed = subprocess.run(
        ["cpio", "-itv", "--quiet"], input=packed, capture_output=True, check=True
    ).stdout.decode()
    assert "bin/sh -> busybox" in listed
    assert "dev/console" in listed
    subprocess.run(
        ["cpio", "-id", "--quiet", "a/*", "empty"], input=packed, cwd=tmp_path, check=True
    )
    assert (tmp_path / "a/b/c").read_bytes() == b"x" * 4097
    assert (tmp_path / "empty").read_bytes() == b""


def test_the_job_disk_is_a_tar_and_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(
        initramfs.pack_disk({"steps": b"0 extra\n"}, size_bytes=1 << 20)
    )
    listed = subprocess.run(
        ["tar", "tf", str(tmp_path / "disk")], capture_output=True, text=True, check=True
    )
    assert listed.stdout == "steps\n"
    with pytest.raises(ConfigError, match="do not fit"):
        initramfs.pack_disk({"big": b"x" * (1 << 20)}, size_bytes=1 << 20)


def bz_image(packed: bytes) -> bytes:
    """Wrap packed bytes as a bzImage's payload."""
    image = bytearray(1024)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 0, len(packed))
    return bytes(image) + packed


def test_the_kernel_is_taken_out_of_a_bzimage() -> None:
    kernel = b"\x7fELF" + b"k" * 5000
    # Linux appends the unpacked size behind the compressed stream.
    packed = lzma.compress(kernel, check=lzma.CHECK_CRC32) + struct.pack("<I", len(kernel))
    assert initramfs.unpack_kernel(bz_image(packed), name="vmlinuz") == kernel


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"\0" * 4096, "not a bzImage"),
        (bz_image(gzip.compress(b"\x7fELF")), "not packed with xz"),
        (bz_image(lzma.compress(b"text", check=lzma.CHECK_CRC32)), "not an ELF"),
    ],
    ids=["no-kernel", "gzip", "no-elf"],
)
def test_other_kernels_are_refused(image: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        initramfs.unpack_kernel(image, name="vmlinuz")


each_platform = pytest.mark.parametrize("platform", PLATFORMS, ids=lambda row: row.name)


@each_platform
def test_the_scripts_of_dom0_are_valid_shell(platform: Platform) -> None:
    scripts = agent.init_script(["a", "b"], platform).encode(), agent.tool_agent(platform)
    for script in scripts:
        subprocess.run(["sh", "-n"], input=script, check=True)
        assert not re.search(rb"@[A-Z]+@", script)
        assert f"/{platform.loader} --library-path".encode() in script


@pytest.mark.toolchain
@each_platform
def test_the_fast_agent_compiles_once(platform: Platform, tmp_path: Path) -> None:
    if shutil.which(platform.compiler[0]) is None:
        pytest.skip(f"{platform.compiler[0]} is not installed")
    program = agent.hypercall_agent(tmp_path, platform)
    assert program[:4] == b"\x7fELF"
    (made,) = tmp_path.rglob("agent")
    stamp = made.stat().st_mtime_ns
    assert agent.hypercall_agent(tmp_path, platform) == program
    assert made.stat().st_mtime_ns == stamp


def elf_header(machine: int) -> bytes:
    """Give the first bytes of an ELF file."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine) + bytes(100)


ARM64_IMAGE = bytes(56) + b"ARM\x64" + bytes(100)


@pytest.mark.parametrize(
    ("image", "platform"),
    [
        (elf_header(62), X86_64),
        (elf_header(3), X86_64),
        (gzip.compress(elf_header(62)), X86_64),
        (ARM64_IMAGE, ARM64),
        (gzip.compress(ARM64_IMAGE), ARM64),
    ],
    ids=["elf", "elf-of-32-bits", "elf-packed", "image", "image-packed"],
)
def test_the_image_that_boots_tells_the_machine(image: bytes, platform: Platform) -> None:
    found, unpacked = platform_of(image, name="xen")
    assert found is platform
    assert unpacked in {elf_header(62), elf_header(3), ARM64_IMAGE}
    assert found.command(7, 2)[0] == found.qemu
    assert found.qemu in found.programs
    assert "file=/proc/self/fd/7" in " ".join(found.command(7, 2))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (elf_header(183), "an ELF image for machine 183; what boots is ELF for x86_64"),
        (b"MZ" + bytes(200), "not an ELF image, and no Image for arm64"),
        (b"", "not an ELF image"),
        (b"\x7fELF", "not an ELF image"),
        (b"\x1f\x8bnothing", "cannot be unpacked"),
    ],
    ids=["xen-syms-of-arm64", "other", "empty", "short", "broken-gzip"],
)
def test_an_image_that_boots_nowhere_is_refused_with_what_to_name(image: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        platform_of(image, name="xen-syms")
    assert "xen-syms: " in str(refusal.value)


@pytest.mark.parametrize(
    ("platform", "cpus", "is_saved"),
    [(X86_64, 1, True), (X86_64, 4, True), (ARM64, 1, True), (ARM64, 2, False)],
)
def test_a_machine_that_does_not_restore_well_is_booted_each_time(
    platform: Platform, cpus: int, *, is_saved: bool
) -> None:
    found = machine.Machine(folder=Path("none"), packages=(), qemu="", platform=platform, cpus=cpus)
    assert found.is_saved is is_saved


def test_machines_share_no_folder_in_the_cache() -> None:
    assert X86_64.suffix == ""
    assert len({row.suffix for row in PLATFORMS}) == len(PLATFORMS)


def stand_in(tmp_path: Path, body: str) -> list[str]:
    """Give a command that stands for QEMU: descriptors arrive as ``fd=N`` in its arguments."""
    path = tmp_path / "qemu"
    path.write_text(
        "#!/bin/sh\n"
        "for word; do case $word in *id=console,fd=*) fd=${word##*=} ;; esac; done\n" + body
    )
    path.chmod(0o755)
    return ["bash", str(path)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo '(XEN) Panic on CPU 0:' >&$fd; sleep 60", "Panic on CPU 0"),
        ("while :; do echo '(XEN) *** DOUBLE FAULT ***'; done >&$fd", "DOUBLE FAULT"),
    ],
    ids=["panic", "double-fault-for-ever"],
)
def test_a_crash_ends_the_wait_long_before_the_deadline(
    body: str, words: str, tmp_path: Path
) -> None:
    began = time.monotonic()
    command = stand_in(tmp_path, body)
    with session.Session(command, cwd=tmp_path, deadline=began + 30) as running:
        assert not running.wait_for("never said")
        assert words in running.crash
        process = running._process
    assert time.monotonic() - began < 20
    assert process.returncode is not None


def test_a_silent_machine_ends_at_the_deadline_with_its_children(tmp_path: Path) -> None:
    command = stand_in(tmp_path, f"sleep 60 & echo $! >{tmp_path}/child; echo hi >&$fd; wait")
    with session.Session(command, cwd=tmp_path, deadline=time.monotonic() + 1.5) as running:
        assert running.wait_for("hi")
        assert not running.wait_for("never said")
    child = number_in(tmp_path / "child")
    wait_for_end(child)


def test_a_machine_that_ends_early_says_why(tmp_path: Path) -> None:
    command = stand_in(tmp_path, "echo 'no such device' >&2; exit 1")
    with (
        session.Session(command, cwd=tmp_path, deadline=time.monotonic() + 5) as running,
        pytest.raises(VerifyError, match="no such device"),
    ):
        running.control("stop")
