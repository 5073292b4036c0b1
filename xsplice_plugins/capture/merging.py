# SPDX-License-Identifier: Apache-2.0
"""Headers that hold both versions of what a patch changes, for one preprocessing pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def merged_files(_source_root: Path, _files: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """Return merged texts of the patched headers."""
    return {}
