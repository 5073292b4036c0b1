# SPDX-License-Identifier: Apache-2.0
"""What happens when a node is built: load, call one stage of the library, write.

Every action is a module-level function: SCons hashes what a closure holds, and would rebuild on
every run. What it needs beyond its sources hangs on the target node as ``attributes.xsplice``;
whatever of that can change the result is a ``Value`` dependency, made in ``builders``.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SCons.Errors

from xsplice_plugins import artefacts, capture, pipeline
from xsplice_plugins.artefacts import (
    CompileJob,
    Delta,
    ObjectPair,
    PatchSet,
    Payload,
    PayloadRecord,
    Verdict,
)
from xsplice_plugins.errors import VerifyError, XspliceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from SCons.Environment import Environment

    from xsplice_plugins.plugins.spec import Config

Nodes = list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What all nodes of one fix share; never part of a signature as a whole."""

    name: str
    folder: Path  #: absolute build folder of the fix
    patch_set: PatchSet
    config: Config
    plugins: Any  #: the plugin manager
    is_verbose: bool
    route: str = ""  #: how the objects are compiled and why, for the summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Where and from what one object is compiled: one side of the patch."""

    job: CompileJob
    copy: Path  #: absolute root of the private copy
    variables: tuple[tuple[str, str], ...] = ()  #: environment; empty: that of the process


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """A private copy of the sources: symbolic links, the patched files real."""

    source_root: Path  #: the folder that compile commands run in
    tree: capture.XenTree | None = None  #: a Xen tree knows what of it compiles need
    only: str = ""  #: the one folder to copy, relative to ``source_root``; patches apply there
    copy: Path  #: where the copy of ``source_root`` goes
    patch_set: PatchSet | None  #: ``None`` for the pristine side


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """The two sides of one object."""

    job: CompileJob
    pristine: Path
    patched: Path
    tree_object: Path | None  #: the tree's own object, for the drift check
    store: Path | None = None  #: folder of preprocessed texts that outlive the fix
    variables: tuple[tuple[str, str], ...] = ()  #: environment; empty: that of the process


@contextmanager
def translated(target: Nodes) -> Iterator[None]:
    """Turn an error of the library into SCons' own, so that one clear message is printed."""
    try:
        yield
    except XspliceError as error:
        raise SCons.Errors.BuildError(
            node=target[0], errstr=str(error), status=error.exit_status
        ) from error


def _path(node: Any) -> Path:
    return Path(node.get_abspath())


def _say(fix: Fix, *words: str | Path) -> None:
    if fix.is_verbose:
        sys.stdout.write(shlex.join(str(word) for word in words) + "\n")


def write_patch(target: Nodes, source: Nodes, env: Environment) -> None:
    """Write what the patch set touches."""
    with translated(target):
        artefacts.save(_path(target[0]), target[0].attributes.xsplice.patch_set)


def copy_sources(target: Nodes, source: Nodes, env: Environment) -> None:
    """Lay out a private copy; the target is a stamp that names its digest."""
    farm = target[0].attributes.xsplice
    with translated(target):
        if farm.tree is not None:
            capture.copy_tree(farm.tree, farm.copy, farm.patch_set)
        else:
            capture.prepare_copy(
                farm.source_root,
                farm.copy,
                farm.patch_set,
                only=(farm.only,),
                patch_root=farm.only,
            )
        digest = farm.patch_set.digest if farm.patch_set else "pristine"
        artefacts.write_file(_path(target[0]), f"{digest}\n".encode())


def compile_side(target: Nodes, source: Nodes, env: Environment) -> None:
    """Compile one object in its private copy."""
    fix, side = target[0].attributes.xsplice
    with translated(target):
        _say(
            fix,
            "sh",
            "-c",
            f"cd {shlex.quote(str(side.copy / side.job.cwd))} && {side.job.command}",
        )
        capture.compile_object(
            side.job, side.copy, _path(target[0]), env=dict(side.variables) or None
        )


def pair_sides(target: Nodes, source: Nodes, env: Environment) -> None:
    """Compare the two sides; keep them as ``.baseline`` and ``.new`` where they differ."""
    fix, both = target[0].attributes.xsplice
    with translated(target):
        pair = capture.pair_objects(
            both.job,
            _path(source[0]),
            _path(source[1]),
            both.tree_object,
            _prefix(fix, both.job.object_path),
            refused=capture.source_refusals(
                both.job,
                pristine=both.pristine,
                patched=both.patched,
                env=dict(both.variables) or None,
            ),
        )
        artefacts.save(_path(target[0]), pair)


def capture_reached(target: Nodes, source: Nodes, env: Environment) -> None:
    """Preprocess an object that only a header reaches; compile it if that can matter."""
    fix, both = target[0].attributes.xsplice
    with translated(target):
        pair = capture.capture_reached(
            both.job,
            pristine=both.pristine,
            patched=both.patched,
            tree_object=both.tree_object,
            store=both.store,
            dest_prefix=_prefix(fix, both.job.object_path),
        )
        artefacts.save(_path(target[0]), pair)


def capture_made(target: Nodes, source: Nodes, env: Environment) -> None:
    """Build the patched tree with make in a private copy; keep the pairs that differ."""
    fix, tree, plan = target[0].attributes.xsplice
    with translated(target):
        pairs = capture.make_route(
            tree,
            plan,
            fix.patch_set,
            fix.folder / "make",
            fix.folder / "objects",
            jobs=env.GetOption("num_jobs"),
        )
        artefacts.save(_path(target[0]), pairs)


def _prefix(fix: Fix, object_path: str) -> Path:
    return fix.folder / "objects" / (object_path + ".xsplice")


def _delta_of(fix: Fix, pair: ObjectPair) -> Delta:
    """Diff one pair; equal content gives an empty delta that keeps the pair's refusals."""
    if not pair.is_changed:
        return Delta(
            object_path=pair.object_path,
            source_path=pair.source_path,
            profile=fix.config.profile,
            machine=0,
            digest_new=pair.digest_new,
            refused=pair.refused,
        )
    folder = _prefix(fix, pair.object_path).parent
    baseline, new = folder / pair.baseline, folder / pair.new
    _say(fix, "xsplice", "diff", baseline, new, "--profile", fix.config.profile)
    delta, findings = pipeline.diff_pair(
        fix.plugins, fix.config, pair, baseline.read_bytes(), new.read_bytes()
    )
    for finding in findings:
        sys.stdout.write(f"{finding.subject}: {finding.text} ({finding.check})\n")
    return delta


def diff_objects(target: Nodes, source: Nodes, env: Environment) -> None:
    """Say what changed in meaning in one pair."""
    fix = target[0].attributes.xsplice
    with translated(target):
        pair = artefacts.load(_path(source[0]), ObjectPair)
        artefacts.save(_path(target[0]), (_delta_of(fix, pair),))


def diff_made(target: Nodes, source: Nodes, env: Environment) -> None:
    """Say what changed in meaning in every pair that make's route gave."""
    fix = target[0].attributes.xsplice
    with translated(target):
        pairs = artefacts.load(_path(source[0]), tuple[ObjectPair, ...])
        artefacts.save(_path(target[0]), tuple(_delta_of(fix, pair) for pair in pairs))


def _load_deltas(nodes: Nodes) -> list[Delta]:
    return [d for node in nodes for d in artefacts.load(_path(node), tuple[Delta, ...])]


def link_payload(target: Nodes, source: Nodes, env: Environment) -> None:
    """Make one payload of all deltas. Sources: the image, then the deltas."""
    fix = target[0].attributes.xsplice
    with translated(target):
        image = _path(source[0])
        all_deltas = _load_deltas(source[1:])
        deltas = [delta for delta in all_deltas if not delta.is_empty or delta.line_only]
        objects = [
            new.read_bytes() if new.exists() else b""
            for new in (_prefix(fix, d.object_path).with_suffix(".xsplice.new") for d in deltas)
        ]
        _say(fix, "xsplice", "link", "--name", fix.name, "--image", image, *map(_path, source[1:]))
        payload = pipeline.link_payload(
            fix.plugins, fix.config, fix.name, deltas, objects, image.read_bytes()
        )
        artefacts.write_file(_path(target[0]), payload.data)
        artefacts.save(_path(target[1]), payload.record)


def sign_payload(target: Nodes, source: Nodes, env: Environment) -> None:
    """Sign the payload as the last write and say what was made."""
    fix = target[0].attributes.xsplice
    with translated(target):
        from xsplice_plugins.report.summary import print_summary  # noqa: PLC0415  rich is slow

        data, record = (
            _path(source[0]).read_bytes(),
            artefacts.load(_path(source[1]), PayloadRecord),
        )
        _say(fix, "xsplice", "sign", _path(source[0]), "--signer", fix.config.signer)
        signed = pipeline.sign_payload(fix.plugins, fix.config, Payload(data=data, record=record))
        artefacts.save(_path(target[1]), signed.record)
        certificate = fix.config.certificate
        pipeline.write_signed(fix.plugins, fix.config, signed, _path(target[0]), certificate)
        print_summary(
            fix.patch_set,
            _load_deltas(source[2:]),
            record,
            signed.record,
            _path(target[0]),
            route=fix.route,
        )


def verify_payload(target: Nodes, source: Nodes, env: Environment) -> None:
    """Prove the signed payload; any verdict but "proved" fails the build and keeps the report."""
    fix, request = target[0].attributes.xsplice
    with translated(target):
        from xsplice_plugins.report.verdict import (  # noqa: PLC0415  only where needed
            conclude,
            verdict_text,
        )

        payload = _path(source[0])
        record = artefacts.load(_path(source[1]), PayloadRecord)
        request = replace(request, payload_path=payload, image_path=_path(source[3]))
        _say(fix, "xsplice", "verify", payload, "--xen-syms", _path(source[3]))
        data = payload.read_bytes()
        findings = pipeline.verify_payload(fix.plugins, fix.config, data, record, request)
        report = conclude(data, record, request.release, findings)
        artefacts.save(_path(target[0]), report)
        sys.stdout.write(verdict_text(report))
        if report.verdict is not Verdict.PROVED:
            # The report stays for people under another name: a failed target must not look built.
            failed = _path(target[0]).with_suffix(".failed.json")
            _path(target[0]).replace(failed)
            raise VerifyError(f"{payload}: {report.verdict}: {report.reason}; see {failed}")
