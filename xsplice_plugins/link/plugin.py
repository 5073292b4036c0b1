# SPDX-License-Identifier: Apache-2.0
"""The built-in linker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.plugins.spec import hookimpl

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Delta, Payload
    from xsplice_plugins.plugins.spec import Config


class LivepatchLinker:
    """Make payloads in Xen's livepatch format."""

    xsplice_name = "livepatch"

    @hookimpl
    def xsplice_link_payload(
        self,
        name: str,
        deltas: tuple[Delta, ...],
        objects: tuple[bytes, ...],
        image: bytes,
        config: Config,
    ) -> Payload | None:
        """Make one payload from all deltas of a fix (see `payload.link_payload`)."""
        from xsplice_plugins.link.payload import link_payload  # noqa: PLC0415

        return link_payload(name, deltas, objects, image, config)
