# SPDX-License-Identifier: Apache-2.0
"""One Builder per stage, and the methods that wire a fix's nodes: no logic beyond wiring.

An action's own code is hashed by SCons, what it calls is not (``SCons.Action``); so every node
depends on the digest of the library folders it uses, on the digest of the settings that reach it,
and on the fingerprint of the plugins.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from SCons.Action import Action
from SCons.Builder import Builder
from SCons.Tool import SourceFileScanner

import xsplice_plugins
from xsplice_plugins.errors import MachineError
from xsplice_plugins.plugins import manager

from . import actions, settings
from .actions import Farm, Fix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from SCons.Environment import Environment

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.plugins.spec import Config

Node = Any

ROOM_BYTES_MIN = 16 << 20  #: two private copies' worth of links and a few objects

_STAGES = {
    "XsplicePatch": (actions.write_patch, "PATCH"),
    "XspliceCopy": (actions.copy_sources, "COPY"),
    "XspliceObject": (actions.compile_side, "CC"),
    "XsplicePair": (actions.pair_sides, "CAPTURE"),
    "XspliceReached": (actions.capture_reached, "CAPTURE"),
    "XspliceMade": (actions.capture_made, "MAKE"),
    "XspliceDiff": (actions.diff_objects, "DIFF"),
    "XspliceDiffMade": (actions.diff_made, "DIFF"),
    "XspliceLink": (actions.link_payload, "LINK"),
    "XspliceSign": (actions.sign_payload, "SIGN"),
    "XspliceVerify": (actions.verify_payload, "VERIFY"),
}


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
        if name == "XspliceObject":
            keywords["source_scanner"] = SourceFileScanner
        env["BUILDERS"][name] = Builder(action=Action(function, f"${comstr}"), **keywords)


@cache
def sources_digest(*folders: str) -> str:
    """Return the digest of the library's sources in some folders (and its top level)."""
    root = Path(xsplice_plugins.__file__).parent
    files = sorted(root.glob("*.py"))
    for folder in (*folders, "artefacts", "elf"):
        files += sorted((root / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Wiring:
    """The nodes of one fix under construction."""

    def __init__(self, env: Environment, fix: Fix) -> None:
        self.env = env
        self.fix = fix
        self._marks: dict[tuple[str, ...], str] = {}

    def _plugins(self, *hooks: str) -> str:
        """Return the identity of the plugins behind some hooks."""
        if hooks not in self._marks:
            marks = [manager.manager_fingerprint(self.fix.plugins, hook)[:16] for hook in hooks]
            self._marks[hooks] = f"plugins of {'+'.join(hooks)} {'+'.join(marks)}"
        return self._marks[hooks]

    def node(
        self,
        builder: str,
        targets: Iterable[str],
        sources: Iterable[Node],
        *,
        carries: object,
        library: tuple[str, ...],
        values: Iterable[str] = (),
    ) -> list[Node]:
        """Make one step's targets; ``values`` are texts whose change rebuilds it."""
        env = self.env
        paths = [str(self.fix.folder / target) for target in targets]
        nodes = getattr(env, builder)(paths, list(sources))
        nodes[0].attributes.xsplice = carries
        digest = f"xsplice's own {'+'.join(library)} {sources_digest(*library)}"
        env.Depends(nodes, [env.Value(text) for text in (digest, *values)])
        return list(nodes)

    def patch(self) -> Node:
        """Wire the record of what the patch set touches."""
        fix = self.fix
        return self.node(
            "XsplicePatch",
            [f"{fix.name}.patch.json"],
            [],
            carries=fix,
            library=("patch",),
            values=[f"patch set {fix.patch_set.digest}"],
        )[0]

    def diff(self, target: str, pairs: Node, *, is_made: bool = False) -> Node:
        """Wire the diff behind one pair's record, or behind the manifest of make's route."""
        config = self.fix.config
        return self.node(
            "XspliceDiffMade" if is_made else "XspliceDiff",
            [target],
            [pairs],
            carries=self.fix,
            library=("diff",),
            values=[
                f"differ {config.differ} with profile {config.profile}, options {config.options}",
                self._plugins("xsplice_diff_objects", "xsplice_check_delta"),
            ],
        )[0]

    def copy(self, farm: Farm, stamp: str, identity: str) -> Node:
        """Wire the laying out of a private copy; ``identity`` is what it is a copy of."""
        return self.node(
            "XspliceCopy",
            [stamp],
            [],
            carries=farm,
            library=("capture", "patch"),
            values=[identity],
        )[0]

    def rest(self, deltas: list[Node], image: Node) -> XspliceNodes:
        """Wire link, sign and verify behind the deltas."""
        fix, env, config = self.fix, self.env, self.fix.config
        files = [env.File(str(p)) for p in (config.depends,) if p]
        linked = self.node(
            "XspliceLink",
            [f"{fix.name}.livepatch.unsigned", f"{fix.name}.payload.json"],
            [image, *deltas],
            carries=fix,
            library=("link",),
            values=[
                f"linker {config.linker} for {config.release}, {config.options}",
                self._plugins("xsplice_link_payload"),
            ],
        )
        env.Depends(linked, files)
        signed = self.node(
            "XspliceSign",
            [f"{fix.name}.livepatch", f"{fix.name}.signature.json"],
            [*linked, *deltas],
            carries=fix,
            library=("sign", "report"),
            values=[
                f"signer {config.signer} options {config.options}",
                self._plugins("xsplice_sign_payload", "xsplice_check_signature"),
            ],
        )
        env.Depends(signed, [env.File(str(p)) for p in (config.key, config.certificate) if p])
        env.NoCache(signed)  # a signature is never replayed from a shared cache
        request = settings.request_from(env, config)
        verified = self.node(
            "XspliceVerify",
            [f"{fix.name}.verify.json"],
            [signed[0], linked[1], signed[1], image],
            carries=(fix, request),
            library=("verify", "hypervisor", "sign", "report"),
            values=[
                f"verify with {config.verifiers} as {request.release}, {request.releases_compared}",
                self._plugins("xsplice_verify_payload", "xsplice_check_signature"),
            ],
        )
        given = (config.certificate, request.expected, *request.beneath)
        env.Depends(verified, [env.File(str(p)) for p in given if p])
        env.NoCache(verified)
        env.Alias("xsplice", signed)
        env.Alias("xsplice-verify", verified)
        return XspliceNodes(payload=signed[0], report=verified[0])


def _require_room(folder: Path) -> None:
    """Refuse a nearly full disk before anything is written: SCons' own files break on one.

    Raises:
        MachineError: Less than `ROOM_BYTES_MIN` is free.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < ROOM_BYTES_MIN:
        raise MachineError(
            f"{folder}: only {free >> 10} KiB are free on its disk, {ROOM_BYTES_MIN >> 10} KiB are "
            "needed; make room, or choose another folder with BUILD="
        )


def start(env: Environment, name: str, patch_set: PatchSet, config: Config, route: str) -> Wiring:
    """Begin the wiring of one fix.

    Args:
        env: The environment; ``XSPLICE_BUILD`` names the build folder, default ``#build``.
        name: Name of the fix and of its folder below the build folder.
        patch_set: What is applied.
        config: Settings; the build folder is filled in here.
        route: How the objects are compiled and why, for the summary.

    Raises:
        MachineError: The build folder's disk is full.
        PluginError: A plugin cannot be loaded, or none of the chosen name is there.
    """
    folder = Path(env.Dir(env.get("XSPLICE_BUILD", "#build")).get_abspath())
    _require_room(folder)
    config = replace(config, build_dir=folder)
    settings.show_trace()
    plugins = manager.build_plugin_manager(
        plugins=env["XSPLICE_PLUGINS"], environ=settings.environment()
    )
    manager.startup(plugins, config)
    manager.require_chosen(plugins, config)  # an unknown name is an error before any compile
    fix = Fix(
        name=name,
        folder=folder / name,
        patch_set=patch_set,
        config=config,
        plugins=plugins,
        is_verbose=settings.is_on(env, "VERBOSE"),
        route=route,
    )
    return Wiring(env, fix)
