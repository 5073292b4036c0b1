# SPDX-License-Identifier: Apache-2.0
"""A machine that runs one given hypervisor, booted once and restored for each run.

A saved machine belongs to one Xen image, one set of parts and one QEMU with one command line;
all of these are in its key. Where it cannot be restored, the machine is booted afresh.
"""

import contextlib
import hashlib
import logging
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.cache import cache_folder, locked, remove_unused
from xsplice_plugins.errors import ConfigError, VerifyError
from xsplice_plugins.realxen.agent import hypercall_agent, tool_agent
from xsplice_plugins.realxen.initramfs import pack_disk
from xsplice_plugins.realxen.memory import (
    PAGE_BYTES,
    Changes,
    Memory,
    facts_of,
    memory_of,
    open_saved,
    write_saved,
)
from xsplice_plugins.realxen.parts import prepare_parts
from xsplice_plugins.realxen.platforms import X86_64, Platform, platform_of
from xsplice_plugins.realxen.results import (
    FINISHED,
    MARK,
    READY,
    Outcome,
    RunResult,
    Step,
    parse_console,
)
from xsplice_plugins.realxen.session import Session, signals_as_interrupt

log = logging.getLogger(__name__)

AgentKind = Literal["tool", "hypercall"]
#: Looks at a machine that stands still.
Look = Callable[[Memory], None]

#: Size of the disk that payloads are handed over on; fixed, since a saved machine knows it.
DISK_BYTES = 64 * 1024 * 1024
MACHINES_MAX = 8
STEPS_MAX = 20_000
BOOT_SECONDS = 240.0
RUN_SECONDS = 60.0
STEP_SECONDS = 2.0

#: What is asked to see which memory changes from moment to moment; the upload is refused.
_ORDINARY = (
    Step(verb="list"),
    Step(verb="upload", name="junk", payload="junk"),
    Step(verb="apply", name="junk"),
    Step(verb="extra"),
)
_ROUNDS, _GLANCE_STEPS = 6, 5


class _Looks(Struct, frozen=True, kw_only=True):
    """Who looks at the machine, by the number of a step: after it, or once it has begun."""

    after: Mapping[int, Look]
    during: Mapping[int, Look]


class Machine(Struct, frozen=True, kw_only=True):
    """A prepared machine."""

    folder: Path  #: where its files are, in the cache
    packages: tuple[str, ...]  #: what dom0 was made of
    qemu: str  #: QEMU's version line
    has_tool: bool = True  #: the release's own ``xen-livepatch``; else our agent alone
    cpus: int = 1
    platform: Platform = X86_64

    @property
    def is_saved(self) -> bool:
        """Whether it is booted once and restored for each run; else each run boots it."""
        return self.cpus <= self.platform.saved_cpus_max

    @property
    def can_be_busy(self) -> bool:
        """Whether the steps `LOADS` may be asked of this kind of machine."""
        return self.platform.can_be_busy

    @property
    def has_memory(self) -> bool:
        """Whether :meth:`memory` and looks are to be had on this kind of machine."""
        return self.platform.has_memory

    @staticmethod
    def prepare(
        xen: Path,
        *,
        release: str = "4.17",
        cache: Path | None = None,
        say: Callable[[str], None] = log.info,
        mirror: str = "",
        cpus: int = 1,
    ) -> "Machine":
        """Make a machine for one hypervisor image, as far as it is not there yet.

        Args:
            xen: The image that boots (``xen`` or ``xen.gz``, not ``xen-syms``).
            release: The Xen release whose tool is to be used, where Debian has it.
            cache: The user's cache folder, from the environment when absent.
            say: Told what is being done.
            mirror: Debian archive to use in place of the system's.
            cpus: How many processors it has.

        Raises:
            ConfigError: The image cannot be read, or a package cannot be fetched.
            MachineError: A program is missing.
            VerifyError: The image does not boot.
        """
        try:
            image = xen.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{xen}: cannot be read ({error.strerror}); check the path"
            ) from error
        platform, image = platform_of(image, name=str(xen))
        cache = cache or cache_folder(os.environ)
        parts = prepare_parts(cache, release=release, say=say, mirror=mirror, platform=platform)
        done = subprocess.run(
            [platform.qemu, "--version"], capture_output=True, text=True, check=False
        )
        qemu = done.stdout.split("\n")[0]
        state = hashlib.sha256(image)
        state.update(parts.initramfs.read_bytes())
        state.update("\n".join([*parts.packages, qemu, *platform.command(0, cpus)]).encode())
        folder = cache / "qemu" / "machines" / state.hexdigest()[:16]
        machine = Machine(
            folder=folder,
            packages=parts.packages,
            qemu=qemu,
            has_tool=parts.has_tool,
            cpus=cpus,
            platform=platform,
        )
        with locked(folder):
            if not (folder / "made").is_file():
                (folder / "xen").write_bytes(image)
                for name, source in (("vmlinux", parts.kernel), ("initramfs", parts.initramfs)):
                    (folder / name).unlink(missing_ok=True)
                    (folder / name).hardlink_to(source)
                (folder / "made").touch()
            if machine.is_saved and not (folder / "saved").is_file():
                say(f"booting {xen} once, to save the booted machine")
                machine._save()
            (folder / "made").touch()
        _remove_old(folder.parent)
        return machine

    def run(
        self,
        steps: Sequence[Step],
        payloads: Mapping[str, bytes],
        *,
        console_log: Path | None = None,
        timeout_seconds: float | None = None,
        cold: bool = False,
        agent: AgentKind | None = None,
        looks: Mapping[int, Look] | None = None,
        glances: Mapping[int, Look] | None = None,
    ) -> RunResult:
        """Let the agent do a list of steps on a fresh machine.

        Args:
            steps: What to do, in order.
            payloads: Content by key, as the upload steps name them.
            console_log: File that everything printed is written to.
            timeout_seconds: Bound of the whole run; derived from the number of steps if absent.
            cold: Boot in place of restoring the saved machine.
            agent: ``tool`` drives the real xen-livepatch, ``hypercall`` is fast and bypasses it;
                default: the tool if there is one.
            looks: What shall look at the machine's memory, by the number of the step after which
                the machine stands still for it; for the agent ``hypercall`` alone.
            glances: The same by the number of the step that has begun: wherever it is then.

        Raises:
            MachineError: QEMU cannot be started.
            VerifyError: A step cannot be given to the agent, or dom0 does not come up.
        """
        if len(steps) > STEPS_MAX:
            raise VerifyError(f"job list: {len(steps)} steps; at most {STEPS_MAX} in one run")
        files = {key: f"p{number}" for number, key in enumerate(sorted(payloads))}
        looks = dict(looks or {})
        assert self.has_memory or not (looks or glances), "nobody can look at this machine"
        agent = agent or ("tool" if self.has_tool else "hypercall")
        assert agent == "hypercall" or not looks, "the other agent does not wait"
        script = "".join(
            step.line(number, files) + "\n" + (f"{number} pause\n" if number in looks else "")
            for number, step in enumerate(steps)
        )
        members = {files[key]: body for key, body in payloads.items()}
        program = (
            tool_agent(self.platform)
            if agent == "tool"
            else hypercall_agent(self.folder.parents[2], self.platform)
        )
        members |= {"steps": script.encode(), "agent": program}
        disk = pack_disk(members, size_bytes=DISK_BYTES)
        bound = timeout_seconds or RUN_SECONDS + STEP_SECONDS * len(steps)
        began = time.monotonic()
        with locked(self.folder, is_shared=True), _disk(disk) as number:
            job = (number, -(-len(disk) // 4096), steps, _Looks(after=looks, during=glances or {}))
            is_cold = cold or not self.is_saved
            result = None if is_cold else self._attempt(*job, bound, restored=True)
            if result is None:
                result = self._attempt(*job, bound + BOOT_SECONDS, restored=False)
        if result is None:
            raise VerifyError(f"{self.folder}: dom0 did not come up; see boot.log in that folder")
        if console_log is not None:
            console_log.write_text(result.console)
        return replace(result, seconds=time.monotonic() - began)

    def _save(self) -> None:
        """Boot, wait until the agent is ready, and save the machine."""
        partial = self.folder / "saved.partial"
        with _disk(b"") as disk, self._session(disk, BOOT_SECONDS) as session:
            if not session.wait_for(READY):
                self._refuse_boot(session)
            session.control("stop")
            session.control("migrate", uri=f"exec:cat >{shlex.quote(str(partial))}")
            _await_migration(session, f"{partial}: the machine cannot be saved")
            (self.folder / "boot.log").write_text(session.console)
        partial.replace(self.folder / "saved")

    def memory(self) -> Memory:
        """Give the memory of the saved machine, as it is before anything is uploaded.

        It is read once and kept beside the saved machine, with what changed after some ordinary
        requests: what does so from moment to moment tells nothing about a host.

        Raises:
            VerifyError: The saved machine cannot be restored, or its memory not be read.
        """
        if not self.has_memory:
            raise VerifyError(
                f"{self.folder}: page tables of {self.platform.name} are not read; ask the model"
            )
        path, changing = self.folder / "memory", self.folder / "memory.changes"
        with locked(self.folder):
            if not facts_of(path).is_file():
                with (
                    _disk(b"") as disk,
                    _disk(b"") as spare,
                    self._session(disk, BOOT_SECONDS, *self._incoming(), spare=spare) as session,
                ):
                    refusal = (
                        f"{self.folder}: the saved machine cannot be restored; remove that folder"
                    )
                    _await_migration(session, refusal)
                    write_saved(memory_of(session, spare, self.platform.memory_mib << 20), path)
            is_known = facts_of(changing).is_file()
        if not is_known:
            changes = Changes(open_saved(path))
            steps = [*_ORDINARY] * _ROUNDS
            last = len(steps) - 1
            # Now and then while it works, and once when it waits again.
            moments: dict[int, Look] = dict.fromkeys(range(1, last, _GLANCE_STEPS), changes.see)
            payloads = {"junk": bytes(PAGE_BYTES)}
            looks: dict[int, Look] = {last: changes.see}
            done = self.run(steps, payloads, agent="hypercall", glances=moments, looks=looks)
            if not done.restored or any(result.outcome != "done" for result in done.steps):
                raise VerifyError(f"{self.folder}: dom0 does not answer: {done.crash or 'timeout'}")
            changes.write(changing)
        return open_saved(path, changing)

    def _incoming(self) -> tuple[str, str]:
        return ("-incoming", f"exec:cat {shlex.quote(str(self.folder / 'saved'))}")

    @contextlib.contextmanager
    def _session(
        self, disk: int, bound: float, *more: str, spare: int | None = None
    ) -> Iterator[Session]:
        deadline = time.monotonic() + bound
        command = [*self.platform.command(disk, self.cpus), *more]
        files = [disk] if spare is None else [disk, spare]
        with (
            signals_as_interrupt(),
            Session(command, cwd=self.folder, deadline=deadline, files=files) as session,
        ):
            yield session

    def _refuse_boot(self, session: Session) -> None:
        (self.folder / "boot.log").write_text(session.console)
        last = session.crash or "\n".join(session.console.strip().split("\n")[-5:])
        raise VerifyError(
            f"{self.folder / 'xen'}: dom0 did not come up; last words: {last!r}; "
            f"see {self.folder / 'boot.log'}"
        )

    def _attempt(
        self,
        disk: int,
        pages: int,
        steps: Sequence[Step],
        looks: _Looks,
        bound: float,
        *,
        restored: bool,
    ) -> RunResult | None:
        """Run the steps once; ``None`` when the machine could not be brought up this way."""
        incoming = self._incoming() if restored else ()
        with (
            _disk(b"") as spare,
            self._session(disk, bound, *incoming, spare=spare) as session,
        ):
            if restored:
                try:
                    _await_migration(session, "QEMU: the saved machine cannot be restored")
                    with contextlib.suppress(VerifyError):
                        session.control("cont")
                except VerifyError as error:
                    log.info("%s: not restored, booting afresh: %s", self.folder, error)
                    return None
            elif not session.wait_for(READY):
                self._refuse_boot(session)
            session.send_line(str(pages))
            memory = partial(memory_of, session, spare, self.platform.memory_mib << 20)
            finished = _let_look(session, memory, looks) and session.wait_for(FINISHED)
            console = session.console
            crash = "" if finished else session.crash
        if not finished and not crash and session.overflowed:
            crash = "the console's log overflowed"
        broken: Outcome = "crashed" if crash else "timeout"
        text = console if restored else console.partition(READY)[2]
        return RunResult(
            steps=parse_console(text, steps, broken=broken),
            restored=restored,
            crash=crash,
            console=console,
        )


def _let_look(session: Session, memory: Callable[[], Memory], looks: _Looks) -> bool:
    """Let each one look when its moment has come; tell whether all of them came."""
    moments = [(number, f"begin {number}", look) for number, look in looks.during.items()]
    moments += [(number, f"paused {number} .", look) for number, look in looks.after.items()]
    for _, words, look in sorted(moments, key=lambda moment: moment[:2]):
        if not session.wait_for(f"{MARK} {words}"):
            return False
        session.control("stop")
        look(memory())
        session.control("cont")
        if words.startswith("paused"):
            session.send_line("")
    return True


def _remove_old(folder: Path) -> None:
    """Keep the machines used last: each build of Xen makes one, of more than 100 MB."""
    stamps = [(path.stat().st_mtime, path.parent) for path in folder.glob("*/made")]
    for _, machine in sorted(stamps)[:-MACHINES_MAX]:
        if remove_unused(machine):
            log.info("%s: removed, it was not used for long", machine)


@contextlib.contextmanager
def _disk(data: bytes) -> Iterator[int]:
    """Give the descriptor of a disk in memory: nothing is left of it, however we end."""
    number = os.memfd_create("xsplice-jobs")
    try:
        with os.fdopen(os.dup(number), "wb") as handle:
            handle.write(data)
        os.ftruncate(number, DISK_BYTES)
        yield number
    finally:
        os.close(number)


def _await_migration(session: Session, refusal: str) -> None:
    """Wait until a machine has been written or read whole."""
    while True:
        answer = session.control("query-migrate")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == "completed":
            return
        if status in {"failed", "cancelled"} or time.monotonic() > session.deadline:
            raise VerifyError(f"{refusal} ({status})")
        time.sleep(0.02)
