# SPDX-License-Identifier: Apache-2.0
"""Which plugins take part in a run, in what order, and how their hooks are called.

There is no manager at module level: every environment, command and test builds its own with
`build_plugin_manager`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy
from msgspec import Struct

from xsplice_plugins.errors import (
    AmbiguousPluginError,
    NoProviderError,
    PluginError,
    XspliceError,
)
from xsplice_plugins.plugins import spec
from xsplice_plugins.plugins.builtin import ALWAYS_ASKED, ORIGIN_BUILT_IN
from xsplice_plugins.plugins.discovery import TRACE_VARIABLE, Candidate, find_candidates
from xsplice_plugins.plugins.rules import check_plugin
from xsplice_plugins.plugins.spec import HOOKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pluggy import HookCaller

INVENTORY = "xsplice inventory"  #: registered name of the list of plugins


class Inventory(Struct, frozen=True, kw_only=True):
    """The candidates behind a manager, kept in it as a plugin without hooks."""

    candidates: tuple[Candidate, ...]


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
    pm = pluggy.PluginManager(spec.NAME)
    pm.add_hookspecs(spec)
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
        from xsplice_plugins.plugins.trace import log_after, log_before  # noqa: PLC0415  # only here

        pm.add_hookcall_monitoring(log_before, log_after)
    return pm


def startup(pm: pluggy.PluginManager, config: spec.Config) -> None:
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


def chosen(pm: pluggy.PluginManager, hook_name: str, *names: str) -> HookCaller:
    """Return a hook that asks the named plugins only, and the wrappers around them.

    Args:
        pm: The plugins of the run.
        hook_name: A hook whose plugins are chosen by name.
        names: Names of plugins: one, or for a collecting hook any number; the built-in verifier
            is asked even if it is not among them. ``name@origin`` where two plugins have one name;
            "" takes the only provider there is.

    Raises:
        NoProviderError: No such plugin, or it does not provide this hook.
        AmbiguousPluginError: Several plugins answer to the name.
    """
    hook: HookCaller = getattr(pm.hook, hook_name)
    providers = {
        _candidate(pm, impl.plugin).qualified_name: impl.plugin
        for impl in hook.get_hookimpls()
        if not (impl.wrapper or impl.hookwrapper)
    }
    kept = {_provider(pm, hook_name, list(providers), name) for name in names}
    kept.add(f"{ALWAYS_ASKED}@{ORIGIN_BUILT_IN}")
    others = [plugin for name, plugin in providers.items() if name not in kept]
    return pm.subset_hook_caller(hook_name, others)


def require_chosen(pm: pluggy.PluginManager, config: spec.Config) -> None:
    """Refuse a configuration that names a plugin which is not there, before anything is done.

    Raises:
        NoProviderError: As `chosen`.
        AmbiguousPluginError: As `chosen`.
    """
    for hook_name, about in HOOKS.items():
        if about.setting:
            names = getattr(config, about.setting)
            chosen(pm, hook_name, *([names] if isinstance(names, str) else names))


def call(hook: HookCaller, **arguments: object) -> Any:
    """Call a hook and check the answer's kind.

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


def describe_plugins(pm: pluggy.PluginManager) -> list[dict[str, Any]]:
    """Return name, version, origin, hooks and source digest of every plugin, sorted by name."""
    from xsplice_plugins.plugins.fingerprint import source_digest  # noqa: PLC0415  # only when asked

    return [
        {
            "name": found.name,
            "version": found.version,
            "origin": found.origin,
            "hooks": _hooks(pm, found),
            "sha256": source_digest(found.plugin),
        }
        for found in _candidates(pm)
    ]


def manager_fingerprint(pm: pluggy.PluginManager, hook_name: str = "") -> str:
    """Return the identity of the plugins' code: what makes targets out of date.

    Args:
        pm: The plugins of the run.
        hook_name: Only plugins that implement this hook; "" for all.

    Returns:
        Hex SHA-256 over the sorted (name, version, sha256 of the sources).
    """
    from xsplice_plugins.plugins.fingerprint import join, source_digest  # noqa: PLC0415

    return join(
        f"{found.qualified_name}\0{found.version}\0{source_digest(found.plugin)}"
        for found in _candidates(pm)
        if not hook_name or hook_name in _hooks(pm, found)
    )


def are_built_in(pm: pluggy.PluginManager, hook_name: str) -> bool:
    """Tell whether all plugins that take part in a hook come with xsplice.

    Args:
        pm: The plugins of the run.
        hook_name: The hook.
    """
    impls = getattr(pm.hook, hook_name).get_hookimpls()
    return all(_candidate(pm, impl.plugin).origin == ORIGIN_BUILT_IN for impl in impls)


def _provider(pm: pluggy.PluginManager, hook_name: str, providers: list[str], name: str) -> str:
    """Return the one provider of a hook that a name means, as ``name@origin``."""
    role, variable = HOOKS[hook_name].role, HOOKS[hook_name].variable
    matches = [row for row in sorted(providers) if name in {"", row, row.partition("@")[0]}]
    if not matches:
        lacks = any(name in {found.name, found.qualified_name} for found in _candidates(pm))
        what = "is installed, but is not one" if lacks else "is not installed"
        there = ", ".join(sorted(row.partition("@")[0] for row in providers)) or "none"
        raise NoProviderError(f"{role} {name!r}: {what}; choose with {variable} one of: {there}")
    if len(matches) > 1:
        raise AmbiguousPluginError(
            f"{role} {name!r}: {len(matches)} plugins could be meant ({', '.join(matches)}); "
            f"choose one with {variable}, or uninstall the others"
        )
    return matches[0]


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


def _candidates(pm: pluggy.PluginManager) -> list[Candidate]:
    """Return what is known of every plugin, sorted by name and origin."""
    found = [_candidate(pm, plugin) for plugin in pm.get_plugins() - {pm.get_plugin(INVENTORY)}]
    return sorted(found, key=lambda candidate: candidate.qualified_name)


def _hooks(pm: pluggy.PluginManager, found: Candidate) -> list[str]:
    return sorted(hook.name for hook in pm.get_hookcallers(found.plugin) or ())


def _wrapped(hook: HookCaller, error: BaseException) -> PluginError:
    """Name the plugin whose frame is the deepest in the traceback."""
    impls = hook.get_hookimpls()
    owners = {getattr(impl.function, "__code__", None): impl.plugin_name for impl in impls}
    culprit = ""
    place = error.__traceback__
    while place is not None:
        culprit = owners.get(place.tb_frame.f_code, culprit)
        place = place.tb_next
    names = culprit or " or ".join(sorted(impl.plugin_name for impl in impls))
    return PluginError(
        f"{names}.{hook.name}: the plugin failed ({type(error).__name__}: {_one_line(error)}); "
        "this is a fault of the plugin, report it to its author"
    )


def _check_content(hook: HookCaller, artefacts: list[Any]) -> None:
    """Refuse artefacts whose fields are not what their class says: no report could keep them."""
    from xsplice_plugins.artefacts import from_json, to_json  # noqa: PLC0415  a quick start

    for one in artefacts:
        try:
            from_json(to_json(one), type(one), type(one).__name__)
        except (XspliceError, TypeError, ValueError, RecursionError) as error:
            names = " or ".join(sorted(impl.plugin_name for impl in hook.get_hookimpls()))
            raise PluginError(
                f"{names}.{hook.name}: answered with no {type(one).__name__} ({error}); "
                "this is a fault of the plugin, report it to its author"
            ) from error


def _check_answer(hook: HookCaller, answer: Any) -> None:
    """Refuse an answer of another kind than the hook's; ``None`` leaves it to others."""
    about = HOOKS[hook.name]
    expected = about.answer
    if about.kind == "collecting":
        expected = f"a tuple of {about.answer}"
        wrong = [
            part
            for part in answer
            if not isinstance(part, tuple) or any(type(f).__name__ != about.answer for f in part)
        ]
        if not wrong:
            _check_content(hook, [one for part in answer for one in part])
    else:
        wrong = [answer] if answer is not None and type(answer).__name__ != expected else []
    if wrong:
        names = " or ".join(sorted(impl.plugin_name for impl in hook.get_hookimpls()))
        raise PluginError(
            f"{names}.{hook.name}: answered with {type(wrong[0]).__name__}, not {expected}; "
            "this is a fault of the plugin, report it to its author"
        )
