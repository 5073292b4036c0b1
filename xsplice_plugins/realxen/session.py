# SPDX-License-Identifier: Apache-2.0
"""One running QEMU: its console, its control channel, and its certain end.

Both channels are socket pairs made before QEMU starts, so nothing has to be waited for and no
name in the file system can collide.
"""

import atexit
import contextlib
import json
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from xsplice_plugins.errors import MachineError, VerifyError
from xsplice_plugins.realxen.results import crash_line
from xsplice_plugins.system.process import end_group

#: A hypervisor that double-faults for ever prints for ever.
CONSOLE_BYTES_MAX = 16 * 1024 * 1024
#: After a crash is seen, how long its last words may take.
LAST_WORDS_SECONDS = 0.4

_running: "set[subprocess.Popen[bytes]]" = set()


@atexit.register
def end_all() -> None:
    """End every QEMU of this process."""
    for process in list(_running):
        end_group(process, grace_seconds=0)
    _running.clear()


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that ``finally`` clauses run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Session:
    """A QEMU process; use it as a context manager, which ends it whatever happens."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, deadline: float, files: Sequence[int] = ()
    ) -> None:
        """Start QEMU.

        Args:
            command: Program and arguments without the channels.
            cwd: Folder that relative names are looked up in.
            deadline: ``time.monotonic()`` value after which every wait ends.
            files: Descriptors that the command names as ``/proc/self/fd/N``.
        """
        self.deadline = deadline
        self.crash = ""
        self.overflowed = False
        self._console = bytearray()
        self._crash_scan = 0
        self._serial, serial_theirs = socket.socketpair()
        self._control, control_theirs = socket.socketpair()
        self._errors = ""
        descriptors = (serial_theirs.fileno(), control_theirs.fileno())
        channels = (
            *("-chardev", f"socket,id=console,fd={descriptors[0]}"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=control,fd={descriptors[1]}"),
            *("-mon", "chardev=control,mode=control"),
        )
        try:
            self._process = subprocess.Popen(
                # Not even SIGKILL of ourselves, which no handler sees, leaves a QEMU running.
                ["setpriv", "--pdeathsig", "KILL", *command, *channels],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(*descriptors, *files),
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(
                f"{command[0]}: cannot be started ({error.strerror}); install it"
            ) from error
        finally:
            serial_theirs.close()
            control_theirs.close()
        _running.add(self._process)
        self._serial.settimeout(0)
        self._control_pending = b""
        self._greeted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._last_words()
        _running.discard(self._process)
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._serial.close()
        self._control.close()

    @property
    def console(self) -> str:
        """Return everything printed so far."""
        return self._console.decode(errors="replace").replace("\r", "")

    def send_line(self, text: str) -> None:
        """Type a line on the console."""
        self._serial.settimeout(5)
        try:
            self._serial.sendall(text.encode() + b"\n")
        except OSError as error:
            raise VerifyError(f"QEMU: its console is closed ({error.strerror})") from error
        finally:
            self._serial.settimeout(0)

    def wait_for(self, words: str) -> bool:
        """Read the console until something is said.

        Args:
            words: What to wait for, anywhere in the text.

        Returns:
            Whether it came; if not, ``crash``, ``overflowed`` or the deadline tells why.
        """
        wanted = words.encode()
        searched = 0
        until = self.deadline
        with selectors.DefaultSelector() as selector:
            selector.register(self._serial, selectors.EVENT_READ)
            while True:
                found = self._console.find(wanted, searched)
                if found >= 0 and b"\n" in self._console[found:]:
                    return True
                searched = max(0, len(self._console) - len(wanted)) if found < 0 else found
                if self.crash and until == self.deadline:
                    until = min(until, time.monotonic() + LAST_WORDS_SECONDS)
                left = until - time.monotonic()
                if left <= 0 or self.overflowed:
                    return False
                if selector.select(min(left, 1.0)) and not self._read_console():
                    return False

    def _read_console(self) -> bool:
        try:
            data = self._serial.recv(65536)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            data = b""
        if not data:
            return False
        self._console += data
        if len(self._console) > CONSOLE_BYTES_MAX:
            self.overflowed = True
        end = self._console.rfind(b"\n") + 1
        if not self.crash:
            for line in self._console[self._crash_scan : end].decode(errors="replace").split("\n"):
                self.crash = self.crash or crash_line(line)
        self._crash_scan = max(self._crash_scan, end)
        return True

    def control(self, command: str, **arguments: str | int | bool) -> object:
        """Give a QMP command, such as ``stop``, and return its answer.

        Raises:
            VerifyError: QEMU refused it, ended, or did not answer in time.

        Source: QEMU, docs/interop/qmp-spec.
        """
        if not self._greeted:
            self._greeted = True
            self._control_answer("QMP")
            self.control("qmp_capabilities")
        message = json.dumps({"execute": command, "arguments": arguments, "id": command}) + "\n"
        try:
            self._control.sendall(message.encode())
        except OSError as error:
            raise VerifyError(f"QEMU: ended before {command}: {self._last_words()}") from error
        return self._control_answer("return")

    def _control_answer(self, wanted: str) -> object:
        while True:
            line, newline, rest = self._control_pending.partition(b"\n")
            if newline:
                self._control_pending = rest
                answer = json.loads(line)
                if "error" in answer:
                    raise VerifyError(f"QEMU: {answer['id']}: {answer['error']['desc']}")
                if wanted in answer:
                    return answer[wanted]
                continue
            self._control.settimeout(max(0.1, self.deadline - time.monotonic()))
            try:
                data = self._control.recv(65536)
            except TimeoutError as error:
                raise VerifyError("QEMU: no answer on its control channel in time") from error
            except OSError:
                data = b""
            if not data:
                raise VerifyError(f"QEMU: ended early: {self._last_words()}")
            self._control_pending += data

    def _last_words(self) -> str:
        end_group(self._process, grace_seconds=0)
        if self._process.stderr is not None:
            self._errors += self._process.stderr.read(10_000).decode(errors="replace")
        return re.sub(r"\s+", " ", self._errors).strip() or "without a word"
