# SPDX-License-Identifier: Apache-2.0
"""The subcommands that build: diff, link, sign; and those that tell: inspect, explain, plugins."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.artefacts import Delta, ObjectPair, Payload, PayloadRecord
from xsplice_plugins.commands.words import Row, plugins_of, read, record_path, show
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


# ------------------------------------------------------------------ diff


def _add_diff(parser: ArgumentParser) -> None:
    parser.add_argument("baseline", type=Path, help="the object before the fix")
    parser.add_argument("new", type=Path, help="the object after it")
    parser.add_argument("--profile", default="xen-4.17", help="table of special sections")
    parser.add_argument("--differ", default="semantic", help="the diffing plugin")
    parser.add_argument("--source", default="", help="source file the objects come from")
    parser.add_argument("--out", type=Path, help="write the delta here, for `xsplice link`")
    parser.add_argument("--html", type=Path, help="write a page with side-by-side disassembly")


def _diff(arguments: Namespace) -> int:
    baseline, new = read(arguments.baseline), read(arguments.new)
    config = Config(profile=arguments.profile, differ=arguments.differ)
    # A relative path tells two objects of one name apart; an absolute one is of this machine.
    name = arguments.new.name if arguments.new.is_absolute() else arguments.new.as_posix()
    name = name.removesuffix(".xsplice.new")  # `link` looks for it under that name
    pair = ObjectPair(
        object_path=name,
        source_path=arguments.source,
        is_changed=baseline != new,
        is_init=name.endswith(".init.o"),
        baseline=str(arguments.baseline),
        new=str(arguments.new),
        digest_baseline=hashlib.sha256(baseline).hexdigest(),
        digest_new=hashlib.sha256(new).hexdigest(),
        compiler="",
    )
    delta, findings = pipeline.diff_pair(plugins_of(config), config, pair, baseline, new)
    if arguments.out:
        artefacts.save(arguments.out, (delta,))
    if arguments.html:
        from xsplice_plugins.report.html import delta_page  # noqa: PLC0415  only where asked

        artefacts.write_file(arguments.html, delta_page(delta, baseline, new).encode())
    if arguments.json:
        show(artefacts.to_json(delta))
    else:
        from xsplice_plugins.report.diff_text import print_delta  # noqa: PLC0415  rich is slow

        print_delta(delta, findings)
    return 1 if delta.refused else 0


# ------------------------------------------------------------ link, sign


def _add_link(parser: ArgumentParser) -> None:
    parser.add_argument("deltas", type=Path, nargs="+", help="FILE.diff; FILE.new beside each")
    parser.add_argument("--name", required=True, help="name of the fix")
    parser.add_argument("--image", "--xen-syms", type=Path, required=True, help="xen-syms")
    parser.add_argument("--release", default="4.17.5", help="the hypervisor's release")
    parser.add_argument("--depends", type=Path, help="an earlier payload to stack on")
    parser.add_argument("--linker", default="livepatch", help="the linking plugin")
    parser.add_argument("--out", type=Path, required=True, help="the unsigned payload")


def _link(arguments: Namespace) -> int:
    config = Config(
        release=arguments.release,
        linker=arguments.linker,
        image=arguments.image,
        depends=arguments.depends,
    )
    loaded = [(path, artefacts.load(path, tuple[Delta, ...])) for path in arguments.deltas]
    pairs = [
        (delta, read(path.with_name(Path(delta.object_path).name + ".xsplice.new")))
        for path, deltas in loaded
        for delta in deltas
        if not delta.is_empty
    ]
    payload = pipeline.link_payload(
        plugins_of(config),
        config,
        arguments.name,
        [delta for delta, _ in pairs],
        [data for _, data in pairs],
        read(arguments.image),
    )
    artefacts.write_file(arguments.out, payload.data)
    artefacts.save(record_path(arguments.out), payload.record)
    show(artefacts.to_json(payload.record) if arguments.json else f"written to {arguments.out}\n")
    return 0


def _add_sign(parser: ArgumentParser) -> None:
    parser.add_argument("payload", type=Path, help="the unsigned payload; its record beside it")
    parser.add_argument("--signer", default="cms", help="the signing plugin")
    parser.add_argument("--key", type=Path, help="PEM file of the private key")
    parser.add_argument("--cert", type=Path, help="PEM file of the certificate")
    parser.add_argument("--out", type=Path, required=True, help="the signed payload")


def _sign(arguments: Namespace) -> int:
    config = Config(
        signer=arguments.signer,
        key=arguments.key,
        certificate=arguments.cert,
        build_dir=arguments.out.resolve().parent,
    )
    record = artefacts.load(record_path(arguments.payload), PayloadRecord)
    plugins = plugins_of(config)
    payload = Payload(data=read(arguments.payload), record=record)
    signed = pipeline.sign_payload(plugins, config, payload)
    pipeline.write_signed(plugins, config, signed, arguments.out, arguments.cert)
    artefacts.save(
        record_path(arguments.out).with_suffix("").with_suffix(".signature.json"), signed.record
    )
    show(artefacts.to_json(signed.record) if arguments.json else f"written to {arguments.out}\n")
    return 0


# --------------------------------------------- inspect, explain, plugins


def _add_inspect(parser: ArgumentParser) -> None:
    parser.add_argument("payload", type=Path, help="a payload, signed or not, of any builder")


def _inspect(arguments: Namespace) -> int:
    from xsplice_plugins.report.inspect import describe, print_description  # noqa: PLC0415

    description = describe(read(arguments.payload), arguments.payload.name)
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
            show(f"{doc.code}: {doc.title}\n\n{doc.explanation}\n\nWhat to do: {doc.hint}\n\n")
    return 0


def _add_nothing(_parser: ArgumentParser) -> None:
    """Take no arguments beyond ``--json``."""


def _list_plugins(arguments: Namespace) -> int:
    rows = manager.describe_plugins(plugins_of(Config()))
    if arguments.json:
        show(artefacts.to_json(rows))
    else:
        for row in rows:
            show(f"{row['name']:<12} {row['version']:<10} {', '.join(row['hooks'])}\n")
    return 0


COMMANDS: tuple[Row, ...] = (
    ("diff", "say which functions changed in meaning between two objects", _add_diff, _diff),
    ("link", "make one payload of deltas", _add_link, _link),
    ("sign", "sign a payload", _add_sign, _sign),
    ("inspect", "say what a payload holds", _add_inspect, _inspect),
    ("explain", "document a refusal", _add_explain, _explain),
    ("plugins", "list the plugins and their hooks", _add_nothing, _list_plugins),
)
