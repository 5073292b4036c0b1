# SPDX-License-Identifier: Apache-2.0
"""The subcommands that tell: inspect, explain, plugins, reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts
from xsplice_plugins.commands.words import Row, open_run, show
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.plugins import manager

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_inspect(parser: ArgumentParser) -> None:
    parser.add_argument("payload", type=Path, help="a payload, signed or not, of any builder")


def _inspect(arguments: Namespace) -> int:
    from xsplice_plugins.report.inspect import describe, print_description  # noqa: PLC0415

    description = describe(
        artefacts.read_file(arguments.payload, limit_bytes=artefacts.PAYLOAD_SIZE_MAX),
        arguments.payload.name,
    )
    if arguments.json:
        show(artefacts.to_json(description))
    else:
        print_description(description)
    return 0


def _add_explain(parser: ArgumentParser) -> None:
    parser.add_argument("code", nargs="?", help="a refusal's code; without it: all codes")


def _explain(arguments: Namespace) -> int:
    from xsplice_plugins.diff.refusals import REFUSALS  # noqa: PLC0415  only where asked

    if arguments.code and arguments.code.upper() not in REFUSALS:
        raise ConfigError(
            f"{arguments.code}: no such code; known are {', '.join(sorted(REFUSALS))}"
        )
    chosen = [arguments.code.upper()] if arguments.code else sorted(REFUSALS)
    if arguments.json:
        show(artefacts.to_json([REFUSALS[code] for code in chosen]))
    else:
        for code in chosen:
            doc = REFUSALS[code]
            word = f"On your word: {doc.word}\n\n" if doc.word else ""
            show(f"{doc.code}: {doc.title}\n\n{doc.explanation}\n\n")
            show(f"What to do: {doc.hint}\n\n{word}{_example(code)}")
    return 0


def _example(code: str) -> str:
    """Return the example of a refusal's code, if one can be shown in a few lines."""
    from xsplice_plugins.diff.examples import EXAMPLES  # noqa: PLC0415  only where asked

    if code not in EXAMPLES:
        return ""
    example = EXAMPLES[code]
    rows = (("For example", example.before), ("Refused", example.refused),
            ("Applied", example.instead))  # fmt: skip
    return "".join(
        f"{title}:\n\n" + "".join(f"    {line}\n" for line in text.splitlines()) + "\n"
        for title, text in rows
    )


def _add_nothing(_parser: ArgumentParser) -> None:
    """Take no arguments beyond ``--json``."""


def _list_plugins(arguments: Namespace) -> int:
    rows = manager.describe_plugins(open_run(arguments).plugins)
    if arguments.json:
        show(artefacts.to_json(rows))
    else:
        for row in rows:
            show(f"{row['name']:<12} {row['version']:<10} {', '.join(row['hooks'])}\n")
    return 0


def reference_row(others: tuple[Row, ...]) -> Row:
    """Return the subcommand that prints the page of all subcommands, its own row the last."""

    def run(arguments: Namespace) -> int:
        from xsplice_plugins.report import reference  # noqa: PLC0415  only where asked

        if arguments.json:
            show(artefacts.to_json(reference.reference_value((*others, row))))
        else:
            show(reference.reference_page((*others, row)))
        return 0

    row: Row = (
        "reference",
        "print the page of settings, commands and statuses",
        _add_nothing,
        run,
    )
    return row


COMMANDS: tuple[Row, ...] = (
    ("inspect", "say what a payload holds", _add_inspect, _inspect),
    ("explain", "document a refusal", _add_explain, _explain),
    ("plugins", "list the plugins and their hooks", _add_nothing, _list_plugins),
)
