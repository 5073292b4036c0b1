# SPDX-License-Identifier: Apache-2.0
"""What every subcommand does with files, settings and the standard output."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import pipeline, settings
from xsplice_plugins.artefacts import plain, record_path

if TYPE_CHECKING:
    from collections.abc import Mapping

#: name, what it does, how to add its arguments, what to run
Row = tuple[str, str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]


def show(data: bytes | str) -> None:
    """Write an answer to the standard output."""
    sys.stdout.write(data.decode() if isinstance(data, bytes) else plain(data))


def open_run(
    arguments: Namespace,
    base: pipeline.Base | None = None,
    *,
    build_dir: Path | None = None,
    more: Mapping[str, object] | None = None,
) -> pipeline.Run:
    """Return the run of one subcommand: what its options say (see `pipeline.open_run`).

    Args:
        arguments: As parsed; options of the table of settings are named as its rows.
        base: The hypervisor; ``None`` for a step that needs none.
        build_dir: Where a development key may be made.
        more: Settings that this subcommand decides itself.
    """
    given = {
        row.name: getattr(arguments, row.name)
        for row in settings.SETTINGS
        if hasattr(arguments, row.name)
    }
    return pipeline.open_run(
        {**given, **(more or {})},
        base,
        environ=os.environ,
        build_dir=build_dir,
        resolve=lambda text: Path(text).absolute(),
    )


def tree_base(arguments: Namespace) -> pipeline.Base:
    """Return the hypervisor of the tree that ``--xen`` names."""
    return pipeline.base_of_tree(Path(arguments.XEN).absolute())


def checks_path(payload: Path) -> Path:
    """Return where lies how a payload compares with a rebuild."""
    return record_path(payload).with_suffix("").with_suffix(".checks.json")


def signature_path(payload: Path) -> Path:
    """Return where the record of a payload's signature lies."""
    return record_path(payload).with_suffix("").with_suffix(".signature.json")
