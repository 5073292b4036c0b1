# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a hardware token: a folder of keys behind the command line of a real one.

``acme-hsm init`` makes a key, ``acme-hsm certificate`` shows its certificate, ``acme-hsm sign``
reads a message and writes its signature. The PIN comes from ``ACME_HSM_PIN``.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

MESSAGE_BYTES_MAX = 1024  #: a token signs digests, not files


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the token; the exit status tells whether it was done."""
    parser = argparse.ArgumentParser(prog="acme-hsm")
    parser.add_argument("verb", choices=("init", "certificate", "sign"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--key-id", type=int, default=1)
    options = parser.parse_args(arguments)
    pin = os.environ.get("ACME_HSM_PIN", "").encode()
    if not pin:
        return _refuse("ACME_HSM_PIN is not set")
    key_path = options.store / f"{options.key_id}.key"
    certificate_path = options.store / f"{options.key_id}.crt"
    if options.verb == "init":
        options.store.mkdir(parents=True, exist_ok=True)
        _make(key_path, certificate_path, options.key_id, pin)
        return 0
    if not key_path.exists():
        return _refuse(f"there is no key {options.key_id}")
    if options.verb == "certificate":
        sys.stdout.buffer.write(certificate_path.read_bytes())
        return 0
    message = sys.stdin.buffer.read(MESSAGE_BYTES_MAX + 1)
    if len(message) > MESSAGE_BYTES_MAX:
        return _refuse("the message is too long")
    try:
        key = load_pem_private_key(key_path.read_bytes(), pin)
    except ValueError:
        return _refuse("wrong PIN")
    assert isinstance(key, Ed25519PrivateKey)
    sys.stdout.buffer.write(key.sign(message))
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.write(f"acme-hsm: {reason}\n")
    return 1


def _make(key_path: Path, certificate_path: Path, key_id: int, pin: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"ACME token key {key_id}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(key_id)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, None)
    )
    protection = BestAvailableEncryption(pin)
    key_path.touch(mode=0o600)
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))


if __name__ == "__main__":
    sys.exit(main())
