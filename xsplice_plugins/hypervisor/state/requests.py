# SPDX-License-Identifier: Apache-2.0
"""The values of the livepatch hypercalls, and LIST, which only reads.

Source: specification sections 2.6, 8.1 and 11.2.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import (
    E2BIG,
    EACCES,
    EINVAL,
    ENOBUFS,
    ENOSYS,
    EPERM,
    Answer,
)
from xsplice_plugins.hypervisor.state.payload import Payload, State
from xsplice_plugins.hypervisor.state.rendezvous import Cpu, idle_cpus

LIST_MAX = 1024
TIMEOUT_NS_DEFAULT = 30_000_000


class Command(enum.IntEnum):
    """What an ACTION asks for."""

    UNLOAD = 1
    REVERT = 2
    APPLY = 3
    REPLACE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What GET and LIST tell of one payload."""

    name: str
    state: State
    rc: int
    metadata: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What LIST returns.

    Attributes:
        version: the stamp; grows by one with each upload and unload.
        left: entries behind the ones returned (all of them for a probe with nr 0).
        entries: in upload order.
    """

    version: int
    left: int
    entries: tuple[Status, ...]
    name_bytes: int
    metadata_bytes: int


@dataclass(slots=True, kw_only=True)
class Host:
    """The conditions around the hypervisor that decide some answers.

    Attributes:
        cpus: the online CPUs; CPU 0 takes the hypercall.
        has_waitqueue: a domain has an active vm_event waitqueue.
        is_hotplug_busy: the CPU-maps lock cannot be taken.
        checks_stacks: the 2015 plan's stack verification, which no release has.
        has_heap: allocations succeed.
    """

    cpus: list[Cpu] = field(default_factory=idle_cpus)
    has_waitqueue: bool = False
    is_hotplug_busy: bool = False
    checks_stacks: bool = False
    has_heap: bool = True


@dataclass(slots=True, kw_only=True)
class Work:
    """The one global work slot."""

    command: Command
    payload: Payload
    timeout_ns: int


def status_of(payload: Payload) -> Status:
    """Give what GET and LIST tell of a payload."""
    return Status(name=payload.name, state=payload.state, rc=payload.rc, metadata=payload.metadata)


def list_payloads(
    payloads: Sequence[Payload],
    *,
    stamp: int,
    release: Release,
    idx: int,
    nr: int,
    pad: int,
    capacities: tuple[int | None, int | None],
) -> tuple[Answer, Listing | None]:
    """Answer LIST.

    Args:
        payloads: in upload order.
        stamp: the list's version.
        release: 4.21 and later look at the capacities.
        idx: first entry wanted.
        nr: how many at most; 0 is the probe.
        pad: must be zero.
        capacities: bytes of the name and the metadata buffer.

    Returns:
        The number of entries or an errno, and the listing.
    """
    count = len(payloads)
    if nr > LIST_MAX:
        return Answer(code=-E2BIG, step="list", reason="more than 1024 wanted"), None
    if pad or (idx >= count and count):
        return Answer(code=-EINVAL, step="list", reason="bad index or pad"), None
    chosen = [status_of(payload) for payload in payloads[idx : idx + nr]]
    name_bytes = metadata_bytes = 0
    code = 0
    entries = []
    for status in chosen if nr else [status_of(payload) for payload in payloads]:
        names, data = len(status.name) + 1, len(status.metadata)
        if nr and release.has_list_capacities:
            is_full = (capacities[0] is not None and name_bytes + names > capacities[0]) or (
                capacities[1] is not None and metadata_bytes + data > capacities[1]
            )
            if is_full:
                code = -ENOBUFS
                break
        name_bytes += names
        metadata_bytes += data
        entries.append(status)
    if not nr:
        entries = []
    listing = Listing(
        version=stamp,
        left=count - (idx + len(entries)) if nr else count,
        entries=tuple(entries),
        name_bytes=name_bytes,
        metadata_bytes=metadata_bytes,
    )
    return Answer(code=code or len(entries), step="list"), listing


def check_caller(
    release: Release,
    *,
    interface_version: int,
    is_privileged: bool = True,
    is_built_in: bool = True,
) -> Answer:
    """Answer for the gates in front of every operation.

    Args:
        release: the running hypervisor's.
        interface_version: what the caller's tools were built for.
        is_privileged: the caller is the control domain, and the security policy agrees.
        is_built_in: the hypervisor has live patching.

    Source: specification section 6.1.
    """
    if interface_version != release.interface_version:
        wanted = f"{release.interface_version:#x}"
        return Answer(code=-EACCES, step="interface", reason=f"tools for {wanted} are needed")
    if not is_privileged:
        return Answer(code=-EPERM, step="privilege", reason="only the control domain may")
    if not is_built_in:
        return Answer(code=-ENOSYS, step="configuration", reason="built without LIVEPATCH")
    return Answer(code=0, step="caller")
