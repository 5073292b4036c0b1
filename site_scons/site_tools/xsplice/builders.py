# SPDX-License-Identifier: Apache-2.0
"""One Builder per stage, and the methods that wire a fix's nodes: no logic beyond wiring.

An action's own code is hashed by SCons, what it calls is not; so every node depends on the digest
of the library folders it uses, on the settings that reach it (`given`), and on the fingerprint of
the plugins.
"""

from __future__ import annotations

import hashlib
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace
from SCons.Action import Action
from SCons.Builder import Builder
from SCons.Scanner import ScannerBase as Scanner
from SCons.Tool import SourceFileScanner

from xsplice_plugins import capture, pipeline, settings
from xsplice_plugins.artefacts import record_path
from xsplice_plugins.patch import clean_name
from xsplice_plugins.plugins import manager

from . import actions, given, others, rebuilding
from . import base as bases
from . import settings as settings_of_scons
from .actions import Fix
from .copies import Farm, claim, records_beneath
from .ending import heed_signals
from .healing import heal, renew_signature
from .marks import sources_digest
from .rebuilding import Rebuild

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.errors import XspliceError
    from xsplice_plugins.kbuild.tree import XenTree
    from xsplice_plugins.pipeline import Run, Sides, Stack

Node = Any

_STAGES = {
    "XsplicePatch": (actions.write_patch, "PATCH"),
    "XspliceCopy": (actions.copy_sources, "COPY"),
    "XspliceObject": (actions.compile_side, "CC"),
    "XsplicePair": (actions.pair_sides, "CAPTURE"),
    "XspliceReached": (actions.capture_reached, "CAPTURE"),
    "XspliceMade": (actions.capture_made, "MAKE"),
    "XspliceHandmade": (actions.compile_handmade, "CC"),
    "XspliceDiff": (actions.diff_objects, "DIFF"),
    "XspliceDiffMade": (actions.diff_made, "DIFF"),
    "XspliceLink": (actions.link_payload, "LINK"),
    "XspliceSign": (actions.sign_payload, "SIGN"),
    "XspliceBase": (bases.match_base, "BASE"),
    "XspliceOthers": (others.ask_others, ""),
    "XspliceCheck": (rebuilding.check_rebuild, "CHECK"),
    "XspliceVerify": (actions.verify_payload, "VERIFY"),
    "XspliceWait": (actions.ask_again, "WAIT"),
}


#: Rooms that decide how objects are compiled and compared.
CAPTURING = ("capture", "csource", "kbuild", "patch")


class XspliceNodes(NamedTuple):
    """The nodes of one fix that other nodes may depend on."""

    payload: Node  #: the signed payload
    report: Node  #: ``.verify.json``


def add_builders(env: Environment) -> None:
    """Add one Builder per stage to an environment."""
    for name, (function, word) in _STAGES.items():
        comstr = f"{name.upper()}COMSTR"
        env.SetDefault(**{comstr: f"  {word:<8}$TARGET"})
        keywords: dict[str, Any] = {}
        if name in {"XspliceObject", "XspliceHandmade"}:
            keywords["source_scanner"] = SourceFileScanner
        if name == "XspliceBase":
            keywords["target_scanner"] = Scanner(bases.scan)
        env["BUILDERS"][name] = Builder(
            action=Action(function, f"${comstr}" if word else None), **keywords
        )


class Wiring:
    """The nodes of one fix under construction."""

    def __init__(self, env: Environment, fix: Fix) -> None:
        self.env = env
        self.fix = fix
        self._marks: dict[tuple[str, ...], str] = {}
        self._fixes: dict[str, Fix] = {}

    def _plugins(self, *hooks: str) -> str:
        """Return the identity of the plugins behind some hooks."""
        if hooks not in self._marks:
            marks = [manager.manager_fingerprint(self.fix.run.plugins, hook)[:16] for hook in hooks]
            self._marks[hooks] = f"plugins of {'+'.join(hooks)} {'+'.join(marks)}"
        return self._marks[hooks]

    @cached_property
    def _again(self) -> tuple[str, ...]:
        return pipeline.brought_again(self.fix.run.config)

    def fix_in(self, step: str) -> Fix:
        """Return the fix with the settings that reach a step alone."""
        if step not in self._fixes:
            run = self.fix.run
            config = given.settings_for(step, run.config, run.plugins)
            self._fixes[step] = replace(self.fix, run=replace(run, config=config))
        return self._fixes[step]

    def node(
        self,
        builder: str,
        targets: Iterable[str],
        sources: Iterable[Node],
        *,
        carries: object,
        library: tuple[str, ...],
        values: Iterable[str] = (),
        step: str = "",
        like: Node | None = None,
    ) -> list[Node]:
        """Make one step's targets; ``values`` are texts whose change rebuilds it.

        A ``step`` that reads settings carries the fix of `fix_in`, and is made again for each.
        What the sources include is found as for the node ``like``.
        """
        env = self.env
        paths = [str(self.fix.folder / target) for target in targets]
        if like is None:
            nodes = getattr(env, builder)(paths, list(sources))
        else:
            words = {name: env[name] for name in [f"{builder.upper()}COMSTR"]}
            nodes = env["BUILDERS"][builder](like.get_build_env(), paths, list(sources), **words)
            for node in nodes:
                node.cwd = like.cwd  # relative folders count from there
        nodes[0].attributes.xsplice = carries
        heal(nodes)
        digest = f"xsplice's own {'+'.join(library)} {sources_digest(*library)}"
        if step:
            config = self.fix_in(step).run.config
            plugins = self._plugins(*given.HOOKS[step]) if step in given.HOOKS else ""
            values = (*values, *given.told(config), plugins)
            env.Depends(nodes, [env.File(str(path)) for path in given.files(config)])
        env.Depends(nodes, [env.Value(text) for text in (digest, *values)])
        return list(nodes)

    def patch(self) -> None:
        """Wire the record of what the patch set touches."""
        fix = self.fix
        older = f"older {fix.patch_set.older}"
        record = self.node(
            "XsplicePatch",
            [f"{fix.name}.patch.json"],
            [],
            carries=fix,
            library=("patch",),
            values=[f"patch set {fix.patch_set.digest}", f"{fix.patch_set.superseded}", older],
        )
        for goal in ("xsplice", "xsplice-verify"):
            self.env.Alias(goal, record)

    def diff(
        self, target: str, pairs: Node, sides: Sides | None = None, inputs: Iterable[str] = ()
    ) -> Node:
        """Wire the diff behind one pair's record, or behind the manifest of make's route.

        Args:
            target: The deltas' file.
            pairs: The record.
            sides: What the one pair was compiled from, to compile it with shifted lines.
            inputs: Texts that stand for the content of those sources.
        """
        fix = self.fix_in("diff")
        return self.node(
            "XspliceDiffMade" if sides is None else "XspliceDiff",
            [target],
            [pairs],
            carries=fix if sides is None else (fix, sides),
            library=("diff", *CAPTURING),
            values=[*inputs, f"brought again {self._again}"],
            step="diff",
        )[0]

    def copy(self, farm: Farm, stamp: str, identity: str) -> Node:
        """Wire the laying out of a private copy; ``identity`` is what it is a copy of."""
        return self.node(
            "XspliceCopy",
            [stamp],
            [],
            carries=farm,
            library=CAPTURING,
            values=[identity],
        )[0]

    def base(self, image: Node, name: str, objects: Callable[[], pipeline.BaseObjects]) -> Node:
        """Wire the match of all objects with the image, which all fixes of a base share.

        Args:
            image: The image's node.
            name: Name of the base among those of a build folder.
            objects: Asked for what the image is linked from.
        """
        run = self.fix_in("base").run
        values = given.told(run.config)
        made = self.env.File(str(self.fix.folder / f"../base-{name}.json"))
        if made.has_builder():
            if made.attributes.xsplice_values == values:
                return made
            digest = hashlib.sha256(repr(values).encode()).hexdigest()[:8]
            return self.base(image, f"{name}-{digest}", objects)
        node = self.node(
            "XspliceBase",
            [f"../base-{name}.json"],
            [image],
            carries=bases.Linked(run=run, objects=cache(objects)),
            library=("check", "kbuild"),
            step="base",
        )[0]
        node.attributes.xsplice_values = values
        return node

    def others(self, asked: others.Others) -> Node:
        """Wire the question what else the image is made of; it is asked in each run.

        Args:
            asked: What is asked.
        """
        node = self.node(
            "XspliceOthers",
            [f"{self.fix.name}.others.json"],
            [],
            carries=(self.fix, asked),
            library=(),
        )[0]
        self.env.Requires(node, asked.roots[0])  # what is generated is there then
        return self.env.AlwaysBuild(node)[0]

    def rest(self, deltas: list[Node], image: Node, base: Node, rebuild: Rebuild) -> XspliceNodes:
        """Wire link, sign and verify behind the deltas."""
        fix, env, config = self.fix, self.env, self.fix.run.config
        loaded = (*config.depends, *config.supersedes)
        records = [env.File(str(record_path(path))) for path in loaded]
        records = [row for row in records if row.has_builder() or row.exists()]
        linked = self.node(
            "XspliceLink",
            [f"{fix.name}.livepatch.unsigned", f"{fix.name}.payload.json"],
            [image, *deltas],
            carries=self.fix_in("link"),
            library=("link",),
            values=[
                f"made of {fix.stack.patches}",
                f"superseded {fix.stack.superseded}, older {fix.stack.older}",
            ],
            step="link",
        )
        asked = [] if rebuild.others is None else [env.File(str(rebuild.others))]
        env.Depends(linked, asked)
        signed = self.node(
            "XspliceSign",
            [f"{fix.name}.livepatch", f"{fix.name}.signature.json"],
            [*linked, *deltas],
            carries=self.fix_in("sign"),
            library=("sign", "report"),
            step="sign",
        )
        env.NoCache(signed)  # a signature is never replayed from a shared cache
        renew_signature(signed, self.fix_in("sign").run.config.build_dir)
        checked = self.node(
            "XspliceCheck",
            [f"{fix.name}.checks.json"],
            [linked[0], image, *deltas],
            carries=(self.fix_in("check"), replace(rebuild, base=Path(base.get_abspath()))),
            library=("check", "rebuild", *CAPTURING),
            values=[
                f"on {fix.stack.beneath}",
                f"inputs {rebuild.doubts}",
                *(
                    [f"tree {capture.tree_state(fix.tree)}"]
                    if fix.tree and rebuild.needs_make(fix)
                    else []
                ),
            ],
            step="check",
        )
        made = (*rebuild.lower_objects.values(), *rebuild.lower_texts.values(), *rebuild.reads)
        env.Depends(checked, [base, *asked, *map(str, made)])
        whole = ("rebuild", "check", *CAPTURING) if "rebuild" in config.verifiers else ()
        verified = self.node(
            "XspliceVerify",
            [f"{fix.name}.verify.json"],
            [signed[0], linked[1], signed[1], image, checked[0]],
            carries=fix,
            library=("verify", "hypervisor", "realxen", "sign", "report", *whole),
            values=[
                f"records of what is loaded before: {len(records)}",
                *([f"whole tree {capture.tree_state(fix.tree)}"] if whole and fix.tree else []),
            ],
            step="verify",
        )
        env.Depends(verified, records)
        env.NoCache(verified)
        _tell(env, "xsplice", signed, actions.tell_payloads)
        _tell(env, "xsplice-verify", verified, actions.tell_verdicts)
        return XspliceNodes(payload=signed[0], report=verified[0])


def _tell(env: Environment, goal: str, nodes: list[Node], words: Callable[..., None]) -> None:
    """Hang nodes on a goal that says at its end what they are, made now or earlier."""
    alias = env.Alias(goal, nodes)
    if not alias[0].always_build:
        env.Alias(goal, [], Action(words, None))
        env.AlwaysBuild(alias)


def wait(
    env: Environment, name: str, payloads: Iterable[Path], error: XspliceError
) -> XspliceNodes:
    """Put a refusal in the place of a fix whose payloads beneath this run makes first.

    Args:
        env: The environment.
        name: Name of the fix.
        payloads: What is made first.
        error: Why the fix cannot be wired with what is there now.
    """
    name = clean_name(name)
    folder = settings_of_scons.build_folder(env) / name
    claim(folder, name)
    ends = ("livepatch", "verify.json")
    nodes = env.XspliceWait([str(folder / f"{name}.{end}") for end in ends], [])
    nodes[0].attributes.xsplice = (folder, name, error)
    env.Depends(nodes, [env.File(str(path)) for path in payloads])
    env.AlwaysBuild(nodes)
    for goal in ("xsplice", "xsplice-verify"):
        env.Alias(goal, nodes)
    return XspliceNodes(payload=nodes[0], report=nodes[1])


def start(
    env: Environment,
    patch_set: PatchSet,
    run: Run,
    route: str,
    stack: Stack,
    tree: XenTree | None = None,
    *,
    is_rebuildable: bool = False,
    files: Sequence[Path] = (),
) -> Wiring:
    """Begin the wiring of one fix.

    Args:
        env: The environment.
        patch_set: What is applied; the fix's folder below the build folder has its name.
        run: Settings and plugins.
        route: How the objects are compiled and why, for the summary.
        stack: What of it the payloads beneath brought.
        tree: The tree that nothing may be written into.
        is_rebuildable: Whether the patched tree can be made as a whole.
        files: The patch or the sources, if nobody has checked that nothing is written over them.

    Raises:
        ConfigError: The fix's folder lies inside the tree, holds what is read, or is another's.
        PatchError: Nothing is left of the name.
    """
    assert run.config.build_dir is not None, "SCons has a build folder"
    name = clean_name(patch_set.name)
    folder = run.config.build_dir / name
    if tree is not None:
        pipeline.check_outside(folder, tree, "the fix's folder BUILD/NAME")
    pipeline.check_outputs(folder, name, run.config, files)
    claim(folder, name)
    fix = Fix(
        name=name,
        folder=folder,
        patch_set=patch_set,
        run=run,
        is_verbose=settings.is_on(env.get("VERBOSE", "")),
        route=route,
        stack=stack,
        records=records_beneath(run.config),
        tree=tree if is_rebuildable else None,
    )
    heed_signals()
    return Wiring(env, fix)
