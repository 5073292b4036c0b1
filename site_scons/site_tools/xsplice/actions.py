# SPDX-License-Identifier: Apache-2.0
"""What happens when a node is built: load, call one stage of the pipeline, write.

Every action is a module-level function: a closure in an action's signature would rebuild its
target on every run. What an action needs beyond its sources hangs on the target node as
``attributes.xsplice``; whatever of that can change the result is a ``Value`` dependency, made in
``builders``.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins import artefacts, capture, pipeline
from xsplice_plugins.artefacts import (
    DEVELOPMENT_CERTIFICATE,
    DEVELOPMENT_KEY,
    Checks,
    Delta,
    ObjectPair,
    PatchSet,
    Payload,
    PayloadRecord,
    Report,
    SignatureRecord,
)
from xsplice_plugins.errors import ConfigError, NoFunctionalChangeError, VerifyError, XspliceError
from xsplice_plugins.settings import options_of

from .copies import lay_out, reads_of_patch, records_beneath, require
from .healing import require_whole
from .settings import translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from SCons.Environment import Environment

    from xsplice_plugins.kbuild.tree import XenTree

Nodes = list[Any]

#: What a person may ship or believe: all but what says what was asked for.
_BELIEVED = tuple(end for end in pipeline.MADE if end != ".patch.json")


class Fix(Struct, frozen=True, kw_only=True):
    """What all nodes of one fix share; never part of a signature as a whole."""

    name: str
    folder: Path  #: absolute build folder of the fix
    patch_set: PatchSet
    run: pipeline.Run
    is_verbose: bool
    stack: pipeline.Stack
    records: tuple[bytes, ...] = ()  #: of the payloads beneath, when the fix was wired
    route: str = ""  #: how the objects are compiled and why, for the summary
    tree: XenTree | None = None  #: that the patch applies to; ``None`` where there is none


@contextmanager
def forgetting(folder: Path, name: str) -> Iterator[None]:
    """Take away what an earlier run made of a fix that is refused now: nobody shall ship it."""
    try:
        yield
    except XspliceError as error:
        if error.exit_status != VerifyError.exit_status:
            for made in (pipeline.STANDS, *(f"{name}{end}" for end in _BELIEVED)):
                (folder / made).unlink(missing_ok=True)
        raise


@contextmanager
def staged(target: Nodes) -> Iterator[None]:
    """Run one stage of a fix: an error is SCons' own, and leaves nothing of an earlier run."""
    carried = target[0].attributes.xsplice
    fix = carried[0] if isinstance(carried, tuple) else carried
    with translated(target):
        if isinstance(fix, Fix):
            with forgetting(fix.folder, fix.name):
                yield
        else:
            yield


def _path(node: Any) -> Path:
    return Path(node.get_abspath())


def _say(fix: Fix, *words: str | Path) -> None:
    if fix.is_verbose:
        sys.stdout.write(shlex.join(str(word) for word in words) + "\n")


def _build_folder(fix: Fix) -> Path:
    assert fix.run.config.build_dir is not None, "SCons has a build folder"
    return fix.run.config.build_dir


def _prefix(fix: Fix, object_path: str) -> Path:
    return fix.folder / "objects" / (object_path + ".xsplice")


def ask_again(target: Nodes, source: Nodes, env: Environment) -> None:
    """Refuse a fix that was to be wired before the payloads beneath it were made."""
    folder, name, error = target[0].attributes.xsplice
    with translated(target), forgetting(folder, name):
        raise type(error)(f"{error} (before this run, which made that payload; run again)")


def write_patch(target: Nodes, source: Nodes, env: Environment) -> None:
    """Write what the patch set touches."""
    with staged(target):
        artefacts.save(_path(target[0]), target[0].attributes.xsplice.patch_set)


def copy_sources(target: Nodes, source: Nodes, env: Environment) -> None:
    """Lay out a private copy; the target is a stamp that names its digest."""
    farm = target[0].attributes.xsplice
    with staged(target):
        lay_out(farm)
        digest = farm.patch_set.digest if farm.patch_set else "pristine"
        artefacts.write_file(_path(target[0]), f"{digest}\n".encode())


def compile_side(target: Nodes, source: Nodes, env: Environment) -> None:
    """Compile one object in its private copies; a target more takes what it read of the patch."""
    fix, *sides = target[0].attributes.xsplice
    with staged(target):
        told: set[str] = set()
        for node, side in zip(target, sides, strict=False):
            require(side.copy)
            folder = shlex.quote(str(side.copy / side.job.cwd))
            _say(fix, "sh", "-c", f"cd {folder} && {side.job.command}")
            variables = dict(side.variables) or None
            reads: capture.Reads | None = {} if fix.tree is not None else None
            rule = capture.compile_object(
                side.job, side.copy, _path(node), env=variables, reads=reads
            )
            if reads is not None:
                capture.save_reads(reads, _path(node))
            told |= reads_of_patch(side, rule)
        if len(target) > len(sides):
            artefacts.save(_path(target[-1]), tuple(sorted(told)))


def pair_sides(target: Nodes, source: Nodes, env: Environment) -> None:
    """Compare the two sides; keep them as ``.baseline`` and ``.new`` where they differ."""
    fix, sides = target[0].attributes.xsplice
    with staged(target):
        require(sides.pristine, sides.patched, *([sides.plain] if sides.plain else []))
        pair = pipeline.capture_pair(
            sides,
            _path(source[0]),
            _path(source[1]),
            _prefix(fix, sides.job.object_path),
            is_watched=fix.tree is not None,
        )
        artefacts.save(_path(target[0]), pair)


def capture_reached(target: Nodes, source: Nodes, env: Environment) -> None:
    """Preprocess an object that only a header reaches; compile it if that can matter."""
    _, sides = target[0].attributes.xsplice
    with staged(target):
        place = _path(target[0])
        pair = pipeline.capture_reached(
            sides, place.with_name(place.name.removesuffix(".pair.json"))
        )
        artefacts.save(_path(target[0]), pair)


def capture_made(target: Nodes, source: Nodes, env: Environment) -> None:
    """Build the patched tree with make in a private copy; keep the pairs that differ."""
    fix, tree, plan = target[0].attributes.xsplice
    with staged(target):
        pairs = pipeline.capture_made(
            tree,
            plan,
            fix.patch_set,
            lower=fix.stack.lower,
            workdir=fix.folder / "make",
            objects_dir=fix.folder / "objects",
            jobs=env.GetOption("num_jobs"),
        )
        artefacts.save(_path(target[0]), pairs)


def compile_handmade(target: Nodes, source: Nodes, env: Environment) -> None:
    """Compile hand-written files and follow their declarations."""
    fix, tree, files = target[0].attributes.xsplice
    with staged(target):
        made = pipeline.handmade_deltas(fix.run, tree, files)
        for delta, data in zip(made.deltas, made.objects, strict=True):
            place = _prefix(fix, delta.object_path).with_suffix(".xsplice.new")
            artefacts.write_file(place, data)
        artefacts.save(_path(target[0]), made.deltas)
        artefacts.save(_path(target[1]), made.reads)


def _delta_of(
    fix: Fix, pair: ObjectPair, maker: Any, sources: pipeline.Sides | None = None
) -> Delta:
    """Diff one pair; equal content gives an empty delta that keeps the pair's refusals."""
    sides = (b"", b"")
    prefix = _prefix(fix, pair.object_path)
    if pair.is_changed:
        baseline, new = prefix.with_name(pair.baseline), prefix.with_name(pair.new)
        _say(fix, "xsplice", "diff", baseline, new)
        sides = (
            require_whole(baseline, pair.digest_baseline, [maker]),
            require_whole(new, pair.digest_new, [maker]),
        )
    again = prefix.with_suffix(".xsplice.shifted")
    again.unlink(missing_ok=True)  # an earlier patch's would show nothing
    if sources is not None and pair.is_apart:
        sources = replace(sources, job=pipeline.apart(sources.job))
    shifted = None if sources is None else partial(pipeline.compile_shifted, sources, again)
    delta, findings = pipeline.diff_pair(fix.run, pair, *sides, shifted)
    for finding in findings:
        sys.stdout.write(f"{finding.subject}: {finding.text} ({finding.check})\n")
    return delta


def diff_objects(target: Nodes, source: Nodes, env: Environment) -> None:
    """Say what changed in meaning in one pair; its sources tell line numbers from others."""
    fix, sides = target[0].attributes.xsplice
    with staged(target):
        require(sides.pristine, sides.patched)
        pair = artefacts.load(_path(source[0]), ObjectPair)
        artefacts.save(_path(target[0]), (_delta_of(fix, pair, source[0], sides),))


def diff_made(target: Nodes, source: Nodes, env: Environment) -> None:
    """Say what changed in meaning in every pair that make's route gave."""
    fix = target[0].attributes.xsplice
    with staged(target):
        pairs = artefacts.load(_path(source[0]), tuple[ObjectPair, ...])
        artefacts.save(_path(target[0]), tuple(_delta_of(fix, pair, source[0]) for pair in pairs))


def _load_deltas(nodes: Nodes) -> list[Delta]:
    return [d for node in nodes for d in artefacts.load(_path(node), tuple[Delta, ...])]


def _new(fix: Fix, delta: Delta, maker: Any) -> bytes:
    """Return a delta's new object; nothing where there is none and none is needed."""
    path = _prefix(fix, delta.object_path).with_suffix(".xsplice.new")
    if delta.is_linked:
        return require_whole(path, delta.digest_new, [maker])
    return path.read_bytes() if path.exists() else b""


def link_payload(target: Nodes, source: Nodes, env: Environment) -> None:
    """Make one payload of all deltas. Sources: the image, then the deltas."""
    fix = target[0].attributes.xsplice
    with staged(target):
        if records_beneath(fix.run.config) != fix.records:
            raise ConfigError(f"{fix.name}: DEPENDS or SUPERSEDES was made anew; run again")
        image = _path(source[0])
        rows = [(delta, node) for node in source[1:] for delta in _load_deltas([node])]
        told = [
            (delta, node)
            for delta, node in rows
            if not delta.is_empty
            or delta.is_linked
            or (delta.line_only or delta.notes or delta.removed or delta.boot or delta.moot)
        ]
        deltas, objects = [delta for delta, _ in told], [_new(fix, *row) for row in told]
        words = ["--name", fix.name, "--xen-syms", image, "--out", _path(target[0])]
        if fix.stack.patches and fix.stack.patches[0].files:
            words += ["--patches", fix.folder / f"{fix.name}.patch.json"]
        _say(
            fix,
            "xsplice",
            "link",
            *words,
            *options_of(fix.run.config, "DEPENDS", "SUPERSEDES", "ACCEPT"),
            *map(_path, source[1:]),
        )
        try:
            payload = pipeline.link_payload(
                fix.run, fix.name, deltas, objects, image.read_bytes(), fix.stack
            )
        except NoFunctionalChangeError:
            pipeline.check_unchanged(fix.tree, fix.patch_set)
            raise
        artefacts.write_file(_path(target[0]), payload.data)
        artefacts.save(_path(target[1]), payload.record)


def sign_payload(target: Nodes, source: Nodes, env: Environment) -> None:
    """Sign the payload as the last write and say what was made."""
    fix = target[0].attributes.xsplice
    with staged(target):
        from xsplice_plugins.report.summary import print_summary  # noqa: PLC0415  only where needed

        data = _path(source[0]).read_bytes()
        record = artefacts.load(_path(source[1]), PayloadRecord)
        signed = pipeline.sign_payload(fix.run, Payload(data=data, record=record))
        words = [str(_path(source[0])), "--out", str(_path(target[0]))]
        if signed.record.is_development_key:
            words += ["--key", str(_build_folder(fix) / DEVELOPMENT_KEY)]
        options = options_of(fix.run.config, "SIGNER", "KEY", "CERT", "OPTIONS")
        _say(fix, "xsplice", "sign", *words, *options)
        artefacts.save(_path(target[1]), signed.record)
        pipeline.write_signed(fix.run, signed, _path(target[0]))
        print_summary(
            fix.patch_set,
            _load_deltas(source[2:]),
            record,
            signed.record,
            _path(target[0]),
            route=fix.route,
        )
        target[0].attributes.xsplice_told = True


def _sources(fix: Fix) -> artefacts.Sources | None:
    """Return what a fix was made of, where the patched tree can be made as a whole."""
    if fix.tree is None:
        return None
    beneath = tuple((depth, kind == pipeline.BY_HAND) for depth, kind in fix.stack.beneath)
    return artefacts.Sources(tree=fix.tree.build_root, patch_set=fix.patch_set, beneath=beneath)


def verify_payload(target: Nodes, source: Nodes, env: Environment) -> None:
    """Prove the signed payload; any verdict but "proved" fails the build and keeps the report."""
    fix = target[0].attributes.xsplice
    with staged(target):
        from xsplice_plugins.report.verdict import verdict_text  # noqa: PLC0415  only where needed

        payload = _path(source[0])
        record = artefacts.load(_path(source[1]), PayloadRecord)
        checks = artefacts.load(_path(source[4]), Checks)
        config = fix.run.config
        words = [*map(str, config.depends), str(payload), "--xen-syms", str(_path(source[3]))]
        signature = artefacts.load(fix.folder / f"{fix.name}.signature.json", SignatureRecord)
        if signature.is_development_key:
            words += ["--cert", str(_build_folder(fix) / DEVELOPMENT_CERTIFICATE)]
        names = ("SIGNER", "CERT", "ON", "EXPECT", "RELEASES", "SUPERSEDES", "OPTIONS")
        _say(fix, "xsplice", "verify", *words, *options_of(fix.run.config, *names))
        report = pipeline.verify_payload(
            fix.run,
            payload.read_bytes(),
            record,
            payload,
            checks=checks,
            beneath=config.depends,
            sources=_sources(fix),
        )
        written = pipeline.save_report(report, _path(target[0]))
        sys.stdout.write(verdict_text(report))
        target[0].attributes.xsplice_told = True
        if not pipeline.is_proved(report):
            raise VerifyError(f"{payload}: {report.verdict}: {report.reason}; see {written}")


def tell_payloads(target: Nodes, source: Nodes, env: Environment) -> None:
    """Say where the payloads of a goal lie that an earlier run made; this run's are told."""
    for node in source:
        if str(node).endswith(".livepatch") and not hasattr(node.attributes, "xsplice_told"):
            sys.stdout.write(f"up to date: {node}\n")


def tell_verdicts(target: Nodes, source: Nodes, env: Environment) -> None:
    """Say what the reports behind a goal came to; those of an earlier run in full."""
    with translated(target):
        from xsplice_plugins.report.verdict import verdict_text  # noqa: PLC0415  only where needed

        for node in source:
            if str(node).endswith(".verify.json"):
                report = artefacts.load(_path(node), Report)
                if not hasattr(node.attributes, "xsplice_told"):
                    sys.stdout.write(verdict_text(report))
                words = f"{report.verdict.upper()}: {report.name} on Xen {report.release}"
                sys.stdout.write(f"{words}: {node}\n")
