# SPDX-License-Identifier: Apache-2.0
"""The subcommands of ``xsplice``: arguments in, one call of the pipeline, a file or a text out."""

from xsplice_plugins.commands import build, handmade, judge, trying

COMMANDS = build.COMMANDS + handmade.COMMANDS + judge.COMMANDS + trying.COMMANDS

__all__ = ["COMMANDS"]
