# SPDX-License-Identifier: Apache-2.0
"""The built-in verifiers: ``model``, ``qemu`` and ``rebuild``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.plugins.spec import hookimpl

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Finding, PayloadRecord, VerifyRequest
    from xsplice_plugins.plugins.spec import Config


class ModelVerifier:
    """Let the reference hypervisor core judge; always asked."""

    xsplice_name = "model"

    @hookimpl
    def xsplice_verify_payload(
        self, data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
    ) -> tuple[Finding, ...]:
        """Load, apply, observe, revert and unload the payload in the model."""
        from xsplice_plugins.verify.model import verify_in_model  # noqa: PLC0415

        return verify_in_model(data, record, request, config)


class QemuVerifier:
    """Let the very hypervisor that the payload is for judge."""

    xsplice_name = "qemu"
    xsplice_options = ("qemu-xen",)

    @hookimpl
    def xsplice_verify_payload(
        self, data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
    ) -> tuple[Finding, ...]:
        """Boot the hypervisor under QEMU and play the payload's life on it."""
        from xsplice_plugins.verify.qemu import verify_on_qemu  # noqa: PLC0415

        return verify_on_qemu(data, record, request, config)


class RebuildVerifier:
    """Let a full rebuild judge: the whole patched tree, made and linked in a private copy."""

    xsplice_name = "rebuild"

    @hookimpl
    def xsplice_verify_payload(
        self, data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
    ) -> tuple[Finding, ...]:
        """Make the patched tree and hold payload and running image against it."""
        from xsplice_plugins.rebuild import verify_by_rebuild  # noqa: PLC0415

        return verify_by_rebuild(data, record, request, config)
