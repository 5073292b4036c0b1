# SPDX-License-Identifier: Apache-2.0
"""Debian's packages without root and without touching the system's apt settings.

apt is given a sources list, package lists and a cache of our own; keys, proxies and everything
else come from the system. So a machine without ``deb-src`` lines, and a user without root, can
fetch source packages, and binary packages of another release than the one that runs.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xsplice_plugins.errors import ConfigError, MachineError
from xsplice_plugins.realxen.process import run_logged

#: Debian release that carries each Xen release as its own.
SUITES = {"4.11": "buster", "4.14": "bullseye", "4.17": "bookworm", "4.20": "trixie"}
MIRROR_DEFAULT = "http://deb.debian.org/debian"
SECURITY_DEFAULT = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_CODENAMES = frozenset(
    {*SUITES.values(), "forky", "sid", "stable", "oldstable", "testing", "unstable"}
)
_ENTRIES_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One archive that apt is told about."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateApt:
    """An apt of our own, in a folder of our own."""

    folder: Path
    sources: tuple[AptSource, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options that make apt use this folder only."""
        return (
            "-q",
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

    Args:
        release: For example ``4.17``.

    Raises:
        ConfigError: None is known.
    """
    if release not in SUITES:
        known = ", ".join(sorted(SUITES))
        raise ConfigError(f"Xen {release}: no Debian release is known to carry it; known: {known}")
    return SUITES[release]


def parse_one_line(text: str) -> tuple[AptSource, ...]:
    """Read apt's one-line sources format.

    Args:
        text: Content of a ``.list`` file.

    Source: sources.list(5), "One-line-style format".
    """
    found = []
    for line in text.splitlines()[:_ENTRIES_MAX]:
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match is None:
            continue
        options, uri, suite, components = match.groups()
        signed = re.search(r"signed-by=(\S+)", options or "")
        found.append(
            AptSource(
                uri=uri.rstrip("/"),
                suite=suite,
                components=tuple(components.split()),
                signed_by=signed.group(1) if signed else "",
            )
        )
    return tuple(found)


def parse_deb822(text: str) -> tuple[AptSource, ...]:
    """Read apt's deb822 sources format.

    Args:
        text: Content of a ``.sources`` file.

    Source: sources.list(5), "deb822-style format".
    """
    found: list[AptSource] = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines))[:_ENTRIES_MAX]:
        fields = {
            name.lower(): value
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if fields.get("enabled", "yes").strip().lower() in {"no", "false", "0"}:
            continue
        signed = fields.get("signed-by", "").strip()
        found.extend(
            AptSource(
                uri=uri.rstrip("/"),
                suite=suite,
                components=tuple(fields.get("components", "").split()),
                # A key written out in the file has no place in our one-line list; apt then
                # falls back to the system's trusted keys.
                signed_by=signed if signed.startswith("/") else "",
            )
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        )
    return tuple(found)


def system_sources(etc_apt: Path) -> tuple[AptSource, ...]:
    """Read every archive that the system's apt knows, in apt's order.

    Args:
        etc_apt: Normally ``/etc/apt``.
    """
    found: list[AptSource] = []
    main = etc_apt / "sources.list"
    parts = sorted((etc_apt / "sources.list.d").glob("*"))
    for path in [main, *parts]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            found.extend(parse_one_line(text))
        elif path.suffix == ".sources":
            found.extend(parse_deb822(text))
    return tuple(found)


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
        return (
            AptSource(uri=mirror.rstrip("/"), suite=suite, components=("main",), signed_by=keyring),
        )
    main = AptSource(uri=MIRROR_DEFAULT, suite=suite, components=("main",), signed_by=keyring)
    security = AptSource(
        uri=SECURITY_DEFAULT, suite=f"{suite}-security", components=("main",), signed_by=keyring
    )
    plain = [entry for entry in known if entry.suite in _CODENAMES and "main" in entry.components]
    secure = [
        entry
        for entry in known
        if entry.suite.endswith("-security") and entry.suite.removesuffix("-security") in _CODENAMES
    ]
    if plain:
        main = _moved(main, plain[0])
    if secure:
        security = _moved(security, secure[0])
    return main, security


def _moved(wanted: AptSource, known: AptSource) -> AptSource:
    return AptSource(
        uri=known.uri,
        suite=wanted.suite,
        components=wanted.components,
        signed_by=known.signed_by or wanted.signed_by,
    )


def open_apt(folder: Path, sources: Sequence[AptSource]) -> PrivateApt:
    """Make an apt of our own and fetch the package lists.

    Args:
        folder: Kept between runs, so that only changed lists are fetched again.
        sources: From :func:`choose_sources`.

    Raises:
        ConfigError: An archive cannot be reached or is not signed by a known key.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text("".join(entry.lines() for entry in sources))
    apt = PrivateApt(folder=folder, sources=tuple(sources))
    run_logged(["apt-get", *apt.options, "update"], log=apt.log)
    return apt


def source_versions(apt: PrivateApt, name: str) -> tuple[str, ...]:
    """List the versions of a source package that the archives hold.

    Args:
        apt: Its lists are read.
        name: The source package.
    """
    text = run_logged(["apt-cache", *apt.options, "showsrc", "--only-source", name], log=apt.log)
    return tuple(sorted(set(re.findall(r"^Version: (\S+)$", text, re.MULTILINE))))


def choose_version(wanted: str, available: Sequence[str], *, name: str, places: str) -> str:
    """Return the version to fetch, or say which there are.

    Args:
        wanted: An exact version.
        available: What the archives hold.
        name: The source package, for the message.
        places: The archives, for the message.

    Raises:
        ConfigError: The version is gone.
    """
    if wanted in available:
        return wanted
    listed = ", ".join(available) or "none at all"
    raise ConfigError(
        f"{name}={wanted}: no longer at {places}; available: {listed}. Take one of these with "
        "--version, or an older state of the archive with "
        "--mirror http://snapshot.debian.org/archive/debian/<date>"
    )


def download_source(apt: PrivateApt, name: str, version: str, folder: Path) -> Path:
    """Download a source package; apt checks it against the signed lists.

    Args:
        apt: Where from.
        name: The source package.
        version: An exact version.
        folder: Where to; made when absent.

    Returns:
        Path of the ``.dsc`` file.

    Raises:
        ConfigError: The version is gone, or the download failed.
    """
    places = " and ".join(f"{entry.uri} {entry.suite}" for entry in apt.sources)
    choose_version(version, source_versions(apt, name), name=name, places=places)
    folder.mkdir(parents=True, exist_ok=True)
    run_logged(
        [
            "apt-get",
            *apt.options,
            "--download-only",
            "--only-source",
            "source",
            f"{name}={version}",
        ],
        log=apt.log,
        cwd=folder,
    )
    found = sorted(folder.glob(f"{name}_*.dsc"))
    if len(found) != 1:
        raise ConfigError(f"{folder}: apt left {len(found)} .dsc files, not one; see {apt.log}")
    return found[0]


def download_packages(apt: PrivateApt, names: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Download binary packages without installing them.

    Args:
        apt: Where from.
        names: Package names.
        folder: Where to; made when absent.

    Returns:
        The files, sorted by name.

    Raises:
        ConfigError: A package is not there or cannot be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run_logged(["apt-get", *apt.options, "download", *names], log=apt.log, cwd=folder)
    return tuple(sorted(folder.glob("*.deb")))


def unpack_package(package: Path, folder: Path, *, log: Path) -> None:
    """Unpack a binary package's files; nothing of it is run.

    Args:
        package: A ``.deb`` file.
        folder: Where to.
        log: Where the unpacker's words go.

    Raises:
        ConfigError: The file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run_logged(["dpkg", "-x", str(package), str(folder)], log=log)


def missing_packages(programs: Mapping[str, str], files: Mapping[str, str]) -> tuple[str, ...]:
    """Name the packages that this machine lacks.

    Args:
        programs: Program name to the Debian package that has it.
        files: Absolute path to the Debian package that has it.
    """
    lacking = {package for program, package in programs.items() if shutil.which(program) is None}
    lacking |= {package for path, package in files.items() if not Path(path).exists()}
    return tuple(sorted(lacking))


def require_packages(purpose: str, programs: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Refuse in one message, with the line that mends it, when packages are missing.

    Args:
        purpose: Subject of the message.
        programs: As for :func:`missing_packages`.
        files: As for :func:`missing_packages`.

    Raises:
        MachineError: Something is missing.
    """
    lacking = missing_packages(programs, files)
    if lacking:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise MachineError(
            f"{purpose}: packages are missing: {', '.join(lacking)}; install them with: "
            f"{sudo}apt-get install --no-install-recommends {' '.join(lacking)}"
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
