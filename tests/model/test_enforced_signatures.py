# SPDX-License-Identifier: Apache-2.0
"""The core with the signature check enforced, judged with real certificates.

The keys, the certificates and the signatures are openssl's; only the check is ours.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.kit.payloads import minimal
from tests.kit.tiny_xen import tiny_xen
from xsplice_plugins.artefacts import SignatureState
from xsplice_plugins.hypervisor import (
    Hypervisor,
    SignaturePolicy,
    SignatureVerdict,
    release,
)
from xsplice_plugins.hypervisor.facts.verdicts import EPERM
from xsplice_plugins.sign.appended import append_signature
from xsplice_plugins.sign.check import check_signature

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two pairs, ``trusted`` and ``other``."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("trusted", "other"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
                *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


def signed_by(keys: Path, name: str, payload: bytes) -> bytes:
    """Return a payload with openssl's CMS signature behind it."""
    done = subprocess.run(
        [
            *("openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-outform", "DER"),
            *("-md", "sha256", "-signer", f"{name}.pem", "-inkey", f"{name}.key"),
        ],
        cwd=keys,
        input=payload,
        check=True,
        capture_output=True,
    )
    return append_signature(payload, done.stdout)


def uploaded(keys: Path, data: bytes, *, days: int = 0) -> tuple[int, str]:
    """Upload a file to an enforcing core as of some days from now."""
    at_time = datetime.now(UTC) + timedelta(days=days)

    def judge(file: bytes) -> SignatureVerdict:
        check = check_signature(file, keys / "trusted.pem", at_time=at_time)
        return SignatureVerdict(
            is_accepted=check.state is SignatureState.GOOD,
            reason=check.reason,
            payload_bytes=check.payload_size_bytes,
        )

    hv = Hypervisor(tiny_xen(), release("4.17.5"), signatures=SignaturePolicy(checker=judge))
    answer = hv.upload(b"fix\0", data)
    assert (len(hv.payloads) == 1) == (answer.code == 0)
    return answer.code, answer.step


def test_signed_payload_is_loaded(keys: Path) -> None:
    data = signed_by(keys, "trusted", minimal().build())
    assert uploaded(keys, data)[0] == 0


def bad_files(keys: Path) -> dict[str, tuple[bytes, int]]:
    payload = minimal().build()
    good = signed_by(keys, "trusted", payload)
    tampered = bytearray(good)
    tampered[len(payload) // 2] ^= 1
    return {
        "unsigned": (payload, 0),
        "tampered": (bytes(tampered), 0),
        "truncated": (good[:-1], 0),
        "cut inside the signature": (good[: len(payload) + 20], 0),
        "wrong key": (signed_by(keys, "other", payload), 0),
        "expired": (good, 60),
        "not yet valid": (good, -60),
        "stripped": (good[: len(payload)], 0),
        "signature of another payload": (payload + signed_by(keys, "trusted", b"x")[1:], 0),
    }


@pytest.mark.parametrize(
    "name",
    [
        "unsigned",
        "tampered",
        "truncated",
        "cut inside the signature",
        "wrong key",
        "expired",
        "not yet valid",
        "stripped",
        "signature of another payload",
    ],
)
def test_file_without_a_good_signature_is_refused_at_the_first_step(name: str, keys: Path) -> None:
    data, days = bad_files(keys)[name]
    assert uploaded(keys, data, days=days) == (-EPERM, "signature")
