# SPDX-License-Identifier: Apache-2.0
"""The values of the livepatch hypercalls. Source: xen/include/public/sysctl.h."""

import enum

from msgspec import Struct, field

from xsplice_plugins.hypervisor.state.payload import LoadedPayload, State
from xsplice_plugins.hypervisor.state.rendezvous import Cpu, idle_cpus

LIST_MAX = 1024
TIMEOUT_NS_DEFAULT = 30_000_000


class Command(enum.IntEnum):
    """What an ACTION asks for."""

    UNLOAD = 1
    REVERT = 2
    APPLY = 3
    REPLACE = 4


class Status(Struct, frozen=True, kw_only=True):
    """What GET and LIST tell of one payload."""

    name: str
    state: State
    rc: int
    metadata: bytes = b""
    why: str = ""  #: the model's words for an ``rc`` below zero; real Xen prints them


class PayloadList(Struct, frozen=True, kw_only=True):
    """What LIST returns."""

    version: int  #: the stamp; grows by one with each upload and unload
    left: int  #: entries behind the ones returned (all of them for a probe with nr 0)
    entries: tuple[Status, ...]  #: in upload order
    name_bytes: int
    metadata_bytes: int


class Host(Struct, kw_only=True):
    """The conditions around the hypervisor that decide some answers."""

    #: the online CPUs; CPU 0 takes the hypercall
    cpus: list[Cpu] = field(default_factory=idle_cpus)
    has_waitqueue: bool = False  #: a domain has an active vm_event waitqueue
    is_hotplug_busy: bool = False  #: the CPU-maps lock cannot be taken
    #: stacks are verified as docs/misc/livepatch.pandoc plans; no release does
    checks_stacks: bool = False


class Work(Struct, kw_only=True):
    """The one global work slot."""

    command: Command
    payload: LoadedPayload
    timeout_ns: int


def status_of(payload: LoadedPayload) -> Status:
    """Give what GET and LIST tell of a payload."""
    return Status(
        name=payload.name,
        state=payload.state,
        rc=payload.rc,
        metadata=payload.metadata,
        why=payload.why,
    )
