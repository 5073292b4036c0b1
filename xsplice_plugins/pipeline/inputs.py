# SPDX-License-Identifier: Apache-2.0
"""Are the headers and settings that a fix is compiled with those of the running image?

The baseline is compiled from the same files, and shows only what the old code used of them.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Duty, Finding, Reach, Severity, findings_about, write_file
from xsplice_plugins.cache import cache_folder
from xsplice_plugins.capture import forget_texts
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.configured import AUTOCONF
from xsplice_plugins.kbuild.inputs import Inputs, Row, examine_inputs, stamps_of
from xsplice_plugins.kbuild.listing import differing, read_list, stamps_digest
from xsplice_plugins.kbuild.tree import advice_of_base, tree_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from xsplice_plugins.artefacts import BaseRecord, CompileJob, PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

_SCHEMA = 1
_NAMED_MAX = 4
_KEPT_MAX = 200  #: trees that are remembered, about 100 KB each
_SOURCES = (".c", ".S")  # each is read for its own object
_AGAIN = "run make in the tree and boot what it makes"


def check_inputs(
    tree: XenTree,
    patch_set: PatchSet | None = None,
    jobs: Collection[CompileJob] | None = None,
    *,
    is_made_again: bool = False,
    is_listed: bool = True,
) -> tuple[Finding, ...]:
    """Say which files that a fix is compiled with may have changed since the tree was built.

    What the objects were compiled from is kept in the user's cache folder when it is first seen in
    order; from then on content decides. Before that, only times can tell. A file that no objects
    read but those that the fix compiles in any case is left to the drift check: if all of them come
    out as they are, no code of the image depends on what changed.

    Args:
        tree: The built tree.
        patch_set: The fix; ``None`` for hand-written files.
        jobs: How the objects that it reaches are compiled; ``None`` if any file may be read.
        is_made_again: Whether make compiles again whatever is newer, and all that comes of it is
            compared: where make builds the copy, and with a full rebuild.
        is_listed: Whether all files of a base are held against its list.

    Returns:
        What is not known, as findings of the obligation *base*.

    Raises:
        CaptureError: A file has other content than before, of a base also one that make reads; the
            message names it.
        MachineError: The cache folder cannot be written.
    """
    place = cache_folder(os.environ) / "inputs" / f"{tree_digest(tree, is_judged=False)}.json"
    found = _seen(tree, place)
    reads = None if jobs is None else {path for job in jobs for path in job.inputs}
    compiled = {job.tree_object for job in jobs or () if job.reach is Reach.DIRECT}
    is_open = patch_set is not None and patch_set.may_read_anew

    def concerned(doubts: dict[str, tuple[str, ...]]) -> list[str]:
        return [
            path
            for path, objects in sorted(doubts.items())
            if (
                reads is None
                or path in reads
                or path.endswith(AUTOCONF)
                or (is_open and not path.endswith(_SOURCES))
            )
            and not compiled.issuperset(objects)
        ]

    again = _AGAIN if tree.base is None else advice_of_base(tree.base)
    if edited := concerned(found.edited):
        gone = [path for path in edited if not (tree.root / path).is_file()]
        what = "changed" if not gone else "gone" if gone == edited else "changed or gone"
        raise CaptureError(
            f"{_some(edited)}: {what} since the tree was built; "
            f"{_some(found.edited[edited[0]])} was compiled with what was there before; {again}, "
            f"or put the content back; if {place} is wrong about it, remove that file"
        )
    if is_listed and tree.base is not None and tree.base.files:
        _check_listed(tree, tree.base)
    texts = []
    if (newer := concerned(found.newer)) and not is_made_again:
        texts.append(
            f"{_some(newer)}: newer than {_some(found.newer[newer[0]])}, so the image may be built "
            f"from another content; {again}, or give ON=rebuild, which makes such objects again "
            "and compares them; a copy of a tree needs its time stamps (cp -a)"
        )
    if moved := concerned(found.moved):
        texts.append(
            f"{_some(moved)}: written or moved after {_some(found.moved[moved[0]])} was compiled, "
            "though the time stamp is older, so the image may be built from another content; "
            f"{again}"
        )
    return findings_about(Duty.BASE, "base", Severity.UNCHECKED, "xen-syms", texts)


def _check_listed(tree: XenTree, base: BaseRecord) -> None:
    """Refuse a base of which any file changed.

    Sizes and times of all files tell that nothing was written since the last look; else content
    decides.
    """
    listed = read_list(tree.source_root.parent, base.files)
    place = cache_folder(os.environ) / "listed" / tree_digest(tree)
    stamps = stamps_digest(tree.source_root, listed).encode()
    if place.is_file() and place.read_bytes() == stamps:
        return
    found = differing(tree.source_root, listed)
    if found:
        what = "gone" if all(how == "gone" for how in found.values()) else "changed"
        raise CaptureError(
            f"{_some(sorted(found))}: {what} since the base was added; {advice_of_base(base)}, or "
            "put the content back"
        )
    forget_texts(place.parent, files_max=_KEPT_MAX)
    write_file(place, stamps)


def _seen(tree: XenTree, place: Path) -> Inputs:
    """Return what is known of a tree's inputs; quick where nothing moved since the last look."""
    known_ns, known, is_whole = _load(place)
    root = str(tree.root)
    if is_whole and all(stamps_of(root, path) == row[:3] for path, row in known.items()):
        return Inputs()
    found = examine_inputs(tree, known, known_ns)
    is_whole = not (found.edited or found.newer or found.moved)
    seen = known_ns if found.edited else time.time_ns()
    row = {"schema": _SCHEMA, "seen": seen, "whole": is_whole}
    forget_texts(place.parent, files_max=_KEPT_MAX)
    write_file(place, json.dumps(row | {"files": found.files}, sort_keys=True).encode())
    return found


def _load(place: Path) -> tuple[int, dict[str, Row], bool]:
    """Read what an earlier run saw; nothing if there is none, or none of this kind."""
    try:
        kept = json.loads(place.read_bytes())
        if kept["schema"] != _SCHEMA:
            return 0, {}, False
        files = {
            path: (int(size), int(written), int(changed), str(digest))
            for path, (size, written, changed, digest) in kept["files"].items()
        }
        return int(kept["seen"]), files, bool(kept["whole"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, {}, False


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
