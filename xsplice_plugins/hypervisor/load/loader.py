# SPDX-License-Identifier: Apache-2.0
"""From bytes to a loaded payload: ``load_payload_data``, step by step, in each release's order.

Source: specification section 6.4. Read this module to see the whole upload; every step is one call.
"""

from collections.abc import Sequence

from xsplice_plugins.hypervisor.facts.notes import parse_build_id
from xsplice_plugins.hypervisor.facts.releases import Release
from xsplice_plugins.hypervisor.facts.verdicts import EINVAL, ENODATA, Hazard, Refusal
from xsplice_plugins.hypervisor.image.image import Image
from xsplice_plugins.hypervisor.image.memory import Arena, Memory
from xsplice_plugins.hypervisor.load.container import SHT_NOBITS, PayloadElf, read_container
from xsplice_plugins.hypervisor.load.layout import place_sections, protect
from xsplice_plugins.hypervisor.load.prepare import FUNCS, STEP_XEN_DEPENDS, prepare_payload
from xsplice_plugins.hypervisor.load.relocate import relocate
from xsplice_plugins.hypervisor.load.symbols import add_symbols, resolve_symbols
from xsplice_plugins.hypervisor.state.payload import HOOK_KINDS, Payload

STEP_MANDATORY = "mandatory-sections"
XEN_DEPENDS = ".livepatch.xen_depends"
PATCHING_SECTIONS = (
    FUNCS,
    *(f".livepatch.hooks.{kind}" for kind in ("load", "unload", *HOOK_KINDS)),
)


def load_payload(
    data: bytes,
    payload: Payload,
    *,
    image: Image,
    loaded: Sequence[Payload],
    memory: Memory,
    arena: Arena,
    release: Release,
) -> None:
    """Load a payload; on any verdict the caller frees ``payload.base_virt`` and its segments.

    Args:
        data: the file.
        payload: filled in.
        image: the running hypervisor.
        loaded: the other payloads, in upload order.
        memory: the hypervisor's.
        arena: where payload memory is reserved.
        release: the running hypervisor's.

    Raises:
        Refusal: a gate rejects; real Xen returns this errno from this step.
        Hazard: real Xen's behaviour is undefined.
    """
    log = payload.log
    elf = read_container(data, arch=image.arch, release=release)
    log.append(
        (
            "container",
            f"{len(elf.sections)} sections, {len(elf.symbols)} symbols, {len(data)} bytes",
        )
    )
    if release.checks_build_id_first:
        _compare_raw_xen_depends(elf, image)
        log.append((STEP_XEN_DEPENDS, "made for this Xen"))
    place_sections(elf, payload, memory=memory, arena=arena, release=release)
    log.append(("layout", f"{payload.pages} pages at {payload.base_virt:#x}"))
    resolve_symbols(elf, payload, image=image, loaded=loaded, release=release)
    log.append(("symbols", f"{sum(not s.shndx for s in elf.symbols[1:])} found outside"))
    count = relocate(elf, memory=memory, release=release)
    log.append(("relocations", f"{count} performed"))
    _check_mandatory(elf, release)
    if release.has_v2_sections:
        _check_patching_sections(elf)
    log.append((STEP_MANDATORY, "present"))
    prepare_payload(elf, payload, image=image, loaded=loaded, memory=memory, release=release)
    log.append(("prepare", f"{len(payload.functions)} functions, {_hooks_in_words(payload)}"))
    if release.has_v2_sections and not release.checks_build_id_first:
        _compare_with_xen(payload.xen_depends, image)
        log.append((STEP_XEN_DEPENDS, "made for this Xen"))
    add_symbols(elf, payload, image=image, loaded=loaded, release=release)
    log.append(("symbol-table", f"{sum(s.is_new for s in payload.symbols)} new names"))
    protect(payload, release=release)
    log.append(("permissions", "text RX, data RW, read-only data RO"))


def _hooks_in_words(payload: Payload) -> str:
    kinds = [*payload.hooks]
    kinds.extend(["load"] * len(payload.load_hooks) + ["unload"] * len(payload.unload_hooks))
    return "hooks: " + ", ".join(kinds) if kinds else "no hooks"


def _compare_raw_xen_depends(elf: PayloadElf, image: Image) -> None:
    """Compare Xen's build-id before anything is loaded, from the file itself."""
    section = elf.find(XEN_DEPENDS)
    if section is None or not section.size_bytes:
        raise Refusal(EINVAL, STEP_XEN_DEPENDS, f"no {XEN_DEPENDS}")
    if section.sh_type == SHT_NOBITS:
        raise Hazard(STEP_XEN_DEPENDS, "a section without bytes is read from the raw file")
    _compare_with_xen(
        parse_build_id(section.data, step=STEP_XEN_DEPENDS, passes_errno=False), image
    )


def _compare_with_xen(wanted: bytes, image: Image) -> None:
    if image.build_id is None:
        raise Refusal(ENODATA, STEP_XEN_DEPENDS, "the running Xen has no build-id")
    if wanted != image.build_id:
        raise Refusal(
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
            raise Refusal(EINVAL, STEP_MANDATORY, f"no {name}")
        if not section.size_bytes:
            raise Refusal(EINVAL, STEP_MANDATORY, f"{name} is empty")


def _check_patching_sections(elf: PayloadElf) -> None:
    found = [section for name in PATCHING_SECTIONS if (section := elf.find(name)) is not None]
    for section in found:
        if not section.size_bytes:
            raise Refusal(EINVAL, STEP_MANDATORY, f"{section.name} is empty")
    if not found:
        raise Refusal(EINVAL, STEP_MANDATORY, "nothing to patch: neither functions nor hooks")
