# SPDX-License-Identifier: Apache-2.0
"""The small archive formats that a machine is started with, written byte for byte the same.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst ("newc" archives);
Documentation/arch/x86/boot.rst (fields ``payload_offset``, ``payload_length``, ``setup_sects``).
"""

import io
import lzma
import stat
import struct
import tarfile
from collections.abc import Mapping

from xsplice_plugins.errors import ConfigError

_MODE_FILE = stat.S_IFREG | 0o755
_MODE_LINK = stat.S_IFLNK | 0o777
_MODE_FOLDER = stat.S_IFDIR | 0o755
_MODE_CHAR = stat.S_IFCHR | 0o600


def _entry(number: int, name: str, mode: int, body: bytes, device: tuple[int, int]) -> bytes:
    raw = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    head += b"\0" * (-len(head) % 4)
    return head + body + b"\0" * (-len(body) % 4)


def pack_cpio(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """Pack an initramfs.

    Args:
        files: Path without leading slash to content; all are executable.
        links: Path to the target of a symbolic link.

    Returns:
        The archive, uncompressed: unpacking costs more under emulation than reading.
    """
    folders = {"dev", "proc", "sys", "tmp"}
    for path in (*files, *links):
        parts = path.split("/")[:-1]
        folders |= {"/".join(parts[: count + 1]) for count in range(len(parts))}
    entries = [(path, _MODE_FOLDER, b"", (0, 0)) for path in sorted(folders)]
    # The kernel opens /dev/console before /init runs and can mount anything.
    entries.append(("dev/console", _MODE_CHAR, b"", (5, 1)))
    entries += [(path, _MODE_FILE, body, (0, 0)) for path, body in sorted(files.items())]
    entries += [(path, _MODE_LINK, to.encode(), (0, 0)) for path, to in sorted(links.items())]
    packed = [_entry(number, *entry) for number, entry in enumerate(entries, 1)]
    packed.append(_entry(0, "TRAILER!!!", 0, b"", (0, 0)))
    data = b"".join(packed)
    return data + b"\0" * (-len(data) % 512)


def pack_disk(files: Mapping[str, bytes], *, size_bytes: int) -> bytes:
    """Pack a raw disk that holds a tar.

    Args:
        files: Name to content.
        size_bytes: Size of the disk; it is part of the saved machine and never changes.

    Raises:
        ConfigError: The files do not fit.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, body in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(body))
    data = sink.getvalue()
    if len(data) > size_bytes:
        raise ConfigError(
            f"job disk: {len(data)} bytes do not fit into {size_bytes}; run fewer payloads at once"
        )
    return data


def unpack_kernel(image: bytes, *, name: str) -> bytes:
    """Take the ELF kernel out of a bzImage; Xen would spend 20 s of emulated time on it.

    Raises:
        ConfigError: It is no bzImage, or compressed in a way that is not handled.
    """
    if image[0x202:0x206] != b"HdrS":
        raise ConfigError(f"{name}: not a bzImage; name a Debian kernel package's vmlinuz")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    packed = image[start : start + length]
    if packed[:6] != b"\xfd7zXZ\0":
        raise ConfigError(f"{name}: its kernel is not packed with xz; use bookworm's kernel")
    kernel = lzma.LZMADecompressor().decompress(packed)
    if kernel[:4] != b"\x7fELF":
        raise ConfigError(f"{name}: what it holds is not an ELF kernel")
    return kernel
