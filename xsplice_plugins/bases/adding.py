# SPDX-License-Identifier: Apache-2.0
"""Making a base: fetch, unpack, configure, build, hold against what was shipped.

Each finished step leaves a stamp, and the next run goes on behind it; after a make that was killed
it begins with fresh sources.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, Likeness, read_file, save, write_file
from xsplice_plugins.bases import alike, shipped
from xsplice_plugins.bases.checking import compare, keep_inputs, origin_of
from xsplice_plugins.bases.orders import (
    ORDER_FILE,
    Kept,
    Order,
    check_given,
    check_order,
    key_of,
    rows_of,
    to_keep,
)
from xsplice_plugins.bases.recipes import DEFCONFIG, Recipe, recipe_of
from xsplice_plugins.bases.sources import check_links, kind_of, located, unpack
from xsplice_plugins.bases.store import (
    KEY_FILE,
    REFUSED_FILE,
    clear,
    discard,
    empty,
    find_base,
    folder_of,
    next_place,
    places_of,
    ready_place,
    said_clearly,
    take_away,
)
from xsplice_plugins.cache import locked
from xsplice_plugins.elf.described import has_types
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError, XspliceError
from xsplice_plugins.kbuild.configured import not_kept
from xsplice_plugins.kbuild.listing import keep_list
from xsplice_plugins.kbuild.records import read_text
from xsplice_plugins.kbuild.tree import locate_tree
from xsplice_plugins.releases import parse_loader
from xsplice_plugins.system.debian import require_packages
from xsplice_plugins.system.process import run_logged

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
_SHOWN_MAX = 6
_OWN_IMAGES = ("xen", "xen.gz", "xen.efi")
#: What of the user's environment make sees; the rest is in no key.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR")

#: Lies beside the tree while that is written, and stays if a run was killed: it may be half.
_MAKING = "making"

#: What make or its shell reads otherwise than as part of a path.
_ODD = frozenset(" \t\n:$#%=\"'`\\&;|<>()[]{}*?!")

#: Told the step's name, how far it is, and how far it goes (0: not known).
Progress = Callable[[str, int, int], None]


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

    def said(who: str) -> None:
        progress(f"what was made before stays, for {who} uses it", 0, 0)

    folder = folder_of(order.name)
    check_order(order)
    order = replace(order, loader=parse_loader(order.loader))
    if order.source is not None:
        order = replace(order, source=located(order.source))
    rows = rows_of(order)
    key = key_of(rows)
    with (
        said_clearly(folder),
        locked(folder, waiting=lambda: progress("waiting for another run", 0, 0)) as lock,
    ):
        # Whatever is started holds the lock as well: none builds where another's make still runs.
        os.set_inheritable(lock, True)  # noqa: FBT003
        ready = ready_place(order.name)
        record = _found(order, ready, key)
        if record is not None and ready is not None and not _is_made_again(order, ready, record):
            clear(order.name, ready, waiting=said)
            save(ready / ORDER_FILE, to_keep(rows, order.called))
            return record
        place = _place(order.name, ready)
        _begin(place, key)
        save(place / ORDER_FILE, to_keep(rows, order.called))
        try:
            record = _made(_Work(order, place, progress, rows))
        except XspliceError as error:
            if not any(place.glob("*.done")) and not (place / "build.log").exists():
                discard(place) if place == folder else take_away(place)
            elif isinstance(error, ConfigError):
                write_file(place / REFUSED_FILE, str(error).partition("; ")[0].encode())
            raise
        record = replace(record, files=keep_list(place))
        save(place / BASE_FILE, record)  # from here on it counts
        clear(order.name, place, waiting=said)
        keep_inputs(place)
        return record


def _is_made_again(order: Order, ready: Path, record: BaseRecord) -> bool:
    """Tell whether an earlier version made a base and did not compare all that this one does."""
    if not (order.is_replaced and record.likeness is Likeness.MATCHED):
        return False
    if record.boots is None:
        return True
    if record.otherwise is not None:
        return False
    image = locate_tree(ready / "tree").xen_syms
    return has_types(read_elf(read_file(image), "xen-syms"))


def _found(order: Order, ready: Path | None, key: str) -> BaseRecord | None:
    """Return the base that is there if it is what is asked for; refuse another one."""
    if ready is None:
        return None
    stamp = ready / KEY_FILE
    if stamp.is_file() and stamp.read_bytes() == key.encode():
        try:
            return find_base(order.name)[0]
        except XspliceError:
            if not order.is_replaced:
                raise
            return None
    if not order.is_replaced:
        raise ConfigError(
            f"base {order.name}: is there already, made of something else; choose another "
            f"name, or make it again with --replace"
        )
    return None


def _place(name: str, ready: Path | None) -> Path:
    """Return where to build: beside a base that is there, where an earlier run did so."""
    folder, *others = places_of(name)
    if odd := sorted(set(str(folder)) & _ODD):
        raise ConfigError(
            f"{folder}: make builds in no folder with {' '.join(map(repr, odd))} in its path; set "
            "XSPLICE_CACHE to another one"
        )
    if ready is None:
        return folder
    return others[-1] if others and others[-1] != ready else next_place(name)


def _begin(place: Path, key: str) -> None:
    """Make a place ready for a run; what an earlier one for the same has finished stays."""
    place.mkdir(exist_ok=True)
    stamp = place / KEY_FILE
    if not stamp.is_file() or stamp.read_bytes() != key.encode():
        empty(place)
        write_file(stamp, key.encode())
    (place / REFUSED_FILE).unlink(missing_ok=True)
    if (place / _MAKING).exists() or not (place / "tree").is_dir():
        for done in place.glob("*.done"):
            if done.name != "fetch.done":
                done.unlink()
        (place / _MAKING).unlink(missing_ok=True)


def _made(work: _Work) -> BaseRecord:
    """Do what is not done yet, and compare."""
    order, rows = work.order, work.rows
    for step, do in work.steps():
        done = work.folder / f"{step}.done"
        if not done.is_file():
            work.progress(step, 0, 0)
            do()
            if step == "unpack" and rows_of(order) != rows:
                raise ConfigError(
                    f"base {order.name}: what it is made of changed while it was read; give it "
                    "again"
                )
            done.touch()
    origin, recipe, found = work.origin()
    record = compare(order.name, key_of(rows), work.folder, (origin, recipe, found))
    if order.image is not None and record.image != Kept(rows, "").value("image"):
        raise ConfigError(
            f"base {order.name}: what lies there is of another --image than {order.image}; remove "
            f"it with `xsplice base remove {order.name}` and add it again"
        )
    return replace(record, loader=order.loader)


class _Work(Struct, frozen=True):
    """The steps of one order."""

    order: Order
    folder: Path
    progress: Progress
    rows: tuple[str, ...]  #: what the order says, as it was when the run began

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
        return origin_of(self.folder, self.order.called), self._recipe(), self._shipped()

    def _fetch(self) -> None:
        from xsplice_plugins.bases.debian import fetch_package  # noqa: PLC0415  needs a network

        fetch_package(self.order.debian, self.folder / "debian", mirror=self.order.mirror)

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
            try:
                text = run_logged(line, log=self.log)
            except ConfigError as error:
                raise ConfigError(
                    f"--pristine {path}: does not apply to these sources (patch -p1); give it for "
                    f"this release, or leave it out if they have it already: {error}"
                ) from error
            if not text:
                raise ConfigError(
                    f"--pristine {path}: changes nothing; give a patch, or leave it out"
                )
            check_links(self.tree, f"--pristine {path}")

    def _recipe(self) -> Recipe:
        recipe = recipe_of(self.tree, self.order.make, self.order.compiler)
        return alike.built_alike(recipe, self._shipped().image)

    def _shipped(self) -> shipped.Shipped:
        check_given(self.order, self.rows)
        return shipped.find(self.folder, self.order.image, self.order.boot)

    def _configure(self) -> None:
        require_packages("building Xen", _PROGRAMS, _FILES)
        recipe, found = self._recipe(), self._shipped()
        shipped.check(found, self.tree, recipe)
        alike.keep_changeset(self.tree, found.image)
        if any((self.tree / "xen" / "common").glob("*.o")):
            self._make(("clean",), "clean", 0)
        if self.order.config == DEFCONFIG:
            self._make((DEFCONFIG,), "configure", 0)
        else:
            self._take_config(recipe, found)
        config = self.tree / "xen" / ".config"
        shipped.check_config(found, config, self._config_of(str(config)))

    def _take_config(self, recipe: Recipe, found: shipped.Shipped) -> None:
        """Put the configuration into its place, and let make complete it."""
        config = self.tree / "xen" / ".config"
        given = self.order.config_file
        if given is None and not recipe.config:
            given = found.config or config
            if not given.is_file():
                raise ConfigError(
                    f"base {self.order.name}: the sources come without .config; give the running "
                    "hypervisor's with --config (often /boot/xen-*.config), or `--config defconfig`"
                )
        asked = recipe.config if given is None else shipped.read_settings(given)
        if given is not None:
            subject = self._config_of("the .config of the sources")
            shipped.check_settings(asked, subject, recipe.machine)
        if config.is_symlink():
            config.unlink()
        config.write_text(asked, encoding="utf-8", errors="surrogateescape")
        self._make(("olddefconfig",), "configure", 0)
        if self.order.config and (rows := not_kept(asked, read_text(str(config)))):
            more = f" and {len(rows) - _SHOWN_MAX} more" if len(rows) > _SHOWN_MAX else ""
            raise ConfigError(
                f"--config {self.order.config}: {', '.join(rows[:_SHOWN_MAX])}{more}: make "
                "olddefconfig has it otherwise: these sources do not know it, or other settings or "
                "the compiler rule it out; give the configuration that these sources were built "
                "with, or take that out"
            )

    def _config_of(self, other: str) -> str:
        """Return how messages call the configuration that was given, or another one."""
        return f"--config {self.order.config}" if self.order.config else other

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
        mark = self.folder / _MAKING
        mark.touch()
        try:
            run_logged([*line, *targets], log=self.log, environ=environ, on_line=on_line)
        except ConfigError:  # it ended by itself, so what it made is whole
            mark.unlink()
            raise
        mark.unlink()

    def _image(self) -> None:
        """Put what was shipped in the place of what was built."""
        found = self._shipped()
        built = self.tree / "xen"
        if not (built / "xen-syms").is_file():
            raise ConfigError(f"{built}: make left no xen-syms; see {self.log}")
        if found.image is None:
            if found.boot is not None:
                data = shipped.named(found.boot, built / "xen", built / "xen-syms")
                self._put(data, found.boot)
                check_given(self.order, self.rows)
            return
        data = read_file(found.image)
        if data != (built / "xen-syms").read_bytes():
            (self.folder / "is-other").touch()
            self._remove_images()
        self._put(data, found.boot)
        check_given(self.order, self.rows)

    def _put(self, image: bytes, boot: Path | None) -> None:
        """Put names, and what boots, into the place of what make left; half of it is nothing."""
        (self.folder / _MAKING).touch()
        write_file(self.tree / "xen" / "xen-syms", image)
        if boot is not None:
            self._remove_images()
            write_file(self.tree / "xen" / "xen", shipped.unzipped(boot))
        (self.folder / _MAKING).unlink()

    def _remove_images(self) -> None:
        for name in _OWN_IMAGES:
            (self.tree / "xen" / name).unlink(missing_ok=True)
