# SPDX-License-Identifier: Apache-2.0
"""The hypervisor: what the four livepatch operations answer, and the state they change.

Upload is synchronous. An action only *schedules* work: ``run_pending`` is the moment when all
CPUs meet and the work is done. Source: ``livepatch_op`` of xen/common/livepatch.c.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from xsplice_plugins.hypervisor.act import actions
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import (
    E2BIG,
    EAGAIN,
    EBUSY,
    EEXIST,
    EINVAL,
    ENOBUFS,
    ENODATA,
    ENOENT,
    EOPNOTSUPP,
    Answer,
    Hazard,
    Unknown,
    XenRefusal,
)
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.load.container import PAYLOAD_BYTES_MAX
from xsplice_plugins.hypervisor.load.loader import load_payload
from xsplice_plugins.hypervisor.load.signature import OFF, SignaturePolicy
from xsplice_plugins.hypervisor.run.hooks import emulate_hook
from xsplice_plugins.hypervisor.state.payload import (
    NAME_BYTES_MAX,
    LoadedPayload,
    State,
    name_bytes,
)
from xsplice_plugins.hypervisor.state.rendezvous import Meeting, meet
from xsplice_plugins.hypervisor.state.requests import (
    LIST_MAX,
    TIMEOUT_NS_DEFAULT,
    Command,
    Host,
    PayloadList,
    Status,
    Work,
    status_of,
)
from xsplice_plugins.hypervisor.state.xen import HookRunner, Xen

FLAG_FORCE = 1
ACTION_NODEPS = 1

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


def _answer(refusal: XenRefusal) -> Answer:
    return Answer(code=refusal.code, step=refusal.step, reason=refusal.reason)


def _answered(
    request: "Callable[Concatenate[Hypervisor, _Arguments], Answer]",
) -> "Callable[Concatenate[Hypervisor, _Arguments], Answer]":
    """Turn a refusal into the hypercall's return value, and remember a hazard."""

    @wraps(request)
    def answer(xen: "Hypervisor", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Answer:
        try:
            return xen.guard(lambda: request(xen, *args, **kwargs))
        except XenRefusal as refusal:
            return _answer(refusal)

    return answer


class Hypervisor(Xen):
    """A running Xen that takes the four operations.

    After a hazard the host is down: every further request raises the same hazard.
    """

    def __init__(
        self,
        image: BootedImage,
        release: Release,
        *,
        host: Host | None = None,
        signatures: SignaturePolicy = OFF,
        hook_runner: HookRunner = emulate_hook,
    ) -> None:
        super().__init__(image, release, hook_runner=hook_runner, host=host or Host())
        self.signatures = signatures
        self.stamp = 1
        self.work: Work | None = None
        self.meetings: list[Meeting] = []
        self.hazard: Hazard | None = None

    # -- UPLOAD ---------------------------------------------------------------------------------

    @_answered
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
        self._check_op_flags(op_flags)
        text = self._check_name(name, name_pad)
        if not 0 < len(data) <= PAYLOAD_BYTES_MAX:
            raise XenRefusal(EINVAL, "size", f"{len(data)} bytes; 1 to 2097152 are accepted")
        if self._find(text) is not None:
            raise XenRefusal(EEXIST, "duplicate-name", f"a payload is called {text} already")
        self.payloads.append(load_payload(text, self.signatures.check(data), self))
        self.stamp += 1
        return Answer(code=0, step="upload")

    def _check_op_flags(self, op_flags: int) -> None:
        if not self.release.has_op_flags:
            if op_flags:
                raise XenRefusal(EINVAL, "op-flags", "the pad word is not zero")
        elif op_flags & ~FLAG_FORCE and not op_flags & FLAG_FORCE:
            raise XenRefusal(EINVAL, "op-flags", f"unknown flags {op_flags:#x}")

    @staticmethod
    def _check_name(name: bytes, name_pad: Sequence[int]) -> str:
        if not 0 < len(name) <= NAME_BYTES_MAX:
            raise XenRefusal(EINVAL, "name", f"{len(name)} bytes; 1 to 128 are accepted")
        if any(name_pad):
            raise XenRefusal(EINVAL, "name", "a pad word is not zero")
        if name[-1]:
            raise XenRefusal(EINVAL, "name", "the last byte is not NUL")
        return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def _find(self, name: str) -> LoadedPayload | None:
        return next((payload for payload in self.payloads if payload.name == name), None)

    # -- GET and LIST ---------------------------------------------------------------------------

    def get(self, name: bytes, *, name_pad: Sequence[int] = ()) -> tuple[Answer, Status | None]:
        """Ask for one payload's state."""
        try:
            payload = self._require(self._check_name(name, name_pad))
        except XenRefusal as refusal:
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
    ) -> tuple[Answer, PayloadList | None]:
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
        payloads, count = self.payloads, len(self.payloads)
        if nr > LIST_MAX:
            return Answer(code=-E2BIG, step="list", reason="more than 1024 wanted"), None
        if pad or (idx >= count and count):
            return Answer(code=-EINVAL, step="list", reason="bad index or pad"), None
        is_limited = nr and self.release.has_list_capacities
        limits = (name_bytes_max, metadata_bytes_max) if is_limited else (None, None)
        code, used = 0, (0, 0)
        entries: list[Status] = []
        for payload in payloads[idx : idx + nr] if nr else payloads:
            names = used[0] + len(name_bytes(payload.name)) + 1
            grown = (names, used[1] + len(payload.metadata))
            pairs = zip(limits, grown, strict=True)
            if any(limit is not None and size > limit for limit, size in pairs):
                code = -ENOBUFS
                break
            used = grown
            entries.append(status_of(payload))
        if not nr:
            entries = []
        listing = PayloadList(
            version=self.stamp,
            left=count - (idx + len(entries)) if nr else count,
            entries=tuple(entries),
            name_bytes=used[0],
            metadata_bytes=used[1],
        )
        return Answer(code=code or len(entries), step="list"), listing

    # -- ACTION ---------------------------------------------------------------------------------

    @_answered
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
        if self.release.has_v2_sections and pad:
            raise XenRefusal(EINVAL, "pad", "the action's pad word is not zero")
        payload = self._require(self._check_name(name, name_pad))
        if self.work is not None and self.work.payload is payload:
            raise XenRefusal(EBUSY, "pending", f"an operation on {payload.name} is outstanding")
        if command == Command.UNLOAD:
            return self._unload(payload)
        if command not in tuple(Command):
            raise XenRefusal(EOPNOTSUPP, "command", f"command {command} is unknown")
        if payload.state != (State.APPLIED if command == Command.REVERT else State.CHECKED):
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
        payload.why = ""
        return self._schedule(Command(command), payload, timeout_ns)

    def _require(self, name: str) -> LoadedPayload:
        payload = self._find(name)
        if payload is None:
            raise XenRefusal(ENOENT, "name", f"no payload is called {name}")
        return payload

    def _unload(self, payload: LoadedPayload) -> Answer:
        if payload.state != State.CHECKED:
            raise XenRefusal(EINVAL, "state", f"{payload.name} is applied")
        self.payloads.remove(payload)
        self.free(payload)
        self.stamp += 1
        return Answer(code=0, step="unload")

    def _may_revert(self, payload: LoadedPayload) -> Answer | None:
        if self.applied[-1] is not payload:
            raise XenRefusal(EBUSY, "stacking", f"{self.applied[-1].name} lies above")
        return self._ask_hook("prerevert", payload)

    def _may_apply(self, payload: LoadedPayload, flags: int) -> Answer | None:
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

    def _may_replace(self, payload: LoadedPayload) -> Answer | None:
        self._check_dependency(payload, self.image.build_id)
        if self.release.has_v2_sections:
            for other in (payload, *self.applied):
                if other.has_veto_hooks():
                    raise XenRefusal(
                        EOPNOTSUPP, "replace-hooks", f"{other.name} has pre/post hooks"
                    )
        return None

    @staticmethod
    def _check_dependency(payload: LoadedPayload, wanted: bytes | None) -> None:
        if wanted is None:
            raise XenRefusal(ENODATA, "dependency", "the running Xen has no build-id")
        if payload.depends != wanted:
            raise XenRefusal(
                EINVAL,
                "dependency",
                f"{payload.name} depends on {payload.depends.hex()}, the top is {wanted.hex()}",
            )

    def _ask_hook(self, kind: str, payload: LoadedPayload) -> Answer | None:
        """Run a vetoing hook; an answer means that it vetoed."""
        if kind not in payload.hooks:
            return None
        result = actions.call_hook(kind, payload.hooks[kind], payload, self)
        if not result:
            return None
        payload.rc = result
        return Answer(code=result, step=f"{kind}-hook", reason="the hook vetoed")

    # -- the work -------------------------------------------------------------------------------

    def _schedule(self, command: Command, payload: LoadedPayload, timeout_ns: int) -> Answer:
        if self.work is not None:
            raise XenRefusal(EBUSY, "schedule", "another payload's operation is outstanding")
        if self.host.is_hotplug_busy:
            raise XenRefusal(EBUSY, "schedule", "CPU hotplug is in progress")
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
        return self.guard(self._run_pending)

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
            payload.why = f"{meeting.reason}; nothing was changed, ask again"
            self.work = None
            return meeting
        payload.rc = actions.perform(work.command.name, payload, self)
        self.work = None
        self.console.append(f"{payload.name} finished {work.command.name} with rc={payload.rc}")
        kind = {Command.APPLY: "postapply", Command.REVERT: "postrevert"}.get(work.command)
        if kind is not None and kind in payload.hooks:
            actions.call_hook(kind, payload.hooks[kind], payload, self)
        return meeting

    def guard(self, request: Callable[[], _Result]) -> _Result:
        """Run a request; remember a hazard, after which there is no host left to ask."""
        if self.hazard is not None:
            since = "unknown" if isinstance(self.hazard, Unknown) else "down"
            reason = f"the host is {since} since: {self.hazard.reason}"
            raise type(self.hazard)(self.hazard.step, reason)
        try:
            return request()
        except Hazard as hazard:
            self.hazard = hazard
            raise
