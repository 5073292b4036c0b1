# SPDX-License-Identifier: Apache-2.0
"""Does a patch change how the image is linked? No object shows that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import SAME_LINK, Likeness, ObjectPair, Refusal, read_file
from xsplice_plugins.capture.layouts import IN_SOURCES
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.kbuild.indexing import Index

IMAGE = "xen-syms"
_SHOWN_MAX = 4
_LINK = re.compile(r":=\s*\S+\s+(.*?)\s*-r -o ")  #: what stands between the linker and its output
_BUILD_ID = ".note.gnu.build-id"  #: it follows debug information, which names the build's folder


def pair_links(before: Index, after: Index, *, are_equal: bool) -> tuple[ObjectPair, ...]:
    """Compare how two builds were linked.

    Args:
        before: The records of the tree.
        after: Those of the patched one.
        are_equal: Whether all that is linked is the same; then the images are compared as well.

    Returns:
        A refused pair that stands for the image, one that says that it is the same, or none where
        that is not known.

    Raises:
        CaptureError: An image cannot be read.
        ElfFormatError: It is none.
    """
    flags = [_flags(index) for index in (before, after)]
    for target in sorted(flags[0].keys() & flags[1].keys()):
        old, new = (side[target] for side in flags)
        if old != new:
            return (_refused(target, f"it is linked with `{new}`, not `{old}`"),)
    base = before.tree.base
    if not are_equal or (base is not None and base.likeness is Likeness.MATCHED):
        return ()  # such a base's image is not the link of its own objects
    loaded = [_loaded(index.tree.xen_syms) for index in (before, after)]
    if loaded[0] == loaded[1]:
        return (_image(note=SAME_LINK),)
    names = dict.fromkeys((*loaded[0], *loaded[1]))
    wrong = [name for name in names if loaded[0].get(name) != loaded[1].get(name)]
    more = f" and {len(wrong) - _SHOWN_MAX} more" if len(wrong) > _SHOWN_MAX else ""
    shown = ", ".join(wrong[:_SHOWN_MAX]) + more
    return (_refused("link", f"all that is linked is the same, and the image is not ({shown})"),)


def _flags(index: Index) -> dict[str, str]:
    """Return the flags of each recorded link of a part of the image."""
    found = {}
    for (folder, name), text in index.texts.items():
        target = f"{folder}/{name}" if folder else name
        plain = text.replace(f"{index.tree.source_root}/", "")
        match = _LINK.search(plain) if target in index.linked else None
        if match:
            found[target] = " ".join(match[1].split())
    return found


def _loaded(image: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what of an image is loaded, by section."""
    elf = read_elf(read_file(image, error=CaptureError, advice="build the tree again"), str(image))
    return {
        section.name: (section.addr_virt, section.size_bytes, section.data)
        for section in elf.sections
        if section.is_alloc and section.name != _BUILD_ID
    }


def _refused(name: str, what: str) -> ObjectPair:
    row = Refusal(
        name=name,
        reason=f"the link itself changes: {what}",
        code="LINK",
        hint="leave that part of the patch out",
    )
    return _image(note="refused", refused=(row,))


def _image(*, note: str, refused: tuple[Refusal, ...] = ()) -> ObjectPair:
    return ObjectPair(
        object_path=IMAGE,
        source_path="",
        is_changed=False,
        is_init=False,
        note=note,
        layouts=IN_SOURCES,
        refused=refused,
    )
