# SPDX-License-Identifier: Apache-2.0
"""Run this project's own SConstruct as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run of SCons came to."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Return both streams."""
        return self.out + self.err

    def assert_success(self) -> Run:
        """Fail with the whole output unless the run succeeded."""
        assert self.status == 0, self.text
        return self


def scons(
    target: str, build: Path, *words: str, environ: dict[str, str] | None = None, **settings: object
) -> Run:
    """Run ``scons -Q TARGET BUILD=... NAME=VALUE ...`` in this checkout.

    Args:
        target: ``xsplice`` or ``xsplice-verify``.
        build: Folder for all that is built.
        words: Further words of the command line.
        environ: Variables to add to the environment.
        settings: SCons variables.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "SCons", "-Q", target, f"BUILD={build}"),
            *words,
            *(f"{name}={value}" for name, value in settings.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"} | (environ or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stdout + done.stderr
    return Run(status=done.returncode, out=done.stdout, err=done.stderr)
