# SPDX-License-Identifier: Apache-2.0
"""The subcommands that repeat one stage by hand: diff, link, sign."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import artefacts, pipeline
from xsplice_plugins.artefacts import (
    Delta,
    ObjectPair,
    PatchSet,
    Payload,
    PayloadRecord,
    read_file,
    record_path,
)
from xsplice_plugins.commands.words import Row, open_run, show, signature_path
from xsplice_plugins.errors import ConfigError, NoFunctionalChangeError, RefusedError
from xsplice_plugins.patch import clean_name
from xsplice_plugins.settings import add_options

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_PAIR = ".pair.json"


def _add_diff(parser: ArgumentParser) -> None:
    parser.add_argument("baseline", type=Path, help="the object before the fix, or its .pair.json")
    parser.add_argument("new", type=Path, nargs="?", help="the object after it")
    parser.add_argument("--source", default="", help="source file the objects come from")
    parser.add_argument("--out", type=Path, help="write the delta here, for `xsplice link`")
    parser.add_argument("--html", type=Path, help="write a page with side-by-side disassembly")
    add_options(parser, "diff")


def _pair_of(arguments: Namespace) -> tuple[ObjectPair, Path, Path]:
    """Return what is compared; the record that the capture left counts, wherever it lies.

    Objects that were captured are known by their names: what the capture refused, and that it
    compared layouts, stands in ``<object>.xsplice.pair.json`` beside them.
    """
    baseline, new = arguments.baseline, arguments.new
    beside = baseline.with_name(baseline.name.removesuffix(".baseline") + _PAIR)
    record = baseline if baseline.name.endswith(_PAIR) else beside
    if new is None and record is not baseline:
        raise ConfigError(f"{baseline}: compared with what? give the object after the fix as well")
    if record.is_file():
        pair = artefacts.load(record, ObjectPair)
        sides = [record.parent / name for name in (pair.baseline, pair.new)]
        if new is None or sides == [baseline, new]:
            return pair, sides[0], sides[1]
    data = read_file(baseline), read_file(new)
    return pipeline.bare_pair(baseline, new, data, source=arguments.source), baseline, new


def _diff(arguments: Namespace) -> int:
    pair, old, now = _pair_of(arguments)
    baseline, new = (read_file(old), read_file(now)) if pair.is_changed else (b"", b"")
    again = now.with_suffix(".shifted")  # left by the capture where the answer hung on it
    shifted = partial(read_file, again) if again.is_file() else None
    delta, findings = pipeline.diff_pair(open_run(arguments), pair, baseline, new, shifted)
    if arguments.out:
        artefacts.save(arguments.out, (delta,))
    if arguments.html:
        from xsplice_plugins.report.html import delta_page  # noqa: PLC0415  only where asked

        artefacts.write_file(arguments.html, delta_page(delta, baseline, new).encode())
    if arguments.json:
        show(artefacts.to_json(delta))
    else:
        from xsplice_plugins.report.summary import print_delta  # noqa: PLC0415  only where needed

        print_delta(delta, findings)
    if delta.refused:
        return RefusedError.exit_status
    return 0 if delta.is_active else NoFunctionalChangeError.exit_status


def _add_link(parser: ArgumentParser) -> None:
    parser.add_argument("deltas", type=Path, nargs="+", help="FILE.diff; FILE.new beside each")
    parser.add_argument("--xen-syms", type=Path, required=True, help="the image with its symbols")
    parser.add_argument("--out", type=Path, required=True, help="the unsigned payload")
    parser.add_argument("--patches", type=Path, help="FIX.patch.json: what the objects are made of")
    add_options(parser, "link", required=["NAME"])


def _link(arguments: Namespace) -> int:
    image = read_file(arguments.xen_syms)
    run = open_run(arguments, pipeline.base_of_image(arguments.xen_syms, image))
    loaded = [(path, artefacts.load(path, tuple[Delta, ...])) for path in arguments.deltas]
    refused = [delta for _, deltas in loaded for delta in deltas if delta.refused]
    if refused:
        raise RefusedError(pipeline.refusal_text(refused))
    pairs = [
        (delta, read_file(path.with_name(Path(delta.object_path).name + ".xsplice.new")))
        for path, deltas in loaded
        for delta in deltas
        if delta.is_linked
    ]
    idle = [delta for _, deltas in loaded for delta in deltas if not delta.is_linked]
    stack = pipeline.Stack()
    if arguments.patches:
        fix = artefacts.load(arguments.patches, PatchSet)
        stack = pipeline.Stack(
            patches=fix.digests, net=fix.net, superseded=fix.superseded, older=fix.older
        )
    payload = pipeline.link_payload(
        run,
        clean_name(arguments.NAME),
        [*(delta for delta, _ in pairs), *idle],
        [*(data for _, data in pairs), *(b"" for _ in idle)],
        image,
        stack,
    )
    artefacts.write_file(arguments.out, payload.data)
    artefacts.save(record_path(arguments.out), payload.record)
    show(artefacts.to_json(payload.record) if arguments.json else f"written to {arguments.out}\n")
    return 0


def _add_sign(parser: ArgumentParser) -> None:
    parser.add_argument("payload", type=Path, help="the unsigned payload; its record beside it")
    parser.add_argument("--out", type=Path, required=True, help="the signed payload")
    add_options(parser, "sign")


def _sign(arguments: Namespace) -> int:
    record = artefacts.load(record_path(arguments.payload), PayloadRecord)
    run = open_run(arguments, build_dir=arguments.out.resolve().parent)
    signed = pipeline.sign_payload(run, Payload(data=read_file(arguments.payload), record=record))
    pipeline.write_signed(run, signed, arguments.out)
    artefacts.save(signature_path(arguments.out), signed.record)
    said = f"{signed.record.note}\n" if signed.record.note else ""
    said += f"written to {arguments.out}\n"
    show(artefacts.to_json(signed.record) if arguments.json else said)
    return 0


COMMANDS: tuple[Row, ...] = (
    ("diff", "say which functions changed in meaning between two objects", _add_diff, _diff),
    ("link", "make one payload of deltas", _add_link, _link),
    ("sign", "sign a payload", _add_sign, _sign),
)
