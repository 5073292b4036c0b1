# SPDX-License-Identifier: Apache-2.0
"""How a plugin is chosen by name, and what a wrong choice is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugins.test_manager import Listener, Signer
from xsplice_plugins import hookimpl
from xsplice_plugins.errors import AmbiguousPluginError, NoProviderError, PluginError
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing import DistributionFactory, ManagerFactory, sample_payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xsplice_plugins.artefacts import PayloadRecord

ACME = """
    from xsplice_plugins import hookimpl

    @hookimpl
    def xsplice_sign_payload(data, record, config):
        return None
"""


def test_an_unknown_signer_is_refused_with_what_is_installed(
    xsplice_manager: ManagerFactory,
) -> None:
    with pytest.raises(NoProviderError, match=r"signer 'acem': is not installed.*SIGNER=.*cms, no"):
        manager.chosen(xsplice_manager(), "xsplice_sign_payload", "acem")


def test_a_plugin_that_is_no_signer_is_refused_as_one(xsplice_manager: ManagerFactory) -> None:
    with pytest.raises(NoProviderError, match="signer 'model': is installed, but is not one"):
        manager.chosen(xsplice_manager(), "xsplice_sign_payload", "model")


def test_no_choice_between_two_signers_is_ambiguous(xsplice_manager: ManagerFactory) -> None:
    with pytest.raises(AmbiguousPluginError, match="cms@xsplice, none@xsplice"):
        manager.chosen(xsplice_manager(), "xsplice_sign_payload", "")


class Verifier:
    """A verifier with nothing to say."""

    def __init__(self, name: str) -> None:
        self.xsplice_name = name

    @hookimpl
    def xsplice_verify_payload(self) -> tuple[()]:
        """Say nothing."""
        return ()


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        ([], ["model"]),
        (["model"], ["model"]),
        (["qemu"], ["model", "qemu"]),
        (["acme", "model"], ["model", "acme"]),
        (["acme@tests.plugins.test_manager"], ["model", "acme"]),
    ],
    ids=str,
)
def test_verifiers_are_chosen_by_name_and_the_model_is_always_one(
    names: list[str], asked: list[str], xsplice_manager: ManagerFactory
) -> None:
    acme = Verifier("acme")
    type(acme).__module__ = "tests.plugins.test_manager"  # whatever pytest calls this file
    pm = xsplice_manager(acme, Verifier("other"))
    hook = manager.chosen(pm, "xsplice_verify_payload", *names)
    assert [impl.plugin_name for impl in hook.get_hookimpls()] == asked


def test_an_unknown_verifier_is_refused_with_those_installed(
    xsplice_manager: ManagerFactory,
) -> None:
    pm = xsplice_manager(Verifier("acme"))
    with pytest.raises(
        NoProviderError, match=r"verifier 'moon': is not installed.*ON= one of: acme, model, qemu"
    ):
        manager.chosen(pm, "xsplice_verify_payload", "model", "moon")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(differ="moon"), "differ 'moon'"),
        (Config(linker="moon"), "linker 'moon'"),
        (Config(signer="ears"), "signer 'ears': is installed, but is not one"),
        (Config(verifiers=("model", "moon")), "verifier 'moon'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_choice_is_refused_before_anything_is_done(
    config: Config, said: str, xsplice_manager: ManagerFactory
) -> None:
    pm = xsplice_manager(Listener("ears"))
    manager.require_chosen(pm, Config())
    with pytest.raises(NoProviderError, match=said):
        manager.require_chosen(pm, config)


def test_no_choice_takes_the_only_differ(xsplice_manager: ManagerFactory) -> None:
    hook = manager.chosen(xsplice_manager(), "xsplice_diff_objects", "")
    assert [impl.plugin_name for impl in hook.get_hookimpls()] == ["semantic"]


def test_two_signers_of_one_name_are_ambiguous_until_one_is_named_in_full(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    """Whichever was installed first must not win by chance."""
    fake_distribution("honest", {"acme": "honest_module"}, {"honest_module.py": ACME})
    fake_distribution("forged", {"acme": "forged_module"}, {"forged_module.py": ACME})
    pm = xsplice_manager(entry_points=True)
    with pytest.raises(AmbiguousPluginError, match="acme@forged, acme@honest"):
        manager.chosen(pm, "xsplice_sign_payload", "acme")
    hook = manager.chosen(pm, "xsplice_sign_payload", "acme@honest")
    assert [impl.plugin.__name__ for impl in hook.get_hookimpls()] == ["honest_module"]


def test_a_plugin_cannot_pass_for_a_built_in_one(xsplice_manager: ManagerFactory) -> None:
    pm = xsplice_manager(Signer("cms", lambda _data: None))
    with pytest.raises(AmbiguousPluginError, match=r"cms@\S*test_manager, cms@xsplice"):
        manager.chosen(pm, "xsplice_sign_payload", "cms")
    manager.chosen(pm, "xsplice_sign_payload", "cms@xsplice")


def test_only_the_chosen_signer_is_asked(xsplice_manager: ManagerFactory) -> None:
    asked = []
    pm = xsplice_manager(
        Signer("one", lambda _data: asked.append("one")),
        Signer("two", lambda _data: asked.append("two")),
    )
    data, record = sample_payload()
    hook = manager.chosen(pm, "xsplice_sign_payload", "one")
    assert manager.call(hook, data=data, record=record, config=Config()) is None
    assert asked == ["one"]


def test_a_wrapper_stays_around_the_chosen_signer(xsplice_manager: ManagerFactory) -> None:
    """A vendor's policy must not go away with the choice of a signer."""

    class Policy:
        @hookimpl(wrapper=True)
        def xsplice_sign_payload(self, record: PayloadRecord) -> Iterator[None]:
            message = f"{record.name}: not on a Friday"
            raise PluginError(message)
            yield

    data, record = sample_payload()
    hook = manager.chosen(xsplice_manager(Policy()), "xsplice_sign_payload", "none")
    with pytest.raises(PluginError, match="not on a Friday"):
        manager.call(hook, data=data, record=record, config=Config())
