# SPDX-License-Identifier: Apache-2.0
"""A model that lives in a file between commands: the history of requests, replayed.

The file holds what was asked, not what came of it; the model is deterministic, so replaying gives
the same state, and no field of the model can be forgotten. When nothing is loaded any more the
history is dropped (traces of hooks in Xen's data are dropped with it).
"""

import base64
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from xsplice_plugins.errors import ConfigError, MachineError
from xsplice_plugins.hypervisor.act.signature import OFF, SignaturePolicy
from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import Answer, Hazard
from xsplice_plugins.hypervisor.image.image import Image

SCHEMA = 1
#: A person at a command line stays far below; a damaged file must not keep the model busy.
EVENTS_MAX = 10_000


class Event(TypedDict):
    """One request of the history."""

    kind: str
    name: str
    data: str
    command: int
    flags: int


@dataclass(slots=True, kw_only=True)
class Session:
    """A hypervisor with the history that led to it."""

    hypervisor: Hypervisor
    events: list[Event] = field(default_factory=list)
    stamp_base: int = 1

    def upload(self, name: str, data: bytes, *, flags: int = 0) -> Answer:
        """Upload and remember it."""
        text = base64.b64encode(data).decode("ascii")
        event = Event(kind="upload", name=name, data=text, command=0, flags=flags)
        return self._do(event)

    def action(self, name: str, command: int, *, flags: int = 0) -> Answer:
        """Ask for an action, remember it, and let the CPUs do the work at once."""
        return self._do(Event(kind="action", name=name, data="", command=command, flags=flags))

    def _do(self, event: Event) -> Answer:
        self.events.append(event)
        return self.replay(event)

    def replay(self, event: Event) -> Answer:
        """Perform one event of the history.

        Raises:
            Hazard: it crashed the host.
        """
        hv = self.hypervisor
        name = event["name"].encode("latin-1", "replace") + b"\0"
        if event["kind"] == "upload":
            return hv.upload(name, base64.b64decode(event["data"]), op_flags=event["flags"])
        answer = hv.action(name, event["command"], timeout_ns=30_000_000, flags=event["flags"])
        hv.run_pending()
        return answer


def _identity(image: Image, release: Release) -> dict[str, str]:
    return {"image": image.digest, "release": release.name, "cpu": image.cpu.name}


def load_session(
    path: Path, image: Image, release: Release, *, signatures: SignaturePolicy = OFF
) -> Session:
    """Read a model's file, or start a fresh model where there is none.

    Args:
        path: the file.
        image: the hypervisor as after boot.
        release: its release.
        signatures: whether uploads must be signed.

    Returns:
        The session; after a hazard in its history the host in it is down.

    Raises:
        ConfigError: the file is damaged or belongs to another image, release or CPU.
    """
    session = Session(hypervisor=Hypervisor(image, release, signatures=signatures))
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return session
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); remove it") from error
    try:
        content = json.loads(text)
        events: list[Event] = [_checked_event(event) for event in content["events"][:EVENTS_MAX]]
        stamp = int(content["stamp"])
        identity = {key: str(content[key]) for key in ("image", "release", "cpu")}
        schema = content["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a model's state ({error!r}); remove it") from error
    if schema != SCHEMA or identity != _identity(image, release):
        raise ConfigError(
            f"{path}: belongs to another image, release, CPU or version; choose another file"
        )
    session.stamp_base = session.hypervisor.stamp = stamp
    for event in events:
        session.events.append(event)
        try:
            session.replay(event)
        except Hazard:
            # The history ends where the host went down; the hypervisor remembers why.
            break
    return session


def _checked_event(raw: dict[str, object]) -> Event:
    kind, name, data = raw["kind"], raw["name"], raw["data"]
    command, flags = raw["command"], raw["flags"]
    if kind not in {"upload", "action"}:
        raise ValueError(f"event {kind!r}")
    if not isinstance(name, str) or not isinstance(data, str):
        raise TypeError("event without a name")
    if not isinstance(command, int) or not isinstance(flags, int):
        raise TypeError("event without a command")
    base64.b64decode(data, validate=True)
    return Event(kind=str(kind), name=name, data=data, command=command, flags=flags)


def save_session(path: Path, session: Session) -> None:
    """Write a model's file, whole or not at all.

    Raises:
        MachineError: the file cannot be written.
    """
    hv = session.hypervisor
    is_idle = not hv.payloads and hv.hazard is None
    content = {
        "schema": SCHEMA,
        **_identity(hv.image, hv.release),
        "stamp": hv.stamp if is_idle else session.stamp_base,
        "events": [] if is_idle else session.events,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); make room") from error
    finally:
        temporary.unlink(missing_ok=True)
