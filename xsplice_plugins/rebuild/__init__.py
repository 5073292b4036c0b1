# SPDX-License-Identifier: Apache-2.0
"""The whole patched tree, made and linked in a private copy and held image against image."""

from xsplice_plugins.rebuild.holding import verify_by_rebuild
from xsplice_plugins.rebuild.sides import stacked_sides

__all__ = ["stacked_sides", "verify_by_rebuild"]
