# SPDX-License-Identifier: Apache-2.0
"""What every subcommand does with files, settings and the standard output."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import pipeline, settings
from xsplice_plugins.artefacts import check_replaceable, plain, record_path
from xsplice_plugins.bases.store import used
from xsplice_plugins.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    return pipeline.base_of_tree(tree_path(arguments.XEN))


def tree_path(xen: str) -> Path:
    """Return the absolute path of ``XEN``, which `using_bases` has made of a base's name."""
    return Path(xen).absolute()


@contextmanager
def using_bases(arguments: Namespace) -> Iterator[None]:
    """Keep others from taking away the bases that a subcommand reads, until it ends.

    Args:
        arguments: Of any subcommand, as parsed; ``XEN`` becomes the path that it stands for.
    """
    with ExitStack() as stack:
        if getattr(arguments, "XEN", ""):
            arguments.XEN = str(stack.enter_context(used(arguments.XEN, waiting=_wait)))
        if getattr(arguments, "xen_syms", None):
            stack.enter_context(used(arguments.xen_syms, waiting=_wait))
        yield


def _wait(who: str) -> None:
    sys.stderr.write(f"the base is being removed by {who}; waiting for its end ...\n")


def checks_path(payload: Path) -> Path:
    """Return where lies how a payload compares with a rebuild."""
    return record_path(payload).with_suffix("").with_suffix(".checks.json")


def signature_path(payload: Path) -> Path:
    """Return where the record of a payload's signature lies."""
    return record_path(payload).with_suffix("").with_suffix(".signature.json")


_OUT = {"--out", "--html"}
#: What subcommands write beside ``--out``.
_BESIDE = {
    "link": (record_path,),
    "sign": (signature_path,),
    "build": (record_path, signature_path),
}


def check_out(arguments: Namespace) -> None:
    """Refuse names of no file, and to write over a file that is read or over no regular file.

    Args:
        arguments: Of any subcommand, as parsed.

    Raises:
        ConfigError: What is written names such a file, or something is no file's name.
    """
    if arguments.command in {"base", "patch", "play"}:
        return  # there it is a folder
    given = [
        (f"--{name.lower().replace('_', '-')}", one)
        for name, value in vars(arguments).items()
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, str | Path)
    ]
    for _, one in given:
        if isinstance(one, Path) and not one.name:
            raise ConfigError(f"{one}: names no file; give one")
    made = [Path(one) for name, one in given if name in _OUT]
    made += [beside(arguments.out) for beside in _BESIDE.get(arguments.command, ())]
    read = [(name, Path(one)) for name, one in given if name not in _OUT and os.path.isfile(one)]  # noqa: PTH113  a text may be too long to be a path
    if arguments.command == "verify":
        payload = arguments.payloads[-1]
        read += [("beside it", place(payload)) for place in (record_path, checks_path)]
    pipeline.refuse_overwriting(made, read)
    for path in made:
        check_replaceable(path)
