# SPDX-License-Identifier: Apache-2.0
"""Where the source of a Xen tree comes from: Debian's source package, or a clone's history."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.system.debian import PrivateApt
from xsplice_plugins.system.process import run_logged


def commit_of(clone: Path, ref: str) -> str:
    """Return the commit that a name stands for.

    Args:
        clone: A clone of Xen's repository, or its git folder.
        ref: A tag, branch or commit.

    Raises:
        ConfigError: There is no such name, or no clone.
    """
    line = [
        "git",
        "-C",
        str(clone),
        "rev-parse",
        "--verify",
        "--end-of-options",
        f"{ref}^{{commit}}",
    ]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"{clone}: has no commit {ref}; name a clone of Xen's repository and fetch its tags"
        ) from error
    return done.stdout.strip()


def export_commit(clone: Path, commit: str, folder: Path, *, log: Path) -> None:
    """Write a commit's files, without history, to a folder.

    Args:
        clone: From where.
        commit: From `commit_of`.
        folder: Where to; made.
        log: Where the programs' words go.

    Raises:
        ConfigError: git or tar fails.
    """
    folder.mkdir(parents=True)
    archive = folder.with_name(f"{folder.name}.tar")
    git = ["git", "-C", str(clone), "archive", "--format=tar", f"--output={archive}", commit]
    run_logged(git, log=log)
    run_logged(["tar", "-xf", str(archive), "-C", str(folder)], log=log)
    archive.unlink()


def source_versions(apt: PrivateApt, name: str) -> tuple[str, ...]:
    """List the versions of a source package that the archives hold.

    Args:
        apt: Its lists are read.
        name: The source package.
    """
    text = run_logged(["apt-cache", *apt.options, "showsrc", "--only-source", name], log=apt.log)
    return tuple(sorted(set(re.findall(r"^Version: (\S+)$", text, re.MULTILINE))))


def choose_version(wanted: str, available: Sequence[str], *, name: str, places: str) -> str:
    """Return the version to fetch, or say which there are.

    Args:
        wanted: An exact version.
        available: What the archives hold.
        name: The source package, for the message.
        places: The archives, for the message.

    Raises:
        ConfigError: The version is gone.
    """
    if wanted in available:
        return wanted
    listed = ", ".join(available) or "none at all"
    raise ConfigError(
        f"{name}={wanted}: no longer at {places}; available: {listed}. Take one of these with "
        "--version, or an older state of the archive with "
        "--mirror http://snapshot.debian.org/archive/debian/<date>"
    )


def download_source(apt: PrivateApt, name: str, version: str, folder: Path) -> Path:
    """Download a source package; apt checks it against the signed lists.

    Args:
        apt: Where from.
        name: The source package.
        version: An exact version.
        folder: Where to; made when absent.

    Returns:
        Path of the ``.dsc`` file.

    Raises:
        ConfigError: The version is gone, or the download failed.
    """
    places = " and ".join(f"{entry.uri} {entry.suite}" for entry in apt.sources)
    choose_version(version, source_versions(apt, name), name=name, places=places)
    folder.mkdir(parents=True, exist_ok=True)
    run_logged(
        [
            "apt-get",
            *apt.options,
            "--download-only",
            "--only-source",
            "source",
            f"{name}={version}",
        ],
        log=apt.log,
        cwd=folder,
    )
    found = sorted(folder.glob(f"{name}_*.dsc"))
    if len(found) != 1:
        raise ConfigError(f"{folder}: apt left {len(found)} .dsc files, not one; see {apt.log}")
    return found[0]
