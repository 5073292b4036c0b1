# SPDX-License-Identifier: Apache-2.0
"""Artefacts as files: sorted JSON, written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import TypeVar

import msgspec

from xsplice_plugins.errors import ConfigError, MachineError, XspliceError

SCHEMA = 1  #: version of a JSON file, where its class does not say another one
IMAGE_SIZE_MAX = 256 << 20  #: bytes of ``xen-syms``, or of any other file that is read whole
PAYLOAD_SIZE_MAX = 64 << 20  #: bytes of a payload; Xen takes 2 MiB

#: msgspec looks a class over at first use, and dies if two threads (SCons has some) do so at once.
_ONE_AT_A_TIME = threading.Lock()

T = TypeVar("T")


def to_json(artefact: object) -> bytes:
    """Return an artefact as JSON: keys sorted, two spaces, a final newline."""
    return msgspec.json.format(msgspec.json.encode(artefact, order="sorted"), indent=2) + b"\n"


def plain(name: str) -> str:
    """Return a name in which bytes that are no UTF-8 are shown as such, for people and JSON."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_json(data: bytes, kind: type[T], name: str) -> T:
    """Read an artefact back.

    Args:
        data: The JSON text.
        kind: The artefact's class.
        name: How messages shall call the file.

    Raises:
        XspliceError: Not JSON, not of this kind, or of another schema than this version writes.
    """
    wrong: object = ""
    try:
        with _ONE_AT_A_TIME:
            result = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        wrong = error
    else:
        for item in result if isinstance(result, tuple) else (result,):
            found, wanted = getattr(item, "schema", None), _schema_of(type(item))
            if wanted is not None and found != wanted:
                wrong = f"schema {found} instead of {wanted}"
    if wrong:
        raise XspliceError(
            f"{name}: not a {kind.__name__} of this version ({wrong}); remove it and build again"
        )
    return result


def _schema_of(kind: type) -> int | None:
    """Return the schema that a class writes; ``None`` if it takes any, and looks itself."""
    if not issubclass(kind, msgspec.Struct):
        return None
    defaults = zip(
        reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False
    )
    default = next((value for name, value in defaults if name == "schema"), None)
    return default if isinstance(default, int) else None


def check_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a device, a pipe, a folder or a symbolic link.

    Raises:
        ConfigError: There is something, and it is no regular file.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing is there, or writing says what is wrong
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
        kind = kinds.get(stat.S_IFMT(mode), "no regular file")
        raise ConfigError(f"{path}: is {kind} and is not replaced; name another file")


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that readers see either the old content or all of the new.

    Raises:
        ConfigError: Something is there that is no regular file.
        MachineError: The file cannot be written (disk full, no permission).
    """
    check_replaceable(path)
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


def read_file(
    path: str | Path,
    *,
    limit_bytes: int = IMAGE_SIZE_MAX,
    error: type[XspliceError] = ConfigError,
    advice: str = "check the path",
) -> bytes:
    """Return all bytes of a regular file: neither a device nor a pipe, which may have no end.

    Args:
        path: The file.
        limit_bytes: A larger file is refused.
        error: Class of the error that is raised; its cause is the system's error, if there is one.
        advice: What its message says is to be done.

    Raises:
        XspliceError: Of the class ``error``: not readable, not a regular file, or too large.
    """
    try:
        # Opening a pipe without O_NONBLOCK waits for a writer that never comes.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  # a descriptor
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{path}: not a regular file; {advice}")
            if status.st_size > limit_bytes:
                raise error(
                    f"{path}: {status.st_size} bytes, more than the {limit_bytes} that such a file "
                    f"can have; {advice}"
                )
            return file.read()
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}); {advice}") from cause


def save(path: Path, artefact: object) -> None:
    """Write an artefact's JSON to a file (see `write_file`)."""
    write_file(path, to_json(artefact))


def load(path: Path, kind: type[T]) -> T:
    """Read an artefact from a file.

    Raises:
        XspliceError: The file is missing, or not of this kind.
    """
    data = read_file(path, error=XspliceError, advice="build it first")
    return from_json(data, kind, str(path))
