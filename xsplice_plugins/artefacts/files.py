# SPDX-License-Identifier: Apache-2.0
"""Artefacts as files: sorted JSON, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from xsplice_plugins.errors import MachineError, XspliceError

SCHEMA = 1  #: version of every JSON file this project writes

T = TypeVar("T")


def to_json(artefact: object) -> bytes:
    """Return an artefact as JSON: keys sorted, two spaces, a final newline."""
    return msgspec.json.format(msgspec.json.encode(artefact, order="sorted"), indent=2) + b"\n"


def from_json(data: bytes, kind: type[T], name: str) -> T:
    """Read an artefact back.

    Args:
        data: The JSON text.
        kind: The artefact's class.
        name: How messages shall call the file.

    Raises:
        XspliceError: Not JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise XspliceError(
            f"{name}: not a {kind.__name__} of schema {SCHEMA} ({error}); remove it and build again"
        ) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see either the old content or all of the new.

    Raises:
        MachineError: The file cannot be written (disk full, no permission).
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def save(path: Path, artefact: object) -> None:
    """Write an artefact's JSON to a file (see `write_file`)."""
    write_file(path, to_json(artefact))


def load(path: Path, kind: type[T]) -> T:
    """Read an artefact from a file.

    Raises:
        XspliceError: The file is missing, or not of this kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise XspliceError(f"{path}: cannot be read ({error.strerror}); build it first") from error
    return from_json(data, kind, str(path))
