# SPDX-License-Identifier: Apache-2.0
"""The subcommands that judge a payload: verify, and the real tool's commands on a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.artefacts import (
    PAYLOAD_SIZE_MAX,
    Checks,
    PayloadRecord,
    read_file,
    record_path,
)
from xsplice_plugins.commands.words import Row, checks_path, open_run, show
from xsplice_plugins.errors import VerifyError
from xsplice_plugins.settings import add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_verify(parser: ArgumentParser) -> None:
    parser.add_argument("payloads", type=Path, nargs="+", help="the stack, bottom first")
    parser.add_argument("--xen-syms", type=Path, required=True, help="the image with its symbols")
    parser.add_argument("--out", type=Path, help="write the report here as well")
    add_options(parser, "verify")


def _verify(arguments: Namespace) -> int:
    from xsplice_plugins.report.inspect import foreign_record  # noqa: PLC0415  only where needed
    from xsplice_plugins.report.verdict import verdict_text  # noqa: PLC0415

    path, image = arguments.payloads[-1], arguments.xen_syms
    data, beside = read_file(path, limit_bytes=PAYLOAD_SIZE_MAX), record_path(path)
    record = artefacts.load(beside, PayloadRecord) if beside.exists() else None
    base = pipeline.base_of_image(
        image.absolute(), read_file(image), recorded=record.release if record else ""
    )
    run = open_run(arguments, base)
    record = record or foreign_record(data, path.name, run.config.release)
    compared = checks_path(path)
    checks = artefacts.load(compared, Checks) if compared.exists() else None
    report = pipeline.verify_payload(
        run, data, record, path, checks=checks, beneath=arguments.payloads[:-1]
    )
    if arguments.out:
        pipeline.save_report_as(report, arguments.out)
    show(artefacts.to_json(report) if arguments.json else verdict_text(report))
    return 0 if pipeline.is_proved(report) else VerifyError.exit_status


def _add_tool(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", help="as the real tool takes them: NAME, FILE")
    parser.add_argument("--nodeps", action="store_true", help="do not check what it stacks on")
    parser.add_argument("--xen-syms", type=Path, required=True, help="the image with its symbols")
    parser.add_argument(
        "--state", type=Path, default=Path("xsplice.state.json"), help="file that keeps the model"
    )
    add_options(parser, "model")


def _tool(arguments: Namespace) -> int:
    """Hand a command to the toolstack in front of the model, and pass on what it says."""
    from xsplice_plugins import hypervisor  # noqa: PLC0415  the model is only needed here
    from xsplice_plugins.toolstack import tool  # noqa: PLC0415
    from xsplice_plugins.verify.model import release_of  # noqa: PLC0415

    data = read_file(arguments.xen_syms)
    run = open_run(arguments, pipeline.base_of_image(arguments.xen_syms, data))
    words = [arguments.command, *arguments.words, *(["--nodeps"] if arguments.nodeps else [])]
    release = release_of(run.config.release, run.config)
    image = hypervisor.boot(data, release=release)
    result = tool.run(words, arguments.state, image, release=release)
    if arguments.json:
        answer = {"exit_code": result.exit_code, "out": result.stdout, "err": result.stderr}
        show(artefacts.to_json(answer))
    else:
        show(result.stdout)
        sys.stderr.write(result.stderr)
    return result.exit_code


_TOOL = {
    "load": "upload, check and apply a file, in the model",
    "upload": "upload and check a file, in the model",
    "check": "say what the upload checked, in the model",
    "apply": "apply a checked payload, in the model",
    "revert": "take an applied payload off, in the model",
    "replace": "apply one payload instead of all others, in the model",
    "unload": "forget a payload, in the model",
    "list": "list the payloads that are loaded in the model",
    "reboot": "start the model over",
}

COMMANDS: tuple[Row, ...] = (
    ("verify", "prove a stack of payloads", _add_verify, _verify),
    *((name, about, _add_tool, _tool) for name, about in _TOOL.items()),
)
