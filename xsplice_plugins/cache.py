# SPDX-License-Identifier: Apache-2.0
"""The user's cache folder, and locks on the folders that runs share."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TextIO

from xsplice_plugins.errors import MachineError

_TRIES_MAX = 5  #: to make a folder that another run removes meanwhile


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's cache folder: ``XSPLICE_CACHE``, else the XDG place.

    ``XDG_CACHE_HOME`` counts only if it is absolute, as its specification says.

    Raises:
        MachineError: There is no home folder, it is relative, or the path cannot be a folder.
    """
    try:
        if environ.get("XSPLICE_CACHE"):
            folder = Path(environ["XSPLICE_CACHE"]).absolute()
        elif environ.get("XDG_CACHE_HOME", "").startswith("/"):
            folder = Path(environ["XDG_CACHE_HOME"]) / "xsplice"
        else:
            home = Path(environ.get("HOME") or Path("~").expanduser())
            folder = home / ".cache" / "xsplice"
        folder.resolve()
        folder.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise MachineError(
            f"the cache folder cannot be used ({error}); set XSPLICE_CACHE to a folder"
        ) from error
    if not folder.is_absolute():
        raise MachineError(f"HOME={home} is not absolute; set it, or set XSPLICE_CACHE to a folder")
    return folder


@contextlib.contextmanager
def locked(
    folder: Path,
    *,
    is_shared: bool = False,
    name: str = ".lock",
    waiting: Callable[[], object] = lambda: None,
) -> Iterator[int]:
    """Hold a folder's lock, so that two runs do not work on the same thing.

    Args:
        folder: Made when absent; the lock ends with the process, however it ends.
        is_shared: Only keep others from changing what is there.
        name: Of the file that is locked.
        waiting: Called when somebody else holds it.

    Yields:
        The lock's descriptor. A program that inherits it holds the lock as well if this process
        is killed; else the lock ends here, also where a daemon was left running.

    Raises:
        MachineError: The folder cannot be written.
    """
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    while True:
        with _opened(folder, name) as handle:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(handle, kind)
            if _is_still(handle, folder / name):
                try:
                    yield handle.fileno()
                finally:
                    fcntl.flock(handle, fcntl.LOCK_UN)
                return


@contextlib.contextmanager
def held(
    path: Path, *, is_shared: bool = False, waiting: Callable[[str], object] | None = None
) -> Iterator[bool]:
    """Hold the lock of a file that is there; to share it takes no right to write.

    Args:
        path: The file.
        is_shared: Only keep others from holding it alone.
        waiting: Told who holds it when somebody else does; ``None`` for not to wait.

    Yields:
        Whether it is held: not where the file is gone, or somebody else holds it and this does
        not wait.
    """
    # A network's file system asks for the right to write of who holds it alone.
    mode = "rb" if is_shared or not os.access(path, os.W_OK) else "r+b"
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(path.open(mode))
        except FileNotFoundError:
            handle = None
        kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        yield handle is not None and _took(handle, kind, path, waiting) and _is_still(handle, path)


def _took(
    handle: IO[bytes], kind: int, path: Path, waiting: Callable[[str], object] | None
) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False
        waiting(holders_of(path))
        fcntl.flock(handle, kind)
    return True


def holders_of(path: Path) -> str:
    """Name the processes that hold a file's lock, as far as the kernel tells."""
    row = path.stat()
    named = f"{os.major(row.st_dev):02x}:{os.minor(row.st_dev):02x}:{row.st_ino}"
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == named:
                found.append(int(words[4]))
    numbers = sorted(number for number in found if number > 0)
    return f"process {', '.join(map(str, numbers))}" if numbers else "another process"


def _opened(folder: Path, name: str) -> TextIO:
    """Open the file that is locked, in a folder that others may remove at the same time."""
    tries = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / name).open("w")
        except OSError as error:
            tries += 1
            if not isinstance(error, FileNotFoundError) or tries == _TRIES_MAX:
                raise MachineError(
                    f"{folder}: cannot be written ({error.strerror}); choose another folder"
                ) from error


def _is_still(handle: IO[bytes] | TextIO, path: Path) -> bool:
    """Tell whether what was locked is what others will lock: its folder may be gone meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except OSError:
        return False


def remove_unused(folder: Path) -> bool:
    """Remove a folder unless somebody holds its lock.

    Args:
        folder: One that is used under :func:`locked`.

    Returns:
        Whether it was removed.
    """
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(folder)
        return True
