# SPDX-License-Identifier: Apache-2.0
"""The parts of a machine that do not depend on the hypervisor: kernel, tool, libraries, shell.

They come from Debian's packages, are unpacked into the cache folder and never installed. The
C library comes from the same Debian release as the tool, so the host's does not matter.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import Struct

from xsplice_plugins.cache import locked
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.realxen.agent import APPLETS, init_script
from xsplice_plugins.realxen.initramfs import pack_cpio, unpack_kernel
from xsplice_plugins.realxen.platforms import X86_64, Platform
from xsplice_plugins.system import debian

#: Changes when what is kept of the packages changes.
RECIPE = "1"
#: dom0 always runs bookworm's kernel: later ones are packed in ways Python cannot unpack.
KERNEL_SUITE = "bookworm"
PROGRAMS = {"apt-get": "apt", "dpkg": "dpkg", "setpriv": "util-linux"}

_LIBRARIES = (
    "libc6",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxentoolcore1",
    "libxentoollog1",
)
_LIBRARY_NAMES = re.compile(
    r"(?:libc\.so\.6|ld-linux-x86-64\.so\.2|ld-linux-aarch64\.so\.1"
    r"|libxen(?:ctrl|call|devicemodel|evtchn|foreignmemory|gnttab|toolcore|toollog)\.so\.[0-9.]+)"
)

Say = Callable[[str], None]


class Parts(Struct, frozen=True, kw_only=True):
    """Where the parts of a machine are."""

    kernel: Path
    initramfs: Path
    #: What they were made of, for reports: package names with versions.
    packages: tuple[str, ...]
    #: Whether the release's own ``xen-livepatch`` is there; else our agent is the only tool.
    has_tool: bool


def prepare_parts(
    cache: Path, *, release: str, say: Say, mirror: str = "", platform: Platform = X86_64
) -> Parts:
    """Fetch and unpack what is not there yet.

    Args:
        cache: The user's cache folder.
        release: The Xen release whose ``xen-livepatch`` is wanted, for example ``4.17``. Where no
            Debian release carries it, dom0 has our own agent only, which knows every release.
        say: Told what is being done.
        mirror: An archive to use in place of the system's.
        platform: The machine that they are for.

    Raises:
        ConfigError: A package cannot be fetched.
        MachineError: A program is missing.
    """
    programs = PROGRAMS | dict(platform.programs)
    debian.require_packages(f"real Xen under QEMU for {platform.name}", programs, platform.files)
    has_tool = release in debian.SUITES
    ending = f"{platform.suffix}-{RECIPE}"
    kernel = cache / "qemu" / f"kernel-{KERNEL_SUITE}{ending}"
    tool = cache / "qemu" / f"tool-{release if has_tool else 'none'}{ending}"
    suite = debian.suite_of(release) if has_tool else KERNEL_SUITE
    make_kernel = partial(_make_kernel, platform=platform)
    make_tool = partial(_make_tool, release=release) if has_tool else _make_shell
    for folder, place, make in ((kernel, KERNEL_SUITE, make_kernel), (tool, suite, make_tool)):
        own = cache / "apt" / f"{place}{platform.suffix}"
        with locked(own):
            if (folder / "packages.json").is_file():
                continue
            say(f"fetching {folder.name} from Debian {place}")
            known = debian.system_sources()
            sources = debian.choose_sources(known, suite=place, mirror=mirror)
            apt = debian.open_apt(own, sources, architecture=platform.debian)
            unfinished = folder.with_name(folder.name + ".partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            packages = make(apt, unfinished)
            (unfinished / "packages.json").write_text(json.dumps(packages, indent=2) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    lists = [json.loads((folder / "packages.json").read_text()) for folder in (kernel, tool)]
    initramfs = tool / "initramfs.img"
    _write_if_new(initramfs, _pack_initramfs(kernel, tool, platform))
    return Parts(
        kernel=kernel / "vmlinux",
        initramfs=initramfs,
        packages=tuple(lists[0] + lists[1]),
        has_tool=has_tool,
    )


def _make_kernel(apt: debian.PrivateApt, into: Path, platform: Platform) -> list[str]:
    (package,) = debian.dependencies(apt, platform.kernel_meta, platform.kernel_pattern)
    root = into / "root"
    packages = debian.unpack_packages(apt, [package], root)
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise ConfigError(f"{package}: holds {len(images)} kernels, not one")
    image = images[0].read_bytes()
    if platform.is_kernel_packed:
        image = unpack_kernel(image, name=package)
    (into / "vmlinux").write_bytes(image)
    (into / "modules").mkdir()
    found = {path.name.split(".")[0]: path for path in sorted(root.rglob("*.ko"))}
    order: list[str] = []
    for name in platform.modules:
        _add_module(name, found, order)
    for name in order:
        shutil.copyfile(found[name], into / "modules" / f"{name}.ko")
    (into / "modules.json").write_text(json.dumps(order) + "\n")
    shutil.rmtree(root)
    return packages


def _add_module(name: str, found: dict[str, Path], order: list[str]) -> None:
    """Add a module after everything that it needs (its ``depends=`` in ``.modinfo``)."""
    if name in order:
        return
    if name not in found:
        raise ConfigError(f"{name}: the kernel package has no such module; it cannot be a dom0")
    match = re.search(rb"\0depends=([^\0]*)\0", found[name].read_bytes())
    for needed in (match.group(1).decode() if match else "").split(","):
        if needed:
            _add_module(needed if needed in found else needed.replace("_", "-"), found, order)
    order.append(name)


def _make_tool(apt: debian.PrivateApt, into: Path, release: str) -> list[str]:
    names = [f"xen-utils-{release}", f"libxenmisc{release}", "busybox-static", *_LIBRARIES]
    root = into / "root"
    packages = debian.unpack_packages(apt, names, root)
    (into / "lib").mkdir()
    for path in sorted(root.rglob("*.so*")):
        if _LIBRARY_NAMES.fullmatch(path.name) and path.is_file():
            shutil.copyfile(path, into / "lib" / path.name)
    wanted = {"xen-livepatch": f"usr/lib/xen-{release}/bin/xen-livepatch", "busybox": "*/busybox"}
    for name, pattern in wanted.items():
        found = [path for path in sorted(root.rglob("*")) if path.match(pattern) and path.is_file()]
        if not found:
            raise ConfigError(f"{name}: not found in Debian's packages for Xen {release}")
        shutil.copyfile(found[0], into / name)
    shutil.rmtree(root)
    return packages


def _make_shell(apt: debian.PrivateApt, into: Path) -> list[str]:
    """Make what dom0 needs beside our own agent: a shell."""
    root = into / "root"
    packages = debian.unpack_packages(apt, ["busybox-static"], root)
    (found,) = root.glob("**/bin/busybox")
    shutil.copyfile(found, into / "busybox")
    (into / "lib").mkdir()
    shutil.rmtree(root)
    return packages


def _pack_initramfs(kernel: Path, tool: Path, platform: Platform) -> bytes:
    modules = json.loads((kernel / "modules.json").read_text())
    init = init_script(modules, platform).encode()
    files = {"init": init, "bin/busybox": (tool / "busybox").read_bytes()}
    files |= {f"modules/{n}.ko": (kernel / "modules" / f"{n}.ko").read_bytes() for n in modules}
    files |= {
        f"xen/lib/{path.name}": path.read_bytes() for path in sorted((tool / "lib").iterdir())
    }
    if (tool / "xen-livepatch").is_file():
        files["xen/xen-livepatch"] = (tool / "xen-livepatch").read_bytes()
        files[platform.loader] = files[f"xen/lib/{platform.loader.rpartition('/')[2]}"]
    return pack_cpio(files, {f"bin/{applet}": "busybox" for applet in APPLETS})


def _write_if_new(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
