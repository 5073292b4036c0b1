# SPDX-License-Identifier: Apache-2.0
"""The command line ``xsplice``: the same pipeline without SCons, one step at a time."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from xsplice_plugins import __version__
from xsplice_plugins.errors import FULL, MachineError, XspliceError
from xsplice_plugins.plugins.spec import HOOK_API

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: The words behind the program's name; ``None`` for those of the process.

    Returns:
        A status of ``errors.STATUSES``; 130 after an interrupt, 141 when nobody reads; the real
        tool's commands on a model end with the real tool's 0 or 1.
    """
    from xsplice_plugins.commands import (  # noqa: PLC0415  --version is quick
        COMMANDS,
        check_out,
        using_bases,
    )

    parser = argparse.ArgumentParser(
        prog="xsplice", description="Build, sign and prove live patches of the Xen hypervisor."
    )
    api = ".".join(map(str, HOOK_API))
    parser.add_argument(
        "--version", action="version", version=f"xsplice {__version__}, hooks {api}"
    )
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about, add_arguments, run in COMMANDS:
        sub = parsers.add_parser(name, help=about, description=about, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print JSON for machines")
        add_arguments(sub)
        sub.set_defaults(run=run)
    arguments = parser.parse_args(argv)
    try:
        check_out(arguments)
        with using_bases(arguments):
            status = int(arguments.run(arguments))
        sys.stdout.flush()
    except XspliceError as error:
        print(f"xsplice {arguments.command}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"xsplice {arguments.command}: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        text = f"xsplice {arguments.command}: {error.filename or 'the standard output'}: "
        print(f"{text}cannot be written ({error.strerror}); make room", file=sys.stderr)  # noqa: T201
        return MachineError.exit_status
    return status
