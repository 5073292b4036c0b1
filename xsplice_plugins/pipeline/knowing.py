# SPDX-License-Identifier: Apache-2.0
"""Which types changed code of a matched base knows, and whether anybody compared them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins import capture
from xsplice_plugins.artefacts import Duty, Finding, Severity, read_file
from xsplice_plugins.elf.packed import unpacked
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.retyped import known_by
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.pipeline.basing import MATCH_MORE, objects_of_tree
from xsplice_plugins.pipeline.retyped import changed_sides

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xsplice_plugins.artefacts import BaseMatch, PatchSet
    from xsplice_plugins.check.results import NewObject
    from xsplice_plugins.elf.reader import ElfFile
    from xsplice_plugins.kbuild.tree import XenTree

_REBUILD = "rebuild"
_KINDS = ("struct ", "union ", "enum ", "constant ", "typedef ")
_INSIDE = " in "  #: a function; what that has of its own comes with its text
_TEXTS = (".debug_str", ".debug_info")  #: which hold names


def compared_in(base: BaseMatch, objects: Iterable[NewObject]) -> frozenset[str]:
    """Return what both sides of changed objects know, and the image has as the tree's objects.

    Layouts of these were compared: before the fix with the image, and on both sides of it.

    Args:
        base: How the tree compares with its image.
        objects: Both sides of every object that differs.
    """
    if base.otherwise is None:
        return frozenset()
    found: set[str] = set()
    for _, old, new in changed_sides(objects):
        if old is not None:
            found |= known_by(old).keys() & known_by(new).keys()
    return frozenset(found - {name for name, *_ in base.otherwise})


def unknown_findings(
    tree: XenTree | None,
    patch_set: PatchSet,
    base: BaseMatch | None,
    objects: Iterable[NewObject],
) -> Iterator[Finding]:
    """Name objects whose new code uses a type that nobody could compare with the image's.

    No object of the tree knows it before the fix, nor does the image. So the tree's headers alone
    say what it is, and those of an image that has anything otherwise may say something else.

    Args:
        tree: The tree without the fix; ``None`` where an image has no other sources than these.
        patch_set: The fix; a type that it brings itself is no question.
        base: How the tree compares with its image.
        objects: Both sides of every object that differs; without a baseline all is new.

    Yields:
        One finding, not checked, for each object.
    """
    if tree is None or base is None or not base.is_matched or base.otherwise is None:
        return  # where types were not compared, all new code is asked about
    if not (base.differs or base.absent or base.strangers or base.otherwise or base.inlined):
        return
    fresh = {}
    for row, old, new in changed_sides(objects):
        names = known_by(new).keys() - (known_by(old).keys() if old is not None else set())
        fresh[row.path] = {n for n in names if n.startswith(_KINDS) and _INSIDE not in n}
    # What only the image knows is otherwise, and named elsewhere.
    asked = {name for names in fresh.values() for name in names}
    left = _unknown(tree, base, asked - {name for name, *_ in base.otherwise})
    left -= capture.brought_by(tree, patch_set, left)
    for path, names in fresh.items():
        if known := sorted(names & left):
            more = f" (and {', '.join(known[1:])})" if known[1:] else ""
            text = (
                f"{path}: its new code uses {known[0]}{more}, of which neither the tree's objects "
                "nor the shipped image know anything: the image, which has something otherwise, "
                f"may have been made with another one; {MATCH_MORE}"
            )
            yield Finding(
                check=_REBUILD,
                severity=Severity.UNCHECKED,
                subject=path,
                text=text,
                obligation=Duty.LAYOUT,
            )


def _unknown(tree: XenTree, base: BaseMatch, names: set[str]) -> set[str]:
    """Return the names that no object of the tree knows, those aside that a linker may leave out.

    Raises:
        CaptureError: An object cannot be read.
    """
    members = objects_of_tree(tree)
    for path, file in members.files:
        if not names:
            break
        if path in members.optional or path in base.left_out or not file.is_file():
            continue
        elf = read_elf(read_file(file, error=CaptureError), path)
        if any(map(_texts(elf).__contains__, map(_spelled, names))):
            names = names - known_by(elf).keys()
    return names


def _texts(elf: ElfFile) -> bytes:
    return b"".join(unpacked(elf, name) for name in _TEXTS if name in elf.section_by_name)


def _spelled(name: str) -> bytes:
    return f"{name.partition(' ')[2]}\0".encode("utf-8", "surrogateescape")
