# SPDX-License-Identifier: Apache-2.0
"""The subcommands that judge a payload: verify, and the real tool's commands on a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.artefacts import PayloadRecord, Verdict, VerifyRequest
from xsplice_plugins.commands.words import Row, plugins_of, read, record_path, show
from xsplice_plugins.errors import VerifyError
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_verify(parser: ArgumentParser) -> None:
    parser.add_argument("payloads", type=Path, nargs="+", help="the stack, bottom first")
    parser.add_argument("--xen-syms", type=Path, required=True, help="the image with its symbols")
    parser.add_argument("--release", default="4.17.5", help="the hypervisor's release")
    parser.add_argument("--releases", default="", help="others to ask, separated by commas")
    parser.add_argument("--cert", type=Path, help="certificate that the signature must fit")
    parser.add_argument("--signer", help="signing plugin; default: cms with --cert, else none")
    parser.add_argument("--expect", type=Path, help="expected.json with probes")
    parser.add_argument("--on", default="model", help="verifiers, separated by commas")
    parser.add_argument("--out", type=Path, help="write the report here as well")


def _record_of(path: Path, data: bytes, release: str) -> PayloadRecord:
    """Return a payload's record: the one beside it, or what the file itself says."""
    beside = record_path(path)
    if beside.exists():
        return artefacts.load(beside, PayloadRecord)
    from xsplice_plugins.report.inspect import foreign_record  # noqa: PLC0415  only where needed

    return foreign_record(data, path.name, release)


def _verify(arguments: Namespace) -> int:
    from xsplice_plugins.report.verdict import conclude, verdict_text  # noqa: PLC0415

    path = arguments.payloads[-1]
    data = read(path)
    signer = arguments.signer or ("cms" if arguments.cert else "none")
    config = Config(
        release=arguments.release,
        image=arguments.xen_syms,
        signer=signer,
        verifiers=tuple(arguments.on.split(",")),
        certificate=arguments.cert,
    )
    request = VerifyRequest(
        payload_path=path,
        image_path=arguments.xen_syms,
        release=arguments.release,
        releases_compared=tuple(filter(None, arguments.releases.split(","))),
        certificate=arguments.cert,
        expected=arguments.expect,
        beneath=tuple(arguments.payloads[:-1]),
    )
    record = _record_of(path, data, arguments.release)
    findings = pipeline.verify_payload(plugins_of(config), config, data, record, request)
    report = conclude(data, record, arguments.release, findings)
    if arguments.out:
        artefacts.save(arguments.out, report)
    show(artefacts.to_json(report) if arguments.json else verdict_text(report))
    return 0 if report.verdict is Verdict.PROVED else VerifyError.exit_status


def _add_tool(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", help="as the real tool takes them: NAME, FILE")
    parser.add_argument("--nodeps", action="store_true", help="do not check what it stacks on")
    parser.add_argument("--xen-syms", type=Path, required=True, help="the image with its symbols")
    parser.add_argument("--release", default="4.17.5", help="the hypervisor's release")
    parser.add_argument(
        "--state", type=Path, default=Path("xsplice.state.json"), help="file that keeps the model"
    )


def _tool(arguments: Namespace) -> int:
    """Hand a command to the toolstack in front of the model, and pass on what it says."""
    from xsplice_plugins import hypervisor  # noqa: PLC0415  the model is only needed here
    from xsplice_plugins.toolstack import tool as toolstack  # noqa: PLC0415

    release = hypervisor.release(arguments.release)
    image = hypervisor.Image.from_elf(read(arguments.xen_syms), release=release)
    words = [arguments.command, *arguments.words, *(["--nodeps"] if arguments.nodeps else [])]
    result = toolstack.run(words, arguments.state, image, release=release)
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
    ("verify", "prove a stack of payloads in the model", _add_verify, _verify),
    *((name, about, _add_tool, _tool) for name, about in _TOOL.items()),
)
