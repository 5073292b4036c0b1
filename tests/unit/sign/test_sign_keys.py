# SPDX-License-Identifier: Apache-2.0
"""Which keys and certificates may sign, and what is said of the others."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.errors import MachineError, SignError
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.sign.check import check_signature
from xsplice_plugins.sign.keys import (
    PASSPHRASE_VARIABLE,
    Identity,
    development_certificate,
    development_identity,
    identity_of,
    require_usable,
)
from xsplice_plugins.sign.plugin import CmsSigner
from xsplice_plugins.testing import sample_payload

from .conftest import NOW, Pair, PairFactory

if TYPE_CHECKING:
    from pathlib import Path

PHRASE = "correct horse"


def load(pair: Pair, environ: dict[str, str] | None = None) -> Identity:
    return identity_of(Config(key=pair.key, certificate=pair.certificate), environ or {})


def test_a_key_that_does_not_fit_the_certificate_is_refused(pair_of: PairFactory) -> None:
    one, other = pair_of(number=0), pair_of(number=1)
    with pytest.raises(SignError, match=r"vendor-rsa2048-0\.key\.pem: does not belong to.*-1\.crt"):
        load(Pair(key=one.key, certificate=other.certificate))


def test_a_key_and_certificate_of_different_kinds_are_refused(pair_of: PairFactory) -> None:
    with pytest.raises(SignError, match="does not belong to"):
        load(Pair(key=pair_of("rsa2048").key, certificate=pair_of("p256").certificate))


def test_one_file_may_hold_key_and_certificate(pair_of: PairFactory) -> None:
    """Linux' ``certs/signing_key.pem`` does."""
    pair = pair_of()
    both = pair.key.with_name("both.pem")
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    assert not identity_of(Config(key=both), {}).is_development


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"key": True}, "a key without its certificate"),
        ({"certificate": True}, "a certificate without its key"),
        ({}, "no key: nothing says what to sign with"),
    ],
    ids=["key only", "certificate only", "nothing"],
)
def test_half_a_pair_is_refused(config: dict[str, bool], said: str, pair_of: PairFactory) -> None:
    pair = pair_of()
    chosen = {name: getattr(pair, name) for name in config}
    with pytest.raises(SignError, match=said):
        identity_of(Config(**chosen), {})


def test_a_missing_file_is_named(pair_of: PairFactory, tmp_path: Path) -> None:
    pair = pair_of()
    with pytest.raises(SignError, match=r"absent\.pem: cannot be read \(No such file"):
        load(Pair(key=tmp_path / "absent.pem", certificate=pair.certificate))


def test_swapped_files_are_told(pair_of: PairFactory) -> None:
    pair = pair_of()
    with pytest.raises(SignError, match=r"crt\.pem: holds no PEM private key"):
        load(Pair(key=pair.certificate, certificate=pair.key))
    with pytest.raises(SignError, match=r"key\.pem: holds no PEM certificate"):
        load(Pair(key=pair.key, certificate=pair.key))


def test_a_damaged_key_is_refused_without_showing_it(pair_of: PairFactory) -> None:
    pair = pair_of()
    lines = pair.key.read_text().splitlines()
    pair.key.write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]))
    with pytest.raises(SignError, match="cannot be read; is the file damaged") as caught:
        load(pair)
    assert lines[1][:20] not in str(caught.value)


def test_a_damaged_certificate_is_refused(pair_of: PairFactory) -> None:
    pair = pair_of()
    lines = pair.certificate.read_text().splitlines()
    pair.certificate.write_text("\n".join([lines[0], lines[1][::-1], *lines[2:]]))
    with pytest.raises(SignError, match="the certificate cannot be read"):
        load(pair)


def test_an_encrypted_key_needs_its_pass_phrase(pair_of: PairFactory) -> None:
    pair = pair_of("p256", phrase=PHRASE)
    with pytest.raises(SignError, match=f"is encrypted; .* in {PASSPHRASE_VARIABLE}"):
        load(pair)
    with pytest.raises(SignError, match="cannot be decrypted") as caught:
        load(pair, {PASSPHRASE_VARIABLE: "wrong horse"})
    assert "wrong horse" not in str(caught.value)
    load(pair, {PASSPHRASE_VARIABLE: PHRASE})


def test_a_pass_phrase_for_a_plain_key_does_no_harm(pair_of: PairFactory) -> None:
    pair = pair_of()
    assert load(pair, {PASSPHRASE_VARIABLE: PHRASE}).certificate == load(pair).certificate


@pytest.mark.parametrize(
    ("kind", "said"), [("rsa1024", "1024 bits is too short"), ("ed25519", "is not supported")]
)
def test_other_keys_are_refused(kind: str, said: str, pair_of: PairFactory) -> None:
    with pytest.raises(SignError, match=said):
        load(pair_of(kind))


@pytest.mark.parametrize(
    ("seconds_before", "seconds_after", "said"),
    [
        (0, 0, ""),
        (60, -1, "the certificate expired on 2026-0[56]"),
        (-1, 60, "is not valid before 2026-06-01"),
    ],
    ids=["exactly now", "expired a second ago", "valid in a second"],
)
def test_a_certificate_signs_only_while_it_is_valid(
    seconds_before: int, seconds_after: int, said: str, pair_of: PairFactory
) -> None:
    pair = pair_of(
        start=NOW - timedelta(seconds=seconds_before), end=NOW + timedelta(seconds=seconds_after)
    )
    identity = identity_of(Config(key=pair.key, certificate=pair.certificate), {})
    if said:
        with pytest.raises(SignError, match=said):
            require_usable(identity, NOW)
    else:
        require_usable(identity, NOW)


@pytest.mark.parametrize(
    ("usage", "is_accepted"), [("digital_signature", True), ("", True), ("key_cert_sign", False)]
)
def test_a_certificate_for_other_uses_is_refused(
    usage: str, is_accepted: bool, pair_of: PairFactory
) -> None:
    pair = pair_of(usage=usage, start=NOW - timedelta(1), end=NOW + timedelta(1))
    identity = identity_of(Config(key=pair.key, certificate=pair.certificate), {})
    if is_accepted:
        require_usable(identity, NOW)
    else:
        with pytest.raises(SignError, match="is not made for signatures"):
            require_usable(identity, NOW)


def test_a_development_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = development_identity(tmp_path)
    second = development_identity(tmp_path)
    key = tmp_path / "keys" / "development.key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert first.certificate == second.certificate
    assert sorted(p.name for p in key.parent.iterdir()) == [
        "development.crt.pem",
        "development.key.pem",
    ]
    assert b"PRIVATE" not in development_certificate(tmp_path).read_bytes()


def test_a_development_key_is_declared_in_plain_words(tmp_path: Path) -> None:
    data, record = sample_payload()
    signed = CmsSigner().xsplice_sign_payload(data, record, Config(build_dir=tmp_path))
    assert signed.record.is_development_key
    assert "nobody else trusts it" in signed.record.note
    assert check_signature(signed.data, development_certificate(tmp_path)).state == "good"


def test_runs_at_the_same_time_agree_on_one_development_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(development_identity, [tmp_path] * 4))
    assert len({identity.certificate.serial_number for identity in found}) == 1


def test_a_lost_development_certificate_is_written_again(tmp_path: Path) -> None:
    """An interrupt between the two files."""
    before = development_identity(tmp_path).certificate
    development_certificate(tmp_path).unlink()
    assert development_identity(tmp_path).certificate == before
    assert development_certificate(tmp_path).exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file where the folder should be")
    with pytest.raises(MachineError, match="the development key cannot be written"):
        development_identity(tmp_path)
