# SPDX-License-Identifier: Apache-2.0
"""What a user asks for, and what of it decides what a base is."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.artefacts import from_json, plain, read_file
from xsplice_plugins.bases.recipes import DEFCONFIG, check_characters, check_words
from xsplice_plugins.bases.shipped import check_settings, read_settings
from xsplice_plugins.bases.sources import digest_of, kind_of
from xsplice_plugins.bases.store import bases_folder, folder_of
from xsplice_plugins.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER_FILE = "order.json"  #: beside the record: the rows, and how the sources are called
#: Changes when the steps of `adding` change what comes out; part of a base's key.
_RECIPE = "1"
#: Fields of an order that do not decide what a base is, or are read otherwise.
_NOT_KEY = {"name", "jobs", "mirror", "source", "ref", "is_replaced"}
_NAMED = "named="


class Order(Struct, frozen=True, kw_only=True):
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

    @property
    def config_file(self) -> Path | None:
        """Return the configuration that the user gave; ``None`` if it is no file."""
        return Path(self.config) if self.config not in {"", DEFCONFIG} else None

    @property
    def called(self) -> str:
        """Return how the sources are called; "" for Debian's, whose version is fetched."""
        words = [(self.source.name or "/") if self.source else "", self.ref]
        return plain(" ".join(" ".join(words).split()))


def check_order(order: Order) -> None:
    """Refuse an order that contradicts itself, or that reads what it writes.

    Raises:
        ConfigError: Options contradict each other, or a path leads into a base.
    """
    if (order.source is None) == (not order.debian):
        raise ConfigError("--source and --debian: give one of the two")
    given = (("make", order.make), ("targets", order.targets), ("cc", (order.compiler,)))
    for option, words in (*given, ("ref", (order.ref,)), ("debian", (order.debian,))):
        for word in words:
            check_characters(f"--{option}", word)
    check_words(order.make, order.compiler)
    for word in order.targets:
        if word.startswith("-") or "=" in word:
            raise ConfigError(f"--targets {word}: no target of make; give variables with --make")
        if word.endswith("install"):
            raise ConfigError(
                f"--targets {word}: writes into the folders of the system that runs, and a base "
                "stays in the cache; leave it out"
            )
    own, every = folder_of(order.name), bases_folder()
    if order.source is not None and _is_in(order.source, every):
        raise ConfigError(
            f"--source {order.source}: lies in a base, and a base is made of what its vendor "
            "keeps; give the sources that it was made of"
        )
    config = order.config_file
    named = (("config", config), ("image", order.image), ("boot", order.boot))
    for option, path in (*named, *(("pristine", path) for path in order.pristine)):
        if path is not None and _is_odd(path):
            raise ConfigError(
                f"--{option} {path}: is a pipe, a socket or a device, and it is read more than "
                "once; give a file"
            )
        if path is not None and _is_in(path, own):
            raise ConfigError(
                f"--{option} {path}: lies in the base itself, which is made again; copy it to "
                "another place first"
            )
    if config is not None:
        check_settings(read_settings(config), f"--config {config}")


def _is_odd(path: Path) -> bool:
    """Tell whether a path is there, and no file or folder; what may not be looked at is none."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_in(path: Path, folder: Path) -> bool:
    return f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder)}/")


def rows_of(order: Order) -> tuple[str, ...]:
    """Return everything that decides what a base is, of each file its digest.

    Raises:
        ConfigError: A file cannot be read.
    """
    try:
        return tuple(_rows(order))
    except OSError as error:
        raise ConfigError(
            f"--source {order.source}: cannot be read ({error}); check its permissions"
        ) from error


def _rows(order: Order) -> Iterator[str]:
    yield _RECIPE
    for name in order.__struct_fields__:
        value = getattr(order, name)
        if name in _NOT_KEY:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            is_file = isinstance(one, Path) or (name == "config" and order.config_file)
            content = _digest(Path(one)) if is_file and one else one
            yield f"{name}={content}"
    if order.source is not None:
        kind = kind_of(order.source, order.ref)
        yield f"source={digest_of(order.source, kind, order.ref)}"


def check_given(order: Order, rows: tuple[str, ...]) -> None:
    """Refuse files that are not any more what they were when the order was read.

    A build takes minutes, and what it reads at the end must be what its key says.

    Args:
        order: What is asked for.
        rows: From `rows_of`, of when the run began.

    Raises:
        ConfigError: One changed, or cannot be read.
    """
    kept = Kept(rows, "")
    given = (("config", order.config_file), ("image", order.image), ("boot", order.boot))
    for name, path in given:
        if path is not None and _digest(path) != kept.value(name):
            raise ConfigError(
                f"--{name} {path}: changed while the base was made; give it again, and leave the "
                "file alone until it is ready"
            )


def _digest(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def key_of(rows: tuple[str, ...]) -> str:
    """Return one digest of all rows."""
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()


class Kept(Struct, frozen=True):
    """What a base keeps of the order that it was made for."""

    rows: tuple[str, ...]
    called: str

    def values(self, name: str) -> tuple[str, ...]:
        """Return what the order says in one field, without what it leaves out."""
        found = (row.removeprefix(f"{name}=") for row in self.rows if row.startswith(f"{name}="))
        return tuple(value for value in found if value not in {"", "None"})

    def value(self, name: str) -> str:
        """Return the only value of a field; "" if there is none."""
        return next(iter(self.values(name)), "")


def to_keep(rows: tuple[str, ...], called: str) -> list[str]:
    """Return what is written for `read_kept`."""
    return [*rows, f"{_NAMED}{called}"]


def read_kept(place: Path) -> Kept:
    """Read what a base keeps of its order.

    Raises:
        ConfigError: It is not there.
        XspliceError: It is damaged.
    """
    path = place / ORDER_FILE
    lines = from_json(
        read_file(path, advice="give the same `base add` again"), list[str], str(path)
    )
    called = lines.pop().removeprefix(_NAMED) if lines else ""
    return Kept(rows=tuple(lines), called=called)
