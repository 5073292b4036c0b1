# SPDX-License-Identifier: Apache-2.0
"""ACME's plugin keeps the contract of a signer, and says clearly what is wrong with a token."""

from __future__ import annotations

from pathlib import Path

import pytest
from acme_signing import hsm
from acme_signing.plugin import FUNCTIONS_MAX, xsplice_verify_payload
from msgspec import structs

from xsplice_plugins import Config
from xsplice_plugins.artefacts import ReplacedFunction, Severity, SignatureState
from xsplice_plugins.errors import SignError
from xsplice_plugins.plugins.manager import call, chosen, startup
from xsplice_plugins.testing import ManagerFactory, SignerContract, sample_payload


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a token with the keys 1 and 7."""
    monkeypatch.setenv("ACME_HSM_PIN", "123456")
    for key_id in ("1", "7"):
        assert hsm.main(["init", "--store", str(tmp_path / "token"), "--key-id", key_id]) == 0
    return tmp_path / "token"


def config_with(store: Path, options: dict[str, str] | None = None) -> Config:
    given = {"acme.store": str(store), "acme.key_id": "7"}
    given |= {f"acme.{name}": value for name, value in (options or {}).items()}
    return Config(signer="acme", options=tuple(given.items()))


class TestContract(SignerContract):
    """The tests that every signer must pass."""

    plugin = "acme"
    name = "acme"

    @pytest.fixture
    def config(self, store: Path) -> Config:
        """Return a run that signs with key 7."""
        return config_with(store)

    @pytest.fixture
    def certificate(self, store: Path) -> Path:
        """Return the certificate to trust; asking the token for it each time would be slow."""
        return store / "7.crt"


def test_without_a_certificate_the_token_is_asked_for_its_own(
    store: Path, xsplice_manager: ManagerFactory
) -> None:
    pm = xsplice_manager("acme", entry_points=True)
    data, record = sample_payload()
    config = config_with(store)
    signed = call(
        chosen(pm, "xsplice_sign_payload", "acme"), data=data, record=record, config=config
    )
    check = chosen(pm, "xsplice_check_signature", "acme")
    answer = call(check, data=signed.data, certificate=None, config=config)
    assert answer.state is SignatureState.GOOD


def test_another_key_of_the_token_is_not_trusted(
    store: Path, xsplice_manager: ManagerFactory
) -> None:
    pm = xsplice_manager("acme", entry_points=True)
    data, record = sample_payload()
    sign = chosen(pm, "xsplice_sign_payload", "acme")
    check = chosen(pm, "xsplice_check_signature", "acme")
    signed = call(sign, data=data, record=record, config=config_with(store))
    other = store / "1.crt"
    answer = call(check, data=signed.data, certificate=other, config=config_with(store))
    assert answer.state is SignatureState.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hsm": "no-such-program"}, "no-such-program is not installed"),
        ({"key_id": "9"}, "there is no key 9"),
        ({"store": ""}, "nothing says where the token is"),
        ({"key_id": "first"}, "give the key's number"),
        ({"speed": "fast"}, "unknown option acme.speed"),
    ],
)
def test_a_token_that_cannot_sign_is_told(
    options: dict[str, str], said: str, store: Path, xsplice_manager: ManagerFactory
) -> None:
    pm = xsplice_manager("acme", entry_points=True)
    data, record = sample_payload()
    sign = chosen(pm, "xsplice_sign_payload", "acme")
    with pytest.raises(SignError, match=said):
        call(sign, data=data, record=record, config=config_with(store, options))


def test_a_wrong_pin_is_told(
    store: Path, monkeypatch: pytest.MonkeyPatch, xsplice_manager: ManagerFactory
) -> None:
    monkeypatch.setenv("ACME_HSM_PIN", "654321")
    pm = xsplice_manager("acme", entry_points=True)
    data, record = sample_payload()
    with pytest.raises(SignError, match="wrong PIN"):
        call(
            chosen(pm, "xsplice_sign_payload", "acme"),
            data=data,
            record=record,
            config=config_with(store),
        )


def test_wrong_options_stop_a_run_before_it_compiles(
    store: Path, xsplice_manager: ManagerFactory
) -> None:
    with pytest.raises(SignError, match="unknown option"):
        startup(xsplice_manager("acme", entry_points=True), config_with(store, {"speed": "fast"}))


@pytest.mark.parametrize(
    ("count", "severity"), [(FUNCTIONS_MAX, Severity.INFO), (FUNCTIONS_MAX + 1, Severity.ERROR)]
)
def test_a_payload_that_replaces_too_many_functions_is_not_proved(
    count: int, severity: Severity
) -> None:
    function = ReplacedFunction(
        name="f",
        addr_old_virt=0,
        size_old_bytes=16,
        size_new_bytes=16,
        section_new=".text.f",
        expect="",
        expect_note="",
        reason="",
        object_path="f.o",
    )
    record = structs.replace(sample_payload()[1], functions=(function,) * count)
    (finding,) = xsplice_verify_payload(record)
    assert finding.severity is severity
    assert f"replaces {count} functions" in finding.text
