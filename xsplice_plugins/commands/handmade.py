# SPDX-License-Identifier: Apache-2.0
"""The subcommands of hand-written payloads: build one, or build and play a table of scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.commands.words import Row, plugins_of, record_path, show
from xsplice_plugins.errors import ConfigError, VerifyError
from xsplice_plugins.plugins.spec import Config

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


def _add_play(parser: ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="scenarios.json, its C files beside it")
    parser.add_argument("--xen", type=Path, required=True, help="a built Xen tree; only read")
    parser.add_argument("--out", type=Path, required=True, help="folder for the payloads")
    parser.add_argument("--on", default="model", help="model, qemu, or model,qemu")


def _play(arguments: Namespace) -> int:
    from xsplice_plugins import capture  # noqa: PLC0415  only where needed
    from xsplice_plugins.toolstack import scenarios  # noqa: PLC0415

    places = tuple(arguments.on.split(","))
    if unknown := sorted(set(places) - {"model", "qemu"}):
        raise ConfigError(f"--on {','.join(unknown)}: no such place; choose model, qemu or both")
    table = scenarios.read_table(arguments.table)
    tree = capture.locate_tree(arguments.xen)
    line = ".".join(tree.release.split(".")[:2])
    config = Config(release=tree.release, profile=f"xen-{line}", image=tree.xen_syms)
    payloads = scenarios.build_table(
        plugins_of(config), tree, table, arguments.table.parent, arguments.out.resolve(), config
    )
    outcomes: tuple[scenarios.Outcome, ...] = ()
    if "model" in places:
        from xsplice_plugins import hypervisor  # noqa: PLC0415

        release = hypervisor.release(tree.release)
        image = hypervisor.Image.from_elf(tree.xen_syms.read_bytes(), release=release)
        outcomes += scenarios.play_in_model(table, payloads, image, tree.release)
    if "qemu" in places:
        from xsplice_plugins.realxen import Machine  # noqa: PLC0415

        machine = Machine.prepare(tree.build_root / "xen", release=line)
        outcomes += scenarios.play_on_xen(table, payloads, machine)
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
