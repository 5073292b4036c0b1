# SPDX-License-Identifier: Apache-2.0
"""What one compile reads, as texts for ``Value`` nodes: their change names the true cause.

One digest stands for all unpatched inputs of an object (making each a dependency of its own costs
1.7 s instead of 0.6 s over 176 objects); each patched input has its own.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xsplice_plugins.patch import patched_files

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import CompileJob, PatchSet
    from xsplice_plugins.capture import XenTree


class InputTexts:
    """Digests of a tree's files, each file read once."""

    def __init__(self, tree: XenTree, patch_set: PatchSet) -> None:
        self._root = tree.root
        prefix = tree.source_root.relative_to(tree.root)
        self._patched = {
            (prefix / path).as_posix(): content
            for path, content in patched_files(patch_set, tree.source_root).items()
        }
        self._digests: dict[str, bytes] = {}

    def _digest(self, path: str) -> bytes:
        """Return the digest of an unpatched input; a missing file has one too."""
        if path not in self._digests:
            try:
                content = (self._root / path).read_bytes()
            except OSError:
                content = b"\0missing"  # the compiler will say so, with its own words
            self._digests[path] = hashlib.sha256(content).digest()
        return self._digests[path]

    def texts(self, job: CompileJob, *, is_patched: bool) -> list[str]:
        """Return what one side of one object is made of.

        Args:
            job: How the object is compiled.
            is_patched: Which side.
        """
        command = hashlib.sha256(job.command.encode()).hexdigest()[:16]
        result = [f"command of {job.object_path} {command}"]
        others = hashlib.sha256()
        count = 0
        for path in sorted(job.inputs):
            if path in self._patched and is_patched:
                content = self._patched[path]
                digest = hashlib.sha256(content or b"\0removed").hexdigest()[:16]
                result.append(f"{path} as patched {digest}")
            elif path in self._patched:
                result.append(f"{path} {self._digest(path).hex()[:16]}")
            else:
                others.update(path.encode() + b"\0" + self._digest(path))
                count += 1
        result.append(f"{count} other inputs of {job.object_path} {others.hexdigest()[:16]}")
        return result
