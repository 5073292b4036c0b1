# SPDX-License-Identifier: Apache-2.0
"""The subcommands of ``xsplice``: arguments in, one call of the pipeline, a file or a text out."""

from xsplice_plugins.commands import (
    bases,
    handmade,
    judge,
    patching,
    shadowing,
    stages,
    telling,
    trying,
)
from xsplice_plugins.commands.words import check_out, using_bases

_ROWS = (
    patching.COMMANDS
    + shadowing.COMMANDS
    + bases.COMMANDS
    + stages.COMMANDS
    + handmade.COMMANDS
    + judge.COMMANDS
    + trying.COMMANDS
    + telling.COMMANDS
)
COMMANDS = (*_ROWS, telling.reference_row(_ROWS))

__all__ = ["COMMANDS", "check_out", "using_bases"]
