# SPDX-License-Identifier: Apache-2.0
"""The plugins that come with xsplice: ordinary plugins, listed in one tuple.

Each is a thin object whose implementation imports its stage when it is called: a run that only
signs does not pay for the differ, and building a manager imports no stage at all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xsplice_plugins.plugins.spec import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from xsplice_plugins.artefacts import (
        Delta,
        Finding,
        ObjectPair,
        Payload,
        PayloadRecord,
        SignatureCheck,
        SignedPayload,
        VerifyRequest,
    )
    from xsplice_plugins.plugins.spec import Config


def _stage(module: str, name: str) -> Any:
    """Return an instance of a stage's plugin class, imported now."""
    return getattr(import_module(f"xsplice_plugins.{module}"), name)()


class SemanticDiffer:
    """Compare the meaning of two objects; see ``xsplice_plugins.diff``."""

    xsplice_name = "semantic"
    stage = "diff"

    @hookimpl
    def xsplice_diff_objects(
        self, pair: ObjectPair, baseline: bytes, new: bytes, config: Config
    ) -> Delta | None:
        """Say what changed in meaning between two versions of one object."""
        answer: Delta | None = _stage("diff.plugin", "SemanticDiffer").xsplice_diff_objects(
            pair=pair, baseline=baseline, new=new, config=config
        )
        return answer


class LivepatchLinker:
    """Make payloads in the ABI of Xen's livepatch; see ``xsplice_plugins.link``."""

    xsplice_name = "livepatch"
    stage = "link"

    @hookimpl
    def xsplice_link_payload(
        self,
        name: str,
        deltas: tuple[Delta, ...],
        objects: tuple[bytes, ...],
        image: bytes,
        config: Config,
    ) -> Payload | None:
        """Make one payload from all deltas of a fix."""
        answer: Payload | None = _stage("link.plugin", "LivepatchLinker").xsplice_link_payload(
            name=name, deltas=deltas, objects=objects, image=image, config=config
        )
        return answer


class CmsSigner:
    """Append a CMS signature as Linux does for modules; see ``xsplice_plugins.sign``."""

    xsplice_name = "cms"
    stage = "sign"

    @hookimpl
    def xsplice_sign_payload(
        self, data: bytes, record: PayloadRecord, config: Config
    ) -> SignedPayload | None:
        """Sign with the key and certificate of the configuration."""
        answer: SignedPayload = _stage("sign.plugin", "CmsSigner").xsplice_sign_payload(
            data=data, record=record, config=config
        )
        return answer

    @hookimpl
    def xsplice_check_signature(
        self, data: bytes, certificate: Path | None, config: Config
    ) -> SignatureCheck | None:
        """Check the appended signature against one certificate."""
        answer: SignatureCheck = _stage("sign.plugin", "CmsSigner").xsplice_check_signature(
            data=data, certificate=certificate, config=config
        )
        return answer


class NoneSigner:
    """Leave the payload unsigned; only ever used when asked for by name."""

    xsplice_name = "none"
    stage = "sign"

    @hookimpl
    def xsplice_sign_payload(
        self, data: bytes, record: PayloadRecord, config: Config
    ) -> SignedPayload | None:
        """Hand the payload on as it is, and say so in the record."""
        answer: SignedPayload = _stage("sign.plugin", "NoneSigner").xsplice_sign_payload(
            data=data, record=record, config=config
        )
        return answer

    @hookimpl
    def xsplice_check_signature(
        self, data: bytes, certificate: Path | None, config: Config
    ) -> SignatureCheck | None:
        """Tell whether nothing follows the payload."""
        answer: SignatureCheck = _stage("sign.plugin", "NoneSigner").xsplice_check_signature(
            data=data, certificate=certificate, config=config
        )
        return answer


class ModelVerifier:
    """Prove a payload in the reference hypervisor core; see ``xsplice_plugins.verify``."""

    xsplice_name = "model"
    stage = "verify"

    @hookimpl
    def xsplice_verify_payload(
        self, data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
    ) -> tuple[Finding, ...]:
        """Load, apply and revert the payload in the model."""
        answer: tuple[Finding, ...] = _stage(
            "verify.model", "ModelVerifier"
        ).xsplice_verify_payload(data=data, record=record, request=request, config=config)
        return answer


class QemuVerifier:
    """Let a real Xen judge, where that is asked for; see ``xsplice_plugins.realxen``."""

    xsplice_name = "qemu"
    stage = "verify"

    @hookimpl
    def xsplice_verify_payload(
        self, data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
    ) -> tuple[Finding, ...]:
        """Boot the hypervisor under QEMU and play the payload's life on it."""
        if "qemu" not in request.places:
            return ()
        answer: tuple[Finding, ...] = _stage("verify.qemu", "QemuVerifier").xsplice_verify_payload(
            data=data, record=record, request=request, config=config
        )
        return answer


#: In order of registration. Pluggy asks the last registered first, so vendors' plugins, which
#: come later, are asked before these.
BUILT_IN = (SemanticDiffer, LivepatchLinker, CmsSigner, NoneSigner, ModelVerifier, QemuVerifier)

#: A run without the built-in verifier would call payloads good that nobody looked at.
CANNOT_BE_DISABLED = frozenset({ModelVerifier.xsplice_name})
