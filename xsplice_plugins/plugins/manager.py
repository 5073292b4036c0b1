# SPDX-License-Identifier: Apache-2.0
"""Which plugins take part in a run, in what order, and how their hooks are called.

There is no manager at module level: every environment, command and test builds its own with
`build_plugin_manager`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import pluggy

from xsplice_plugins.errors import (
    AmbiguousPluginError,
    NoProviderError,
    PluginError,
    XspliceError,
)
from xsplice_plugins.plugins import spec as hookspecs
from xsplice_plugins.plugins.discovery import (
    TRACE_VARIABLE,
    Candidate,
    disabled_names,
    find_candidates,
)
from xsplice_plugins.plugins.rules import check_plugin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pluggy import HookCaller

INVENTORY = "xsplice inventory"  #: registered name of the list of plugins

#: What a provider of a hook is called, and the variable that chooses it.
ROLES = {
    "xsplice_diff_objects": ("differ", "DIFFER="),
    "xsplice_link_payload": ("linker", "LINKER="),
    "xsplice_sign_payload": ("signer", "SIGNER="),
    "xsplice_check_signature": ("signer that can check", "SIGNER="),
}

#: The class of each hook's answer, by name: the artefacts are not imported for it.
ANSWERS = {
    "xsplice_diff_objects": "Delta",
    "xsplice_link_payload": "Payload",
    "xsplice_sign_payload": "SignedPayload",
    "xsplice_check_signature": "SignatureCheck",
}
COLLECTING = frozenset({"xsplice_check_delta", "xsplice_verify_payload"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The candidates behind a manager, kept in it as a plugin without hooks."""

    candidates: tuple[Candidate, ...]


class PluginRow(TypedDict):
    """One plugin as ``xsplice plugins --json`` shows it."""

    name: str
    version: str
    origin: str
    hooks: list[str]
    sha256: str


def build_plugin_manager(
    *, plugins: Sequence[object] = (), environ: Mapping[str, str], entry_points: bool = True
) -> pluggy.PluginManager:
    """Return a new manager with all plugins of a run; nothing is shared with other managers.

    Args:
        plugins: Plugins of the project: entry-point names, dotted modules, modules, instances.
        environ: The environment's variables: ``XSPLICE_PLUGINS``, ``XSPLICE_DISABLE_PLUGINS``
            and ``XSPLICE_TRACE_PLUGINS`` are read.
        entry_points: Whether installed distributions are looked at.

    Returns:
        The manager; registration is finished, hooks may be called from any thread.

    Raises:
        NoProviderError: A plugin was asked for, or switched off, that is not there.
        HookApiError: A plugin was written for another version of the hooks.
        PluginError: A plugin cannot be loaded or breaks a rule.
    """
    pm = pluggy.PluginManager(hookspecs.NAME)
    pm.add_hookspecs(hookspecs)
    for name in sorted(disabled_names(environ) - {"*"}):
        pm.set_blocked(name)
    candidates = []
    for candidate in find_candidates(plugins=plugins, environ=environ, entry_points=entry_points):
        if pm.is_registered(candidate.plugin):
            continue  # the same object, named a second time
        candidates.append(candidate)
        _register(pm, candidate)
    pm.register(Inventory(candidates=tuple(candidates)), INVENTORY)
    try:
        pm.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"{pm.get_name(error.plugin)}: {_one_line(error)}; "
            "the hooks are listed in docs/hooks.md"
        ) from error
    if environ.get(TRACE_VARIABLE, "") not in {"", "0"}:
        enable_trace(pm)
    return pm


def startup(pm: pluggy.PluginManager, config: hookspecs.Config) -> None:
    """Tell every plugin the configuration; plugins registered later hear it too.

    Raises:
        PluginError: A plugin failed.
    """
    hook = pm.hook.xsplice_startup
    try:
        hook.call_historic(kwargs={"config": config})
    except XspliceError:
        raise
    except (Exception, SystemExit) as error:
        raise _wrapped(hook, error) from error


def chosen(pm: pluggy.PluginManager, hook_name: str, plugin_name: str) -> HookCaller:
    """Return a hook that asks one plugin only, and the wrappers around it.

    Args:
        pm: The plugins of the run.
        hook_name: A hook of `ROLES`.
        plugin_name: Name of the plugin, or ``name@origin`` where two have one name; "" takes the
            only provider there is.

    Raises:
        NoProviderError: No such plugin, or it does not provide this hook.
        AmbiguousPluginError: Several plugins answer to the name.
    """
    role, variable = ROLES.get(hook_name, (f"provider of {hook_name}", "another name"))
    hook: HookCaller = getattr(pm.hook, hook_name)
    providers = {
        _qualified_name(pm, impl.plugin): impl.plugin
        for impl in hook.get_hookimpls()
        if not (impl.wrapper or impl.hookwrapper)
    }
    matches = sorted(
        name for name in providers if plugin_name in {"", name, name.partition("@")[0]}
    )
    if not matches:
        known = {_qualified_name(pm, plugin) for plugin in pm.get_plugins()}
        lacks = any(plugin_name in {name, name.partition("@")[0]} for name in known)
        what = "is installed, but is not one" if lacks else "is not installed"
        there = ", ".join(sorted(name.partition("@")[0] for name in providers)) or "none"
        raise NoProviderError(
            f"{role} {plugin_name!r}: {what}; choose with {variable} one of: {there}"
        )
    if len(matches) > 1:
        raise AmbiguousPluginError(
            f"{role} {plugin_name!r}: {len(matches)} plugins could be meant "
            f"({', '.join(matches)}); choose one with {variable}, or uninstall the others"
        )
    others = [plugin for name, plugin in providers.items() if name != matches[0]]
    return pm.subset_hook_caller(hook_name, others)


def call(hook: HookCaller, **arguments: object) -> Any:
    """Call a hook and check the answer's kind.

    Args:
        hook: From ``pm.hook`` or `chosen`.
        arguments: All arguments of the hook.

    Returns:
        What the hook's specification says; a list of answers for a collecting hook.

    Raises:
        XspliceError: As raised by a plugin.
        PluginError: A plugin raised anything else, or answered with something else.
    """
    try:
        answer = hook(**arguments)
    except XspliceError:
        raise
    except (Exception, SystemExit) as error:  # a plugin's sys.exit(0) must not end a build well
        raise _wrapped(hook, error) from error
    _check_answer(hook, answer)
    return answer


def register_plugin(pm: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Register one more plugin, e.g. in a test; it hears `startup` at once.

    Never while a build runs: the threads of ``-j`` call hooks.

    Raises:
        PluginError: It breaks a rule, or the name is taken.
    """
    if pm.has_plugin(name) or pm.is_registered(plugin):
        raise PluginError(f"{name}: a plugin of this name is registered already; rename it")
    _register(pm, Candidate(name=name, origin="registered", version="", plugin=plugin))
    try:
        pm.check_pending()
    except pluggy.PluginValidationError as error:
        pm.unregister(plugin)
        raise PluginError(f"{name}: {_one_line(error)}; see docs/hooks.md") from error


def describe_plugins(pm: pluggy.PluginManager) -> tuple[PluginRow, ...]:
    """Return name, version, origin, hooks and source digest of every plugin, sorted by name."""
    from xsplice_plugins.plugins.fingerprint import source_digest  # noqa: PLC0415  # only when asked

    rows = [
        PluginRow(
            name=name.partition("@")[0],
            version=_candidate(pm, plugin).version,
            origin=_candidate(pm, plugin).origin,
            hooks=_hooks(pm, plugin),
            sha256=source_digest(plugin),
        )
        for name, plugin in _sorted_plugins(pm)
    ]
    return tuple(rows)


def manager_fingerprint(pm: pluggy.PluginManager, hook_name: str = "") -> str:
    """Return the identity of the plugins' code: what makes targets out of date.

    Args:
        pm: The plugins of the run.
        hook_name: Only plugins that implement this hook; "" for all.

    Returns:
        Hex SHA-256 over the sorted (name, version, sha256 of the sources).
    """
    from xsplice_plugins.plugins.fingerprint import fingerprint, source_digest  # noqa: PLC0415

    return fingerprint(
        (name, _candidate(pm, plugin).version, source_digest(plugin))
        for name, plugin in _sorted_plugins(pm)
        if not hook_name or hook_name in _hooks(pm, plugin)
    )


def enable_trace(pm: pluggy.PluginManager) -> None:
    """Log every hook call; byte strings as digests, options without their values."""
    from xsplice_plugins.plugins.trace import log_after, log_before  # noqa: PLC0415  # only when asked

    pm.add_hookcall_monitoring(log_before, log_after)


def _register(pm: pluggy.PluginManager, candidate: Candidate) -> None:
    name = candidate.name
    if pm.has_plugin(name):
        name = candidate.qualified_name
    if pm.has_plugin(name):
        raise PluginError(
            f"{name}: two plugins of one name come from one place; rename one of them"
        )
    check_plugin(candidate.plugin, name)
    try:
        pm.register(candidate.plugin, name)
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"{name}: {_one_line(error)}; the arguments are listed in docs/hooks.md"
        ) from error
    except XspliceError:
        raise
    except (Exception, SystemExit) as error:  # replay of the historic xsplice_startup
        raise _wrapped(pm.hook.xsplice_startup, error) from error


def _one_line(error: BaseException) -> str:
    return ", ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _candidate(pm: pluggy.PluginManager, plugin: object) -> Candidate:
    """Return what is known of a registered plugin."""
    inventory = pm.get_plugin(INVENTORY)
    if isinstance(inventory, Inventory):
        for candidate in inventory.candidates:
            if candidate.plugin is plugin:
                return candidate
    name = (pm.get_name(plugin) or "").partition("@")[0]
    return Candidate(name=name, origin="registered", version="", plugin=plugin)


def _qualified_name(pm: pluggy.PluginManager, plugin: object) -> str:
    return _candidate(pm, plugin).qualified_name


def _sorted_plugins(pm: pluggy.PluginManager) -> list[tuple[str, object]]:
    return sorted(
        (
            (_qualified_name(pm, plugin), plugin)
            for name, plugin in pm.list_name_plugin()
            if plugin is not None and name != INVENTORY
        ),
        key=lambda row: row[0],
    )


def _hooks(pm: pluggy.PluginManager, plugin: object) -> list[str]:
    return sorted(hook.name for hook in pm.get_hookcallers(plugin) or ())


def _wrapped(hook: HookCaller, error: BaseException) -> PluginError:
    """Name the plugin whose frame is the deepest in the traceback."""
    owners = {}
    for impl in hook.get_hookimpls():
        code = getattr(impl.function, "__code__", None)
        if code is not None:
            owners[code] = impl.plugin_name
    culprit = ""
    place = error.__traceback__
    while place is not None:
        culprit = owners.get(place.tb_frame.f_code, culprit)
        place = place.tb_next
    names = culprit or " or ".join(sorted(impl.plugin_name for impl in hook.get_hookimpls()))
    return PluginError(
        f"{names}.{hook.name}: the plugin failed ({type(error).__name__}: {_one_line(error)}); "
        "this is a fault of the plugin, report it to its author"
    )


def _check_answer(hook: HookCaller, answer: object) -> None:
    """Refuse an answer of another kind than the specification's."""
    expected = ANSWERS.get(hook.name)
    names = " or ".join(sorted(impl.plugin_name for impl in hook.get_hookimpls()))
    if expected and answer is not None and type(answer).__name__ != expected:
        raise PluginError(
            f"{names}.{hook.name}: answered with {type(answer).__name__}, not {expected}; "
            "this is a fault of the plugin, report it to its author"
        )
    if hook.name in COLLECTING:
        assert isinstance(answer, list)
        for part in answer:
            if not isinstance(part, tuple) or any(type(f).__name__ != "Finding" for f in part):
                raise PluginError(
                    f"{names}.{hook.name}: answered with {type(part).__name__}, not a tuple of "
                    "Finding; this is a fault of the plugin, report it to its author"
                )
