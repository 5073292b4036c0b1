# SPDX-License-Identifier: Apache-2.0
"""The machines that a real Xen is run on, as data: one row for each processor.

Source: QEMU's manual, "virt" and "guest-loader"; Linux, Documentation/arm64/booting.rst (magic
number of an image that boots); the ELF header for x86.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import TYPE_CHECKING

from msgspec import Struct

from xsplice_plugins.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: x86_64's own number, and that of the 32-bit header which its image that boots is given.
#: Source: xen/arch/x86/boot/mkelf32.c.
_EM_X86 = (62, 3)
_IMAGE_MAGIC, _IMAGE_MAGIC_AT = b"ARM\x64", 56
_KERNEL_ARGUMENTS = "console=hvc0 quiet panic=-1"
_COMPILER_ARGUMENTS = (
    *("-O2", "-Wall", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-s"),
    *("-fno-stack-protector", "-fno-pie", "-no-pie", "-Wl,--build-id=none"),
)


class Platform(Struct, frozen=True, kw_only=True):
    """One kind of machine under QEMU, and what its dom0 is made of."""

    name: str
    debian: str  #: Debian's name of the architecture
    qemu: str  #: the program
    processor: tuple[str, ...]  #: what makes board and processor
    boot: tuple[str, ...]  #: what gives arguments, kernel and initramfs to the image ``xen``
    disk: str  #: QEMU's device for the disk with the jobs, whose drive is named ``jobs``
    #: program to the package that has it, and absolute path to the package that has it
    programs: Mapping[str, str]
    files: Mapping[str, str]
    memory_mib: int
    kernel_meta: str  #: Debian's package that names the newest kernel
    kernel_pattern: str  #: of the package's name that holds it
    is_kernel_packed: bool  #: whether the kernel must be taken out of what Debian ships
    modules: tuple[str, ...]
    loader: str  #: path of the C library's loader, without leading slash
    compiler: tuple[str, ...]  #: for the agent
    compiler_packages: Mapping[str, str]
    #: whether the machine's page tables can be walked, so that its memory can be read
    has_memory: bool
    #: of so many processors a booted machine can be restored; one with more is booted each time
    saved_cpus_max: int
    can_be_busy: (
        bool  #: whether dom0 goes on answering while a process keeps its CPUs in hypercalls
    )

    @property
    def suffix(self) -> str:
        """Return what names of folders in the cache end with; the first machine's have none."""
        return "" if self.debian == "amd64" else f"-{self.debian}"

    def command(self, disk: int, cpus: int) -> list[str]:
        """Return QEMU's command line.

        Args:
            disk: Descriptor of the disk with the jobs.
            cpus: How many processors the machine has.
        """
        return [
            self.qemu,
            *("-accel", "tcg,thread=multi"),
            *self.processor,
            *("-smp", str(cpus)),
            *("-m", str(self.memory_mib)),
            *("-display", "none"),
            "-no-reboot",
            "-nodefaults",
            "-no-user-config",
            *("-drive", f"if=none,id=jobs,format=raw,readonly=on,file=/proc/self/fd/{disk}"),
            *("-device", f"{self.disk},drive=jobs"),
            *("-kernel", "xen"),
            *self.boot,
        ]


X86_64 = Platform(
    name="x86_64",
    debian="amd64",
    qemu="qemu-system-x86_64",
    # The processor that the model takes as given; it decides which alternatives and NOPs
    # are in memory. With SMAP dom0 crashes early under emulation, with MWAIT Xen panics.
    processor=("-cpu", "EPYC,-smap,-monitor"),
    boot=(
        # With the default of 16 KiB a quick succession of answers loses some on the way out.
        "-append",
        "console=com1 com1=115200,8n1 loglvl=all serial_tx_buffer=8M dom0_mem=384M,max:384M",
        *("-initrd", f"vmlinux {_KERNEL_ARGUMENTS},initramfs"),
    ),
    disk="virtio-blk-pci",
    programs={"qemu-system-x86_64": "qemu-system-x86"},
    files={"/usr/share/seabios/bios-256k.bin": "seabios"},
    memory_mib=512,
    kernel_meta="linux-image-amd64",
    kernel_pattern=r"linux-image-\d\S*-amd64",
    is_kernel_packed=True,
    modules=("xen-privcmd", "xenfs", "virtio_pci", "virtio_blk"),
    loader="lib64/ld-linux-x86-64.so.2",
    compiler=("gcc", *_COMPILER_ARGUMENTS),
    compiler_packages={"gcc": "gcc", "ld": "binutils"},
    has_memory=True,
    saved_cpus_max=255,
    can_be_busy=True,
)
ARM64 = Platform(
    name="arm64",
    debian="arm64",
    qemu="qemu-system-aarch64",
    processor=("-machine", "virt,virtualization=on,gic-version=2", "-cpu", "cortex-a57"),
    boot=(
        "-append",
        "console=dtuart loglvl=all serial_tx_buffer=8M dom0_mem=512M dom0_max_vcpus=1",
        "-device",
        f"guest-loader,addr=0x49000000,kernel=vmlinux,bootargs={_KERNEL_ARGUMENTS}",
        *("-device", "guest-loader,addr=0x4f000000,initrd=initramfs"),
    ),
    disk="virtio-blk-device",
    programs={"qemu-system-aarch64": "qemu-system-arm"},
    files={},
    memory_mib=1024,
    kernel_meta="linux-image-arm64",
    kernel_pattern=r"linux-image-\d\S*-arm64",
    is_kernel_packed=False,
    modules=("xen-privcmd", "xenfs", "virtio_mmio", "virtio_blk"),
    loader="lib/ld-linux-aarch64.so.1",
    compiler=("aarch64-linux-gnu-gcc", *_COMPILER_ARGUMENTS),
    compiler_packages={"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu"},
    has_memory=False,
    # Of two restored processors the second one at times never comes: nothing wakes it.
    saved_cpus_max=1,
    # Its one virtual CPU kept busy, dom0 once never came back to the agent after an -EBUSY.
    can_be_busy=False,
)
PLATFORMS = (X86_64, ARM64)


def platform_of(image: bytes, *, name: str) -> tuple[Platform, bytes]:
    """Tell which machine boots an image, and unpack it.

    Args:
        image: What boots: an ELF file for x86_64, also packed by gzip; an Image for arm64.
        name: What messages call it.

    Returns:
        The machine, and the image as QEMU takes it.

    Raises:
        ConfigError: It is neither.
    """
    if image[:2] == b"\x1f\x8b":  # Debian ships xen-4.17-amd64.gz
        try:
            image = gzip.decompress(image)
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError(f"{name}: cannot be unpacked ({error}); fetch it again") from error
    if image[:4] == b"\x7fELF" and len(image) >= 20:
        (machine,) = struct.unpack_from("<H", image, 18)
        if machine in _EM_X86:
            return X86_64, image
        raise ConfigError(
            f"{name}: an ELF image for machine {machine}; what boots is ELF for x86_64 and an "
            "Image for arm64: name the tree's xen/xen"
        )
    if image[_IMAGE_MAGIC_AT : _IMAGE_MAGIC_AT + 4] == _IMAGE_MAGIC:
        return ARM64, image
    raise ConfigError(f"{name}: not an ELF image, and no Image for arm64; name the tree's xen/xen")
