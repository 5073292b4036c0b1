# SPDX-License-Identifier: Apache-2.0
"""What a plugin must not do: for each refused plugin the accepted neighbour."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import HOOK_API, hookimpl
from xsplice_plugins.errors import HookApiError, PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.artefacts import Delta, PayloadRecord
    from xsplice_plugins.plugins.spec import Config
    from xsplice_plugins.testing import DistributionFactory, ManagerFactory

MAJOR, MINOR = HOOK_API


def hear(config: Config) -> None:
    """Implement xsplice_startup."""


def check(delta: Delta) -> object:
    """Implement xsplice_check_delta."""
    return ()


def sign(data: bytes) -> None:
    """Implement xsplice_sign_payload."""


def misspelt_argument(playload: bytes) -> None:
    """Ask for an argument that no hook has."""


def plugin(**attributes: object) -> object:
    module = types.ModuleType("acme")
    module.xsplice_startup = hookimpl(hear)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def test_a_hook_without_its_marker_is_refused_not_ignored(xsplice_manager: ManagerFactory) -> None:
    """Pluggy says nothing: a vendor's check would silently never run."""

    def other_check(delta: Delta) -> object:
        return ()

    with pytest.raises(PluginError, match=r"acme\.xsplice_check_delta.*@hookimpl"):
        xsplice_manager(plugin(xsplice_check_delta=other_check))
    xsplice_manager(plugin(xsplice_check_delta=hookimpl(check)))


def test_an_imported_specification_is_no_forgotten_marker(xsplice_manager: ManagerFactory) -> None:
    from xsplice_plugins.plugins.spec import xsplice_check_delta  # noqa: PLC0415

    module = plugin(xsplice_check_delta=xsplice_check_delta)
    assert xsplice_manager(module).is_registered(module)


def test_a_misspelt_hook_is_refused(xsplice_manager: ManagerFactory) -> None:
    with pytest.raises(PluginError, match=r"acme.*xsplice_sing_payload.*hooks"):
        xsplice_manager(plugin(xsplice_sing_payload=hookimpl(sign)))


def test_an_unknown_argument_is_refused(xsplice_manager: ManagerFactory) -> None:
    with pytest.raises(PluginError, match=r"acme.*playload"):
        xsplice_manager(plugin(xsplice_sign_payload=hookimpl(misspelt_argument)))


def test_a_default_value_is_refused(xsplice_manager: ManagerFactory) -> None:
    """Pluggy 1.7.0 passes defaults, its documents say it does not."""

    def with_default(data: bytes, record: PayloadRecord = None) -> object:
        return None

    with pytest.raises(PluginError, match="parameter record has a default value"):
        xsplice_manager(plugin(xsplice_sign_payload=hookimpl(with_default)))


@pytest.mark.parametrize("kind", ["keyword only", "variable"])
def test_a_parameter_that_pluggy_never_passes_is_refused(
    kind: str, xsplice_manager: ManagerFactory
) -> None:
    def keyword_only(data: bytes, *, record: PayloadRecord) -> object:
        return None

    def variable(data: bytes, **rest: object) -> object:
        return None

    function = keyword_only if kind == "keyword only" else variable
    with pytest.raises(PluginError, match="is never passed"):
        xsplice_manager(plugin(xsplice_sign_payload=hookimpl(function)))


@pytest.mark.parametrize(
    "hook",
    [
        "xsplice_diff_objects",
        "xsplice_check_delta",
        "xsplice_link_payload",
        "xsplice_check_signature",
        "xsplice_verify_payload",
    ],
)
def test_a_wrapper_around_a_check_is_refused(hook: str, xsplice_manager: ManagerFactory) -> None:
    """A plugin can add findings and refusals, not remove them."""

    def wrap() -> Iterator[None]:
        yield
        return []

    with pytest.raises(PluginError, match="could hide"):
        xsplice_manager(plugin(**{hook: hookimpl(wrap, wrapper=True)}))
    xsplice_manager(plugin(xsplice_sign_payload=hookimpl(wrap, wrapper=True)))


def test_a_wrapper_hidden_behind_specname_is_refused(xsplice_manager: ManagerFactory) -> None:
    def wrap() -> Iterator[None]:
        yield
        return []

    hidden = hookimpl(wrap, wrapper=True, specname="xsplice_verify_payload")
    with pytest.raises(PluginError, match="could hide"):
        xsplice_manager(plugin(other=hidden))


def test_an_old_style_wrapper_is_refused(xsplice_manager: ManagerFactory) -> None:
    def wrap() -> Iterator[None]:
        yield

    with pytest.raises(PluginError, match="use wrapper=True"):
        xsplice_manager(plugin(xsplice_sign_payload=hookimpl(wrap, hookwrapper=True)))


def test_a_class_is_refused(xsplice_manager: ManagerFactory) -> None:
    class Acme:
        @hookimpl
        def xsplice_startup(self, config: Config) -> None:
            """Hear nothing."""

    with pytest.raises(PluginError, match="name an instance"):
        xsplice_manager(Acme)
    xsplice_manager(Acme())


def test_a_plugin_without_hooks_is_refused(xsplice_manager: ManagerFactory) -> None:
    with pytest.raises(PluginError, match="implements no hook"):
        xsplice_manager(types.ModuleType("empty"))


@pytest.mark.parametrize("wanted", [HOOK_API, (MAJOR, 0)])
def test_an_older_minor_version_is_accepted(
    wanted: object, xsplice_manager: ManagerFactory
) -> None:
    module = plugin(xsplice_api=wanted)
    assert xsplice_manager(module).is_registered(module)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ((MAJOR, MINOR + 1), "upgrade xsplice"),
        ((MAJOR + 1, 0), "upgrade xsplice"),
        ((MAJOR - 1, 9), "upgrade the plugin"),
        ((MAJOR,), "two numbers"),
        ("1.0", "two numbers"),
        ((True, 0), "two numbers"),
    ],
)
def test_another_version_of_the_hooks_is_refused_and_the_side_to_upgrade_named(
    wanted: object, said: str, xsplice_manager: ManagerFactory
) -> None:
    with pytest.raises(HookApiError, match=f"acme: .*{said}"):
        xsplice_manager(plugin(xsplice_api=wanted))


def test_the_version_is_found_in_the_module_of_an_instance(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution(
        "acme",
        {"acme": "acme_new:plugin"},
        {
            "acme_new.py": f"""
                from xsplice_plugins import hookimpl

                xsplice_api = ({MAJOR}, {MINOR + 1})

                class Acme:
                    @hookimpl
                    def xsplice_startup(self, config):
                        pass

                plugin = Acme()
            """
        },
    )
    with pytest.raises(HookApiError, match=r"acme: .*upgrade xsplice"):
        xsplice_manager(entry_points=True)
