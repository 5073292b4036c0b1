# SPDX-License-Identifier: Apache-2.0
"""Compile edited files of a real Xen tree without touching it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path


class EditedTree:
    """A farm of links to a built tree: edits replace a link, outputs go to a folder beside it.

    Args:
        tree: The built tree (its ``xen/`` folder holds the objects).
        folder: An empty folder.
    """

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree = tree / "xen"
        self.root = folder / "xen"
        self.out = folder / "out"
        self.out.mkdir(parents=True, exist_ok=True)
        if not self.root.exists():
            subprocess.run(["cp", "-as", str(self.tree), str(self.root)], check=True)

    def text(self, source: str) -> str:
        """Return a file of the tree as it is."""
        return (self.tree / source).read_text("latin-1")

    def command(self, source: str) -> str:
        """Return the recorded compile command of a C file."""
        path = Path(source)
        record = self.tree / path.parent / f".{path.stem}.o.cmd"
        first = record.read_text().split("\n", 1)[0]
        return first.split(" := ", 1)[1]

    def compile(self, source: str, edits: dict[str, str], *, object_of: str = "") -> bytes:
        """Compile a C file with some files of the tree replaced.

        Args:
            source: The C file, relative to ``xen/``.
            edits: New text per file, relative to ``xen/``.
            object_of: The file to compile, if it is not ``source``.

        Returns:
            The object, with the file symbol that the tree gives it.

        Raises:
            ValueError: The compiler refused the edit.
        """
        compiled = object_of or source
        words = self.command(compiled)
        result = self.out / (compiled.replace("/", "_") + ".o")
        words = re.sub(r"-o \S+", f"-o {shlex.quote(str(result))}", words)
        words = re.sub(r"-MF \S+", f"-MF {shlex.quote(str(result))}.d", words)
        words = words.replace("-Werror", "-w")
        for path, text in edits.items():
            place = self.root / path
            place.unlink()
            place.write_text(text, "latin-1")
        try:
            done = subprocess.run(
                ["sh", "-c", words], cwd=self.root, capture_output=True, text=True, check=False
            )
        finally:
            for path in edits:
                place = self.root / path
                place.unlink()
                place.symlink_to(self.tree / path)
        if done.returncode:
            raise ValueError(done.stderr)
        name = Path(compiled).name
        subprocess.run(["objcopy", f"--redefine-sym={name}={compiled}", str(result)], check=True)
        return result.read_bytes()

    def sources(self) -> list[str]:
        """Return the C files that the tree compiled with a recorded command."""
        found = []
        for record in self.tree.rglob(".*.o.cmd"):
            source = record.parent / (record.name[1:].removesuffix(".o.cmd") + ".c")
            first = record.read_text().split("\n", 1)[0]
            if source.exists() and " -c " in first and "tools/" not in str(source):
                found.append(str(source.relative_to(self.tree)))
        return sorted(s for s in found if not s.startswith(("tools", "test", "arch/x86/boot")))
