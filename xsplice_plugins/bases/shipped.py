# SPDX-License-Identifier: Apache-2.0
"""What a vendor shipped: the image with its names, the one that boots, its configuration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from xsplice_plugins.artefacts import read_file
from xsplice_plugins.bases.recipes import compilers_of
from xsplice_plugins.elf.banner import release_of_image
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.errors import ConfigError, ElfError
from xsplice_plugins.kbuild.tree import release_of_source


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
    return Shipped(
        image=image or _there(kept / "xen-syms"),
        boot=boot or _there(kept / "xen"),
        config=_there(kept / ".config"),
    )


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
        ConfigError: The image is no hypervisor's, of another release, or of another compiler.
    """
    if found.image is None:
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
