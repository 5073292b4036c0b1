# SPDX-License-Identifier: Apache-2.0
"""What the check says of good, bad and strange files; openssl makes the strange good ones."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsplice_plugins.artefacts import SignatureCheck, SignatureState
from xsplice_plugins.errors import SignError
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.sign.appended import append_signature
from xsplice_plugins.sign.check import check_signature
from xsplice_plugins.sign.cms import sign_payload
from xsplice_plugins.sign.keys import identity_of
from xsplice_plugins.testing import sample_payload

from .conftest import NOW, Pair, PairFactory, write_pair

if TYPE_CHECKING:
    from pathlib import Path

PAYLOAD = sample_payload()[0]
TRAILER_BYTES = 40
START, END = NOW - timedelta(days=1), NOW + timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signed file and its pair."""

    data: bytes
    pair: Pair

    def check(self, data: bytes) -> SignatureCheck:
        """Check a file against the pair's certificate while it is valid."""
        return check_signature(data, self.pair.certificate, at_time=NOW)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Return a file signed with RSA."""
    return make_signed(tmp_path_factory.mktemp("rsa"), "rsa2048")


@pytest.fixture(scope="module")
def signed_ec(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Return a file signed with an elliptic curve."""
    return make_signed(tmp_path_factory.mktemp("ec"), "p256")


def make_signed(folder: Path, kind: str) -> Signed:
    pair = write_pair(folder, kind, start=START, end=END)
    identity = identity_of(Config(key=pair.key, certificate=pair.certificate), {})
    data = sign_payload(PAYLOAD, identity, name="sample", at_time=NOW).data
    return Signed(data=data, pair=pair)


@pytest.mark.parametrize("which", ["signed", "signed_ec"])
def test_a_signed_file_is_good(which: str, request: pytest.FixtureRequest) -> None:
    signed: Signed = request.getfixturevalue(which)
    answer = signed.check(signed.data)
    assert answer.state is SignatureState.GOOD
    assert answer.payload_size_bytes == len(PAYLOAD)
    assert answer.subject == "CN=vendor"


@pytest.mark.parametrize(
    ("delta", "state"),
    [
        (timedelta(days=1), SignatureState.GOOD),
        (timedelta(days=1, seconds=1), SignatureState.EXPIRED),
        (timedelta(days=-1), SignatureState.GOOD),
        (timedelta(days=-1, seconds=-1), SignatureState.EXPIRED),
    ],
    ids=["last second", "one late", "first second", "one early"],
)
def test_the_certificate_counts_at_the_time_of_the_check(
    delta: timedelta, state: SignatureState, signed: Signed
) -> None:
    answer = check_signature(signed.data, signed.pair.certificate, at_time=NOW + delta)
    assert answer.state is state


def test_an_expired_certificate_does_not_hide_a_bad_signature(signed: Signed) -> None:
    data = bytearray(signed.data)
    data[PAYLOAD.index(b"\xb8\x01")] ^= 1
    late = NOW + timedelta(days=9)
    assert check_signature(bytes(data), signed.pair.certificate, at_time=late).state == "bad"


def test_a_stripped_file_is_unsigned(signed: Signed) -> None:
    assert signed.check(PAYLOAD).state is SignatureState.UNSIGNED


def test_every_shorter_file_is_bad_or_unsigned(signed: Signed) -> None:
    for size in range(len(signed.data)):
        expected = SignatureState.UNSIGNED if size == len(PAYLOAD) else SignatureState.BAD
        assert signed.check(signed.data[:size]).state is expected, size


def test_bytes_behind_or_before_the_signature_are_bad(signed: Signed) -> None:
    inside = signed.data[: len(PAYLOAD)] + b"\0" + signed.data[len(PAYLOAD) :]
    for data in (signed.data + b"\n", inside, signed.data + signed.data[len(PAYLOAD) :]):
        assert signed.check(data).state is SignatureState.BAD


def test_every_changed_byte_of_the_payload_is_found(signed: Signed) -> None:
    for at in range(len(PAYLOAD)):
        data = bytearray(signed.data)
        data[at] ^= 0x10
        assert signed.check(bytes(data)).state is SignatureState.BAD, at


@pytest.mark.parametrize("which", ["signed", "signed_ec"])
def test_every_changed_byte_of_the_trailer_is_found(
    which: str, request: pytest.FixtureRequest
) -> None:
    signed: Signed = request.getfixturevalue(which)
    passed = []
    for at in range(len(PAYLOAD), len(signed.data)):
        data = bytearray(signed.data)
        data[at] ^= 1
        if signed.check(bytes(data)).state is SignatureState.GOOD:
            passed.append(at - len(PAYLOAD))
    assert passed == []


@settings(max_examples=150, deadline=None)
@given(junk=st.binary(max_size=120), at=st.integers(0, 450), length=st.integers(0, 60))
def test_any_trailer_gets_an_answer(junk: bytes, at: int, length: int, signed: Signed) -> None:
    """Whatever stands where the signature should be: no exception, and never GOOD."""
    signature = signed.data[len(PAYLOAD) : -TRAILER_BYTES]
    changed = signature[:at] + junk + signature[at + length :]
    if changed != signature:
        answer = signed.check(append_signature(PAYLOAD, changed))
        assert answer.state is not SignatureState.GOOD


def test_no_certificate_means_no_trust(signed: Signed) -> None:
    answer = check_signature(signed.data, None, at_time=NOW)
    assert answer.state is SignatureState.UNKNOWN_KEY
    assert answer.payload_size_bytes == len(PAYLOAD)


def test_another_certificate_is_not_trusted(signed: Signed, pair_of: PairFactory) -> None:
    other = pair_of(number=1, start=START, end=END)
    answer = check_signature(signed.data, other.certificate, at_time=NOW)
    assert answer.state is SignatureState.UNKNOWN_KEY


def test_a_certificate_with_the_same_names_but_another_key_is_found(
    signed: Signed, pair_of: PairFactory, tmp_path: Path
) -> None:
    """Issuer and serial number are no secret; only the key counts."""
    forged = write_pair(tmp_path / "forged", "rsa3072", start=START, end=END)
    answer = check_signature(signed.data, forged.certificate, at_time=NOW)
    assert answer.state is SignatureState.BAD


def test_an_unreadable_certificate_is_an_error_not_an_answer(
    signed: Signed, tmp_path: Path
) -> None:
    with pytest.raises(SignError, match="cannot be read"):
        check_signature(signed.data, tmp_path / "absent.pem", at_time=NOW)


@pytest.mark.parametrize("data", [b"", b"text", PAYLOAD[:-1]], ids=["empty", "text", "cut short"])
def test_what_is_no_payload_is_bad(data: bytes, signed: Signed) -> None:
    assert signed.check(data).state is SignatureState.BAD


def openssl_signature(pair: Pair, folder: Path, *options: str) -> bytes:
    (folder / "payload").write_bytes(PAYLOAD)
    subprocess.run(
        ["openssl", "cms", "-sign", "-binary", "-outform", "DER", "-in", "payload"]
        + [
            "-out",
            "signature",
            "-signer",
            str(pair.certificate),
            "-inkey",
            str(pair.key),
            *options,
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return append_signature(PAYLOAD, (folder / "signature").read_bytes())


@pytest.mark.toolchain
@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
@pytest.mark.parametrize(
    "options",
    [[], ["-noattr"], ["-nocerts"], ["-keyid"], ["-md", "sha512"], ["-noattr", "-md", "sha384"]],
    ids=" ".join,
)
def test_signatures_made_by_openssl_are_good(
    kind: str, options: list[str], pair_of: PairFactory, tmp_path: Path
) -> None:
    pair = pair_of(kind, start=START, end=END)
    data = openssl_signature(pair, tmp_path, *options)
    answer = check_signature(data, pair.certificate, at_time=NOW)
    assert answer.state is SignatureState.GOOD, answer.reason
    changed = bytearray(data)
    changed[PAYLOAD.index(b"\xb8\x01")] ^= 1
    answer = check_signature(bytes(changed), pair.certificate, at_time=NOW)
    assert answer.state is SignatureState.BAD


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-nodetach"], "content of its own"),
        (["-md", "sha1", "-noattr"], "hash 1.3.14.3.2.26 is not accepted"),
        (["-keyopt", "rsa_padding_mode:pss", "-noattr"], "not of the accepted form"),
    ],
    ids=["content inside", "sha1", "another padding"],
)
def test_signatures_of_other_kinds_are_bad(
    options: list[str], said: str, pair_of: PairFactory, tmp_path: Path
) -> None:
    pair = pair_of(start=START, end=END)
    data = openssl_signature(pair, tmp_path, *options)
    answer = check_signature(data, pair.certificate, at_time=NOW)
    assert answer.state is SignatureState.BAD
    assert said in answer.reason


@pytest.mark.toolchain
def test_two_signers_are_bad(pair_of: PairFactory, tmp_path: Path) -> None:
    """Which of them counts would be a matter of taste."""
    pair = pair_of(start=START, end=END)
    other = pair_of(number=1, start=START, end=END)
    both = ["-signer", str(other.certificate), "-inkey", str(other.key)]
    data = openssl_signature(pair, tmp_path, *both)
    answer = check_signature(data, pair.certificate, at_time=NOW)
    assert (answer.state, "exactly one signer" in answer.reason) == (SignatureState.BAD, True)
