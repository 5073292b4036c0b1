# SPDX-License-Identifier: Apache-2.0
"""What a plugin must not do, checked before it is registered.

Pluggy itself finds unknown hooks and unknown arguments. It says nothing about a hook whose
marker was forgotten, about default values, and about wrappers that hide what others found; a
plugin that is silently not asked is worse than one that does not load.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

from xsplice_plugins.errors import HookApiError, PluginError
from xsplice_plugins.plugins.spec import HOOK_API, HOOKS, NAME


def check_plugin(plugin: object, name: str) -> None:
    """Refuse a plugin that breaks a rule of the house.

    Raises:
        HookApiError: It was written for another version of the hooks.
        PluginError: It is a class, forgot a marker, uses default values, or wraps a check.
    """
    if isinstance(plugin, type):
        raise PluginError(
            f"{name}: is a class; name an instance of it: `plugin = {plugin.__name__}()`"
        )
    check_api(_stated_api(plugin), name)
    hooks = 0
    for attribute in sorted(dir(plugin)):
        function = _function(plugin, attribute)
        if function is None:
            continue
        options = getattr(function, f"{NAME}_impl", None)
        if isinstance(options, dict):
            hooks += 1
            _check_implementation(function, options, f"{name}.{attribute}")
        elif attribute.startswith(f"{NAME}_") and not hasattr(function, f"{NAME}_spec"):
            raise PluginError(
                f"{name}.{attribute}: looks like a hook but is not marked; "
                "decorate it with @hookimpl, or call it something else"
            )
    if not hooks:
        raise PluginError(
            f"{name}: implements no hook; decorate its functions with @hookimpl of xsplice_plugins"
        )


def check_api(wanted: object, name: str) -> None:
    """Refuse a plugin made for hooks, as (major, minor), that this version does not have.

    Source: the rule is volatility3's, ``framework/__init__.py``: major equal, minor not newer.

    Raises:
        HookApiError: The versions do not go together; the message says which side to upgrade.
    """
    if not (isinstance(wanted, tuple) and len(wanted) == 2 and all(type(n) is int for n in wanted)):
        raise HookApiError(
            f"{name}: xsplice_api is {wanted!r}; state it as two numbers, e.g. {HOOK_API}"
        )
    if wanted[0] < HOOK_API[0] or wanted > HOOK_API:
        ours, theirs = "{}.{}".format(*HOOK_API), "{}.{}".format(*wanted)
        older = "xsplice" if wanted > HOOK_API else "the plugin"
        raise HookApiError(
            f"{name}: is for hook API {theirs}, this xsplice has {ours}; upgrade {older}"
        )


def _stated_api(plugin: object) -> object:
    """Return what the plugin, or the module that defines it, needs."""
    module = sys.modules.get(type(plugin).__module__)
    return getattr(plugin, "xsplice_api", getattr(module, "xsplice_api", HOOK_API))


def _function(plugin: object, attribute: str) -> Callable[..., object] | None:
    """Return a function of a plugin without running properties."""
    found = inspect.getattr_static(plugin, attribute, None)
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return found if callable(found) and not attribute.startswith("__") else None


def _check_implementation(
    function: Callable[..., object], options: dict[str, object], name: str
) -> None:
    if options.get("hookwrapper"):
        raise PluginError(f"{name}: hookwrapper=True is the old style; use wrapper=True")
    hook = str(options.get("specname") or name.rpartition(".")[2])
    if options.get("wrapper") and hook in HOOKS and HOOKS[hook].is_check:
        raise PluginError(
            f"{name}: a wrapper could hide what another plugin found; "
            "return findings of your own instead"
        )
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty:
            raise PluginError(
                f"{name}: the parameter {parameter.name} has a default value, which hooks do not "
                "have; drop the default"
            )
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise PluginError(
                f"{name}: the parameter {parameter.name} is never passed to a hook; "
                "name the arguments plainly"
            )
