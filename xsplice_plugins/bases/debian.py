# SPDX-License-Identifier: Apache-2.0
"""A Xen that Debian shipped: its source package, its image and the image's names."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from xsplice_plugins.cache import cache_folder, locked
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.system import debian
from xsplice_plugins.system.process import run_logged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xsplice_plugins.system.debian import PrivateApt

_PROGRAMS = {"apt-get": "apt", "dpkg": "dpkg", "dpkg-source": "dpkg-dev"}
#: Debian releases by number.
_SUITES = {"11": "bullseye", "12": "bookworm", "13": "trixie"}
_MINOR = re.compile(r"(\d+\.\d+)\.")
_DATED_MIRROR = "--mirror http://snapshot.debian.org/archive/debian/DATE"


def fetch_package(wanted: str, folder: Path, *, mirror: str = "") -> None:
    """Fetch Debian's source package ``xen``, and the hypervisor that was built of it.

    Args:
        wanted: A version of the package, or a Debian release (``12``): its newest one.
        folder: Where to: ``source`` with the .dsc, ``root`` with the packages' files, ``version``.
        mirror: An archive in place of the system's.

    Raises:
        ConfigError: There is no such version, or it cannot be fetched.
        MachineError: A program is missing.
    """
    debian.require_packages("a base of Debian's", _PROGRAMS, {})
    suite = _suite_of(wanted)
    sources = debian.choose_sources(debian.system_sources(), suite=suite, mirror=mirror)
    place = cache_folder(os.environ) / "apt" / suite
    with locked(place):
        apt = debian.open_apt(place, sources)
        version = choose_version(wanted, source_versions(apt, "xen"), apt)
        shutil.rmtree(folder, ignore_errors=True)
        download_source(apt, "xen", version, folder / "source")
        minor = _minor_of(version)
        names = [f"xen-hypervisor-{minor}-amd64{end}={version}" for end in ("", "-dbg")]
        debian.unpack_packages(apt, names, folder / "root")
    (folder / "version").write_text(version)


def _suite_of(wanted: str) -> str:
    return _SUITES.get(wanted) or debian.suite_of(_minor_of(wanted))


def _minor_of(version: str) -> str:
    match = _MINOR.match(version)
    if match is None:
        known = ", ".join(sorted(_SUITES))
        raise ConfigError(
            f"--debian {version}: neither a Debian release ({known}) nor a version of its package, "
            "which begins as 4.17.5"
        )
    return match[1]


def source_versions(apt: PrivateApt, name: str) -> tuple[str, ...]:
    """List the versions of a source package that the archives hold, oldest first.

    Args:
        apt: Its lists are read; the order is theirs, which is by version.
        name: The source package.
    """
    text = run_logged(["apt-cache", *apt.options, "showsrc", "--only-source", name], log=apt.log)
    found = dict.fromkeys(re.findall(r"^Version: (\S+)$", text, re.MULTILINE))
    return tuple(sorted(found, key=_sorting))


def _sorting(version: str) -> list[tuple[int, str]]:
    """Order versions as people do; good enough for those of one package."""
    return [(int(w), "") if w.isdigit() else (0, w) for w in re.findall(r"\d+|\D+", version)]


def choose_version(wanted: str, available: Sequence[str], apt: PrivateApt) -> str:
    """Return the version to fetch, or say which there are.

    Args:
        wanted: An exact version, or a Debian release.
        available: What the archives hold, oldest first.
        apt: The archives, for the message.

    Raises:
        ConfigError: The version is gone, or there is none at all.
    """
    if wanted in available:
        return wanted
    if wanted in _SUITES and available:
        return available[-1]
    places = " and ".join(f"{entry.uri} {entry.suite}" for entry in apt.sources)
    raise ConfigError(
        f"xen={wanted}: no longer at {places}; available: {', '.join(available) or 'none at all'}. "
        f"Take one of these, or an older state of the archive with {_DATED_MIRROR}"
    )


def download_source(apt: PrivateApt, name: str, version: str, folder: Path) -> None:
    """Download a source package; apt checks it against the signed lists.

    Args:
        apt: Where from.
        name: The source package.
        version: An exact version.
        folder: Where to; made when absent.

    Raises:
        ConfigError: The download failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--download-only", "--only-source", "source", f"{name}={version}"]
    try:
        run_logged(["apt-get", *apt.options, *words], log=apt.log, cwd=folder)
    except ConfigError as error:
        raise ConfigError(
            f"{name}={version}: the archive lists its sources and does not have them; get them "
            f"elsewhere and give --source, or name an older state with {_DATED_MIRROR}: {error}"
        ) from error
    found = sorted(folder.glob(f"{name}_*.dsc"))
    if len(found) != 1:
        raise ConfigError(f"{folder}: apt left {len(found)} .dsc files, not one; see {apt.log}")
