# SPDX-License-Identifier: Apache-2.0
"""A built Xen tree: where its parts are, and whether it can be used at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from pathlib import Path

from msgspec import Struct

from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, load, to_json
from xsplice_plugins.elf.banner import release_of_image
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.errors import CaptureError, ConfigError, ElfError
from xsplice_plugins.kbuild.configured import check_configured, lack_of_live_patching
from xsplice_plugins.kbuild.records import read_text

_VERSION = re.compile(
    r"^(?:export\s+)?XEN_(VERSION|SUBVERSION|EXTRAVERSION)\s*\??:?=\s*(\S*)", re.MULTILINE
)
_HOW_TO_BUILD = "build it first: make -C xen defconfig && make -C xen"


class XenTree(Struct, frozen=True, kw_only=True):
    """A built tree, checked. All paths are absolute."""

    root: Path  #: the folder that holds everything below; paths in jobs are relative to it
    source_root: Path  #: where patches apply with ``-p1``: the folder above ``xen/``
    hypervisor_source: Path  #: ``source_root/xen``
    build_root: Path  #: where ``make`` ran and ``xen-syms`` lies
    release: str  #: e.g. ``4.17.5``
    arch: str  #: folder below ``arch/``: ``x86`` or ``arm``
    machine: int  #: ``e_machine`` of ``xen-syms``
    xen_syms: Path
    build_id: str  #: hex; of ``xen-syms``
    config: tuple[tuple[str, str], ...]  #: ``.config``: (name without ``CONFIG_``, value)
    base: BaseRecord | None = None  #: what it was made of, if it is a named base's

    @property
    def is_out_of_source(self) -> bool:
        """Tell whether the tree was built with ``O=``."""
        return self.build_root != self.hypervisor_source

    @property
    def patch_root(self) -> str:
        """Return where patches apply, relative to ``root``; "" for the root itself."""
        path = str(self.source_root.relative_to(self.root))
        return "" if path == "." else path

    @property
    def build_dir(self) -> str:
        """Return the build folder relative to ``root``."""
        return str(self.build_root.relative_to(self.root))

    @property
    def source_dir(self) -> str:
        """Return the hypervisor's sources relative to ``root``."""
        return str(self.hypervisor_source.relative_to(self.root))


def locate_tree(xen: Path) -> XenTree:
    """Find the parts of a built Xen tree and check that live patches can be made for it.

    Args:
        xen: The top folder, its ``xen`` folder, or the build folder of an ``O=`` build.

    Raises:
        ConfigError: Not a Xen tree.
        CaptureError: Not built, built without live patching, configured otherwise since, or
            ``xen-syms`` of another build.
    """
    named = Path(os.path.abspath(xen))  # noqa: PTH100  # links in the user's path stay as they are
    build_root, source = _parts(named)
    try:
        return _located(named, build_root, source)
    except CaptureError as error:
        base = _base_of(source.parent)
        if base is None:
            raise
        what, _, _ = str(error).partition("; ")
        raise CaptureError(f"{what}; {advice_of_base(base)}") from error


def advice_of_base(base: BaseRecord) -> str:
    """Return what to do where the tree of a named base is not what it was."""
    return f"remove base {base.name} and add it again"


def _located(named: Path, build_root: Path, source: Path) -> XenTree:
    """Check a tree whose folders were found."""
    config = _config(build_root)
    settings = dict(config)
    if lack := lack_of_live_patching(settings):
        raise CaptureError(f"{named}: the tree was configured {lack}")
    xen_syms = build_root / "xen-syms"
    if not xen_syms.is_file():
        raise CaptureError(f"{named}: the tree is not built (no xen-syms); {_HOW_TO_BUILD}")
    image = _image(xen_syms)
    check_configured(build_root, image)
    source_root = source.parent
    if build_root == source or build_root.is_relative_to(source_root):
        root = source_root
    else:
        root = Path(os.path.commonpath([build_root, source_root]))
    return XenTree(
        root=root,
        source_root=source_root,
        hypervisor_source=source,
        build_root=build_root,
        release=_checked_release(source, image),
        arch=next(
            (p.name for p in sorted(source.glob("arch/*")) if p.name.upper() in settings),
            "arm",
        ),
        machine=image.machine,
        xen_syms=xen_syms,
        build_id=_checked_build_id(build_root, image),
        config=config,
        base=_base_of(source_root),
    )


def _base_of(source_root: Path) -> BaseRecord | None:
    """Return the record of a named base; it lies beside the tree that was made for it."""
    path = source_root.parent / BASE_FILE
    return load(path, BaseRecord) if path.is_file() else None


def tree_digest(tree: XenTree, *, is_judged: bool = True) -> str:
    """Return a short name for this build of this tree, for folders that outlive a fix.

    With `is_judged` a base counts with all of its record: how it compares with its image.
    """
    text = f"{tree.root}\0{tree.build_dir}\0{tree.build_id}"
    if tree.base is not None:
        record = hashlib.sha256(to_json(tree.base)).hexdigest() if is_judged else tree.base.key
        text += f"\0{record}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _is_hypervisor_source(folder: Path) -> bool:
    return (folder / "common" / "livepatch.c").is_file() and (folder / "Makefile").is_file()


def _parts(named: Path) -> tuple[Path, Path]:
    """Return (build folder, hypervisor's source folder)."""
    if not named.is_dir():
        raise ConfigError(f"{named}: no such folder; set XEN to a built Xen tree")
    for folder in (named / "xen", named):
        if _is_hypervisor_source(folder):
            # A link to xen/ has its tree, and the other folders of it, elsewhere.
            place = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
            return place, place
    # An out-of-source build folder: 4.17 leaves a link and a Makefile that includes the source's.
    link = named / "source"
    if link.is_symlink() and _is_hypervisor_source(link):
        return named, Path(os.path.normpath(named / link.readlink()))
    match = re.search(r"^include (\S+)/Makefile$", read_text(str(named / "Makefile")), re.MULTILINE)
    if match and _is_hypervisor_source(named / match[1]):
        return named, Path(os.path.normpath(named / match[1]))
    raise ConfigError(
        f"{named}: not a Xen tree (no xen/common/livepatch.c); set XEN to the top folder, its "
        "xen folder, or the folder given to make as O="
    )


def _config(build_root: Path) -> tuple[tuple[str, str], ...]:
    text = read_text(str(build_root / ".config"))
    if not text:
        raise CaptureError(f"{build_root}: the tree is not built (no .config); {_HOW_TO_BUILD}")
    pairs = (
        line[len("CONFIG_") :].split("=", 1)
        for line in text.splitlines()
        if line.startswith("CONFIG_") and "=" in line
    )
    return tuple(sorted((name, value) for name, value in pairs))


def _checked_release(source: Path, image: ElfFile) -> str:
    """Return the release that the sources name, or else the image; they must not contradict."""
    said = release_of_image(image)
    try:
        release = release_of_source(source)
    except ConfigError:
        if said is None:
            raise
        return said
    if said not in {None, release}:
        raise CaptureError(
            f"{image.name}: says it is Xen {said}, and {source}/Makefile says {release}; run make "
            "in that tree, or name the tree that this image was built from"
        )
    return release


def release_of_source(source: Path) -> str:
    """Return the release that the sources name, e.g. ``4.17.5``.

    Args:
        source: The hypervisor's sources: the folder ``xen``.

    Raises:
        ConfigError: They name none.
    """
    # A file `xen-version` of the user's is read by the Makefile and has the last word.
    texts = (read_text(str(source / name)) for name in ("Makefile", "xen-version"))
    found = dict(_VERSION.findall("\n".join(texts)))
    extra = re.match(r"\.\d+", found.get("EXTRAVERSION", ""))
    lacks = [name for name in ("VERSION", "SUBVERSION") if not found.get(name, "").isdigit()]
    if found.get("EXTRAVERSION", "").startswith("$(shell"):
        lacks.append("EXTRAVERSION")
    if lacks:
        raise ConfigError(
            f"{source}/Makefile: the release cannot be read (no number as "
            f"{' and '.join(f'XEN_{name}' for name in lacks)}); is this a Xen tree? If the numbers "
            f"are set elsewhere, write `XEN_VERSION = 4` and so on into {source}/xen-version"
        )
    return f"{found['VERSION']}.{found['SUBVERSION']}{extra[0] if extra else '.0'}"


def _image(xen_syms: Path) -> ElfFile:
    try:
        return read_elf(xen_syms.read_bytes(), str(xen_syms))
    except (OSError, ElfError) as error:
        raise CaptureError(
            f"{xen_syms}: not a readable ELF image ({error}); build again"
        ) from error


def _checked_build_id(build_root: Path, image: ElfFile) -> str:
    """Return the image's build-id; refuse an image that other objects were linked into."""
    xen_syms = Path(image.name)
    note = image.section_by_name.get(".note.gnu.build-id")
    if note is None or note.data[12:16] != b"GNU\0":
        raise CaptureError(
            f"{xen_syms}: has no build-id; the linker must support --build-id, build again"
        )
    build_id = note.data[16 : 16 + int.from_bytes(note.data[4:8], "little")].hex()
    again = "run make in that tree, or put back the xen-syms of the running hypervisor's build"
    prelink = build_root / "prelink.o"
    if prelink.is_file() and prelink.stat().st_mtime_ns > xen_syms.stat().st_mtime_ns:
        raise CaptureError(
            f"{xen_syms}: older than the objects (prelink.o) beside it, so it is of another "
            f"build; {again}"
        )
    for name in ("xen", "xen.gz"):
        shipped = build_root / name
        if not shipped.is_file():
            continue
        if not _holds(shipped, bytes.fromhex(build_id)):
            raise CaptureError(
                f"{xen_syms}: its build-id {build_id} is not that of {name} beside it, so it is "
                f"of another build; {again}"
            )
        break
    return build_id


def _holds(shipped: Path, build_id: bytes) -> bool:
    try:
        data = shipped.read_bytes()
        return build_id in (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{shipped}: cannot be read ({error}); build again") from error
