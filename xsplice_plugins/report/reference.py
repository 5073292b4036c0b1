# SPDX-License-Identifier: Apache-2.0
"""The reference page, made from the tables: settings, subcommands, exit statuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsplice_plugins.errors import STATUSES
from xsplice_plugins.settings import ENVIRONMENT, SETTINGS, SETTINGS_FILE

_HEAD = """# Reference

Made by `xsplice reference` from the tables that the program itself reads; a test holds this page
to them. Write it again with `xsplice reference > docs/reference.md`.
"""


def reference_value(commands: Sequence[tuple[Any, ...]]) -> dict[str, object]:
    """Return the tables as plain values, for machines (rows of ``commands``: name, about, ...)."""
    return {
        "settings": [
            {
                "name": row.name if row.is_variable else "",
                "option": row.flag if row.commands else "",
                "takes": str(row.takes),
                "default": row.default,
                "help": row.help,
                "commands": list(row.commands),
            }
            for row in SETTINGS
        ],
        "environment": dict(ENVIRONMENT),
        "commands": [{"name": name, "about": about} for name, about, *_ in commands],
        "statuses": [{"status": status, "means": means} for status, means in STATUSES.items()],
    }


def reference_page(commands: Sequence[tuple[Any, ...]]) -> str:
    """Return the page as Markdown."""
    settings = [
        (
            f"`{row.name}`" if row.is_variable else "",
            f"`{row.flag}`" if row.commands else "",
            str(row.takes),
            f"`{row.default}`" if row.default else "",
            row.help,
            ", ".join(sorted(row.commands)),
        )
        for row in SETTINGS
    ]
    return "\n".join(
        [
            _HEAD,
            "## Settings",
            "",
            "A variable goes to `scons xsplice` and to `make xsplice` (`SIGNER=cms`), an option to",
            "the subcommands of `xsplice` that are named (`--signer cms`).",
            "",
            *_table(("variable", "option", "takes", "default", "meaning", "subcommands"), settings),
            "",
            f"`{SETTINGS_FILE}` beside the SConstruct holds variables too, as Python.",
            "",
            "## Environment",
            "",
            *_table(("variable", "meaning"), [(f"`{n}`", text) for n, text in ENVIRONMENT.items()]),
            "",
            "## Subcommands of `xsplice`",
            "",
            "Each has `--help` and `--json`.",
            "",
            *_table(
                ("subcommand", "what it does"),
                [(f"`{name}`", about) for name, about, *_ in commands],
            ),
            "",
            "## Exit statuses",
            "",
            "The same through `scons`, `xsplice` and what `make` calls. `make` itself ends with 2",
            "whenever a recipe fails, and prints the status in a line of its own: `Error 4`. An",
            "interrupt ends `xsplice` with 130, SIGTERM `xsplice patch` with 143, an output that",
            "nobody reads with 141; SCons itself ends with 2 when a signal ends it. `load` to",
            "`list` end with 0 or 1, as the real tool does.",
            "",
            *_table(("status", "meaning"), [(str(n), text) for n, text in STATUSES.items()]),
            "",
        ]
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + [
        "|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in rows
    ]
