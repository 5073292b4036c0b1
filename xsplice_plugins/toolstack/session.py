# SPDX-License-Identifier: Apache-2.0
"""A model that lives in a file between commands: the history of requests, replayed.

The file holds what was asked, not what came of it; the model is deterministic, so replaying gives
the same state, and no field of the model can be forgotten. When nothing is loaded any more the
history is dropped (traces of hooks in Xen's data are dropped with it).
"""

from pathlib import Path
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from xsplice_plugins import artefacts
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor import (
    OFF,
    Answer,
    BootedImage,
    Hazard,
    Hypervisor,
    Release,
    SignaturePolicy,
)
from xsplice_plugins.hypervisor.state.payload import name_bytes

#: A person at a command line stays far below; a damaged file must not keep the model busy.
EVENTS_MAX = 10_000


class Event(Struct, frozen=True, kw_only=True):
    """One request of the history."""

    kind: Literal["upload", "action"]
    name: str
    data: bytes = b""  #: of an upload
    command: int = 0  #: of an action
    flags: int = 0


class History(Struct, frozen=True, kw_only=True):
    """What the file holds."""

    schema: int = artefacts.SCHEMA
    image: str  #: digest
    release: str
    cpu: str
    stamp: int = 1  #: the list's version before the first event
    events: tuple[Event, ...] = ()


class ModelSession(Struct, kw_only=True):
    """A hypervisor with the history that led to it."""

    hypervisor: Hypervisor
    events: list[Event] = field(default_factory=list)
    stamp_base: int = 1

    def do(self, event: Event) -> Answer:
        """Perform a request, let the CPUs do its work at once, and remember it.

        Raises:
            Hazard: it crashed the host.
        """
        self.events.append(event)
        hv = self.hypervisor
        name = name_bytes(event.name) + b"\0"
        if event.kind == "upload":
            return hv.upload(name, event.data, op_flags=event.flags)
        answer = hv.action(name, event.command, timeout_ns=30_000_000, flags=event.flags)
        hv.run_pending()
        return answer

    def history(self) -> History:
        """Give what has to be remembered."""
        hv = self.hypervisor
        is_idle = not hv.payloads and hv.hazard is None
        return History(
            image=hv.image.digest,
            release=hv.release.name,
            cpu=hv.image.cpu.name,
            stamp=hv.stamp if is_idle else self.stamp_base,
            events=() if is_idle else tuple(self.events),
        )


def load_session(
    path: Path, image: BootedImage, release: Release, *, signatures: SignaturePolicy = OFF
) -> ModelSession:
    """Read a model's file, or start a fresh model where there is none.

    Args:
        path: the file.
        image: the hypervisor as after boot.
        release: its release.
        signatures: whether uploads must be signed.

    Returns:
        The session; after a hazard in its history the host in it is down.

    Raises:
        XspliceError: the file is damaged or belongs to another image, release or CPU.
    """
    session = ModelSession(hypervisor=Hypervisor(image, release, signatures=signatures))
    if not path.exists():
        return session
    told, mine = artefacts.load(path, History), session.history()
    if replace(told, stamp=mine.stamp, events=mine.events) != mine:
        raise ConfigError(
            f"{path}: belongs to another image, release, CPU or version; choose another file"
        )
    session.stamp_base = session.hypervisor.stamp = told.stamp
    for event in told.events[:EVENTS_MAX]:
        try:
            session.do(event)
        except Hazard:
            # The history ends where the host went down; the hypervisor remembers why.
            break
    return session
