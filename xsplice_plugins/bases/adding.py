# SPDX-License-Identifier: Apache-2.0
"""Making a base: fetch, unpack, configure, build, hold against what was shipped.

Each finished step leaves a stamp; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, read_file, save
from xsplice_plugins.bases import shipped
from xsplice_plugins.bases.checking import compare
from xsplice_plugins.bases.recipes import DEFCONFIG, Recipe, ask_compiler, recipe_of
from xsplice_plugins.bases.sources import digest_of, kind_of, unpack
from xsplice_plugins.bases.store import folder_of, load_base
from xsplice_plugins.cache import locked
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor.facts.releases import check_loader
from xsplice_plugins.system.debian import require_packages
from xsplice_plugins.system.process import run_logged

#: Changes when the steps below change what comes out; part of a base's key.
_RECIPE = "1"
#: About as many lines as a build of 4.17 prints; only the progress bar reads it.
_BUILD_LINES_ABOUT = 600
_PROGRAMS = {
    "bison": "bison",
    "flex": "flex",
    "ld": "binutils",
    "make": "make",
    "patch": "patch",
    "perl": "perl",
    "python3": "python3",
}
_FILES = {"/usr/include/stdio.h": "libc6-dev", "/usr/include/libelf.h": "libelf-dev"}
#: Fields of an order that do not decide what a base is, or are read otherwise.
_NOT_KEY = {"name", "jobs", "mirror", "source", "ref", "is_replaced"}
_OWN_IMAGES = ("xen", "xen.gz", "xen.efi")
#: What of the user's environment make sees; the rest is in no key.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR")

#: Told the step's name, how far it is, and how far it goes (0: not known).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a user asks for."""

    name: str
    source: Path | None = None  #: ``None`` with ``debian``
    ref: str = ""  #: tag or commit, where the source is a clone
    debian: str = ""  #: version of Debian's package, or a Debian release: ``12``
    config: str = ""  #: a file, or ``defconfig``; "" for the one that comes with the sources
    image: Path | None = None  #: the shipped ``xen-syms``
    boot: Path | None = None  #: the shipped ``xen`` or ``xen.gz``
    pristine: tuple[Path, ...] = ()  #: patches that the running hypervisor was built with
    make: tuple[str, ...] = ()  #: variables of make
    targets: tuple[str, ...] = ()  #: more targets of make
    compiler: str = ""
    loader: str = ""  #: a vendor's loader, by its name
    mirror: str = ""  #: an archive in place of the system's
    jobs: int = 1
    is_replaced: bool = False  #: make it again if the name stands for something else


def add_base(order: Order, *, progress: Progress = lambda _step, _done, _total: None) -> BaseRecord:
    """Make a base, as far as it is not there yet.

    Args:
        order: What is asked for.
        progress: Told of each step.

    Returns:
        What was made. The same order again returns it at once.

    Raises:
        ConfigError: The order cannot be fulfilled, or the name stands for something else.
        CaptureError: What was built is not usable, or cannot be compared with the image.
        MachineError: A program is missing.
    """
    folder = folder_of(order.name)
    key = _key(order)
    with locked(folder, waiting=lambda: progress("waiting for another run", 0, 0)):
        stamp = folder / "key"
        if (folder / BASE_FILE).is_file():
            if stamp.is_file() and stamp.read_text() == key:
                return load_base(order.name)
            if not order.is_replaced:
                raise ConfigError(
                    f"base {order.name}: is there already, made of something else; choose another "
                    f"name, or make it again with --replace"
                )
        if not stamp.is_file() or stamp.read_text() != key:
            _empty(folder)
            stamp.write_text(key)
        for step, work in _Work(order, folder, progress).steps():
            done = folder / f"{step}.done"
            if not done.is_file():
                progress(step, 0, 0)
                work()
                done.touch()
        record = compare(order.name, key, folder, _Work(order, folder, progress).origin())
        record = replace(record, loader=order.loader)
        save(folder / BASE_FILE, record)
        return record


def _key(order: Order) -> str:
    """Return a digest of everything that decides what a base is.

    Raises:
        ConfigError: A file is missing, or options contradict each other.
    """
    if (order.source is None) == (not order.debian):
        raise ConfigError("--source and --debian: give one of the two")
    if order.boot and not (order.image or order.debian):
        raise ConfigError(
            f"--boot {order.boot}: has no names of functions; give --image, its xen-syms"
        )
    check_loader(order.loader)
    rows = [_RECIPE]
    for field in fields(order):
        value = getattr(order, field.name)
        if field.name in _NOT_KEY:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            is_file = isinstance(one, Path) or (
                field.name == "config" and one not in {"", DEFCONFIG}
            )
            content = hashlib.sha256(read_file(Path(one))).hexdigest() if is_file and one else one
            rows.append(f"{field.name}={content}")
    if order.source is not None:
        kind = kind_of(order.source, order.ref)
        rows.append(f"source={digest_of(order.source, kind, order.ref)}")
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()


def _empty(folder: Path) -> None:
    """Remove what a run for something else has left; the lock stays."""
    # What says that it is ready goes first: a half removed base is none.
    for name in (BASE_FILE, "key", *(path.name for path in folder.glob("*.done"))):
        (folder / name).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@dataclass(frozen=True, slots=True)
class _Work:
    """The steps of one order."""

    order: Order
    folder: Path
    progress: Progress

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def log(self) -> Path:
        return self.folder / "build.log"

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Give name and work of each step, in order."""
        if self.order.debian:
            yield "fetch", self._fetch
        yield "unpack", self._unpack
        yield "configure", self._configure
        yield "build", self._build
        if self.order.targets:
            yield "targets", lambda: self._make(self.order.targets, "targets", 0)
        yield "image", self._image

    def origin(self) -> tuple[str, Recipe, shipped.Shipped]:
        """Return where the sources came from, how they were built, and what was shipped."""
        source = self.order.source
        origin = f"Debian {self._package_version()}" if source is None else source.name
        origin += f" {self.order.ref}" if self.order.ref else ""
        return origin, self._recipe(), self._shipped()

    def _fetch(self) -> None:
        from xsplice_plugins.bases.debian import fetch_package  # noqa: PLC0415  needs a network

        fetch_package(self.order.debian, self.folder / "debian", mirror=self.order.mirror)

    def _package_version(self) -> str:
        return (self.folder / "debian" / "version").read_text()

    def _source(self) -> Path:
        if self.order.source is not None:
            return self.order.source
        (dsc,) = sorted((self.folder / "debian" / "source").glob("*.dsc"))
        return dsc

    def _unpack(self) -> None:
        source = self._source()
        kind = kind_of(source, self.order.ref)
        unpack(source, kind, self.tree, log=self.log, ref=self.order.ref)
        shipped.keep(self.folder, self.tree, source)
        for path in self.order.pristine:
            line = ["patch", "-p1", "--fuzz=0", "--force", "-d", str(self.tree), "-i", str(path)]
            run_logged(line, log=self.log)

    def _recipe(self) -> Recipe:
        return recipe_of(self.tree, self.order.make, self.order.compiler)

    def _shipped(self) -> shipped.Shipped:
        return shipped.find(self.folder, self.order.image, self.order.boot)

    def _configure(self) -> None:
        require_packages("building Xen", _PROGRAMS, _FILES)
        recipe, found = self._recipe(), self._shipped()
        shipped.check(found, self.tree, ask_compiler(recipe.compiler))
        if any((self.tree / "xen" / "common").glob("*.o")):
            self._make(("clean",), "clean", 0)
        config = self.tree / "xen" / ".config"
        if self.order.config == DEFCONFIG:
            self._make((DEFCONFIG,), "configure", 0)
            return
        given = self.order.config or recipe.config or found.config
        if given and config.is_symlink():
            config.unlink()
        if self.order.config:
            config.write_bytes(read_file(Path(self.order.config)))
        elif recipe.config:
            config.write_text(recipe.config)
        elif found.config is not None:
            config.write_bytes(read_file(found.config))
        elif not config.is_file():
            raise ConfigError(
                f"base {self.order.name}: the sources come without .config; give the running "
                "hypervisor's with --config (often /boot/xen-*.config), or `--config defconfig`"
            )
        self._make(("olddefconfig",), "configure", 0)

    def _build(self) -> None:
        self._make((), "build", _BUILD_LINES_ABOUT)

    def _make(self, targets: tuple[str, ...], step: str, total: int) -> None:
        recipe, count = self._recipe(), 0

        def on_line(line: str) -> None:
            nonlocal count
            if line.startswith("  "):
                count += 1
                self.progress(step, min(count, total), total)

        line = ["make", "-C", str(self.tree / "xen"), f"-j{self.order.jobs}", *recipe.make]
        environ = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environ |= {"LC_ALL": "C", **dict(recipe.environment)}
        run_logged([*line, *targets], log=self.log, environ=environ, on_line=on_line)

    def _image(self) -> None:
        """Put what was shipped in the place of what was built."""
        found = self._shipped()
        built = self.tree / "xen"
        if not (built / "xen-syms").is_file():
            raise ConfigError(f"{built}: make left no xen-syms; see {self.log}")
        if found.image is None:
            return
        data = read_file(found.image)
        if data != (built / "xen-syms").read_bytes():
            (self.folder / "is-other").touch()
            for name in _OWN_IMAGES:
                (built / name).unlink(missing_ok=True)
            (built / "xen-syms").unlink()
            (built / "xen-syms").write_bytes(data)
        if found.boot is not None:
            for name in _OWN_IMAGES:
                (built / name).unlink(missing_ok=True)
            (built / "xen").write_bytes(_unzipped(found.boot))


def _unzipped(path: Path) -> bytes:
    data = read_file(path)
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"--boot {path}: cannot be unpacked ({error}); give xen or xen.gz") from (
            error
        )
    if data[:4] != b"\x7fELF" and data[:2] != b"MZ":  # arm64 boots one with a PE header
        raise ConfigError(f"--boot {path}: no image that boots; give xen or xen.gz")
    return data
