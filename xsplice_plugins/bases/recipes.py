# SPDX-License-Identifier: Apache-2.0
"""How a tree is built: as its vendor does, or as anybody does."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import tempfile
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.artefacts import plain
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError, ElfError, MachineError
from xsplice_plugins.target.machines import MACHINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xsplice_plugins.elf.reader import ElfFile

DEFCONFIG = "defconfig"
#: Variables that name folders of the build, or lead make to another makefile of it.
#: Source: Makefile, Rules.mk and scripts/ of xen/, 4.14 to 4.22; Config.mk beside it.
_ELSEWHERE = re.compile(
    r"O|KBUILD_\w+|(abs_)?(obj|src)(tree|dir)?|SRCPATH|VPATH|GPATH|CURDIR|BASEDIR|XEN_ROOT|TARGET|"
    r"D|DESTDIR|DISTDIR|building_out_of_srctree|build|clean|kconfig"
)
_SETTINGS = "KCONFIG_"  #: begins variables by which make's settings lie in another file
#: Variables in which make keeps its own command line for the makes that it starts.
_OWN = re.compile(r"(GNU)?MAKE[A-Z_]*|MFLAGS")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_ENTRY = re.compile(r"^\S+ \((?P<version>[^)]+)\)", re.MULTILINE)
_DATE = re.compile(r"^ -- .*>  (?P<date>.+)$", re.MULTILINE)
_MAINTAINER = re.compile(r"^Maintainer: (.*)$", re.MULTILINE)


class Recipe(Struct, frozen=True, kw_only=True):
    """How a tree is built."""

    name: str  #: ``debian`` or ``plain``
    make: tuple[str, ...]  #: variables of make; later ones win
    environment: tuple[tuple[str, str], ...] = ()
    config: str = ""  #: text of ``.config`` before ``olddefconfig``; "" for none

    @property
    def machine(self) -> str:
        """Return the machine that make is asked for, as Xen's build calls it."""
        return dict(word.partition("=")[::2] for word in self.make)["XEN_TARGET_ARCH"]

    @property
    def compiler(self) -> list[str]:
        """Return the compiler's command."""
        known = dict(word.partition("=")[::2] for word in self.make)
        prefix = known.get("CROSS_COMPILE", "")
        own = "clang" if known.get("clang") == "y" else "gcc"  # config/StdGNU.mk of Xen
        return _command(known.get("CC", "")) or [f"{prefix}{own}"]


def check_words(words: Sequence[str], compiler: str) -> None:
    """Refuse what no build of a base can be given, before there are sources.

    Args:
        words: Variables of make that the user gave.
        compiler: The user's; "" for the recipe's.

    Raises:
        ConfigError: A word is no variable, is make's own, or leads make to another folder, file
            or machine.
    """
    for word in words:
        if not _VARIABLE.fullmatch(word):
            raise ConfigError(f"--make {word}: not NAME=value; give variables of make")
        name, _, value = word.partition("=")
        if _ELSEWHERE.fullmatch(name):
            raise ConfigError(
                f"--make {word}: leads make elsewhere, and a base is built in a folder of its own; "
                "leave it out; of a tree that is built with O= name that folder: XEN=FOLDER"
            )
        if word.startswith(_SETTINGS):
            raise ConfigError(
                f"--make {word}: the settings of a base lie in its own .config, which is compared "
                "with the image's; leave it out, and give a file of settings with --config"
            )
        if _OWN.fullmatch(name):
            raise ConfigError(
                f"--make {word}: make keeps its own command line there, and the makes that it "
                "starts read other files and variables by it; leave it out, and give each "
                "variable of the build with a --make of its own"
            )
        if name == "XEN_TARGET_ARCH":
            _check_machine(value)
        if name in {"CC", "CROSS_COMPILE"}:
            _check_whole(f"--make {word}", value)
    _check_whole(f"--cc {compiler}", compiler)


def _check_whole(option: str, command: str) -> None:
    """Refuse a command whose program is named from here on: make runs it in other folders."""
    for word in _command(command):
        if "/" in word and word[0] not in "/-":
            raise ConfigError(
                f"{option}: {word} is looked for in the folder of now, and make runs it in others; "
                f"give its whole path: {Path(word).expanduser().absolute()}"
            )


def check_characters(option: str, word: str) -> None:
    """Refuse a word that cannot be one row of what a base keeps of its order.

    Args:
        option: That gave the word.
        word: What was given.

    Raises:
        ConfigError: It is no UTF-8, or holds a control character, such as a newline.
    """
    if plain(word) != word:
        raise ConfigError(f"{plain(word)}: is no UTF-8, and a record is; give other words")
    if any(category(character) == "Cc" for character in word):
        raise ConfigError(
            f"{option} {word!r}: holds a control character (a newline, a tab), and what a base is "
            "made of is kept word by word; write a blank, or leave it out"
        )


def _check_machine(machine: str) -> None:
    known = [row.name for row in MACHINES.values()]
    if machine not in known:
        raise ConfigError(
            f"--make XEN_TARGET_ARCH={machine}: payloads are made for {' and '.join(known)}; give "
            "one of these"
        )


def _command(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--cc {text}: not a command ({error}); name one") from error


def recipe_of(tree: Path, words: Sequence[str], compiler: str) -> Recipe:
    """Say how a tree is built.

    Args:
        tree: The folder that holds ``xen/``, in its final place: some builds record it.
        words: Variables of make that the user gave.
        compiler: The user's; "" for the recipe's.

    Raises:
        ConfigError: A word is no variable, or the packaging cannot be understood.
    """
    check_words(words, compiler)
    more = (*words, *([f"CC={compiler}"] if compiler else []))
    recipe = _debian(tree) if (tree / "debian" / "xen-kconfig").is_file() else _plain()
    merged: dict[str, str] = {}
    for word in (*recipe.make, *more):
        name, _, value = word.partition("=")
        merged[name] = value
    recipe = replace(recipe, make=tuple(f"{name}={value}" for name, value in merged.items()))
    _check_machine(recipe.machine)
    return recipe


def _plain() -> Recipe:
    return Recipe(name="plain", make=("XEN_TARGET_ARCH=x86_64",))


def _debian(tree: Path) -> Recipe:
    """Do as Debian's packaging: debian/rules of its source package ``xen``, for amd64."""
    changelog, control = (_text(tree / "debian" / name) for name in ("changelog", "control"))
    version, date = _ENTRY.search(changelog), _DATE.search(changelog)
    maintainer = _MAINTAINER.search(control)
    try:
        when = parsedate_to_datetime(date["date"]).astimezone(UTC) if date else None
    except ValueError:
        when = None
    if version is None or when is None or maintainer is None:
        raise ConfigError(
            f"{tree}/debian: version, date or maintainer cannot be read of changelog and control; "
            "give the sources as they come from Debian, or remove the folder debian"
        )
    flags = f"-ffile-prefix-map={tree}=. -fdebug-prefix-map={tree}=."
    return Recipe(
        name="debian",
        make=(
            "CC=x86_64-linux-gnu-gcc",
            "LD=x86_64-linux-gnu-ld",
            "XEN_COMPILE_ARCH=x86_64",
            "XEN_TARGET_ARCH=x86_64",
            f"EXTRA_CFLAGS_XEN_CORE={flags}",
        ),
        environment=(
            ("DEB_MAINTAINER", maintainer[1]),
            ("DEB_VERSION", version["version"]),
            ("SMBIOS_REL_DATE", when.strftime("%m/%d/%Y")),
            ("SOURCE_DATE_EPOCH", str(int(when.timestamp()))),
            # As `date -u` prints it in the C locale.
            ("XEN_BUILD_DATE", when.strftime("%a %b %e %H:%M:%S UTC %Y")),
            ("XEN_BUILD_TIME", when.strftime("%H:%M:%S")),
        ),
        config=_text(tree / "debian" / "xen-kconfig"),
    )


def _text(path: Path) -> str:
    """Return a file's text; "" if there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def compilers_of(elf: ElfFile) -> tuple[str, ...]:
    """Return the compilers that made an object or an image, as ``.comment`` names them."""
    section = elf.section_by_name.get(".comment")
    if section is None:
        return ()
    texts = section.data.decode("utf-8", "replace").split("\0")
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def ask_compiler(command: Sequence[str], *, machine: str) -> str:
    """Return how a compiler names itself in the objects that it makes.

    Args:
        command: The compiler's.
        machine: That the objects have to be for, as Xen's build calls it.

    Raises:
        ConfigError: It does not compile an empty file, or for another machine.
        MachineError: It is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "empty.o"
        line = [*command, "-x", "c", "-c", "/dev/null", "-o", str(out)]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=False)
        except OSError as error:
            raise MachineError(
                f"{command[0]}: cannot be started ({error.strerror}); install it, or name another "
                "with --cc"
            ) from error
        try:
            elf = read_elf(out.read_bytes(), str(out))
            found, made_for = compilers_of(elf), machine_name(elf.machine)
        except (OSError, ElfError):
            found, made_for = (), ""
        if done.returncode != 0 or not found:
            raise ConfigError(
                f"{' '.join(command)}: does not compile an empty file: {done.stderr.strip()}; name "
                "a compiler with --cc"
            )
    if made_for != machine:
        raise ConfigError(
            f"{' '.join(command)}: compiles for {made_for}, and the sources are to be built for "
            f"{machine}; {advice_for(made_for)}, or name a compiler for {machine} with "
            "--make CROSS_COMPILE=PREFIX"
        )
    return found[0]


def machine_name(number: int) -> str:
    """Return how Xen's build calls the machine of an ``e_machine``."""
    return MACHINES[number].name if number in MACHINES else f"machine {number}"


def advice_for(machine: str) -> str:
    """Return what to give so that the sources are built for a machine."""
    return f"give --make XEN_TARGET_ARCH={machine}"


def digest_of_programs(command: Sequence[str]) -> str:
    """Return one digest of what compiles: the command's programs, compiler proper and assembler."""
    digest = hashlib.sha256()
    paths = [shutil.which(word) for word in command if not word.startswith("-")]
    for name in ("cc1", "as"):
        line = [*command, f"-print-prog-name={name}"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        paths.append(shutil.which(done.stdout.strip()))
    for path in dict.fromkeys(path for path in paths if path):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()
