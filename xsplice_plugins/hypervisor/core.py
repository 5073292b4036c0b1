# SPDX-License-Identifier: Apache-2.0
"""The hypervisor: what the four livepatch operations answer, and the state they change.

Upload is synchronous. An action only *schedules* work: ``run_pending`` is the moment when all
CPUs meet and the work is done. Source: specification sections 6, 8 and 11; xen/common/livepatch.c.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from xsplice_plugins.hypervisor.act import actions
from xsplice_plugins.hypervisor.act.signature import OFF, SignaturePolicy
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EINVAL,
    ENODATA,
    ENOENT,
    EOPNOTSUPP,
    Answer,
    Hazard,
    Refusal,
)
from xsplice_plugins.hypervisor.image.image import Image
from xsplice_plugins.hypervisor.load.loader import load_payload
from xsplice_plugins.hypervisor.run.hooks import HookRunner, emulate_hook
from xsplice_plugins.hypervisor.state.payload import Payload, State
from xsplice_plugins.hypervisor.state.rendezvous import Meeting, meet
from xsplice_plugins.hypervisor.state.requests import (
    LIST_MAX,
    TIMEOUT_NS_DEFAULT,
    Command,
    Host,
    Listing,
    Status,
    Work,
    list_payloads,
    status_of,
)

PAYLOAD_BYTES_MAX = 2 << 20
NAME_BYTES_MAX = 128
FLAG_FORCE = 1
ACTION_NODEPS = 1


_Result = TypeVar("_Result")


class Hypervisor:
    """One running Xen with its payloads.

    After a hazard the host is down: every further request raises the same hazard.
    """

    def __init__(
        self,
        image: Image,
        release: Release,
        *,
        host: Host | None = None,
        signatures: SignaturePolicy = OFF,
        hook_runner: HookRunner = emulate_hook,
    ) -> None:
        self.image = image
        self.release = release
        self.host = host if host is not None else Host()
        self.signatures = signatures
        self.hook_runner = hook_runner
        self.memory = image.new_memory()
        self.arena = image.new_arena()
        self.payloads: list[Payload] = []
        self.applied: list[Payload] = []
        self.stamp = 1
        self.work: Work | None = None
        self.console: list[str] = []
        self.meetings: list[Meeting] = []
        self.hazard: Hazard | None = None
        self.engine: object | None = None

    # -- UPLOAD ---------------------------------------------------------------------------------

    def upload(
        self, name: bytes, data: bytes, *, name_pad: Sequence[int] = (), op_flags: int = 0
    ) -> Answer:
        """Upload a payload.

        Args:
            name: with its final NUL, as the hypercall passes it.
            data: the file.
            name_pad: the three pad words behind the name.
            op_flags: the operation's flags (FORCE), a pad word before 4.19.

        Returns:
            Zero, or the errno and the step that refused.

        Raises:
            Hazard: real Xen's behaviour is undefined.
        """
        return self._guarded(lambda: self._upload(name, data, name_pad, op_flags))

    def _upload(self, name: bytes, data: bytes, name_pad: Sequence[int], op_flags: int) -> Answer:
        self._check_op_flags(op_flags)
        text = self._check_name(name, name_pad)
        if not 0 < len(data) <= PAYLOAD_BYTES_MAX:
            raise Refusal(EINVAL, "size", f"{len(data)} bytes; 1 to 2097152 are accepted")
        if self._find(text) is not None:
            raise Refusal(EEXIST, "duplicate-name", f"a payload is called {text} already")
        data = self.signatures.check(data)
        payload = Payload(name=text)
        try:
            load_payload(
                data,
                payload,
                image=self.image,
                loaded=self.payloads,
                memory=self.memory,
                arena=self.arena,
                release=self.release,
            )
        except (Refusal, Hazard):
            self._free(payload)
            raise
        self.payloads.append(payload)
        self.stamp += 1
        return Answer(code=0, step="upload")

    def _check_op_flags(self, op_flags: int) -> None:
        if not self.release.has_op_flags:
            if op_flags:
                raise Refusal(EINVAL, "op-flags", "the pad word is not zero")
        elif op_flags & ~FLAG_FORCE and not op_flags & FLAG_FORCE:
            raise Refusal(EINVAL, "op-flags", f"unknown flags {op_flags:#x}")

    @staticmethod
    def _check_name(name: bytes, name_pad: Sequence[int]) -> str:
        if not 0 < len(name) <= NAME_BYTES_MAX:
            raise Refusal(EINVAL, "name", f"{len(name)} bytes; 1 to 128 are accepted")
        if any(name_pad):
            raise Refusal(EINVAL, "name", "a pad word is not zero")
        if name[-1]:
            raise Refusal(EINVAL, "name", "the last byte is not NUL")
        return name.partition(b"\0")[0].decode("latin-1")

    def _find(self, name: str) -> Payload | None:
        return next((payload for payload in self.payloads if payload.name == name), None)

    def _free(self, payload: Payload) -> None:
        mapped = set(map(id, self.memory.segments()))
        for segment in payload.segments:
            if id(segment) in mapped:
                self.memory.unmap(segment)
        if payload.base_virt:
            self.arena.free(payload.base_virt)

    # -- GET and LIST ---------------------------------------------------------------------------

    def get(self, name: bytes, *, name_pad: Sequence[int] = ()) -> tuple[Answer, Status | None]:
        """Ask for one payload's state."""
        try:
            payload = self._require(self._check_name(name, name_pad))
        except Refusal as refusal:
            return _answer(refusal), None
        return Answer(code=0, step="get"), status_of(payload)

    def list_payloads(
        self,
        *,
        idx: int = 0,
        nr: int = LIST_MAX,
        pad: int = 0,
        name_bytes_max: int | None = None,
        metadata_bytes_max: int | None = None,
    ) -> tuple[Answer, Listing | None]:
        """Ask for all payloads.

        Args:
            idx: first entry wanted.
            nr: how many at most; 0 is the probe.
            pad: must be zero.
            name_bytes_max: capacity of the name buffer, looked at since 4.21.
            metadata_bytes_max: capacity of the metadata buffer, looked at since 4.21.

        Returns:
            The number of entries (or an errno), and the listing.
        """
        return list_payloads(
            self.payloads,
            stamp=self.stamp,
            release=self.release,
            idx=idx,
            nr=nr,
            pad=pad,
            capacities=(name_bytes_max, metadata_bytes_max),
        )

    # -- ACTION ---------------------------------------------------------------------------------

    def action(
        self,
        name: bytes,
        command: int,
        *,
        timeout_ns: int = 0,
        flags: int = 0,
        pad: int = 0,
        name_pad: Sequence[int] = (),
    ) -> Answer:
        """Ask for an action; its work waits for ``run_pending``.

        Args:
            name: with its final NUL.
            command: a ``Command``, or any number.
            timeout_ns: 0 means 30 ms.
            flags: bit 0 is NODEPS, read by APPLY since 4.14.
            pad: must be zero since 4.14.
            name_pad: the three pad words behind the name.

        Returns:
            The hypercall's result. Zero does not mean success: look at the payload's rc.

        Raises:
            Hazard: real Xen's behaviour is undefined.
        """
        return self._guarded(lambda: self._action(name, command, timeout_ns, flags, pad, name_pad))

    def _action(
        self,
        name: bytes,
        command: int,
        timeout_ns: int,
        flags: int,
        pad: int,
        name_pad: Sequence[int],
    ) -> Answer:
        if self.release.has_v2_sections and pad:
            raise Refusal(EINVAL, "pad", "the action's pad word is not zero")
        payload = self._require(self._check_name(name, name_pad))
        if self.work is not None and self.work.payload is payload:
            raise Refusal(EBUSY, "pending", f"an operation on {payload.name} is outstanding")
        if command == Command.UNLOAD:
            return self._unload(payload)
        if command == Command.REVERT:
            is_due = payload.state == State.APPLIED
        elif command in {Command.APPLY, Command.REPLACE}:
            is_due = payload.state == State.CHECKED
        else:
            raise Refusal(EOPNOTSUPP, "command", f"command {command} is unknown")
        if not is_due:
            # The wrong state falls through: zero is returned and nothing happens.
            return Answer(code=0, step="state", reason=f"{payload.name} is {payload.state.name}")
        if command == Command.REVERT:
            answer = self._may_revert(payload)
        elif command == Command.APPLY:
            answer = self._may_apply(payload, flags)
        else:
            answer = self._may_replace(payload)
        if answer is not None:
            return answer
        payload.rc = -EAGAIN
        return self._schedule(Command(command), payload, timeout_ns)

    def _require(self, name: str) -> Payload:
        payload = self._find(name)
        if payload is None:
            raise Refusal(ENOENT, "name", f"no payload is called {name}")
        return payload

    def _unload(self, payload: Payload) -> Answer:
        if payload.state != State.CHECKED:
            raise Refusal(EINVAL, "state", f"{payload.name} is applied")
        self.payloads.remove(payload)
        self._free(payload)
        self.stamp += 1
        return Answer(code=0, step="unload")

    def _may_revert(self, payload: Payload) -> Answer | None:
        if self.applied[-1] is not payload:
            raise Refusal(EBUSY, "stacking", f"{self.applied[-1].name} lies above")
        return self._ask_hook("prerevert", payload)

    def _may_apply(self, payload: Payload, flags: int) -> Answer | None:
        release = self.release
        if release.has_hooks_basic and payload.is_reverted and not payload.is_safe_to_reapply:
            payload.rc = -EINVAL
            return Answer(code=0, step="re-apply", reason="its data is no longer as loaded")
        if not (release.has_v2_sections and flags & ACTION_NODEPS):
            wanted = self.applied[-1].build_id if self.applied else self.image.build_id
            self._check_dependency(payload, wanted)
        if release.has_v2_sections:
            actions.check_expectations(payload, self)
        return self._ask_hook("preapply", payload)

    def _may_replace(self, payload: Payload) -> Answer | None:
        self._check_dependency(payload, self.image.build_id)
        if self.release.has_v2_sections:
            for other in (payload, *self.applied):
                if other.has_veto_hooks():
                    raise Refusal(EOPNOTSUPP, "replace-hooks", f"{other.name} has pre/post hooks")
        return None

    @staticmethod
    def _check_dependency(payload: Payload, wanted: bytes | None) -> None:
        if wanted is None:
            raise Refusal(ENODATA, "dependency", "the running Xen has no build-id")
        if payload.depends != wanted:
            raise Refusal(
                EINVAL,
                "dependency",
                f"{payload.name} depends on {payload.depends.hex()}, the top is {wanted.hex()}",
            )

    def _ask_hook(self, kind: str, payload: Payload) -> Answer | None:
        """Run a vetoing hook; an answer means that it vetoed."""
        if kind not in payload.hooks:
            return None
        result = actions.call_hook(kind, payload.hooks[kind], payload, self)
        if not result:
            return None
        payload.rc = result
        return Answer(code=result, step=f"{kind}-hook", reason="the hook vetoed")

    # -- the work -------------------------------------------------------------------------------

    def _schedule(self, command: Command, payload: Payload, timeout_ns: int) -> Answer:
        if self.work is not None:
            raise Refusal(EBUSY, "schedule", "another payload's operation is outstanding")
        if self.host.is_hotplug_busy:
            raise Refusal(EBUSY, "schedule", "CPU hotplug is in progress")
        # The field has 32 bits: 4.29 s is the longest anybody can wait.
        timeout_ns = timeout_ns & 0xFFFFFFFF or TIMEOUT_NS_DEFAULT
        self.work = Work(command=command, payload=payload, timeout_ns=timeout_ns)
        return Answer(code=0, step="schedule")

    def run_pending(self) -> Meeting | None:
        """Let the CPUs meet and do the outstanding work.

        Returns:
            How the meeting went, None where nothing was outstanding.

        Raises:
            Hazard: the work crashed the host.
        """
        return self._guard(self._run_pending)

    def _run_pending(self) -> Meeting | None:
        work = self.work
        if work is None:
            return None
        meeting = meet(
            self.host.cpus,
            timeout_ns=work.timeout_ns,
            is_idle_only=self.release.is_idle_only,
            is_lock_busy=self.host.is_hotplug_busy,
        )
        self.meetings.append(meeting)
        payload = work.payload
        if not meeting.is_met:
            payload.rc = -EBUSY
            self.work = None
            return meeting
        payload.rc = actions.perform(work.command.name, payload, self)
        self.work = None
        self.console.append(f"{payload.name} finished {work.command.name} with rc={payload.rc}")
        kind = {Command.APPLY: "postapply", Command.REVERT: "postrevert"}.get(work.command)
        if kind is not None and kind in payload.hooks:
            actions.call_hook(kind, payload.hooks[kind], payload, self)
        return meeting

    def _guarded(self, request: Callable[[], Answer]) -> Answer:
        """As ``_guard``, with a refusal turned into the hypercall's return value."""
        try:
            return self._guard(request)
        except Refusal as refusal:
            return _answer(refusal)

    def _guard(self, request: Callable[[], _Result]) -> _Result:
        """Run a request; remember a hazard, after which there is no host left to ask."""
        if self.hazard is not None:
            raise Hazard(self.hazard.step, f"the host is down since: {self.hazard.reason}")
        try:
            return request()
        except Hazard as hazard:
            self.hazard = hazard
            raise


def _answer(refusal: Refusal) -> Answer:
    return Answer(code=refusal.code, step=refusal.step, reason=refusal.reason)
