# SPDX-License-Identifier: Apache-2.0
"""What a vendor shipped: the image with its names, the one that boots, its configuration."""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
import zlib
from pathlib import Path

from msgspec import Struct

from xsplice_plugins.artefacts import plain, read_file
from xsplice_plugins.bases.recipes import (
    Recipe,
    advice_for,
    ask_compiler,
    compilers_of,
    machine_name,
)
from xsplice_plugins.elf.banner import (
    is_efi_program,
    is_with_names,
    machine_of_boot,
    release_of_boot,
    release_of_image,
)
from xsplice_plugins.elf.booted import boot_difference
from xsplice_plugins.elf.packed import check_unpackable
from xsplice_plugins.elf.reader import ElfFile, read_elf
from xsplice_plugins.elf.types import SHT_NOBITS
from xsplice_plugins.errors import CaptureError, ConfigError, DiffError, ElfError
from xsplice_plugins.kbuild.configured import (
    check_configured,
    lack_of_live_patching,
    settings_of,
    unset_of,
)
from xsplice_plugins.kbuild.tree import release_of_source
from xsplice_plugins.target.machines import MACHINES

#: What kconfig takes, or passes over as it should: a setting or a comment begins its line.
#: Source: xen/tools/kconfig/confdata.c, `conf_read_simple`.
_LINE = re.compile(r"#|CONFIG_\w+=|\s*$|\s+#(?!\s*CONFIG_\w+ is not set)")


class Shipped(Struct, frozen=True, kw_only=True):
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


def check(found: Shipped, tree: Path, recipe: Recipe) -> None:
    """Refuse, before anything is built, what these sources cannot have given.

    Args:
        found: What was shipped.
        tree: The unpacked sources.
        recipe: How they will be built.

    Raises:
        ConfigError: The image is no hypervisor's, or it or what boots is of another machine,
            release or compiler; or both are not of the same build, or what boots loads other
            bytes. Or the compiler is for another machine.
        MachineError: There is no such compiler.
    """
    release = release_of_source(tree / "xen")
    if found.boot is not None:
        data = unzipped(found.boot)
        if is_efi_program(data):
            raise ConfigError(
                f"--boot {found.boot}: is a program for EFI, where all lies elsewhere than in "
                "xen-syms; give the xen.gz of the same package"
            )
        if is_with_names(data):
            raise ConfigError(
                f"--boot {found.boot}: holds names of functions, so it is a xen-syms, which does "
                "not boot; give it with --image, and xen.gz or xen of the same package here"
            )
        said = (machine_of_boot(data), release_of_boot(data))
        _check_origin(f"--boot {found.boot}", said, recipe.machine, release)
    if found.image is not None:
        elf = image_of(found.image)
        said = (elf.machine, release_of_image(elf) or release_of_boot(read_file(found.image)))
        _check_origin(f"--image {found.image}", said, recipe.machine, release)
        try:
            check_unpackable(elf)
        except DiffError as error:
            raise ConfigError(f"--image {error}") from error
    compiler = ask_compiler(recipe.compiler, machine=recipe.machine)
    if found.image is None:
        if found.boot is not None:
            _check_maker(found.boot, compiler)
        return
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
    if found.boot is not None and (difference := boot_difference(unzipped(found.boot), elf)):
        raise ConfigError(
            f"--boot {found.boot}: does not load what {found.image} holds ({difference}); give "
            "--image and --boot of one package"
        )


def _check_origin(
    subject: str, said: tuple[int | None, str | None], machine: str, release: str
) -> None:
    """Refuse a file that says it is of another machine or release than what will be built."""
    number, version = said
    theirs = machine if number is None else machine_name(number)
    if theirs != machine:
        raise ConfigError(
            f"{subject}: is of {theirs}, and the sources are to be built for {machine}; "
            f"{advice_for(theirs)}, with its CROSS_COMPILE and settings, or that of {machine}"
        )
    if version not in {None, release}:
        raise ConfigError(
            f"{subject}: says it is Xen {version}, and the sources are of {release}; give the "
            "sources that it was built from"
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
    build_id = _build_id(image_of(image))
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


def read_settings(path: Path) -> str:
    """Return the text of a ``.config``, with the line ends of this system.

    Raises:
        ConfigError: It cannot be read.
    """
    return read_file(path).decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def check_settings(text: str, subject: str, machine: str = "") -> None:
    """Refuse what is no configuration, for which make takes its defaults, and no live patching.

    Args:
        text: A ``.config``, before make completes it.
        subject: How messages call it.
        machine: What will be built; "" if nobody knows yet.

    Raises:
        ConfigError: It sets nothing, has a line that is no setting, switches live patching off, or
            is another machine's.
    """
    how = "give the running hypervisor's (often /boot/xen-*.config), or `--config defconfig`"
    for number, line in enumerate(text.split("\n"), 1):
        if not _LINE.match(line):
            shown = plain(line.strip()[:40])
            if line[:1].isspace() and _LINE.match(line.strip()):
                raise ConfigError(
                    f"{subject}: line {number} begins with a blank, so make passes over it "
                    f"(`{shown}`); take the blank out"
                )
            raise ConfigError(
                f"{subject}: no configuration of Xen (`{shown}`) in line {number}; {how}"
            )
    known, off = settings_of(text), unset_of(text)
    if not known and not off:
        raise ConfigError(f"{subject}: sets nothing; {how}")
    theirs = [row.name for row in MACHINES.values() if known.get(row.setting) == "y"]
    if machine and theirs and machine not in theirs:
        raise ConfigError(
            f"{subject}: is of {theirs[0]}, and the sources are to be built for {machine}; "
            f"{advice_for(theirs[0])}, or settings for {machine}"
        )
    is_off = "LIVEPATCH" in off or known.get("LIVEPATCH") == "n" or known.get("COVERAGE") == "y"
    if is_off and (lack := lack_of_live_patching(known)):
        raise ConfigError(f"{subject}: is configured {lack}; its settings have CONFIG_LIVEPATCH=y")


def check_config(found: Shipped, config: Path, subject: str) -> None:
    """Refuse, before anything is built, settings that the image was not built with.

    Args:
        found: What was shipped.
        config: ``.config``, as make completed it.
        subject: How messages call what make completed.

    Raises:
        ConfigError: No live patching, or not those that the image holds.
    """
    text = config.read_text(encoding="utf-8", errors="replace")
    if lack := lack_of_live_patching(settings_of(text)):
        raise ConfigError(
            f"{subject}: is configured {lack}; or give the running one's with --config, or a file "
            "with CONFIG_LIVEPATCH=y, which make completes"
        )
    if found.image is None:
        return
    elf = image_of(found.image)
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
    data = unpacked(path)
    if data[:4] != b"\x7fELF" and data[:2] != b"MZ" and machine_of_boot(data) is None:
        raise ConfigError(f"--boot {path}: no image that boots; give xen or xen.gz")
    return data


def unpacked(path: Path) -> bytes:
    """Return what boots, whatever it is.

    Args:
        path: As it is, or packed by gzip.

    Raises:
        ConfigError: It cannot be unpacked.
    """
    data = read_file(path)
    try:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"--boot {path}: cannot be unpacked ({error}); give xen or xen.gz") from (
            error
        )


def _build_id(elf: ElfFile) -> bytes:
    note = elf.section_by_name.get(".note.gnu.build-id")
    if note is None or note.data[12:16] != b"GNU\0":
        return b""
    return note.data[16 : 16 + int.from_bytes(note.data[4:8], "little")]


def image_of(image: Path) -> ElfFile:
    """Read a shipped ``xen-syms``.

    Raises:
        ConfigError: It is no image, or has no names or no code.
    """
    try:
        elf = read_elf(read_file(image), str(image))
    except ElfError as error:
        raise ConfigError(f"--image {image}: not readable ({error}); give xen-syms") from error
    if not elf.symbols:
        raise ConfigError(
            f"--image {image}: has no names of functions; give xen-syms, not what boots (often in "
            "a package of debug symbols)"
        )
    if any(section.is_exec and section.type == SHT_NOBITS for section in elf.sections):
        raise ConfigError(
            f"--image {image}: holds names and debug information without code (objcopy "
            "--only-keep-debug); give xen-syms as it was linked"
        )
    return elf


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _one(folder: Path, pattern: str) -> Path | None:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return found[0] if found else None
