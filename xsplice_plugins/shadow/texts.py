# SPDX-License-Identifier: Apache-2.0
"""The text of the files that a fix touches, on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins import patch
from xsplice_plugins.errors import RefusedError

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree


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
