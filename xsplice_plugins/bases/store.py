# SPDX-License-Identifier: Apache-2.0
"""Where bases are, and how they are named."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, load
from xsplice_plugins.cache import cache_folder, locked
from xsplice_plugins.errors import ConfigError

PREFIX = "base:"  #: of a value of ``XEN`` that names a base
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")
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


def tree_of(xen: str | Path) -> Path:
    """Return the path that a value of ``XEN`` stands for.

    Args:
        xen: A path, or ``base:NAME``.

    Raises:
        ConfigError: There is no such base, or its making has not ended.
    """
    text = str(xen)
    if not text.startswith(PREFIX):
        return Path(xen)
    name = text.removeprefix(PREFIX)
    load_base(name)
    return folder_of(name) / "tree"


def load_base(name: str) -> BaseRecord:
    """Return what a base is.

    Raises:
        ConfigError: There is no such base, or its making has not ended.
        XspliceError: Its record is damaged.
    """
    folder = folder_of(name)
    path = folder / BASE_FILE
    if not path.is_file():
        if (folder / "key").is_file():
            raise ConfigError(
                f"base {name}: its making has not ended; give the same `xsplice base add` again, "
                "which goes on where it stopped"
            )
        known = ", ".join(known_bases()) or "none"
        raise ConfigError(f"base {name}: there is none; known: {known}; make it with `{_HOW}`")
    return load(path, BaseRecord)


def known_bases() -> tuple[str, ...]:
    """Return the names of all bases that are ready, sorted."""
    return tuple(sorted(path.parent.name for path in bases_folder().glob(f"*/{BASE_FILE}")))


def remove_base(name: str) -> None:
    """Remove a base, ready or not.

    Raises:
        ConfigError: There is none.
    """
    folder = folder_of(name)
    if not (folder / "key").is_file():
        load_base(name)
    with locked(folder):
        # The record goes first: a half removed base is none.
        (folder / BASE_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder)
