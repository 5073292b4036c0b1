# SPDX-License-Identifier: Apache-2.0
"""The user's cache folder, and locks on the folders in it."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's cache folder: ``XSPLICE_CACHE``, else the XDG place."""
    if environ.get("XSPLICE_CACHE"):
        return Path(environ["XSPLICE_CACHE"]).absolute()
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]).absolute() / "xsplice"
    return Path(environ.get("HOME") or Path("~").expanduser()) / ".cache" / "xsplice"


@contextlib.contextmanager
def locked(folder: Path, *, is_shared: bool = False) -> Iterator[None]:
    """Hold a folder's lock, so that two runs do not work on the same thing.

    Args:
        folder: Made when absent; the lock ends with the process, however it ends.
        is_shared: Only keep others from changing what is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield


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
