#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make a built Xen tree in the cache folder (``make xen-tree``).

From Debian's source package, or with ``--git`` from a commit of a clone of Xen's repository.
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
from tests.xen.source import commit_of
from xsplice_plugins.cache import cache_folder
from xsplice_plugins.errors import ConfigError, XspliceError
from xsplice_plugins.system import debian


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
    parser.add_argument("--git", type=Path, help="a clone of Xen's repository to take --ref from")
    parser.add_argument("--ref", default="", help="tag, branch or commit, e.g. RELEASE-4.22.0")
    parser.add_argument("--arch", default="x86_64", choices=sorted(xen_tree.MACHINES))
    parser.add_argument("--cc", default="", help="compiler for the hypervisor, without it gcc")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mirror", default="", help="Debian archive to use, e.g. a snapshot's")
    parser.add_argument(
        "--print-path", action="store_true", help="only print where the finished tree is"
    )
    return parser.parse_args(argv)


def job_of(args: argparse.Namespace, cache: Path) -> xen_tree.TreeJob:
    """Return what the command line asks for.

    Raises:
        ConfigError: The options contradict, the clone lacks the commit, no compiler.
    """
    if (args.git is None) != (not args.ref):
        raise ConfigError("--git and --ref: one without the other; give both or none")
    cross = xen_tree.MACHINES[args.arch][0]
    compiler = args.cc or f"{cross}gcc"
    commit = commit_of(args.git, args.ref) if args.git else ""
    programs = xen_tree.programs_for(commit=commit, machine=args.arch)
    debian.require_packages("Xen tree", programs, xen_tree.FILES)
    recipe = xen_tree.TreeRecipe(
        version=args.ref or args.version,
        config=tuple(args.config),
        compiler=xen_tree.compiler_identity(compiler),
        commit=commit,
        machine=args.arch,
    )
    return xen_tree.TreeJob(
        recipe=recipe,
        cache=cache,
        jobs=args.jobs,
        compiler=compiler,
        clone=args.git,
        mirror=args.mirror,
    )


def main(argv: Sequence[str]) -> int:
    """Make the tree, or say where it is."""
    args = arguments(argv)
    cache = cache_folder(os.environ)
    try:
        job = job_of(args, cache)
        recipe = job.recipe
        if args.print_path and not xen_tree.is_complete(recipe, cache):
            folder = recipe.folder(cache)
            raise ConfigError(
                f"{folder}: the Xen tree is not built yet; run the same "
                "without --print-path (make xen-tree)"
            )
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
