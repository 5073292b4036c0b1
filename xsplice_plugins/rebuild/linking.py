# SPDX-License-Identifier: Apache-2.0
"""The patched image against the objects of its link, while make is still at work.

Make is busy with other images once ``xen-syms`` is linked; what was compared then counts only if
make left image and objects as they were.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from xsplice_plugins import capture
from xsplice_plugins.check.base import match_objects
from xsplice_plugins.check.memory import read_image
from xsplice_plugins.check.results import ImageMatch
from xsplice_plugins.check.tables import Layout
from xsplice_plugins.errors import XspliceError
from xsplice_plugins.rebuild.trees import Build, read_build

_PAUSE_SECONDS = 0.05


def match_link(build: Build, sizes: Mapping[str, tuple[Layout, ...]]) -> ImageMatch:
    """Match an image with the objects of its link, both ways.

    Raises:
        ElfFormatError: A file is not what it should be.
        RelocationError: A relocation is of an unknown type.
    """
    image = read_image(build.image, "xen-syms", sizes)
    return match_objects(image, sorted(build.objects.items()), sizes, build.optional)


class Link:
    """Compares in a thread of its own, which ends with the process at the latest."""

    def __init__(self, before: Build, copy: Path, sizes: Mapping[str, tuple[Layout, ...]]) -> None:
        """Wait for the link.

        Args:
            before: The tree.
            copy: Root of its patched copy, which make is about to make.
            sizes: What the build's tables look like, from `check.tables.layouts`.
        """
        self._before, self._copy, self._sizes = before, copy, sizes
        self._begun = time.time_ns()
        self._made = threading.Event()
        self._early: tuple[Build, ImageMatch] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for no link any more: make has ended, well or not."""
        self._made.set()

    def answer(self, after: Build) -> ImageMatch:
        """Return how the patched image compares with its objects.

        Args:
            after: The copy as make left it.

        Raises:
            ElfFormatError: A file is not what it should be.
            RelocationError: A relocation is of an unknown type.
        """
        self.stop()
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._early is not None:
            seen, match = self._early
            if (seen.image, seen.objects) == (after.image, after.objects):
                return match
        return match_link(after, self._sizes)

    def _run(self) -> None:
        try:
            self._look_ahead()
        except BaseException as error:  # noqa: BLE001  raised where the answer is asked for
            self._error = error

    def _look_ahead(self) -> None:
        """Compare the patched image as soon as it is linked."""
        tree = self._before.index.tree
        image = self._copy / tree.build_root.relative_to(tree.source_root) / "xen-syms"
        names = image.with_name("xen-syms.map")  # made of the finished image
        while not self._begun < _made(image) < _made(names):
            if self._made.wait(_PAUSE_SECONDS):
                return
        try:
            seen = read_build(capture.read_copy(tree, self._copy))
            self._early = seen, match_link(seen, self._sizes)
        except XspliceError:
            return  # make was writing; it is compared when make has ended


def _made(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
