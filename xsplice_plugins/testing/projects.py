# SPDX-License-Identifier: Apache-2.0
"""Tiny complete SCons projects, written from a dict and run as a user would.

SCons runs in a process of its own with a clean environment: nothing of the test's process can
help it, and nothing it does can hurt.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

Body = str | bytes | Callable[..., object]

SECONDS_MAX = 120  #: a test project that takes longer hangs
LIBRARY_ROOT = Path(__file__).resolve().parents[2]


class Outcome(Struct, frozen=True, kw_only=True):
    """What one run came to."""

    rc: int
    out: str
    err: str

    def assert_success(self) -> Outcome:
        """Fail the test, showing all output, unless the run ended with status 0."""
        assert self.rc == 0, f"exit status {self.rc}\n--- out\n{self.out}\n--- err\n{self.err}"
        return self

    def assert_failure(self, text: str) -> Outcome:
        """Fail the test unless the run failed, said ``text``, and showed no traceback."""
        both = self.out + self.err
        assert self.rc != 0, f"succeeded\n--- out\n{self.out}\n--- err\n{self.err}"
        assert text in both, f"{text!r} was not said\n--- out\n{self.out}\n--- err\n{self.err}"
        assert "Traceback" not in both, both
        return self


class SconsProject(Struct, frozen=True, kw_only=True):
    """A project in a folder of its own."""

    root: Path
    python_path: tuple[Path, ...] = ()  #: further folders that hold plugins

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Outcome:
        """Run ``python -m SCons -Q`` in the project.

        Args:
            arguments: Targets, variables, options.
            environ: Variables on top of the clean environment.
        """
        site_scons = LIBRARY_ROOT / "site_scons"
        # A checkout brings its tool; users of the wheel import it in their SConstruct.
        site = [f"--site-dir={site_scons}"] if site_scons.is_dir() else []
        done = subprocess.run(
            [sys.executable, "-m", "SCons", "-Q", *site, *arguments],
            cwd=self.root,
            env=self.environ() | dict(environ or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        )
        return Outcome(rc=done.returncode, out=done.stdout, err=done.stderr)

    def environ(self) -> dict[str, str]:
        """Return the environment of a run: the search path for programs and modules only."""
        folders = [self.root, *self.python_path, LIBRARY_ROOT]
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def files(self) -> tuple[str, ...]:
        """Return all files of the project, relative and sorted."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return tuple(sorted(path.relative_to(self.root).as_posix() for path in found))


def write_files(root: Path, files: Mapping[str, Body]) -> None:
    """Write files below a folder.

    Args:
        root: The folder; made if it is missing.
        files: Relative path to content: bytes, text (dedented), or a function whose *body* is
            the content, so that a plugin in a test is checked by the test's own tools.
    """
    for name, body in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(body, bytes):
            path.write_bytes(body)
        else:
            text = body if isinstance(body, str) else body_of(body)
            path.write_text(textwrap.dedent(text).lstrip("\n"))


def body_of(function: Callable[..., object]) -> str:
    """Return the source of a function's body, dedented."""
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef), f"{function!r} is not a plain function"
    lines = source.splitlines(keepends=True)
    first = min([node.body[0], *getattr(node.body[0], "decorator_list", [])], key=_line)
    return textwrap.dedent("".join(lines[_line(first) - 1 :]))


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))
