# SPDX-License-Identifier: Apache-2.0
"""Files that the build generates: run their recorded rules again, follow only real changes.

A touched public header is an input of a chain of generated ones (compat headers). Most fixes
leave the chain's first link as it is, and then nothing behind it needs to be looked at.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import write_file
from xsplice_plugins.capture.copying import full_disk_named, prepare_copy
from xsplice_plugins.capture.digests import tree_state
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.commands import run
from xsplice_plugins.kbuild.indexing import Index, canonical_in
from xsplice_plugins.kbuild.records import Record, parse_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import PatchSet

RULES_MAX = 5000  #: rules run for one patch; Xen has about 130


def is_ignored(target: str) -> bool:
    """Tell whether nothing of a target reaches the image: host programs, tests, checks."""
    return target.startswith(("tools/", "test/", "include/headers")) or target.endswith(".chk")


def changed_outputs(
    index: Index,
    patch_set: PatchSet,
    first: set[str],
    *,
    store: Path | None,
    env: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Run rules again in a private copy and say which generated files change.

    Args:
        index: The build folder's records.
        patch_set: What to apply.
        first: Targets of which a touched file is an input, relative to the build folder.
        store: Folder where the answer is kept for the next run; ``None`` to keep none.
        env: The environment of the rules; this process's own if ``None``.

    Returns:
        Generated files, relative to the build folder, whose content changes; files that only
        other rules read are left out.

    Raises:
        CaptureError: A rule fails.
        MachineError: The copy cannot be written.
    """
    kept = None
    if store is not None:
        key = f"{tree_state(index.tree)}\0{patch_set.digest}".encode()
        kept = store / f"rules-{hashlib.sha256(key).hexdigest()[:32]}"
        if kept.is_file():
            return tuple(kept.read_text().split())
        with full_disk_named(store):
            store.mkdir(parents=True, exist_ok=True)
    rules = _rules(index)
    with full_disk_named(store or Path(tempfile.gettempdir())):
        scratch = Path(tempfile.mkdtemp(prefix=".rules.", dir=store))
    try:
        copy = scratch / "copy"
        tree = index.tree
        build = "" if tree.build_dir == "." else tree.build_dir + "/"
        prepare_copy(
            tree.root,
            copy,
            patch_set,
            only=sorted({tree.source_dir, tree.build_dir}),
            real={os.path.dirname(build + target) for target in rules},  # noqa: PTH120
            patch_root=tree.patch_root,
        )
        changed = _run_all(index, rules, first, copy, env)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if kept is not None:
        write_file(kept, "\n".join(changed).encode("utf-8", "surrogateescape"))
    return changed


def _rules(index: Index) -> dict[str, Record]:
    """Return the records of generated files by target."""
    rules = {}
    for (folder, name), text in index.texts.items():
        target = f"{folder}/{name}" if folder else name
        if name.endswith((".o", ".a", ".lds", ".livepatch")) or is_ignored(target):
            continue
        record = parse_record(text, folder, name)
        if record is not None:
            rules[target] = record
    return rules


def _run_all(
    index: Index,
    rules: dict[str, Record],
    first: set[str],
    copy: Path,
    env: Mapping[str, str] | None,
) -> tuple[str, ...]:
    tree = index.tree
    build = "" if tree.build_dir == "." else tree.build_dir + "/"
    readers: dict[str, set[str]] = {}
    for target, record in rules.items():
        for word in record.inputs:
            readers.setdefault(canonical_in(index, record.folder, word), set()).add(target)
    pending, done = set(first & rules.keys()), set()
    changed: set[str] = set()
    settings = {
        # Xen's Makefiles export it, and scripts/get-fields.sh asks for it.
        "PYTHON": _python(rules),
        **(os.environ if env is None else env),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for _ in range(RULES_MAX):
        if not pending:
            return tuple(sorted(target for target in changed if _is_used(index, target)))
        # One that waits for no other pending one; a circle cannot be, make would have refused it.
        target = min(
            (t for t in pending if not _reads(index, rules[t], pending - {t}, build)),
            default=min(pending),
        )
        pending.discard(target)
        done.add(target)
        if _run(rules[target], copy, build, tree.build_root, settings):
            changed.add(target)
            pending |= readers.get(build + target, set()) - done
    raise CaptureError(f"{tree.build_root}: more than {RULES_MAX} rules; take the make route")


def _is_used(index: Index, target: str) -> bool:
    """Tell whether an object names a generated file as its input."""
    return any(
        target in text
        for (_, name), text in index.texts.items()
        if name.endswith(".o") and "\ndeps_" in text
    )


def _python(rules: dict[str, Record]) -> str:
    for record in rules.values():
        front = record.command.split(None, 1)[0]
        if re.search(r"python[\d.]*$", front):
            return front
    return "python3"


def _reads(index: Index, record: Record, others: set[str], build: str) -> bool:
    inputs = {canonical_in(index, record.folder, word) for word in record.inputs}
    return any(build + other in inputs for other in others)


def _run(record: Record, copy: Path, build: str, build_root: Path, env: Mapping[str, str]) -> bool:
    """Run one rule in the copy; tell whether the content differs from the tree's."""
    place = copy / (build + record.target)
    root = os.path.realpath(copy)
    assert os.path.realpath(place.parent).startswith(root), "a rule must not write into the tree"
    # A redirection would write through the link into the tree.
    place.unlink(missing_ok=True)
    run(record.command, copy / build / record.folder, env=env, subject=record.target)
    try:
        return place.read_bytes() != (build_root / record.target).read_bytes()
    except OSError:
        return True
