# SPDX-License-Identifier: Apache-2.0
"""What is written: the layout, the CMS structure as openssl sees it, determinism."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.errors import SignError
from xsplice_plugins.plugins.manager import call, chosen
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.sign.cms import sign_payload
from xsplice_plugins.sign.keys import identity_of
from xsplice_plugins.sign.plugin import NoneSigner
from xsplice_plugins.testing import ManagerFactory, sample_payload

from .conftest import NOW, Pair, PairFactory

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import SignedPayload

KINDS = ["rsa2048", "rsa3072", "p256", "p384", "p521"]


def signed_with(pair: Pair, data: bytes) -> SignedPayload:
    identity = identity_of(Config(key=pair.key, certificate=pair.certificate), {})
    return sign_payload(data, identity, name="sample", at_time=NOW)


def valid(pair_of: PairFactory, kind: str = "rsa2048", **more: object) -> Pair:
    return pair_of(kind, start=NOW - timedelta(days=1), end=NOW + timedelta(days=3650), **more)


def openssl_says(signed: bytes, payload: bytes, certificate: Path, folder: Path) -> bool:
    """Ask openssl, taking the file apart as Linux' ``extract-module-sig.pl`` does."""
    assert signed.endswith(b"~Module signature appended~\n")
    size = int.from_bytes(signed[-32:-28], "big")
    (folder / "signature.der").write_bytes(signed[-40 - size : -40])
    (folder / "payload").write_bytes(payload)
    done = subprocess.run(
        ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature.der"]
        + ["-content", "payload", "-certfile", str(certificate), "-CAfile", str(certificate)]
        + ["-attime", str(int(NOW.timestamp())), "-out", "out"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.mark.toolchain
@pytest.mark.parametrize("kind", KINDS)
def test_openssl_accepts_the_signature(kind: str, pair_of: PairFactory, tmp_path: Path) -> None:
    data, _ = sample_payload()
    pair = valid(pair_of, kind)
    signed = signed_with(pair, data).data
    assert openssl_says(signed, data, pair.certificate, tmp_path)


@pytest.mark.toolchain
@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_openssl_refuses_another_payload(kind: str, pair_of: PairFactory, tmp_path: Path) -> None:
    data, _ = sample_payload()
    pair = valid(pair_of, kind)
    signed = signed_with(pair, data).data
    assert not openssl_says(signed, data[:-1] + b"\1", pair.certificate, tmp_path)


@pytest.mark.toolchain
def test_openssl_refuses_another_certificate(pair_of: PairFactory, tmp_path: Path) -> None:
    data, _ = sample_payload()
    signed = signed_with(valid(pair_of), data).data
    assert not openssl_says(signed, data, valid(pair_of, number=1).certificate, tmp_path)


def test_the_trailer_is_laid_out_as_linux_does(pair_of: PairFactory) -> None:
    """Source: ``struct module_signature``: id_type is PKEY_ID_PKCS7, all else zero but the size."""
    data, _ = sample_payload()
    signed = signed_with(valid(pair_of), data).data
    assert signed[: len(data)] == data
    assert signed[-28:] == b"~Module signature appended~\n"
    size = len(signed) - len(data) - 40
    assert signed[-40:-28] == bytes([0, 0, 2, 0, 0, 0, 0, 0]) + size.to_bytes(4, "big")


@pytest.mark.parametrize(("kind", "is_deterministic"), [("rsa2048", True), ("p256", False)])
def test_the_record_says_whether_two_signatures_are_equal(
    kind: str, is_deterministic: bool, pair_of: PairFactory
) -> None:
    data, _ = sample_payload()
    pair = valid(pair_of, kind)
    first, second = signed_with(pair, data), signed_with(pair, data)
    assert first.record.is_deterministic is is_deterministic
    assert (first.data == second.data) is is_deterministic


def test_the_record_names_the_certificate(pair_of: PairFactory) -> None:
    data, record = sample_payload()
    pair = valid(pair_of)
    signed = signed_with(pair, data)
    assert signed.record.subject == "CN=vendor"
    assert signed.record.digest_payload == record.digest
    assert signed.record.digest_signed == hashlib.sha256(signed.data).hexdigest()
    assert not signed.record.is_development_key
    assert signed.record.note == ""
    assert len(signed.record.certificate_sha256) == 64


@pytest.mark.parametrize("signer", ["cms", "none"])
def test_a_signed_file_is_not_signed_again(
    signer: str, pair_of: PairFactory, xsplice_manager: ManagerFactory
) -> None:
    _, record = sample_payload()
    pair = valid(pair_of)
    once = signed_with(pair, sample_payload()[0]).data
    config = Config(key=pair.key, certificate=pair.certificate)
    with pytest.raises(SignError, match="is signed already"):
        call(
            chosen(xsplice_manager(), "xsplice_sign_payload", signer),
            data=once,
            record=record,
            config=config,
        )
    with pytest.raises(SignError, match="is signed already"):
        signed_with(pair, once)


def test_the_payload_of_another_record_is_told_by_its_digest() -> None:
    _, record = sample_payload()
    other, _ = sample_payload(name="other")
    with pytest.raises(SignError, match="sample: the payload has the digest"):
        NoneSigner().xsplice_sign_payload(other, record)


def test_none_says_in_the_record_that_it_was_asked_for() -> None:
    data, record = sample_payload()
    signed = NoneSigner().xsplice_sign_payload(data, record)
    assert signed.data == data
    assert (signed.record.scheme, signed.record.note) == (
        "none",
        "not signed, as asked for with SIGNER=none",
    )
