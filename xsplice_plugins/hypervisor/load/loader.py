# SPDX-License-Identifier: Apache-2.0
"""From bytes to a loaded payload: ``load_payload_data``, step by step, in each release's order.

Source: xen/common/livepatch.c. Read this module to see the whole upload; every step is one call.
"""

from xsplice_plugins.hypervisor.facts.notes import parse_build_id
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, ENODATA, Hazard, Stopped, XenRefusal
from xsplice_plugins.hypervisor.image.image import BootedImage
from xsplice_plugins.hypervisor.load.container import SHT_NOBITS, PayloadElf, read_container
from xsplice_plugins.hypervisor.load.layout import place_sections, protect
from xsplice_plugins.hypervisor.load.prepare import FUNCS, STEP_XEN_DEPENDS, prepare_payload
from xsplice_plugins.hypervisor.load.relocate import relocate
from xsplice_plugins.hypervisor.load.symbols import add_symbols, resolve_symbols
from xsplice_plugins.hypervisor.state.payload import HOOK_KINDS, LoadedPayload
from xsplice_plugins.hypervisor.state.xen import Xen

STEP_MANDATORY = "mandatory-sections"
XEN_DEPENDS = ".livepatch.xen_depends"
PATCHING_SECTIONS = (
    FUNCS,
    *(f".livepatch.hooks.{kind}" for kind in ("load", "unload", *HOOK_KINDS)),
)


def load_payload(name: str, data: bytes, xen: Xen) -> LoadedPayload:
    """Load a payload; whatever stops it, nothing of it is left.

    Args:
        name: what the payload will be called.
        data: the file.
        xen: the running hypervisor; its payloads are the others, in upload order.

    Returns:
        The payload, not yet among ``xen.payloads``.

    Raises:
        XenRefusal: a gate rejects; real Xen returns this errno from this step.
        Hazard: real Xen's behaviour is undefined.
    """
    payload = LoadedPayload(name=name)
    try:
        _load(data, payload, xen)
    except Stopped:
        xen.free(payload)
        raise
    return payload


def _load(data: bytes, payload: LoadedPayload, xen: Xen) -> None:
    image, release = xen.image, xen.release

    def passed(step: str, text: str) -> None:
        payload.log.append((step, text))

    elf = read_container(data, arch=image.arch, release=release)
    counts = f"{len(elf.sections)} sections, {len(elf.symbols)} symbols, {len(data)} bytes"
    passed("container", counts)
    if release.checks_build_id_first:
        _compare_raw_xen_depends(elf, image)
        passed(STEP_XEN_DEPENDS, "made for this Xen")
    place_sections(elf, payload, xen)
    passed("layout", f"{payload.pages} pages at {payload.base_virt:#x}")
    resolve_symbols(elf, payload, xen)
    passed("symbols", f"{sum(not s.shndx for s in elf.symbols[1:])} found outside")
    passed("relocations", f"{relocate(elf, xen)} performed")
    _check_mandatory(elf, release)
    if release.has_v2_sections:
        _check_patching_sections(elf)
    passed(STEP_MANDATORY, "present")
    prepare_payload(elf, payload, xen)
    passed("prepare", f"{len(payload.functions)} functions, {_hooks_in_words(payload)}")
    if release.has_v2_sections and not release.checks_build_id_first:
        _compare_with_xen(payload.xen_depends, image)
        passed(STEP_XEN_DEPENDS, "made for this Xen")
    add_symbols(elf, payload, xen)
    passed("symbol-table", f"{sum(s.is_new for s in payload.symbols)} new names")
    protect(payload, xen)
    passed("permissions", "text RX, data RW, read-only data RO")


def _hooks_in_words(payload: LoadedPayload) -> str:
    kinds = [*payload.hooks]
    kinds.extend(["load"] * len(payload.load_hooks) + ["unload"] * len(payload.unload_hooks))
    return "hooks: " + ", ".join(kinds) if kinds else "no hooks"


def _compare_raw_xen_depends(elf: PayloadElf, image: BootedImage) -> None:
    """Compare Xen's build-id before anything is loaded, from the file itself."""
    section = elf.find(XEN_DEPENDS)
    if section is None or not section.size_bytes:
        raise XenRefusal(EINVAL, STEP_XEN_DEPENDS, f"no {XEN_DEPENDS}")
    if section.sh_type == SHT_NOBITS:
        raise Hazard(STEP_XEN_DEPENDS, "a section without bytes is read from the raw file")
    _compare_with_xen(
        parse_build_id(section.data, step=STEP_XEN_DEPENDS, passes_errno=False), image
    )


def _compare_with_xen(wanted: bytes, image: BootedImage) -> None:
    if image.build_id is None:
        raise XenRefusal(
            ENODATA,
            STEP_XEN_DEPENDS,
            "the running Xen has no build-id, or its linker script does not set "
            "__note_gnu_build_id_start and __note_gnu_build_id_end around *(.note.gnu.build-id)",
        )
    if wanted != image.build_id:
        raise XenRefusal(
            EINVAL,
            STEP_XEN_DEPENDS,
            f"made for Xen {wanted.hex()}, this one is {image.build_id.hex()}",
        )


def _check_mandatory(elf: PayloadElf, release: Release) -> None:
    names = [".livepatch.depends"]
    if not release.has_v2_sections:
        names.insert(0, FUNCS)
    elif not release.checks_build_id_first:
        names.append(XEN_DEPENDS)
    for name in (*names, ".note.gnu.build-id"):
        section = elf.find(name)
        if section is None:
            raise XenRefusal(EINVAL, STEP_MANDATORY, f"no {name}")
        if not section.size_bytes:
            raise XenRefusal(EINVAL, STEP_MANDATORY, f"{name} is empty")


def _check_patching_sections(elf: PayloadElf) -> None:
    found = [section for name in PATCHING_SECTIONS if (section := elf.find(name)) is not None]
    for section in found:
        if not section.size_bytes:
            raise XenRefusal(EINVAL, STEP_MANDATORY, f"{section.name} is empty")
    if not found:
        raise XenRefusal(EINVAL, STEP_MANDATORY, "nothing to patch: neither functions nor hooks")
