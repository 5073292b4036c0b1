# SPDX-License-Identifier: Apache-2.0
"""The patch stage: read unified diffs and quilt series, apply them exactly, say what they touch."""

from xsplice_plugins.patch.applying import patched_files
from xsplice_plugins.patch.patchset import clean_name, derived_name, read_patch_set

__all__ = ["clean_name", "derived_name", "patched_files", "read_patch_set"]
