# SPDX-License-Identifier: Apache-2.0
"""The built-in signers: ``cms`` and ``none``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from xsplice_plugins.plugins.spec import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import PayloadRecord, SignatureCheck, SignedPayload
    from xsplice_plugins.plugins.spec import Config


class CmsSigner:
    """Append a CMS signature in the layout of Linux' module signatures."""

    xsplice_name = "cms"

    @hookimpl
    def xsplice_sign_payload(
        self, data: bytes, record: PayloadRecord, config: Config
    ) -> SignedPayload:
        """Sign with KEY= and CERT=, or with the build folder's development key.

        Raises:
            SignError: The payload is not the record's, is signed already, or the key is unusable.
        """
        from xsplice_plugins.sign.appended import require_payload  # noqa: PLC0415
        from xsplice_plugins.sign.cms import sign_payload  # noqa: PLC0415
        from xsplice_plugins.sign.keys import identity_of  # noqa: PLC0415

        require_payload(data, record)
        identity = identity_of(config, os.environ)
        return sign_payload(data, identity, name=record.name, at_time=datetime.now(UTC))

    @hookimpl
    def xsplice_check_signature(
        self, data: bytes, certificate: Path | None, config: Config
    ) -> SignatureCheck:
        """Check against a certificate; without one, against what this run would sign with."""
        from xsplice_plugins.sign.check import check_signature  # noqa: PLC0415
        from xsplice_plugins.sign.keys import development_certificate  # noqa: PLC0415

        if certificate is None:
            certificate = config.certificate or config.key
        if certificate is None and config.build_dir is not None:
            development = development_certificate(config.build_dir)
            certificate = development if development.exists() else None
        return check_signature(data, certificate)


class NoneSigner:
    """Leave the payload unsigned; only ever used when asked for by name."""

    xsplice_name = "none"

    @hookimpl
    def xsplice_sign_payload(self, data: bytes, record: PayloadRecord) -> SignedPayload:
        """Hand the payload on, recorded as unsigned.

        Raises:
            SignError: The payload is not the record's, or is signed already.
        """
        from xsplice_plugins.artefacts import SignatureRecord, SignedPayload  # noqa: PLC0415
        from xsplice_plugins.sign.appended import require_payload  # noqa: PLC0415

        require_payload(data, record)
        return SignedPayload(
            data=data,
            record=SignatureRecord(
                signer="none",
                scheme="none",
                is_deterministic=True,
                digest_payload=record.digest,
                digest_signed=record.digest,
                note="not signed, as asked for with SIGNER=none",
            ),
        )

    @hookimpl
    def xsplice_check_signature(self, data: bytes) -> SignatureCheck:
        """Tell whether the file is one bare payload."""
        from xsplice_plugins.artefacts import SignatureCheck, SignatureState  # noqa: PLC0415
        from xsplice_plugins.sign.check import check_signature  # noqa: PLC0415

        check = check_signature(data, None)
        if check.state is SignatureState.UNSIGNED:
            return check
        return SignatureCheck(
            state=SignatureState.BAD,
            reason=f"not a bare payload: {check.reason}",
            payload_size_bytes=check.payload_size_bytes,
        )
