# SPDX-License-Identifier: Apache-2.0
"""What a vendor shipped: the image with its names, the one that boots, its configuration."""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from xsplice_plugins.artefacts import read_file
from xsplice_plugins.bases.recipes import Recipe, compilers_of
from xsplice_plugins.elf.banner import release_of_image, told_by_image
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.errors import CaptureError, ConfigError, ElfError
from xsplice_plugins.kbuild.configured import (
    check_configured,
    lack_of_live_patching,
    settings_of,
)
from xsplice_plugins.kbuild.tree import release_of_source
from xsplice_plugins.target.machines import MACHINES

#: Variables of Xen's build, and the function that answers with each (xen/build.mk, version.c).
_TOLD = {
    "XEN_BUILD_DATE": "xen_compile_date",
    "XEN_BUILD_HOST": "xen_compile_host",
    "XEN_BUILD_TIME": "xen_compile_time",
    "XEN_DOMAIN": "xen_compile_domain",
    "XEN_EXTRAVERSION": "xen_extra_version",
    "XEN_WHOAMI": "xen_compile_by",
}
_PLAIN = re.compile(r"[\w .,:+@()\[\]~-]*")  #: what neither make nor its sed reads otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """Files of a vendor's; ``None`` for what was not given."""

    image: Path | None = None  #: ``xen-syms``
    boot: Path | None = None  #: ``xen`` or ``xen.gz``
    config: Path | None = None


def find(folder: Path, image: Path | None, boot: Path | None) -> Shipped:
    """Return what was shipped: what the user named, what Debian's packages hold, or what lies by.

    Args:
        folder: Of the base.
        image: The user's ``xen-syms``.
        boot: The user's ``xen`` or ``xen.gz``.
    """
    packages = folder / "debian" / "root"
    if packages.is_dir():
        return Shipped(
            image=image or _one(packages, "usr/lib/debug/**/xen-syms*"),
            boot=boot or _one(packages, "boot/xen-*.gz"),
            config=_one(packages, "boot/xen-*.config"),
        )
    kept = folder / "kept"
    image = image or _there(kept / "xen-syms")
    beside = _there(kept / "xen") if image else None  # alone it is what somebody's make left
    return Shipped(image=image, boot=boot or beside, config=_there(kept / ".config"))


def keep(folder: Path, tree: Path, source: Path) -> None:
    """Keep what lies in the sources themselves, before a build writes over it.

    Args:
        folder: Of the base.
        tree: The unpacked sources.
        source: What they were unpacked from; a folder may hold more than the sources.
    """
    kept = folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for place in (source, source / "xen", tree, tree / "xen"):
        for name, of in (("xen-syms", "xen-syms"), ("xen", "xen.gz"), ("xen", "xen")):
            if (place / of).is_file() and not (kept / name).is_file():
                shutil.copyfile(place / of, kept / name)
        if (place / ".config").is_file() and not (kept / ".config").is_file():
            shutil.copyfile(place / ".config", kept / ".config")


def check(found: Shipped, tree: Path, compiler: str) -> None:
    """Refuse, before anything is built, an image that these sources cannot have given.

    Args:
        found: What was shipped.
        tree: The unpacked sources.
        compiler: As the objects will name it.

    Raises:
        ConfigError: The image is no hypervisor's, of another release, or of another compiler; or
            what boots is not of the same build.
    """
    if found.image is None:
        if found.boot is not None:
            _check_maker(found.boot, compiler)
        return
    elf = _read(found.image)
    release, said = release_of_source(tree / "xen"), release_of_image(elf)
    if said not in {None, release}:
        raise ConfigError(
            f"--image {found.image}: says it is Xen {said}, and the sources are of {release}; give "
            "the sources that it was built from"
        )
    makers = compilers_of(elf)
    if makers and compiler not in makers:
        raise ConfigError(
            f"--image {found.image}: was made by {' and '.join(makers)}, and this compiler is "
            f"{compiler}; install that one, or name it with --cc"
        )
    build_id = _build_id(elf)
    if not build_id:
        raise ConfigError(
            f"--image {found.image}: has no build-id, by which payloads name it; give the xen-syms "
            "of a hypervisor that takes live patches"
        )
    if found.boot is not None and build_id not in unzipped(found.boot):
        raise ConfigError(
            f"--boot {found.boot}: does not hold the build-id {build_id.hex()} of {found.image}, "
            "so both are of different builds; give --image and --boot of one package"
        )


def _check_maker(boot: Path, compiler: str) -> None:
    """Refuse what boots if its own text, which `xl info` prints, does not name the compiler."""
    version = compiler.removeprefix("GCC: ")
    if version.encode() not in unzipped(boot):
        raise ConfigError(
            f"--boot {boot}: does not say that it was made by {version}; install the compiler that "
            "it names, or name it with --cc"
        )


def named(boot: Path, own: Path, image: Path) -> bytes:
    """Return names for what boots, where the vendor keeps none: the build's own, if it fits.

    The build-id is a digest of debug information too, so it may be another one where everything
    else that boots is equal. Then the names get that of what boots.

    Args:
        boot: The shipped ``xen`` or ``xen.gz``.
        own: ``xen``, as make left it.
        image: ``xen-syms``, as make left it.

    Returns:
        The whole ``xen-syms``.

    Raises:
        ConfigError: They differ in more, and without names nobody can tell in what.
    """
    made, their, syms = read_file(own), unzipped(boot), read_file(image)
    build_id = _build_id(_read(image))
    place, size = made.find(build_id), len(build_id)
    other = their[place : place + size]
    if build_id and made.count(build_id) == syms.count(build_id) == 1:
        made = made[:place] + other + made[place + size :]
        syms = syms.replace(build_id, other)
    if made == their:
        return syms
    count = sum(a != b for a, b in zip(made, their, strict=False)) + abs(len(made) - len(their))
    raise ConfigError(
        f"--boot {boot}: {count} bytes of {len(their)} are not those of what these sources give; "
        "give --image, its xen-syms, which tells functions and data apart"
    )


def built_alike(recipe: Recipe, image: Path | None) -> Recipe:
    """Let make write into the build what the shipped image says of its own: who, where and when.

    Args:
        recipe: A vendor's own recipe, which brings an environment, stays as it is.
        image: The shipped ``xen-syms``, if there is one.

    Raises:
        ConfigError: It is no image.
    """
    if image is None or recipe.environment:
        return recipe
    told = told_by_image(_read(image), _TOLD.values())
    environment = tuple(
        (name, told[function])
        for name, function in _TOLD.items()
        if function in told and _PLAIN.fullmatch(told[function])
    )
    return replace(recipe, environment=environment)


def check_config(found: Shipped, config: Path) -> None:
    """Refuse, before anything is built, settings that the image was not built with.

    Args:
        found: What was shipped.
        config: ``.config``, as make completed it.

    Raises:
        ConfigError: No live patching, another machine's, or not those that the image holds.
    """
    text = config.read_text(encoding="utf-8", errors="replace")
    lines = set(text.splitlines())
    if lack := lack_of_live_patching(settings_of(text)):
        raise ConfigError(
            f"{config}: is configured {lack}; or give the running one's with --config"
        )
    if found.image is None:
        return
    elf = _read(found.image)
    machine = MACHINES.get(elf.machine)
    if machine is not None and f"CONFIG_{machine.setting}=y" not in lines:
        raise ConfigError(
            f"--image {found.image}: is of a machine that {config} is not for; give "
            "--make XEN_TARGET_ARCH=..., and settings for it"
        )
    # Of what make will write anew an earlier build may have left another state.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(config, Path(folder) / ".config")
        try:
            check_configured(Path(folder), elf)
        except CaptureError as error:
            said, _, _ = str(error).replace(folder, str(config.parent)).partition("; ")
            raise ConfigError(f"{said}; give the image's settings with --config") from error


def unzipped(path: Path) -> bytes:
    """Return what boots.

    Args:
        path: ``xen`` or ``xen.gz``.

    Raises:
        ConfigError: It is neither.
    """
    data = read_file(path)
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"--boot {path}: cannot be unpacked ({error}); give xen or xen.gz") from (
            error
        )
    if data[:4] != b"\x7fELF" and data[:2] != b"MZ":  # arm64 boots one with a PE header
        raise ConfigError(f"--boot {path}: no image that boots; give xen or xen.gz")
    return data


def _build_id(elf: ElfFile) -> bytes:
    note = elf.section_by_name.get(".note.gnu.build-id")
    if note is None or note.data[12:16] != b"GNU\0":
        return b""
    return note.data[16 : 16 + int.from_bytes(note.data[4:8], "little")]


def _read(image: Path) -> ElfFile:
    try:
        elf = read_elf(read_file(image), str(image))
    except ElfError as error:
        raise ConfigError(f"--image {image}: not readable ({error}); give xen-syms") from error
    if not elf.symbols:
        raise ConfigError(
            f"--image {image}: has no names of functions; give xen-syms, not what boots (often in "
            "a package of debug symbols)"
        )
    return elf


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _one(folder: Path, pattern: str) -> Path | None:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return found[0] if found else None
