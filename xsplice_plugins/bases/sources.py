# SPDX-License-Identifier: Apache-2.0
"""The sources of a base: a folder, a tarball, a Debian or an RPM source package."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from enum import StrEnum
from pathlib import Path

from xsplice_plugins.bases.rpm import prepare_rpm
from xsplice_plugins.errors import ConfigError, MachineError
from xsplice_plugins.kbuild.listing import content_of
from xsplice_plugins.system.debian import require_packages
from xsplice_plugins.system.git import ask_git, git_environment, git_line
from xsplice_plugins.system.process import run_logged, words_of_full

_TARBALLS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tar.zst", ".tar.lz4")
_DEPTH_MAX = 5  #: folders between the top of an archive and the sources
_SETTINGS = "Config.mk"  #: lies beside ``xen/``, whose Makefile reads it
#: What was shipped may lie beside sources that are in a folder of their own.
BESIDE = ("xen-syms", "xen.gz", "xen", ".config")
_KINDS = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)  #: of what sources hold
_LISTS = ("Files", "Checksums-Sha1", "Checksums-Sha256")  #: of files, in a .dsc


class Kind(StrEnum):
    """What sources come as."""

    FOLDER = "folder"
    TARBALL = "tarball"
    DSC = "Debian source package"
    SRPM = "RPM source package"
    CLONE = "git clone"


#: What unpacking each kind takes: program to Debian package.
PROGRAMS = {
    Kind.FOLDER: {},
    Kind.TARBALL: {"tar": "tar"},
    Kind.DSC: {"dpkg-source": "dpkg-dev"},
    Kind.SRPM: {"rpmbuild": "rpm", "cpio": "cpio"},
    Kind.CLONE: {"git": "git", "tar": "tar"},
}
#: How packed data begin, the program that unpacks them, and its Debian package.
_PACKERS = (
    (b"\x1f\x8b", "gzip", "gzip"),
    (b"BZh", "bzip2", "bzip2"),
    (b"\xfd7zXZ\0", "xz", "xz-utils"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4"),
)


def kind_of(source: Path, ref: str = "") -> Kind:
    """Tell what sources come as.

    Args:
        source: The file or folder.
        ref: A tag or commit of a clone; "" if it is none.

    Raises:
        ConfigError: There is nothing, or it is of no known kind.
    """
    if source.is_dir():
        if not ref and (source / "HEAD").is_file() and (source / "objects").is_dir():
            raise ConfigError(
                f"--source {source}: is a git repository without files; name a commit of it: --ref "
                "RELEASE-4.20.0"
            )
        return Kind.CLONE if ref else Kind.FOLDER
    if ref:
        raise ConfigError(f"--ref {ref}: --source {source} is no git clone; give a clone's folder")
    if not source.is_file():
        is_odd = source.exists()
        what = "is neither file nor folder" if is_odd else "there is no such file or folder"
        raise ConfigError(f"--source {source}: {what}; check the path")
    name = source.name.lower()
    if name.endswith(".dsc"):
        return Kind.DSC
    if name.endswith(".src.rpm"):
        return Kind.SRPM
    if name.endswith(_TARBALLS):
        return Kind.TARBALL
    raise ConfigError(
        f"--source {source}: neither a folder, a tarball ({', '.join(_TARBALLS)}), a .dsc nor a "
        ".src.rpm; unpack it and give the folder"
    )


def located(source: Path) -> Path:
    """Return the folder that holds ``xen/``, where that itself was named.

    Raises:
        ConfigError: It stands alone.
    """
    if not (source / "common" / "livepatch.c").is_file():
        return source
    real = Path(os.path.realpath(source))
    if real.name == "xen" and (real.parent / _SETTINGS).is_file():
        return real.parent
    raise ConfigError(
        f"--source {source}: is Xen's folder xen/ alone, and its build reads {_SETTINGS} beside "
        "it; give the folder that holds both"
    )


def digest_of(source: Path, kind: Kind, ref: str = "") -> str:
    """Return what tells these sources from others: their content, whatever the times say.

    Raises:
        ConfigError: A file that a ``.dsc`` names is not there, or not what that says; or a clone
            has attributes that change what a commit holds.
    """
    if kind is Kind.CLONE:
        _check_attributes(source)
        return commit_of(source, ref) + _inside(source)
    digest = hashlib.sha256()
    if kind is not Kind.FOLDER:
        listed = _listed(source) if kind is Kind.DSC else {}
        for path in (source, *(source.parent / name for name in sorted(listed))):
            digest.update(f"{path.name}\0".encode("utf-8", "surrogateescape"))
            digest.update(_checked(path, source, listed.get(path.name, "")))
        return digest.hexdigest()
    top = _top(source, source)
    beside = (place / name for place in (source, source / "xen") for name in BESIDE)
    # What a link leads to is what is copied of these.
    files = [(path.name, os.path.realpath(path)) for path in beside if path.is_file()]
    rows = [f"{name}\0{content_of(file)}\n" for name, file in files]
    digest.update("".join(rows).encode("utf-8", "surrogateescape"))
    for folder, folders, names in os.walk(top):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
        folders[:] = sorted(name for name in folders if name != ".git" and name not in links)
        for name in sorted({*names, *links} - {".git"}):
            file = os.path.join(folder, name)  # noqa: PTH118  # thousands of paths
            text = f"{os.path.relpath(file, top)}\0{content_of(file)}\n"
            digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _checked(path: Path, source: Path, wanted: str) -> bytes:
    """Return a file's bytes; one that a .dsc names is what that says."""
    if path != source and not path.is_file():
        raise ConfigError(
            f"--source {source}: names {path.name}, which does not lie beside it; fetch it too "
            "(`dget`, or `apt-get source --download-only`)"
        )
    data = path.read_bytes()
    if wanted and hashlib.sha256(data).hexdigest() != wanted:
        raise ConfigError(
            f"--source {source}: {path.name} beside it has another sha256 than it says; fetch both "
            "again"
        )
    return data


def commit_of(clone: Path, ref: str) -> str:
    """Return the commit that a name stands for.

    Args:
        clone: A git clone, or its git folder.
        ref: A tag, branch or commit.

    Raises:
        ConfigError: There is no such name, or no clone.
        MachineError: There is no git.
    """
    require_packages("a git clone", PROGRAMS[Kind.CLONE], {})
    done = ask_git(clone, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    if done.returncode != 0:
        raise ConfigError(
            f"--ref {ref}: {clone} has no such commit; name a git clone of Xen and fetch its tags "
            f"({' '.join(done.stderr.split())})"
        )
    return done.stdout.strip()


def _check_attributes(clone: Path) -> None:
    """Refuse a clone's own attributes, which no option switches off."""
    place = ask_git(clone, "rev-parse", "--git-path", "info/attributes").stdout.rstrip("\n")
    path = clone / place
    lines = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if any(line.strip() and not line.lstrip().startswith("#") for line in lines.splitlines()):
        raise ConfigError(
            f"--source {clone}: {path} changes what git writes of a commit; give another clone "
            "with --source, or take its lines out"
        )


def _inside(source: Path) -> str:
    """Return where in a clone a folder lies; "" for the whole: a commit may hold several."""
    done = ask_git(source, "rev-parse", "--show-prefix")
    return f" {done.stdout.strip()}".rstrip()


def _listed(source: Path) -> dict[str, str]:
    """Return the files that a .dsc names, which lie beside it, with their sha256 if it says it."""
    found: dict[str, str] = {}
    field = ""
    for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not line.startswith((" ", "\t")):
            field = line.partition(":")[0]
        elif field in _LISTS and len(words) == 3 and "/" not in words[2]:
            is_sha = field == "Checksums-Sha256"
            found[words[2]] = words[0] if is_sha else found.get(words[2], "")
    return found


def unpack(source: Path, kind: Kind, into: Path, *, log: Path, ref: str = "") -> None:
    """Put sources into a folder, so that ``xen/`` lies at its top.

    Args:
        source: What the user gave; only read.
        kind: What it is.
        into: Where to; made.
        log: Where the programs' words go.
        ref: Tag or commit of a clone.

    Raises:
        ConfigError: It cannot be unpacked, or holds no hypervisor.
        MachineError: A program is missing.
    """
    packer = _packer_of(source) if kind is Kind.TARBALL else {}
    require_packages(f"unpacking a {kind}", {**PROGRAMS[kind], **packer}, {})
    place = into.with_name(into.name + ".unpacked")
    for path in (place, into):
        shutil.rmtree(path, ignore_errors=True)
    if kind is Kind.FOLDER:
        place = source
    else:
        place.mkdir(parents=True)
        try:
            _extract(source, kind, place, log, ref)
        except ConfigError as error:
            raise ConfigError(
                f"--source {source}: cannot be unpacked as {kind}; fetch it again: {error}"
            ) from error
    top = _top(place, source)
    if into.resolve().is_relative_to(top.resolve()):
        raise ConfigError(f"--source {source}: holds the cache folder itself; give another one")
    if kind is Kind.FOLDER:
        _copy(top, into)
    else:
        top.rename(into)
        shutil.rmtree(place, ignore_errors=True)
    check_links(into, f"--source {source}")
    if (config := into / "xen" / ".config").is_dir() and not config.is_symlink():
        shutil.rmtree(into, ignore_errors=True)
        raise ConfigError(
            f"--source {source}: xen/.config is a folder, and make keeps the settings there; give "
            "sources without it"
        )


def _packer_of(source: Path) -> dict[str, str]:
    """Return the program that unpacks a tarball, whatever its name, with its package."""
    with source.open("rb") as file:
        begin = file.read(8)
    return {name: package for magic, name, package in _PACKERS if begin.startswith(magic)}


def _extract(source: Path, kind: Kind, place: Path, log: Path, ref: str) -> None:
    # Options of the user's own would leave files out, or put them elsewhere.
    environ = {name: value for name, value in os.environ.items() if name != "TAR_OPTIONS"}
    if kind is Kind.CLONE:
        archive = place / "commit.tar"
        words = ("archive", "--format=tar", f"--output={archive}", commit_of(source, ref))
        run_logged(git_line(source, *words), log=log, environ=git_environment())
        run_logged(["tar", "-xf", str(archive), "-C", str(place)], log=log, environ=environ)
        archive.unlink()
    elif kind is Kind.TARBALL:
        line = ["tar", "--no-same-owner", "--no-same-permissions", "-xf", str(source)]
        packer = [f"--use-compress-program={program}" for program in _packer_of(source)]
        run_logged([*line, *packer, "-C", str(place)], log=log, environ=environ)
    elif kind is Kind.DSC:
        line = ["dpkg-source", "-x", str(source), str(place / "source")]
        run_logged(line, log=log, environ=environ)
    else:
        prepare_rpm(source, place, log=log)


def check_links(tree: Path, given: str) -> None:
    """Refuse links that lead out of the tree, through which a build would write, and odd files.

    All folders and files become the owner's to write: make does.

    Args:
        tree: Of a base; it is deleted where it holds such a link.
        given: What the user gave it with.

    Raises:
        ConfigError: It holds such a link, or what is neither file, folder nor link: whoever opens
            a pipe waits for ever.
    """
    root = os.path.realpath(tree)
    for folder, folders, names in os.walk(tree):
        for name in (*folders, *names):
            path = os.path.join(folder, name)  # noqa: PTH118  # thousands of paths
            mode = os.lstat(path).st_mode
            if not any(is_(mode) for is_ in _KINDS):
                shutil.rmtree(tree, ignore_errors=True)
                raise ConfigError(
                    f"{given}: {os.path.relpath(path, tree)} is neither a file, a folder nor a "
                    "link (a pipe, a socket or a device); give sources without it"
                )
            if not stat.S_ISLNK(mode) and not mode & stat.S_IWUSR:
                os.chmod(path, mode | stat.S_IWUSR)  # noqa: PTH101
            if os.path.islink(path) and not f"{os.path.realpath(path)}/".startswith(f"{root}/"):  # noqa: PTH114
                shutil.rmtree(tree, ignore_errors=True)
                raise ConfigError(
                    f"{given}: {os.path.relpath(path, tree)} is a link that leads out of "
                    "it; give sources that stand alone"
                )


def _top(place: Path, source: Path) -> Path:
    """Return the folder that holds ``xen/``."""
    found = [place]
    for _ in range(_DEPTH_MAX):
        tops = [path for path in found if (path / "xen" / "common" / "livepatch.c").is_file()]
        if len(tops) == 1:
            return _whole(tops[0], source)
        if tops:
            names = ", ".join(sorted(path.name for path in tops))
            raise ConfigError(f"--source {source}: holds several hypervisors ({names}); give one")
        # Links are not followed: one of an archive may lead into the user's own folders.
        folders = (row for path in found for row in path.iterdir() if not row.is_symlink())
        found = [row for row in folders if row.is_dir()]
    is_clone = (source / ".git").exists()
    more = ", or name another commit of this clone with --ref" if is_clone else ""
    raise ConfigError(
        f"--source {source}: holds no hypervisor that takes live patches (no "
        f"xen/common/livepatch.c); give Xen's own sources{more}"
    )


def _whole(top: Path, source: Path) -> Path:
    """Refuse a folder ``xen/`` without what its Makefile reads beside it."""
    makefile = top / "xen" / "Makefile"
    text = makefile.read_bytes() if makefile.is_file() else b""
    if f"/{_SETTINGS}".encode() in text and not (top / _SETTINGS).is_file():
        raise ConfigError(
            f"--source {source}: holds Xen's folder xen/ alone, and its build reads {_SETTINGS} "
            "beside it; give all of Xen's sources"
        )
    return top


def _copy(top: Path, into: Path) -> None:
    """Copy sources without history; what is neither file, folder nor link is none."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        modes = {name: os.lstat(Path(folder) / name).st_mode for name in names}
        return {n for n in names if n == ".git" or not any(is_(modes[n]) for is_ in _KINDS)}

    try:
        shutil.copytree(top, into, symlinks=True, ignore=left_out)
    except OSError as error:
        if full := words_of_full(str(error)):
            raise MachineError(f"{into}: cannot be written ({full}); make room") from error
        raise ConfigError(f"--source {top}: cannot be copied ({error}); check it") from error
