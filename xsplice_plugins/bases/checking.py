# SPDX-License-Identifier: Apache-2.0
"""Is a base what was shipped? Its objects are held against the image, one by one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import BaseRecord, Likeness
from xsplice_plugins.bases.recipes import Recipe, ask_compiler
from xsplice_plugins.bases.store import folder_of, load_base
from xsplice_plugins.errors import ConfigError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import BaseMatch
    from xsplice_plugins.bases.shipped import Shipped
    from xsplice_plugins.kbuild.tree import XenTree

#: Part of all functions and data; below it an image is another build's, not a base's.
_LIKE_MIN = 0.8
_SHOWN_MAX = 8


def compare(name: str, key: str, folder: Path, origin: tuple[str, Recipe, Shipped]) -> BaseRecord:
    """Hold the objects of a base against its image.

    Args:
        name: The base's name.
        key: Digest of what was asked for.
        folder: Of the base.
        origin: Where the sources came from, how they were built, what was shipped.

    Raises:
        CaptureError: The tree is not usable for live patches.
        ConfigError: The image cannot be compared with it.
    """
    source, recipe, shipped = origin
    tree, found = _matched(folder)
    _require_likeness(name, found)
    likeness = Likeness.OWN
    if shipped.image is not None:
        is_other = (folder / "is-other").is_file()
        likeness = Likeness.MATCHED if is_other else Likeness.IDENTICAL
    return BaseRecord(
        name=name,
        key=key,
        release=tree.release,
        machine=tree.machine,
        build_id=tree.build_id,
        image=found.image,
        source=source,
        recipe=recipe.name,
        compiler=ask_compiler(recipe.compiler),
        make=recipe.make,
        environment=recipe.environment,
        likeness=likeness,
        objects=found.objects,
        matched=found.matched,
        differs=found.differs,
        absent=found.absent,
        ambiguous=found.ambiguous,
        strangers=found.strangers,
    )


def _require_likeness(name: str, found: BaseMatch) -> None:
    """Refuse what could not be compared, and an image of other sources or settings."""
    if not found.objects:
        raise ConfigError(f"base {name}: {found.findings[0].text}")
    other = (*found.differs, *found.absent)
    if found.matched < _LIKE_MIN * (found.matched + len(other)):
        raise ConfigError(
            f"base {name}: only {found.matched} of {found.matched + len(other)} functions and data "
            f"are those of the image, so it was built of other sources or settings; "
            f"{', '.join(other[:_SHOWN_MAX])} differ"
        )


def _matched(folder: Path) -> tuple[XenTree, BaseMatch]:
    """Match the tree of a base with the image that lies in it."""
    base = pipeline.base_of_tree(folder / "tree")
    assert base.tree is not None, "it was made of one"
    run = pipeline.open_run({}, base, environ=os.environ)
    image = base.tree.xen_syms.read_bytes()
    return base.tree, pipeline.match_base(run, image, pipeline.objects_of_tree(base.tree))


def check_base(name: str) -> BaseRecord:
    """Hold a base against its image once more.

    Raises:
        ConfigError: There is no such base.
        RefusedError: It is not any more what its record says.
    """
    record = load_base(name)
    folder = folder_of(name)
    _, found = _matched(folder)
    rows = ("objects", "matched", "differs", "absent", "ambiguous", "strangers")
    wrong = [row for row in rows if getattr(found, row) != getattr(record, row)]
    if found.image != record.image:
        wrong.insert(0, "image")
    if wrong:
        raise RefusedError(
            f"base {name}: is not any more what was added ({', '.join(wrong)} changed); remove it "
            "and add it again"
        )
    return record
