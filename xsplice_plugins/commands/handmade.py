# SPDX-License-Identifier: Apache-2.0
"""The subcommands of hand-written payloads: build one, or build and play a table of scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.commands.words import Row, plugins_of, record_path, show
from xsplice_plugins.hookspecs import Config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_build(parser: ArgumentParser) -> None:
    parser.add_argument("sources", type=Path, nargs="+", help="C files that include <xsplice.h>")
    parser.add_argument("--xen", type=Path, required=True, help="a built Xen tree; only read")
    parser.add_argument("--name", required=True, help="name of the payload")
    parser.add_argument("--out", type=Path, required=True, help="the signed payload")
    parser.add_argument("--depends", type=Path, help="an earlier payload to stack on")
    parser.add_argument("--release", help="the hypervisor's release; default: what the tree says")
    parser.add_argument("--linker", default="livepatch", help="the linking plugin")
    parser.add_argument("--signer", default="cms", help="the signing plugin")
    parser.add_argument("--key", type=Path, help="PEM file of the private key")
    parser.add_argument("--cert", type=Path, help="PEM file of the certificate")


def _build(arguments: Namespace) -> int:
    from xsplice_plugins import capture, handmade  # noqa: PLC0415  only where needed

    tree = capture.locate_tree(arguments.xen)
    release = arguments.release or tree.release
    config = Config(
        release=release,
        profile="xen-" + ".".join(release.split(".")[:2]),
        image=tree.xen_syms,
        linker=arguments.linker,
        signer=arguments.signer,
        key=arguments.key,
        certificate=arguments.cert,
        depends=arguments.depends,
        build_dir=arguments.out.resolve().parent,
    )
    plugins = plugins_of(config)
    payload = handmade.build(plugins, tree, arguments.sources, arguments.name, config)
    signed = pipeline.sign_payload(plugins, config, payload)
    record = record_path(arguments.out)
    artefacts.save(record, payload.record)
    artefacts.save(record.with_suffix("").with_suffix(".signature.json"), signed.record)
    pipeline.write_signed(plugins, config, signed, arguments.out, arguments.cert)
    if arguments.json:
        show(artefacts.to_json(payload.record))
        return 0
    for function in payload.record.functions:
        what = "replaced" if function.section_new else f"{function.size_new_bytes} bytes of NOPs"
        show(f"{function.name}: {what} ({function.reason})\n")
    for note in payload.record.notes:
        show(f"note: {note}\n")
    show(f"written to {arguments.out}\n")
    return 0


COMMANDS: tuple[Row, ...] = (
    ("build", "make a signed payload of hand-written C files", _add_build, _build),
)
