# SPDX-License-Identifier: Apache-2.0
"""Payloads written by hand: C files with declarations (``include/xsplice.h``) become payloads."""

from xsplice_plugins.handmade.building import Handmade, prepare
from xsplice_plugins.handmade.compiling import check_sources, source_jobs

__all__ = ["Handmade", "check_sources", "prepare", "source_jobs"]
