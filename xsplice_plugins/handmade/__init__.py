# SPDX-License-Identifier: Apache-2.0
"""Payloads written by hand: C files with declarations (``include/xsplice.h``) become payloads."""

from xsplice_plugins.handmade.building import Handmade, build, prepare, read_names

__all__ = ["Handmade", "build", "prepare", "read_names"]
