# SPDX-License-Identifier: Apache-2.0
"""Payloads written by hand: C files with declarations (``include/xsplice.h``) become payloads."""

from xsplice_plugins.handmade.building import Handmade, build, prepare, read_names
from xsplice_plugins.handmade.compiling import check_sources

__all__ = ["Handmade", "build", "check_sources", "prepare", "read_names"]
