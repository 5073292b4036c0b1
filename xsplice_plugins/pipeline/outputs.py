# SPDX-License-Identifier: Apache-2.0
"""What is made of a fix, and that nothing of it takes the place of what the run reads."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from xsplice_plugins.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from xsplice_plugins.plugins.spec import Config

#: Behind the fix's name: the files that are made of it, in one folder.
MADE = (
    ".patch.json",
    ".livepatch.unsigned",
    ".livepatch",
    ".payload.json",
    ".checks.json",
    ".signature.json",
    ".verify.json",
    ".verify.failed.json",
)
#: In a fix's folder: what an earlier run made still stands. A run that fails at the fix removes it.
STANDS = ".stands"
#: What else a fix's folder holds: copies, objects, and what is known of them.
_WORK = re.compile(
    r"(objects|copy|lower|still|baseline-still|check|make|made|handmade)(\..*)?", re.DOTALL
)


def check_outputs(folder: Path, name: str, config: Config, files: Sequence[Path] = ()) -> None:
    """Refuse to write over what a run reads.

    Args:
        folder: The fix's own folder.
        name: Its name.
        config: Settings, with the files that they name.
        files: The patch or the hand-written sources.

    Raises:
        ConfigError: One of them is made of the fix, or lies where its objects are built.
    """
    read = (
        *(("PATCH or HOTFIX", path) for path in files),
        *(("DEPENDS", path) for path in config.depends),
        *(("SUPERSEDES", path) for path in config.supersedes),
        ("KEY", config.key),
        ("CERT", config.certificate),
        ("EXPECT", config.expected),
    )
    given = [(what, path) for what, path in read if path is not None]
    refuse_overwriting((folder / f"{name}{end}" for end in MADE), given)
    for what, path in given:
        for home, place in ((folder, path.absolute()), (folder.resolve(), path.resolve())):
            if home in place.parents and _WORK.fullmatch(place.relative_to(home).parts[0]):
                _refuse(what, path)


def refuse_overwriting(made: Iterable[Path], read: Iterable[tuple[str, Path]]) -> None:
    """Refuse to write over a file that is read.

    Args:
        made: What is written; it need not exist.
        read: What is read, behind the words that name it.

    Raises:
        ConfigError: A file is both, under whatever name.
    """
    places = {path.resolve(): path for path in made}
    for what, path in read:
        if path.resolve() in places or any(_is_same(path, place) for place in places):
            _refuse(what, path)


def _is_same(one: Path, other: Path) -> bool:
    return one.is_file() and os.path.isfile(other) and one.samefile(other)  # noqa: PTH113  long names


def _refuse(what: str, path: Path) -> None:
    raise ConfigError(
        f"{what}={path}: what is made would be written over it; give the fix another name (NAME, "
        "--name) or another folder (BUILD, --out), or a copy of that file elsewhere"
    )
