# SPDX-License-Identifier: Apache-2.0
"""A built Xen tree from Debian's source package or a clone's commit, in the user's cache folder.

The tree's folder is named after what made it, so another compiler or another configuration gets
a tree of its own. Each finished step leaves a stamp; an interrupted run goes on where it stopped.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.xen.source import download_source, export_commit
from xsplice_plugins.cache import locked
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.system import debian
from xsplice_plugins.system.process import run_logged

VERSION_DEFAULT = "4.17.5+72-g01140da4e8-1"
#: Changes when the steps below change what comes out; part of the tree's key.
RECIPE = "1"
#: About as many progress lines as a build of 4.17 prints; only the progress bar reads it.
BUILD_LINES_ABOUT = 600

PROGRAMS = {
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "patch": "patch",
    "perl": "perl",
    "python3": "python3",
    "xz": "xz-utils",
}
#: What only a tree from Debian's source package, and only one from a clone, needs.
PROGRAMS_DEBIAN = {"apt-get": "apt", "dpkg-source": "dpkg-dev"}
PROGRAMS_GIT = {"git": "git", "tar": "tar"}
#: What make is told for each machine, and lines that its .config needs to have live patching.
MACHINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "x86_64": ("", ()),
    "arm64": ("aarch64-linux-gnu-", ("CONFIG_LIVEPATCH=y",)),
}
FILES = {
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/stdio.h": "libc6-dev",
}

#: Called with the step's name, how far it is, and how far it goes (0: not known).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRecipe:
    """Everything that decides what a tree holds."""

    version: str  #: of Debian's source package; with a commit, the name that led to it
    config: tuple[str, ...]
    compiler: str
    commit: str = ""  #: of a clone of Xen's repository; "" for Debian's source package
    machine: str = "x86_64"  #: as make's XEN_TARGET_ARCH

    @property
    def key(self) -> str:
        """Return a short digest of the recipe."""
        source = [self.commit or self.version, self.compiler, *self.config]
        machine = [] if self.machine == "x86_64" else [self.machine]
        return hashlib.sha256("\n".join([RECIPE, *source, *machine]).encode()).hexdigest()[:12]

    @property
    def release(self) -> str:
        """Return the Xen release, for example ``4.17``."""
        match = re.match(r"(\d+\.\d+)\.", self.version)
        if match is None:
            raise ConfigError(f"{self.version}: not a Xen package version; it begins as 4.17.5")
        return match.group(1)

    def folder(self, cache: Path) -> Path:
        """Return the folder that this recipe's tree and its stamps live in."""
        name = re.sub(r"[^A-Za-z0-9.+~-]", "_", self.version)
        machine = "" if self.machine == "x86_64" else f"-{self.machine}"
        return cache / "xen-tree" / f"{name}{machine}-{self.key}"


def compiler_identity(program: str) -> str:
    """Return the compiler's own version line.

    Args:
        program: Name or path of the compiler.

    Raises:
        ConfigError: It cannot be run.
    """
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"{program}: does not run; install it or name another with --cc") from (
            error
        )
    return done.stdout.splitlines()[0]


def programs_for(*, commit: str, machine: str) -> dict[str, str]:
    """Return the programs that making a tree takes, each with its Debian package.

    Args:
        commit: "" for Debian's source package.
        machine: One of `MACHINES`.
    """
    cross = MACHINES[machine][0]
    compilers = {f"{cross}gcc": f"gcc-{cross.rstrip('-')}"} if cross else {}
    return PROGRAMS | (PROGRAMS_GIT if commit else PROGRAMS_DEBIAN) | compilers


def tree_path(recipe: TreeRecipe, cache: Path) -> Path:
    """Return where the finished tree is (the folder that holds ``xen/``)."""
    return recipe.folder(cache) / "tree"


def is_complete(recipe: TreeRecipe, cache: Path) -> bool:
    """Tell whether every step of the recipe has finished."""
    return (recipe.folder(cache) / "tests.done").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeJob:
    """One run: what to make, where, and with what help."""

    recipe: TreeRecipe
    cache: Path
    jobs: int
    #: The compiler that the recipe's identity was taken from.
    compiler: str = "gcc"
    #: The clone that the recipe's commit was found in; None for Debian's source package.
    clone: Path | None = None
    #: An archive to use in place of the system's.
    mirror: str = ""


def make_tree(job: TreeJob, *, progress: Progress) -> Path:
    """Fetch, unpack, configure and build a Xen tree, as far as that is not done.

    Args:
        job: What to make.
        progress: Told of each step.

    Returns:
        The folder that holds ``xen/``.

    Raises:
        ConfigError: Packages are missing, the version is gone, or a step failed.
    """
    if is_complete(job.recipe, job.cache):
        return tree_path(job.recipe, job.cache)
    programs = programs_for(commit=job.recipe.commit, machine=job.recipe.machine)
    debian.require_packages("Xen tree", programs, FILES)
    folder = job.recipe.folder(job.cache)
    with locked(folder):
        for name, step in _steps(job, progress):
            stamp = folder / f"{name}.done"
            if not stamp.is_file():
                progress(name, 0, 0)
                step()
                stamp.touch()
    return tree_path(job.recipe, job.cache)


def _steps(job: TreeJob, progress: Progress) -> Iterator[tuple[str, Callable[[], None]]]:
    recipe = job.recipe
    folder = recipe.folder(job.cache)
    tree = tree_path(recipe, job.cache)
    log = folder / "build.log"
    cross, needed = MACHINES[recipe.machine]
    make = ["make", "-C", str(tree / "xen"), f"XEN_TARGET_ARCH={recipe.machine}"]
    make += [f"CC={job.compiler}", "HOSTCC=gcc", f"-j{job.jobs}"]
    make += [f"CROSS_COMPILE={cross}"] if cross else []
    # The user's MAKEFLAGS, CFLAGS and the like are no part of the key, so they stay outside.
    environ = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    } | {"LC_ALL": "C"}

    def configure() -> None:
        run_logged([*make, "defconfig"], log=log, environ=environ)
        if lines := [*needed, *recipe.config]:
            config = tree / "xen" / ".config"
            config.write_text(config.read_text() + "\n".join(lines) + "\n")
            run_logged([*make, "olddefconfig"], log=log, environ=environ)

    def counted(name: str, target: list[str], total: int) -> None:
        count = 0

        def on_line(line: str) -> None:
            nonlocal count
            if line.startswith("  "):
                count += 1
                progress(name, min(count, total), total)

        run_logged([*make, *target], log=log, environ=environ, on_line=on_line)

    yield "fetch", lambda: _fetch(job)
    yield "unpack", lambda: _unpack(job)
    yield "configure", configure
    yield "build", lambda: counted("build", [], BUILD_LINES_ABOUT)
    yield "tests", lambda: counted("tests", ["tests"], 60)


def _fetch(job: TreeJob) -> None:
    """Download Debian's source package; a clone has its commit already."""
    if job.recipe.commit:
        return
    folder = job.recipe.folder(job.cache)
    suite = debian.suite_of(job.recipe.release)
    known = debian.system_sources()
    sources = debian.choose_sources(known, suite=suite, mirror=job.mirror)
    with locked(job.cache / "apt" / suite):
        apt = debian.open_apt(job.cache / "apt" / suite, sources)
        partial = _fresh(folder / "source.partial")
        download_source(apt, "xen", job.recipe.version, partial)
    partial.rename(_absent(folder / "source"))


def _unpack(job: TreeJob) -> None:
    folder = job.recipe.folder(job.cache)
    log = folder / "build.log"
    partial = _absent(folder / "tree.partial")
    if job.clone is not None:
        export_commit(job.clone, job.recipe.commit, partial, log=log)
    else:
        (dsc,) = sorted((folder / "source").glob("*.dsc"))
        run_logged(["dpkg-source", "--no-check", "-x", str(dsc), str(partial)], log=log)
    partial.rename(_absent(tree_path(job.recipe, job.cache)))


def _absent(path: Path) -> Path:
    if path.exists():
        shutil.rmtree(path)
    return path


def _fresh(path: Path) -> Path:
    _absent(path).mkdir(parents=True)
    return path
