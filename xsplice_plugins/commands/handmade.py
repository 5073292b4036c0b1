# SPDX-License-Identifier: Apache-2.0
"""The subcommands of hand-written payloads: build one, or build and play a table of scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.artefacts import record_path
from xsplice_plugins.commands.words import (
    Row,
    open_run,
    show,
    signature_path,
    tree_base,
)
from xsplice_plugins.errors import ConfigError, VerifyError
from xsplice_plugins.patch import clean_name
from xsplice_plugins.settings import add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_build(parser: ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", help="C files that include <xsplice.h>")
    parser.add_argument("--out", type=Path, required=True, help="the signed payload")
    add_options(parser, "build", required=["XEN", "NAME"])


def _build(arguments: Namespace) -> int:
    base = tree_base(arguments)
    assert base.tree is not None, "the base of a tree has one"
    folder = arguments.out.resolve().parent
    pipeline.check_outside(folder, base.tree, "--out")
    run = open_run(arguments, base, build_dir=folder)
    payload = pipeline.build_handmade(run, base.tree, arguments.sources, clean_name(arguments.NAME))
    signed = pipeline.sign_payload(run, payload)
    artefacts.save(record_path(arguments.out), payload.record)
    artefacts.save(signature_path(arguments.out), signed.record)
    pipeline.write_signed(run, signed, arguments.out)
    if arguments.json:
        show(artefacts.to_json(payload.record))
        return 0
    for function in payload.record.functions:
        what = "replaced" if function.section_new else f"{function.size_new_bytes} bytes of NOPs"
        show(f"{function.name}: {what} ({function.reason})\n")
    for note in payload.record.notes:
        show(f"note: {note}\n")
    if signed.record.note:
        show(f"{signed.record.note}\n")
    show(f"written to {arguments.out}\n")
    return 0


def _add_play(parser: ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="scenarios.json, its C files beside it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the payloads")
    add_options(parser, "play", required=["XEN"])


def _play(arguments: Namespace) -> int:
    from xsplice_plugins.toolstack import scenarios  # noqa: PLC0415  only where needed

    base = tree_base(arguments)
    tree = base.tree
    assert tree is not None, "the base of a tree has one"
    out = arguments.out.resolve()
    pipeline.check_outside(out, tree, "--out")
    run = open_run(arguments, base)
    if unknown := sorted(set(run.config.verifiers) - set(scenarios.PLACES)):
        raise ConfigError(
            f"--on {','.join(unknown)}: scenarios are played on {' and '.join(scenarios.PLACES)}"
        )
    table = scenarios.read_table(arguments.table)
    payloads = scenarios.build_table(run, tree, table, arguments.table.parent, out)
    outcomes = scenarios.play(table, payloads, tree, run.config.verifiers)
    if arguments.json:
        show(artefacts.to_json(outcomes))
    else:
        for row in outcomes:
            word = "FAILED" if row.differences else "ok"
            show(f"{row.place:6}{row.scenario:6}{word:8}{row.what}\n")
            for difference in row.differences:
                show(f"            {difference}\n")
    return VerifyError.exit_status if any(row.differences for row in outcomes) else 0


COMMANDS: tuple[Row, ...] = (
    ("build", "make a signed payload of hand-written C files", _add_build, _build),
    ("play", "build a table of hand-written payloads and play its scenarios", _add_play, _play),
)
