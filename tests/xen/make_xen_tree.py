#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make a built Xen tree from Debian's source package (``make xen-tree``).

The tree's folder is printed as the last line. An interrupted run goes on where it stopped.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.xen import xen_tree
from xsplice_plugins.errors import ConfigError, XspliceError
from xsplice_plugins.realxen import debian
from xsplice_plugins.realxen.cache import cache_folder


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress function: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _step, _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415  # only where a person looks on
    from rich.progress import Progress  # noqa: PLC0415  # as above

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bar.update(task, total=1, completed=1)
                tasks[step] = bar.add_task(step, total=None)
            bar.update(tasks[step], completed=done, total=total or None)

        yield show


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--version", default=xen_tree.VERSION_DEFAULT, help="source package version"
    )
    parser.add_argument(
        "--config", action="append", default=[], help="line for .config, repeatable"
    )
    parser.add_argument("--cc", default="gcc", help="compiler for the hypervisor")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mirror", default="", help="Debian archive to use, e.g. a snapshot's")
    parser.add_argument(
        "--print-path", action="store_true", help="only print where the finished tree is"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Make the tree, or say where it is."""
    args = arguments(argv)
    cache = cache_folder(os.environ)
    try:
        debian.require_packages("Xen tree", xen_tree.PROGRAMS, xen_tree.FILES)
        recipe = xen_tree.TreeRecipe(
            version=args.version,
            config=tuple(args.config),
            compiler=xen_tree.compiler_identity(args.cc),
        )
        job = xen_tree.TreeJob(
            recipe=recipe, cache=cache, jobs=args.jobs, compiler=args.cc, mirror=args.mirror
        )
        if args.print_path and not xen_tree.is_complete(recipe, cache):
            folder = recipe.folder(cache)
            raise ConfigError(f"{folder}: the Xen tree is not built yet; run make xen-tree")
        with shown_progress() as progress:
            tree = xen_tree.make_tree(job, progress=progress)
    except XspliceError as error:
        sys.stderr.write(f"make_xen_tree: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("make_xen_tree: interrupted; the next run goes on from here\n")
        return 130
    sys.stdout.write(f"{tree}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
