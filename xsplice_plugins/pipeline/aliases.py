# SPDX-License-Identifier: Apache-2.0
"""Names that a fix gives to what the image has already, and that the image does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.artefacts import Delta


def check_aliases(
    kept: Sequence[tuple[Delta, bytes]], pairs: Sequence[tuple[Delta, bytes]], image: bytes
) -> None:
    """Refuse to refer to what stays in the image by a name that the fix gives it.

    Args:
        kept: What the payload is made of: each delta with its new object.
        pairs: All of the fix; an object may be empty.
        image: The whole ``xen-syms`` file.

    Raises:
        RefusedError: An object of the payload does; the message says what the image calls it.
    """
    files = {delta.object_path: read_elf(data, delta.object_path) for delta, data in pairs if data}
    asked = {s.name: d.object_path for d, _ in kept for s in files[d.object_path].symbols
             if not s.shndx and s.name}  # fmt: skip
    found: dict[str, tuple[str, set[str]]] = {}
    for delta, data in pairs:
        symbols = [s for s in (files[delta.object_path].symbols if data else ()) if s.shndx]
        for alias in (s for s in symbols if s.name in asked and not s.is_local):
            at = alias.shndx, alias.value
            names = {s.name for s in symbols if s.name and (s.shndx, s.value) == at}
            is_taken = any(
                e.section == alias.shndx and e.offset <= alias.value < e.offset + e.size_bytes
                for e in delta.extents
            )
            if names != {alias.name} and not is_taken:
                found[alias.name] = delta.object_path, names
    known = {symbol.name for symbol in read_elf(image, "the image").symbols} if found else set()
    for name, (path, names) in sorted(found.items()):
        if name not in known and names & known:
            raise RefusedError(
                f"{asked[name]}: it refers to `{name}`, another name that the fix gives to "
                f"`{min(names & known)}` of {path}; the image has no such name, and none can be "
                f"added to it; use `{min(names & known)}`"
            )
