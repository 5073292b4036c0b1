# SPDX-License-Identifier: Apache-2.0
"""The machine under QEMU that belongs to an image, and a model that has its memory."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.cache import cache_folder
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.hypervisor import HostPage, seeded
from xsplice_plugins.hypervisor.image.memory import Perm
from xsplice_plugins.realxen.machine import Machine
from xsplice_plugins.realxen.memory import PAGE_BYTES, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xsplice_plugins.artefacts import VerifyRequest
    from xsplice_plugins.hypervisor import BootedImage
    from xsplice_plugins.plugins.spec import Config

#: The verifier that has a saved machine; where it is not asked, the model knows files alone.
QEMU = "qemu"
#: Names the image that boots, where it does not lie beside ``xen-syms``.
OPTION_IMAGE = "qemu-xen"
DECIDED = "decided with memory of the saved machine"
TRIED = "memory of the saved machine does not decide it"
UNREAD = "memory of this kind of machine cannot be read"


def machine_of(
    request: VerifyRequest, config: Config, build_id: bytes | None, *, cpus: int = 1
) -> Machine:
    """Give the machine that runs the hypervisor of a request, booted and saved at first use.

    Args:
        request: Names ``xen-syms`` and the release.
        config: Option ``qemu-xen`` names the image that boots.
        build_id: The identity that image must have.
        cpus: How many processors the machine has.

    Raises:
        ConfigError: The image that boots is missing or of another build.
        MachineError: A package is missing; the message has the line that installs it.
        VerifyError: The machine does not boot.
    """
    xen = boot_image(request.image_path, dict(config.options), build_id)
    line = ".".join(request.release.split(".")[:2])
    return _prepared(xen, xen.stat().st_mtime_ns, line, cpus)


@lru_cache(maxsize=4)
def _prepared(xen: Path, _changed_ns: int, line: str, cpus: int) -> Machine:
    return Machine.prepare(xen, release=line, cache=cache_folder(os.environ), cpus=cpus)


def boot_image(syms: Path, options: Mapping[str, str], build_id: bytes | None) -> Path:
    """Return the image that boots and belongs to ``xen-syms``.

    Args:
        syms: Path of ``xen-syms``.
        options: Option ``qemu-xen`` names another place than beside it.
        build_id: The identity that both must have.

    Raises:
        ConfigError: It is missing, or of another build.
    """
    path = Path(options.get(OPTION_IMAGE, syms.with_name("xen")))
    if not path.is_file():
        raise ConfigError(
            f"{path}: not there; ON=qemu needs the image that boots, name it with "
            f"OPTIONS={OPTION_IMAGE}=PATH"
        )
    content = path.read_bytes()
    is_packed = content[:2] == b"\x1f\x8b"
    if build_id is None or (not is_packed and build_id not in content):
        raise ConfigError(
            f"{path}: not of the same build as {syms}; every build of Xen has a build-id of its own"
        )
    return path


def with_saved_memory(image: BootedImage, memory: Memory) -> BootedImage:
    """Give an image the memory of a machine that runs it.

    Args:
        image: As the model boots it.
        memory: Of the saved machine; its pages are fetched when they are asked for.
    """

    def page(virt: int) -> HostPage | None:
        found = memory.find(virt)
        if found is None:
            return None
        perm = Perm.READ
        perm |= Perm.WRITE if found.is_writable else Perm.NONE
        perm |= Perm.EXEC if found.is_executable else Perm.NONE
        content = memory.physical(found.phys, PAGE_BYTES)
        if len(content) != PAGE_BYTES:
            return None
        return HostPage(data=content, perm=perm, unsteady=_unsteady(memory.unsteady(found.phys)))

    return seeded(image, page)


def _unsteady(mask: bytes | None) -> frozenset[int]:
    return frozenset(at for at, byte in enumerate(mask or b"") if byte)
