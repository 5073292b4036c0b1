# SPDX-License-Identifier: Apache-2.0
"""The toolstack in front of the model: the real tool's commands, words and exit codes.

``run`` is one call of the program. The model behind it lives in a file, so that a person can play a
scenario command by command. Extensions over the real tool: ``check`` (what the upload checked; only
docs/misc/livepatch.pandoc has it), ``reboot`` (start over), and what is said when the host goes
down.

Source: tools/misc/xen-livepatch.c.
"""

import errno as host_errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, field

from xsplice_plugins import artefacts
from xsplice_plugins.hypervisor import (
    OFF,
    Answer,
    BootedImage,
    Command,
    Hazard,
    Release,
    SignaturePolicy,
    State,
    Status,
    Unknown,
    errno_text,
)
from xsplice_plugins.hypervisor.facts.verdicts import EAGAIN, EBUSY, EINVAL, ENOENT
from xsplice_plugins.hypervisor.state.payload import NAME_BYTES_MAX, name_bytes
from xsplice_plugins.toolstack.session import Event, ModelSession, load_session

#: Result of a command whose failure is no errno; the real tool's -1.
_FAILED = -1
_HELP = """\
xsplice: play with live patches in the model
Usage: xsplice <command> [arguments] [flags]
Commands:
  help                    these lines
  list                    payloads that are loaded
  load <file> [--nodeps]  upload, check and apply a file under its own name
  upload <name> <file>    upload and check a file
  check <name>            say what the upload checked
  apply <name> [--nodeps] apply a checked payload
  revert <name>           take an applied payload off
  replace <name>          apply one payload instead of all others
  unload <name>           forget a payload that is not applied
  reboot                  start over with a fresh hypervisor
"""


class ToolResult(NamedTuple):
    """What one call of the program came to."""

    exit_code: int
    stdout: str
    stderr: str


class _Action(NamedTuple):
    """One row of the real tool's table."""

    command: Command
    verb: str
    allowed: State
    expected: State | None  #: ``None`` means gone


_ACTIONS = {
    "apply": _Action(Command.APPLY, "Applying", State.CHECKED, State.APPLIED),
    "revert": _Action(Command.REVERT, "Reverting", State.APPLIED, State.CHECKED),
    "unload": _Action(Command.UNLOAD, "Unloading", State.CHECKED, None),
    "replace": _Action(
        Command.REPLACE, "Replacing all live patches with", State.CHECKED, State.APPLIED
    ),
}
_COMMANDS = ("help", "list", "upload", "load", *_ACTIONS)


class _Tool(Struct):
    """One call: the session and what is printed."""

    session: ModelSession
    force: int = 0
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.out.append(text)

    def complain(self, text: str, result: int = _FAILED) -> int:
        self.err.append(text)
        return result

    def error(self, number: int, why: str = "") -> int:
        return self.complain(f"{why}Error {number}: {errno_text(number)}\n", number)

    def refused(self, answer: Answer) -> int:
        self.say("failed\n")
        return self.error(abs(answer.code), f"({answer.step}: {answer.reason})\n")

    def name_problem(self, name: str) -> int:
        if len(name_bytes(name)) <= NAME_BYTES_MAX:
            return 0
        return self.complain(f"ID must be no more than {NAME_BYTES_MAX} characters.\n", EINVAL)

    def status(self, name: str) -> Status | None:
        return self.session.hypervisor.get(name_bytes(name) + b"\0")[1]

    # -- commands -------------------------------------------------------------------------------

    def help(self, _arguments: Sequence[str]) -> int:
        self.say(_HELP)
        return 0

    def usage(self) -> int:
        return self.complain(_HELP)

    def list(self, arguments: Sequence[str]) -> int:
        if arguments:
            return self.usage()
        _, listing = self.session.hypervisor.list_payloads()
        has_metadata = self.session.hypervisor.release.has_v2_sections
        if listing is None or (not listing.entries and has_metadata):
            self.say("Nothing to list\n")
            return 0
        if has_metadata:
            self.say(f" ID{'':37}| status     | metadata\n{'':->40}+{'':->12}+{'':->15}\n")
        else:
            self.say(f" ID{'':37}| status\n{'':->40}+{'':->12}\n")
        for entry in listing.entries:
            rc = f" ({-entry.rc}, {errno_text(entry.rc)})" if entry.rc else ""
            line = f"{entry.name:<40}| {entry.state.name}{rc}"
            if has_metadata:
                text = entry.metadata[:-1].replace(b"\0", b";").decode("latin-1")
                line = f"{line}    | {text}"
            self.say(line + "\n")
        return 0

    def upload(self, arguments: Sequence[str]) -> int:
        if len(arguments) != 2:
            return self.usage()
        name, path = arguments
        if problem := self.name_problem(name):
            return problem
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            return self.error(error.errno or host_errno.EIO, f"Could not open {path}.\n")
        if not data:
            # The real tool maps the file, and an empty file cannot be mapped.
            return self.error(EINVAL, f"Could not map {path}.\n")
        self.say(f"Uploading {path}... ")
        answer = self.session.do(Event(kind="upload", name=name, data=data, flags=self.force))
        if answer.code:
            return self.refused(answer)
        self.say("completed\n")
        return 0

    def check(self, arguments: Sequence[str]) -> int:
        if len(arguments) != 1:
            return self.usage()
        payloads = self.session.hypervisor.payloads
        payload = next((p for p in payloads if p.name == arguments[0]), None)
        if payload is None:
            return self.error(ENOENT, f"Failed to get status of {arguments[0]}.\n")
        self.say(f"{payload.name}: {payload.state.name}\n")
        for step, text in payload.log:
            self.say(f"  {step}: {text}\n")
        return 0

    def load(self, arguments: Sequence[str]) -> int:
        if not arguments:
            return self.usage()
        name = os.path.basename(arguments[0])  # noqa: PTH119  # basename(3): "a/" gives ""
        name = name.rpartition(".")[0] if "." in name else name
        if result := self.upload((name, arguments[0])):
            return result
        result = self.act("apply", (name, *arguments[1:]))
        if result:
            self.act("unload", (name,))
        return result

    def act(self, word: str, arguments: Sequence[str]) -> int:
        action = _ACTIONS[word]
        if not arguments:
            return self.usage()
        name = arguments[0]
        if problem := self.name_problem(name):
            return problem
        has_flags = word == "apply" and self.session.hypervisor.release.has_v2_sections
        known = {"--nodeps"} if has_flags else set()
        for flag in arguments[1:]:
            if flag not in known:
                return self.complain(f"Unsupported flag: {flag}.\n", EINVAL)
        status = self.status(name)
        if status is None:
            return self.error(ENOENT, f"Failed to get status of {name}.\n")
        if status.rc == -EAGAIN:
            text = f"Cannot execute {word}.\nOperation already in progress.\n"
            return self.complain(text, EAGAIN)
        if status.state == action.expected:
            self.say("No action needed.\n")
            return 0
        if status.state != action.allowed:
            return self._wrong_state(name, status.state, action.allowed)
        self.say(f"{action.verb} {name}... ")
        answer = self.session.do(
            Event(kind="action", name=name, command=action.command, flags=int(bool(arguments[1:])))
        )
        if answer.code:
            return self.refused(answer)
        return self._outcome(name, action)

    def _outcome(self, name: str, action: _Action) -> int:
        """Look once after the waiting time, as the real tool does."""
        status = self.status(name)
        if status is None:
            is_gone = action.expected is None
            self.say("completed\n" if is_gone else "failed\n")
            return 0 if is_gone else self.error(ENOENT)
        if status.rc == -EAGAIN:
            self.say("failed\n")
            return self.complain("Operation didn't complete.\n", EAGAIN)
        if status.rc < 0:
            self.say("failed\n")
            return self.error(-status.rc, f"({status.why})\n" if status.why else "")
        if status.rc == 0 and status.state == action.expected:
            self.say("completed\n")
            return 0
        self.say("failed\n")
        return self._wrong_state(name, status.state, action.expected or State.CHECKED)

    def _wrong_state(self, name: str, current: State, expected: State) -> int:
        return self.complain(
            f"{name} is in the wrong state.\n"
            f"Current state: {current.name}\n"
            f"Expected state: {expected.name}\n"
        )


def _match(word: str, release: Release) -> str:
    """Find a command: exact since 4.19, by prefix of what was typed before."""
    extra = ("check", "reboot")
    if word in _COMMANDS or word in extra:
        return word
    if release.has_op_flags or not word:
        return ""
    return next((name for name in _COMMANDS if name.startswith(word)), "")


def run(
    argv: Sequence[str],
    state_path: Path,
    image: BootedImage,
    *,
    release: Release,
    signatures: SignaturePolicy = OFF,
) -> ToolResult:
    """Call the tool once.

    Args:
        argv: the words behind the program's name; ``--force`` may come first (4.19 and later).
        state_path: where the model lives between calls.
        image: the hypervisor as after boot.
        release: its release.
        signatures: whether uploads must be signed.

    Returns:
        Exit code (0 done, 2 try again, 1 otherwise) and what is printed.

    Raises:
        XspliceError: the state file is damaged, belongs to something else or cannot be written.
    """
    words = list(argv)
    is_forced = bool(words) and words[0] == "--force" and release.has_op_flags
    if is_forced:
        words.pop(0)
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        return ToolResult(1, "", "A name or path is not UTF-8, which the model keeps; rename it.\n")
    if not words:
        return ToolResult(0, _HELP, "")
    word = _match(words[0], release)
    if not word:
        text = f"Unrecognised command '{words[0]}' -- try 'xsplice help'\n"
        return ToolResult(1, "", text)
    if word == "reboot":
        state_path.unlink(missing_ok=True)
        return ToolResult(0, "The hypervisor starts over.\n", "")
    session = load_session(state_path, image, release, signatures=signatures)
    tool = _Tool(session, force=1 if is_forced else 0)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "help": tool.help,
        "list": tool.list,
        "upload": tool.upload,
        "load": tool.load,
        "check": tool.check,
    }
    try:
        if session.hypervisor.hazard is not None and word != "help":
            raise session.hypervisor.hazard
        rest = words[1:]
        result = commands[word](rest) if word in commands else tool.act(word, rest)
    except Unknown as unknown:
        tool.complain(f"\nThe model cannot tell, at {unknown.step}: {unknown.reason}\n")
        result = 1
    except Hazard as hazard:
        tool.complain(f"\nThe host went down at {hazard.step}: {hazard.reason}\n")
        result = 1
    artefacts.save(state_path, session.history())
    exit_code = 2 if result in {EAGAIN, EBUSY} else int(result != 0)
    return ToolResult(exit_code, "".join(tool.out), "".join(tool.err))
