# SPDX-License-Identifier: Apache-2.0
"""The built-in linker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.errors import LinkError
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
        from xsplice_plugins.link.payload import LinkRequest, link_payload  # noqa: PLC0415

        beneath = None
        if config.depends is not None:
            try:
                beneath = config.depends.read_bytes()
            except OSError as error:
                raise LinkError(
                    f"{config.depends}: cannot be read ({error.strerror}); give an earlier payload"
                ) from error
        return link_payload(
            LinkRequest(
                name=name,
                deltas=deltas,
                objects=objects,
                image=image,
                release=config.release,
                beneath=beneath,
                beneath_name=config.depends.name if config.depends is not None else "",
            )
        )
