# SPDX-License-Identifier: Apache-2.0
"""Where bases are, and how they are named.

A base lies in a folder of its name. One that is made in the place of another lies in a folder
``again-N`` of it, for a build records where it is: the newest place with a record counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, load
from xsplice_plugins.cache import cache_folder, held, holders_of, locked
from xsplice_plugins.errors import FULL, ConfigError, MachineError, XspliceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

PREFIX = "base:"  #: of a value of ``XEN`` that names a base
REFUSED_FILE = "refused"  #: why the last run on a place ended, where the same words end so again
KEY_FILE = "key"  #: says what a place is made of, from the first step on
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")
_AGAIN = "again-"
_GONE = ".gone-"  #: of folders that are being removed
_LOCK = ".lock"
_HOW = "xsplice base add NAME --source FOLDER_OR_FILE"


def bases_folder() -> Path:
    """Return the folder of all bases, in the user's cache."""
    return cache_folder(os.environ) / "bases"


def folder_of(name: str) -> Path:
    """Return the folder of a base, whether it is there or not.

    Raises:
        ConfigError: Not a name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"base {name!r}: not a name; give at most 100 letters, digits and . _ + ~ -, "
            "the first a letter or a digit"
        )
    return bases_folder() / name


def places_of(name: str) -> list[Path]:
    """Return where a base is or is being made, the oldest first; the first is its folder."""
    folder = folder_of(name)
    return [folder, *sorted(folder.glob(f"{_AGAIN}[0-9]*"), key=_number)]


def ready_place(name: str) -> Path | None:
    """Return where a base is that is ready; ``None`` if there is none."""
    return next((p for p in reversed(places_of(name)) if (p / BASE_FILE).is_file()), None)


def next_place(name: str) -> Path:
    """Return a place that counts before all others, once it has a record."""
    places = places_of(name)
    return places[0] / f"{_AGAIN}{_number(places[-1]) + 1}"


def _number(place: Path) -> int:
    return int(re.sub(r"\D", "", place.name) or 0) if place.name.startswith(_AGAIN) else 1


def tree_of(xen: str | Path) -> Path:
    """Return the path that a value of ``XEN`` stands for.

    Args:
        xen: A path, or ``base:NAME``.

    Raises:
        XspliceError: As `find_base`.
    """
    text = str(xen)
    return find_base(text.removeprefix(PREFIX))[1] if text.startswith(PREFIX) else Path(xen)


def find_base(name: str) -> tuple[BaseRecord, Path]:
    """Return what a base is, and its tree, which is there.

    Raises:
        MachineError: Its tree is gone.
        XspliceError: As `load_base`.
    """
    record, place = load_base(name), ready_place(name)
    assert place is not None, "it was loaded"
    with said_clearly(place):
        is_there = (place / "tree").is_dir()
    if not is_there:
        raise MachineError(
            f"base {name}: is damaged: its tree is gone ({place / 'tree'}); remove it with "
            f"`xsplice base remove {name}` and add it again"
        )
    return record, place / "tree"


@contextlib.contextmanager
def used(
    xen: str | Path, *, waiting: Callable[[str], object] = lambda _who: None
) -> Iterator[Path]:
    """Keep others from taking a base away while a run uses it.

    Args:
        xen: A path, or ``base:NAME``. A path in a base's tree uses that base, another one none.
        waiting: Told who takes it away when somebody does.

    Yields:
        The path that it stands for.

    Raises:
        ConfigError: There is no such base, or its making has not ended.
        MachineError: It may not be read.
    """
    while True:
        path = tree_of(xen)
        record = _record_of(path)
        if record is None:
            yield path
            return
        with contextlib.ExitStack() as stack:
            with said_clearly(record):
                is_held = stack.enter_context(held(record, is_shared=True, waiting=waiting))
            if is_held:
                yield path
                return


def _record_of(path: Path) -> Path | None:
    """Return the record of the base that a path lies in; ``None`` outside of one."""
    real = Path(os.path.realpath(path))
    for folder in (real, *real.parents):
        if folder.name == "tree" and (folder.parent / BASE_FILE).is_file():
            return folder.parent / BASE_FILE
    return None


def load_base(name: str) -> BaseRecord:
    """Return what a base is.

    Raises:
        ConfigError: There is no such base, or its making has not ended.
        MachineError: It may not be read.
        XspliceError: Its record is damaged.
    """
    with said_clearly(folder_of(name)):
        place = ready_place(name)
        is_begun = (folder_of(name) / KEY_FILE).is_file()
    if place is None:
        why = _refused(folder_of(name))
        if is_begun and why:
            raise ConfigError(
                f"base {name}: its making has not ended ({why}); mend that and add it again, or "
                f"remove it with `xsplice base remove {name}`"
            )
        if is_begun:
            raise ConfigError(
                f"base {name}: its making has not ended; give the same `xsplice base add` again, "
                "which goes on where it stopped"
            )
        known = ", ".join(known_bases()) or "none"
        raise ConfigError(f"base {name}: there is none; known: {known}; make it with `{_HOW}`")
    try:
        return load(place / BASE_FILE, BaseRecord)
    except XspliceError as error:
        what, _, _ = str(error).partition("; ")
        raise XspliceError(
            f"base {name}: its record is damaged ({what}); remove it with `xsplice base remove "
            f"{name}` and add it again"
        ) from error


def _refused(place: Path) -> str:
    """Return why the last run on a place was refused; "" if it was not."""
    try:
        return (place / REFUSED_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def known_bases() -> tuple[str, ...]:
    """Return the names of all bases that are ready, sorted."""
    return tuple(name for name in begun_bases() if _holds(name, BASE_FILE))


def begun_bases() -> tuple[str, ...]:
    """Return the names of all bases, ready or not, sorted.

    Raises:
        MachineError: The cache folder may not be read.
    """
    with said_clearly(bases_folder()):
        try:
            names = sorted(os.listdir(bases_folder()))  # noqa: PTH208  says what is wrong
        except (FileNotFoundError, NotADirectoryError):
            return ()
    return tuple(
        name for name in names if _NAME.fullmatch(name) and _holds(name, BASE_FILE, KEY_FILE)
    )


def _holds(name: str, *files: str) -> bool:
    """Tell whether a base has one of these files, or may not be read."""
    try:
        return any((place / file).is_file() for place in places_of(name) for file in files)
    except OSError:
        return True


def remove_base(name: str, *, waiting: Callable[[str], object] = lambda _who: None) -> None:
    """Remove a base, ready or not, damaged or not, once nobody uses it.

    Args:
        name: The base's.
        waiting: Told who works on it, or uses it.

    Raises:
        ConfigError: There is none.
        MachineError: The cache folder cannot be written.
    """
    folder = folder_of(name)
    with said_clearly(folder):
        if folder.is_dir() and not folder.is_symlink():
            with contextlib.ExitStack() as stack:
                stack.enter_context(locked(folder, waiting=lambda: waiting("another run")))
                for place in places_of(name):
                    stack.enter_context(held(place / BASE_FILE, waiting=waiting))
                is_there = any(path.name != _LOCK for path in folder.iterdir())
                discard(folder)
            if is_there:
                return
        elif os.path.lexists(folder):
            folder.unlink()
            return
    load_base(name)  # says that there is none


def discard(folder: Path) -> None:
    """Remove the folder of a base, whose lock is held: at once for others, whatever ends us.

    Whoever waits for its lock finds that it is gone, and makes a new one.
    """
    # The name is new; a folder that is made first might be swept before it is used.
    folder.rename(folder.parent / f"{_GONE}{os.getpid()}-{time.monotonic_ns()}")
    sweep()


def sweep() -> None:
    """Remove what runs that were ended have left of bases that they removed."""
    for path in bases_folder().glob(f"{_GONE}*"):
        take_away(path)


def clear(name: str, ready: Path, *, waiting: Callable[[str], object]) -> None:
    """Remove every place of a base but one, and those that a run still uses.

    Args:
        name: The base's, whose lock is held.
        ready: The place that stays.
        waiting: Told who uses one; a later call removes it.
    """
    sweep()
    folder, *others = places_of(name)
    kept = {ready}
    for place in (*others, folder):
        record = place / BASE_FILE
        if place == ready or not place.exists():
            continue
        with held(record) as is_unused:
            if record.is_file() and not is_unused:
                waiting(holders_of(record))
                kept.add(place)
            elif place == folder:
                empty(place, but=kept)
            else:
                take_away(place)


def empty(place: Path, *, but: Collection[Path] = ()) -> None:
    """Remove what lies in a place; the lock stays, and so do places in it.

    Args:
        place: Of a base.
        but: They stay.
    """
    # What says that it is ready goes first: a half removed base is none.
    for name in (BASE_FILE, KEY_FILE, *(path.name for path in place.glob("*.done"))):
        (place / name).unlink(missing_ok=True)
    for path in place.iterdir():
        if path.name == _LOCK or path in but:
            continue
        if path.is_dir() and not path.is_symlink():
            take_away(path)
        else:
            path.unlink()


def take_away(folder: Path) -> None:
    """Remove a folder, also what its owner may not write, and what others remove meanwhile."""

    def again(
        function: Callable[[str], object], path: str, error: tuple[object, object, object]
    ) -> None:
        if isinstance(error[1], FileNotFoundError):
            return
        for one in (os.path.dirname(path), path):  # noqa: PTH120  as it was given
            if not os.path.islink(one):  # noqa: PTH114
                os.chmod(one, os.stat(one).st_mode | stat.S_IRWXU)  # noqa: PTH101, PTH116
        if function in {os.open, os.scandir, os.lstat}:
            shutil.rmtree(path)
        else:
            function(path)

    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, onerror=again)


@contextlib.contextmanager
def said_clearly(place: Path) -> Iterator[None]:
    """Turn what the system refuses in the cache folder into a refusal.

    Args:
        place: Named where the system names no file.

    Raises:
        MachineError: No room, or no permission.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        name = error.filename or place
        if error.errno in FULL:
            raise MachineError(
                f"{name}: cannot be written ({error.strerror}); make room and give it again"
            ) from error
        raise MachineError(
            f"{name}: cannot be read or written ({error.strerror or error}); see to its "
            "permissions, or set XSPLICE_CACHE to another folder"
        ) from error
