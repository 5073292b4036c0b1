# SPDX-License-Identifier: Apache-2.0
"""Load the key and certificate of a signer, or make a development pair.

Messages name files and subjects, never key material.
"""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import (
    DEVELOPMENT_CERTIFICATE,
    DEVELOPMENT_KEY,
    read_file,
    write_file,
)
from xsplice_plugins.errors import MachineError, SignError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509 import Certificate

    from xsplice_plugins.plugins.spec import Config

PASSPHRASE_VARIABLE = "XSPLICE_KEY_PASSPHRASE"  # noqa: S105  # the name of a variable
RSA_BITS_MIN = 2048  #: NIST SP 800-131A: less is disallowed for signatures
DEVELOPMENT_BITS = 2048  #: made while the user waits; larger ones take seconds
DEVELOPMENT_DAYS = 3650
DEVELOPMENT_NOTE = (
    "signed with a development key that was made for this build folder; "
    "nobody else trusts it: give KEY= and CERT= to sign for others"
)
_PEM = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.+?-----END \1-----", re.DOTALL
)  # one file may hold key and certificate, as Linux' signing_key.pem does


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who signs: a private key and the certificate that belongs to it."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: Certificate
    is_development: bool = False


def identity_of(config: Config, environ: Mapping[str, str]) -> Identity:
    """Return the configured key pair, or the build folder's development pair.

    Args:
        config: ``key``, ``certificate`` and ``build_dir`` are read.
        environ: Holds the pass phrase of an encrypted key.

    Raises:
        SignError: A file is missing or unusable, the two do not belong together, or there is
            neither a key nor a folder to make one in.
    """
    if config.key is None:
        if config.certificate is not None:
            raise SignError(
                f"{config.certificate}: a certificate without its key cannot sign; give KEY= too"
            )
        if config.build_dir is None:
            raise SignError(
                "no key: nothing says what to sign with; give KEY= and CERT=, or a build folder"
            )
        return development_identity(config.build_dir)
    if config.certificate is None and not _pem_blocks(config.key, b"CERTIFICATE"):
        raise SignError(f"{config.key}: a key without its certificate; give CERT= too")
    certificate_path = config.certificate or config.key
    identity = Identity(
        key=load_key(config.key, environ), certificate=load_certificate(certificate_path)
    )
    if identity.key.public_key() != identity.certificate.public_key():
        raise SignError(
            f"{config.key}: does not belong to the certificate {certificate_path}; "
            "give the pair that was made together"
        )
    return identity


def load_certificate(path: Path) -> Certificate:
    """Return the first certificate of a PEM file.

    Raises:
        SignError: The file cannot be read, or holds no certificate.
    """
    from cryptography import x509  # noqa: PLC0415  # 0.1 s, only signing needs it

    blocks = _pem_blocks(path, b"CERTIFICATE")
    if not blocks:
        raise SignError(f"{path}: holds no PEM certificate; give the signer's certificate as CERT=")
    try:
        return x509.load_pem_x509_certificate(blocks[0])
    except ValueError as error:
        raise SignError(
            f"{path}: the certificate cannot be read ({error}); make it anew"
        ) from error


def load_key(
    path: Path, environ: Mapping[str, str], *, is_own: bool = False
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return the private key of a PEM file.

    Args:
        path: The file; the key may be encrypted.
        environ: Holds the pass phrase in ``XSPLICE_KEY_PASSPHRASE``.
        is_own: This library made it; its numbers are not tested for being prime once more.

    Raises:
        SignError: No key, a key of another kind, too short, or the pass phrase is wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    blocks = _pem_blocks(path, b"PRIVATE KEY")
    if not blocks:
        raise SignError(f"{path}: holds no PEM private key; give the signer's key as KEY=")
    is_encrypted = b"ENCRYPTED" in blocks[0]
    phrase = environ.get(PASSPHRASE_VARIABLE)
    if is_encrypted and not phrase:
        raise SignError(
            f"{path}: the key is encrypted; put its pass phrase in {PASSPHRASE_VARIABLE}"
        )
    try:
        key = load_pem_private_key(
            blocks[0],
            phrase.encode() if is_encrypted and phrase else None,
            unsafe_skip_rsa_key_validation=is_own,
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = (
            f"cannot be decrypted; is the pass phrase in {PASSPHRASE_VARIABLE} right?"
            if is_encrypted
            else "cannot be read; is the file damaged?"
        )
        # The library's own text is dropped: it may speak of the key.
        raise SignError(f"{path}: the private key {what}") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < RSA_BITS_MIN:
            raise SignError(
                f"{path}: an RSA key of {key.key_size} bits is too short; "
                f"use {RSA_BITS_MIN} or more"
            )
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key
    raise SignError(f"{path}: a key of this kind is not supported; use RSA or elliptic curves")


def require_usable(identity: Identity, at_time: datetime) -> None:
    """Refuse a certificate that must not sign now.

    Raises:
        SignError: Expired, not valid yet, or not made for signatures.
    """
    from cryptography import x509  # noqa: PLC0415  # 0.1 s, only signing needs it

    certificate = identity.certificate
    subject = certificate.subject.rfc4514_string()
    if at_time > certificate.not_valid_after_utc:
        raise SignError(
            f"{subject}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}; "
            "give a valid one as CERT="
        )
    if at_time < certificate.not_valid_before_utc:
        raise SignError(
            f"{subject}: the certificate is not valid before "
            f"{certificate.not_valid_before_utc:%Y-%m-%d}; check the machine's clock"
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise SignError(
            f"{subject}: the certificate is not made for signatures (keyUsage lacks "
            "digitalSignature); use another one"
        )


def development_certificate(build_dir: Path) -> Path:
    """Return where the certificate of a build folder's development key lies."""
    return build_dir / DEVELOPMENT_CERTIFICATE


def development_identity(build_dir: Path) -> Identity:
    """Return the development pair of a build folder; make it if it is not there.

    Key and certificate lie in one file that appears at once, so that two runs at the same time
    agree on one pair; the certificate is copied to a file of its own for those who check.

    Raises:
        MachineError: The folder cannot be written.
        SignError: What lies there is not usable.
    """
    path = build_dir / DEVELOPMENT_KEY
    if not path.exists():
        _publish(path, _make_pair())
    identity = Identity(
        key=load_key(path, {}, is_own=True),
        certificate=load_certificate(path),
        is_development=True,
    )
    public = development_certificate(build_dir)
    text = _pem_blocks(path, b"CERTIFICATE")[0] + b"\n"
    if not public.exists() or public.read_bytes() != text:
        write_file(public, text)
    return identity


def _make_pair() -> bytes:
    """Return a new RSA key and its self-signed certificate as PEM."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    key = rsa.generate_private_key(public_exponent=65537, key_size=DEVELOPMENT_BITS)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "xsplice development key")])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usages = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
    usage = x509.KeyUsage(**{**usages, "digital_signature": True})
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of a build farm differ
        .not_valid_after(now + timedelta(days=DEVELOPMENT_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def _publish(path: Path, text: bytes) -> None:
    """Write a file, readable by its owner only, that appears at once; the first of two runs counts.

    Raises:
        MachineError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
            file.write(text)  # mode 0600
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path)
    except OSError as error:
        raise MachineError(
            f"{path}: the development key cannot be written ({error.strerror}); "
            "give KEY= and CERT=, or make the folder writable"
        ) from error


def _pem_blocks(path: Path, kind: bytes) -> tuple[bytes, ...]:
    """Return the blocks of a PEM file whose label ends in ``kind``."""
    text = read_file(path, error=SignError, advice="check KEY= and CERT=")
    return tuple(match.group(0) for match in _PEM.finditer(text) if match.group(1).endswith(kind))
