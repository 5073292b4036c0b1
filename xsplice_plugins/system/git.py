# SPDX-License-Identifier: Apache-2.0
"""Asking git of one repository, whatever the user's settings say of others.

A variable such as ``GIT_DIR``, which git sets for its hooks, leads ``git -C`` to another
repository; settings and attributes of the user's own change what a commit's files hold.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_VARIABLES = "GIT_"
#: A commit is what it is: no line ends or attributes of the user's, and no other in its place.
_PLAIN = ("core.autocrlf=false", "core.eol=lf", "core.attributesFile=/dev/null", "tar.umask=0002")
_ONLY = {"GIT_ATTR_NOSYSTEM": "1", "GIT_NO_REPLACE_OBJECTS": "1"}


def without_git(environ: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment without git's own variables.

    Args:
        environ: The environment; ours when absent.
    """
    known = dict(os.environ) if environ is None else environ
    return {name: value for name, value in known.items() if not name.startswith(_VARIABLES)}


def git_environment() -> dict[str, str]:
    """Return what git is run with: our environment, and nothing in it that is git's."""
    return without_git() | _ONLY


def git_line(folder: Path, *words: str) -> list[str]:
    """Return a command of git about one repository, to be run with `git_environment`.

    Args:
        folder: Of the repository, or in it.
        words: What git shall do.
    """
    settings = [word for setting in _PLAIN for word in ("-c", setting)]
    return ["git", *settings, "-C", str(folder), *words]


def ask_git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run git about one repository and return how it ended, with its words.

    Args:
        folder: Of the repository, or in it.
        words: What git shall do.
    """
    return subprocess.run(
        git_line(folder, *words), env=git_environment(), capture_output=True, text=True, check=False
    )
