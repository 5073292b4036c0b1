# SPDX-License-Identifier: Apache-2.0
"""Debian's packages without root and without touching the system's apt settings.

apt is given a sources list, package lists and a cache of our own; keys, proxies and everything
else come from the system. So a machine without ``deb-src`` lines, and a user without root, can
fetch source packages, and binary packages of another release than the one that runs.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.errors import ConfigError, MachineError
from xsplice_plugins.system.process import run_logged

#: Debian release that carries each Xen release as its own.
SUITES = {"4.11": "buster", "4.14": "bullseye", "4.17": "bookworm", "4.20": "trixie"}
MIRROR_DEFAULT = "http://deb.debian.org/debian"
SECURITY_DEFAULT = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_CODENAMES = frozenset(
    {*SUITES.values(), "forky", "sid", "stable", "oldstable", "testing", "unstable"}
)


class AptSource(Struct, frozen=True, kw_only=True):
    """One archive that apt is told about."""

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    signed_by: str = ""  #: key file; "" for the system's trusted keys

    def lines(self) -> str:
        """Return the one-line form, for binary and for source packages."""
        options = []
        if self.signed_by:
            options.append(f"signed-by={self.signed_by}")
        if "snapshot.debian.org" in self.uri:
            options.append("check-valid-until=no")  # a snapshot's Release file is old by nature
        option = f"[{' '.join(options)}] " if options else ""
        rest = f"{option}{self.uri} {self.suite} {' '.join(self.components)}\n"
        return f"deb {rest}deb-src {rest}"


class PrivateApt(Struct, frozen=True, kw_only=True):
    """An apt of our own, in a folder of our own."""

    folder: Path
    sources: tuple[AptSource, ...]
    architecture: str = ""  #: of binary packages; "" for the system's own

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options that make apt use this folder only."""
        wanted = self.architecture
        other = ("-o", f"APT::Architecture={wanted}", "-o", f"APT::Architectures={wanted}")
        return (
            "-q",
            *(other if wanted else ()),
            *("-o", f"Dir::Etc::SourceList={self.folder / 'sources.list'}"),
            *("-o", "Dir::Etc::SourceParts=-"),
            *("-o", f"Dir::State::Lists={self.folder / 'lists'}"),
            *("-o", f"Dir::Cache={self.folder / 'cache'}"),
            # As root apt would drop to user _apt, who may not enter a home folder.
            *("-o", "APT::Sandbox::User=root"),
            # Without it `update` exits 0 when a mirror cannot be reached.
            *("-o", "APT::Update::Error-Mode=any"),
        )

    @property
    def log(self) -> Path:
        """Return the file that apt's output is appended to."""
        return self.folder / "apt.log"


def suite_of(release: str) -> str:
    """Return the Debian release that carries a Xen release.

    Raises:
        ConfigError: None is known.
    """
    if release not in SUITES:
        known = ", ".join(sorted(SUITES))
        raise ConfigError(f"Xen {release}: no Debian release is known to carry it; known: {known}")
    return SUITES[release]


def system_sources(*options: str) -> tuple[AptSource, ...]:
    """Ask apt for every archive that it knows, in its own order; its files have several forms.

    Args:
        options: For ``apt-get``, such as where another machine's settings are.

    Raises:
        ConfigError: The settings cannot be read.
    """
    line = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(SOURCESENTRY)"
    command = ["apt-get", *options, "indextargets", "--no-release-info", "--format", line]
    said = run_logged(command, log=Path(os.devnull))
    rows = re.findall(r"^(\S+:\S+) (\S+) (\S*) (.+):(\d+)$", said, re.MULTILINE)
    return tuple(
        AptSource(
            uri=uri.rstrip("/"),
            suite=suite,
            components=(component,),
            signed_by=_signed_by(path, int(number)),
        )
        for uri, suite, component, path, number in dict.fromkeys(rows)
    )


def _signed_by(path: str, number: int) -> str:
    """Return the key file of one entry, which apt does not tell: a line's, or a stanza's.

    A key written out in the file has no place in our one-line list; apt then falls back to the
    system's trusted keys. Source: sources.list(5).
    """
    text = Path(path).read_text(errors="replace")
    if path.endswith(".sources"):
        text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        entries = re.split(r"\n(?:[ \t]*\n)+", text.strip())
    else:
        entries = text.split("\n")
    entry = "".join(entries[number - 1 : number])
    match = re.search(r"\bsigned-by\s*[:=]\s*(/[^\s\]]+)", entry, re.IGNORECASE)
    return match[1] if match else ""


def choose_sources(
    known: Sequence[AptSource], *, suite: str, mirror: str = ""
) -> tuple[AptSource, ...]:
    """Choose where one Debian release is fetched from.

    Args:
        known: The system's archives; their mirror is used where it is Debian's.
        suite: Code name of the Debian release wanted, which need not be the one that runs.
        mirror: An archive that the user names; then it is the only one.
    """
    keyring = KEYRING if Path(KEYRING).is_file() else ""
    if mirror:
        return (AptSource(uri=mirror.rstrip("/"), suite=suite, signed_by=keyring),)
    chosen = []
    for ending, default in (("", MIRROR_DEFAULT), ("-security", SECURITY_DEFAULT)):
        suites = {name + ending for name in _CODENAMES}
        usable = (e for e in known if e.suite in suites and "main" in e.components)
        entry = next(usable, AptSource(uri=default, suite=""))
        key = entry.signed_by or keyring
        chosen.append(replace(entry, suite=suite + ending, components=("main",), signed_by=key))
    return tuple(chosen)


def open_apt(folder: Path, sources: Sequence[AptSource], *, architecture: str = "") -> PrivateApt:
    """Make an apt of our own and fetch the package lists.

    Args:
        folder: Kept between runs, so that only changed lists are fetched again.
        sources: From :func:`choose_sources`.
        architecture: Of binary packages, as Debian names it; the system's own if absent.

    Raises:
        ConfigError: An archive cannot be reached or is not signed by a known key.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text("".join(entry.lines() for entry in sources))
    apt = PrivateApt(folder=folder, sources=tuple(sources), architecture=architecture)
    run_logged(["apt-get", *apt.options, "update"], log=apt.log)
    return apt


def unpack_packages(apt: PrivateApt, names: Sequence[str], folder: Path) -> list[str]:
    """Download binary packages and unpack their files; nothing is installed, nothing of it is run.

    Args:
        apt: Where from.
        names: Package names.
        folder: Where to; made when absent. The packages lie beside it until they are unpacked.

    Returns:
        Name, version and machine of each package, sorted.

    Raises:
        ConfigError: A package is not there, cannot be fetched, or is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        run_logged(["apt-get", *apt.options, "download", *names], log=apt.log, cwd=Path(place))
        packages = sorted(Path(place).glob("*.deb"))
        for package in packages:
            run_logged(["dpkg", "-x", str(package), str(folder)], log=apt.log)
    return [package.stem for package in packages]


def require_packages(purpose: str, programs: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Refuse in one message, with the line that mends it, when packages are missing.

    Args:
        purpose: Subject of the message.
        programs: Program name to the Debian package that has it.
        files: Absolute path to the Debian package that has it.

    Raises:
        MachineError: Something is missing.
    """
    lacking = {package for program, package in programs.items() if shutil.which(program) is None}
    lacking |= {package for path, package in files.items() if not Path(path).exists()}
    if lacking:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise MachineError(
            f"{purpose}: packages are missing: {', '.join(sorted(lacking))}; install them with: "
            f"{sudo}apt-get install --no-install-recommends {' '.join(sorted(lacking))}"
        )


def dependencies(apt: PrivateApt, name: str, pattern: str) -> tuple[str, ...]:
    """List the direct dependencies of a binary package that look as wanted.

    Args:
        apt: Its lists are read.
        name: The package, for example a meta package.
        pattern: Regular expression for the whole name of a dependency.

    Raises:
        ConfigError: There is no such dependency.
    """
    text = run_logged(["apt-cache", *apt.options, "show", "--no-all-versions", name], log=apt.log)
    words = re.findall(r"^(?:Pre-)?Depends: (.*)$", text, re.MULTILINE)
    names = {re.split(r"[ :(|]", part.strip())[0] for line in words for part in line.split(",")}
    found = tuple(sorted(entry for entry in names if re.fullmatch(pattern, entry)))
    if not found:
        raise ConfigError(f"{name}: depends on nothing like {pattern}; see {apt.log}")
    return found
