# SPDX-License-Identifier: Apache-2.0
"""Where a run begins: the hypervisor that it is for, its settings, its plugins."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import settings
from xsplice_plugins.cache import cache_folder
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError, MachineError
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.discovery import TRACE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pluggy

    from xsplice_plugins.artefacts import Facts
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.plugins.spec import Config

#: Attribute of a plugin: the keys of ``OPTIONS`` that it reads.
OPTIONS_KEY = "xsplice_options"
ROOM_BYTES_MIN = 16 << 20  #: two private copies' worth of links and a few objects


class Base(Struct, frozen=True, kw_only=True):
    """The hypervisor that a payload is for, as tree and image describe it."""

    image: Path | None  #: ``xen-syms``; ``None`` where a step needs none
    release: str  #: "" where nothing tells it
    facts: Facts | None = None  #: ``None``: no tree was asked, the nearest list serves
    tree: XenTree | None = None


class Run(Struct, frozen=True, kw_only=True):
    """Settings and plugins of one run; every stage takes it."""

    config: Config
    plugins: pluggy.PluginManager


def base_of_tree(xen: Path | XenTree, *, build_dir: Path | None = None) -> Base:
    """Describe the hypervisor of a built tree; its answers are kept in the user's cache folder.

    Args:
        xen: The tree, its top, its ``xen`` folder, or an ``O=`` build folder; only read.
        build_dir: Where the run will write; it must lie outside the tree.

    Raises:
        ConfigError: No tree, a release that contradicts the image, or a build folder inside it.
        CaptureError: The tree is not built, or not for live patching.
    """
    from xsplice_plugins.kbuild.facts import facts_of_tree  # noqa: PLC0415  only trees are asked
    from xsplice_plugins.kbuild.tree import locate_tree  # noqa: PLC0415

    tree = locate_tree(xen) if isinstance(xen, Path) else xen
    cache = cache_folder(os.environ) / "facts"
    check_outside(cache, tree, "the cache folder XSPLICE_CACHE")
    if build_dir is not None:
        check_outside(build_dir, tree)
    return Base(
        image=tree.xen_syms, release=tree.release, facts=facts_of_tree(tree, cache=cache), tree=tree
    )


def check_outside(folder: Path, tree: XenTree, name: str = "BUILD") -> None:
    """Refuse to write inside the tree, which is only read.

    Args:
        folder: Where a run would write.
        tree: The tree.
        name: What names that folder.

    Raises:
        ConfigError: It lies there.
    """
    place = folder.resolve()
    for root in {tree.source_root.resolve(), tree.build_root.resolve()}:
        if place == root or root in place.parents:
            raise ConfigError(
                f"{name}={folder}: lies inside the tree {root}, which is only read; choose a "
                "folder outside of it"
            )


def base_of_image(image: Path, data: bytes, *, recorded: str = "") -> Base:
    """Describe the hypervisor of an image alone.

    Args:
        image: ``xen-syms``.
        data: Its content.
        recorded: The release that the payload's record names; "" if there is none.

    Raises:
        ConfigError: The record is of another release.
        ElfFormatError: The image cannot be read.
    """
    told = _told(data, image.name)
    if told:
        settings.check_release(recorded, told, "the payload's record", str(image))
    return Base(image=image, release=told or recorded)


def settled(run: Run, image: bytes) -> Run:
    """Return the run for an image: its release is the run's, and they must not contradict.

    Args:
        run: The run; it may lack a release where the image was not built yet.
        image: The whole ``xen-syms`` file.

    Raises:
        ConfigError: They contradict each other, or nothing tells the release.
        ElfFormatError: The image cannot be read.
    """
    said, told = run.config.release, _told(image, "xen-syms")
    settings.check_release(said, told or said, "the run", "the image")
    if not (said or told):
        raise ConfigError(
            "RELEASE: neither tree, image nor record tells the hypervisor's release; "
            "give it: RELEASE=4.17.5, or --release 4.17.5"
        )
    return run if said else replace(run, config=replace(run.config, release=told))


def _told(data: bytes, name: str) -> str:
    from xsplice_plugins.elf.banner import release_of_image  # noqa: PLC0415  images only

    return release_of_image(read_elf(data, name)) or ""


def require_room(folder: Path) -> None:
    """Refuse a folder that cannot be written, or a nearly full disk, before anything is written.

    Raises:
        ConfigError: The folder cannot be made, or not be written.
        MachineError: Less than `ROOM_BYTES_MIN` is free.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise MachineError(
            f"BUILD={folder}: cannot be used ({error.strerror}); choose another folder with BUILD="
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MachineError(f"BUILD={folder}: cannot be written; choose another folder with BUILD=")
    if free < ROOM_BYTES_MIN:
        raise MachineError(
            f"{folder}: only {free >> 10} KiB are free on its disk, {ROOM_BYTES_MIN >> 10} KiB are "
            "needed; make room, or choose another folder with BUILD="
        )


def open_run(
    given: Mapping[str, object],
    base: Base | None = None,
    *,
    environ: Mapping[str, str],
    plugins: Sequence[object] = (),
    build_dir: Path | None = None,
    resolve: Callable[[str], Path] | None = None,
) -> Run:
    """Read the settings, load the plugins, and refuse what does not fit before any work.

    Args:
        given: Values by setting's name.
        base: The hypervisor; ``None`` for a step that needs none.
        environ: The environment, which switches plugins on and off.
        plugins: Plugins of the project.
        build_dir: Where a development key may be made.
        resolve: Turns a path as it was given into one that can be opened.

    Raises:
        ConfigError: A setting does not fit, or an option is one that no plugin knows.
        PluginError: A plugin cannot be loaded, or none of a chosen name is there.
    """
    config = settings.make_config(
        given,
        release=base.release if base else "",
        image=base.image if base else None,
        facts=base.facts if base else None,
        loader=base.tree.base.loader if base and base.tree and base.tree.base else "",
        build_dir=build_dir,
        resolve=resolve or Path,
    )
    if environ.get(TRACE_VARIABLE, "") not in {"", "0"}:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    pm = manager.build_plugin_manager(plugins=plugins, environ=environ)
    manager.startup(pm, config)
    manager.require_chosen(pm, config)
    _check_options(config, pm)
    return Run(config=config, plugins=pm)


def _check_options(config: Config, plugins: pluggy.PluginManager) -> None:
    known = {key for plugin in plugins.get_plugins() for key in getattr(plugin, OPTIONS_KEY, ())}
    unknown = sorted({key for key, _ in config.options} - known)
    if unknown:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(
            f"OPTIONS: no plugin of this run reads {', '.join(unknown)}; known keys are {there}"
        )
