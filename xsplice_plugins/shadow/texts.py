# SPDX-License-Identifier: Apache-2.0
"""The text of the files that a fix touches, on both sides, and what becomes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins import patch
from xsplice_plugins.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A fix written again."""

    text: str  #: the patch
    notes: tuple[str, ...]  #: what was done, and what a person should look at


def names_of(given: Iterable[str]) -> tuple[str, ...]:
    """Return the variables that ``--variable`` names, each once.

    Raises:
        ConfigError: One is no name.
    """
    for name in given:
        if not NAME.fullmatch(name):
            raise ConfigError(f"--variable {name}: no name of a variable; give it as C has it")
    return tuple(dict.fromkeys(given))


def sides_of(tree: XenTree, fix: PatchSet) -> tuple[dict[str, str], dict[str, str]]:
    """Return the text of touched files by path: before the fix, where they are there, and with it.

    Args:
        tree: The tree without the fix.
        fix: The fix as it is.

    Raises:
        RefusedError: It removes a file.
        PatchError: It does not apply.
    """
    patched = patch.patched_files(fix, tree.source_root)
    gone = [path for path, data in patched.items() if data is None]
    if gone:
        raise RefusedError(f"{min(gone)}: the fix removes it; take that into a fix of its own")
    texts = {path: data.decode("latin-1") for path, data in patched.items() if data is not None}
    olds = {
        path: place.read_text("latin-1")
        for path in texts
        if (place := tree.source_root / path).is_file()
    }
    return olds, texts
