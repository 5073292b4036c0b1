# SPDX-License-Identifier: Apache-2.0
"""A tree whose settings are not those of its image is refused by name."""

from __future__ import annotations

import gzip
import subprocess
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.configured import check_configured, not_kept
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree
    from xsplice_plugins.elf.reader import ElfFile

pytestmark = pytest.mark.toolchain

SETTINGS = (
    '# CONFIG_PV32 is not set\nCONFIG_X86=y\nCONFIG_NR_CPUS=256\nCONFIG_TEXT="a b"\n'
    "CONFIG_AT=0x10\n"
)
DEFINES = (
    "#define CONFIG_AT 0x10\n#define CONFIG_X86 1\n"
    '#define CONFIG_NR_CPUS 256\n#define CONFIG_TEXT "a b"\n'
)
HEADER = "include/generated/autoconf.h"
FILES = {".config": SETTINGS, "include/config/auto.conf": SETTINGS, HEADER: DEFINES}


def image_with(folder: Path, data: bytes | None) -> ElfFile:
    """Link an image that holds some bytes as its settings; none if there are none."""
    (folder / "config.gz").write_bytes(data or b"")
    text = ".globl start\nstart: .long 1\n"
    if data is not None:
        text += (
            ".globl xen_config_data, xen_config_data_size\nxen_config_data:\n"
            '.incbin "config.gz"\nend:\nxen_config_data_size: .long end - xen_config_data\n'
        )
    (folder / "data.S").write_text(f'.section .rodata, "a"\n{text}')
    for line in ("gcc -c data.S -o data.o", "ld -e start data.o -o image"):
        subprocess.run(line.split(), cwd=folder, check=True)
    return read_elf((folder / "image").read_bytes(), "xen-syms")


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.fixture
def image(configured: Path) -> ElfFile:
    return image_with(configured, gzip.compress(SETTINGS.encode()))


def test_the_same_settings_are_held_whatever_else_the_files_say(
    configured: Path, image: ElfFile
) -> None:
    (configured / ".config").write_text(f"# another comment\n\n{SETTINGS}")
    check_configured(configured, image)
    assert b"CONFIG" not in image.data  # they were read from the image's packed copy


@pytest.mark.parametrize("path", FILES)
def test_another_value_in_any_of_the_files_is_refused(
    configured: Path, image: ElfFile, path: str
) -> None:
    file = configured / path
    file.write_text(file.read_text().replace("256", "512"))
    with pytest.raises(CaptureError, match="settings that the image holds: CONFIG_NR_CPUS;") as no:
        check_configured(configured, image)
    assert path in str(no.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{DEFINES}#define\tCONFIG_NEW 1\n",
        f"{DEFINES}# define CONFIG_NEW 1\n",
        f"{DEFINES} #define CONFIG_NEW 1\n",
        f"{DEFINES}#define CONFIG_NEW\n",
        f"{DEFINES}%:define CONFIG_NEW 1\n",
        f"{DEFINES}#undef CONFIG_X86\n",
        f"{DEFINES}/* a word */\n",
        f'{DEFINES}#include "more.h"\n',
        f"#if 0\n{DEFINES}#endif\n",
        f"/*\n{DEFINES}*/\n",
        DEFINES.replace("X86 1\n", "X86 1\\\n"),
    ],
)
def test_a_header_of_settings_that_make_did_not_write_so_is_refused(
    configured: Path, image: ElfFile, text: str
) -> None:
    """A compiler reads more than `#define NAME value`."""
    (configured / HEADER).write_text(text)
    with pytest.raises(CaptureError, match=f"{HEADER}: says otherwise than the settings that the"):
        check_configured(configured, image)


@pytest.mark.parametrize("line", [" CONFIG_NEW=y", "CFLAGS-y += -DNEW", "# words \\"])
def test_settings_for_make_that_it_did_not_write_so_are_refused(
    configured: Path, image: ElfFile, line: str
) -> None:
    path = configured / "include/config/auto.conf"
    path.write_text(f"{SETTINGS}{line}\n")
    with pytest.raises(CaptureError, match=r"auto\.conf: says otherwise than the settings"):
        check_configured(configured, image)


def test_words_above_the_settings_are_taken(configured: Path, image: ElfFile) -> None:
    (configured / HEADER).write_text(f"/*\n * Words\n */\n/* more */\n\n{DEFINES}\n")
    (configured / "include/config/auto.conf").write_text(f"#\n# Words\n\n{SETTINGS}")
    check_configured(configured, image)


def test_all_files_changed_alike_are_refused(configured: Path, image: ElfFile) -> None:
    for path, text in FILES.items():
        (configured / path).write_text(text.replace("256", "512"))
    with pytest.raises(CaptureError, match="CONFIG_NR_CPUS"):
        check_configured(configured, image)
    for path, text in FILES.items():
        (configured / path).write_text(text)
    check_configured(configured, image)


def test_settings_that_came_and_went_are_named(configured: Path, image: ElfFile) -> None:
    (configured / HEADER).write_text("#define CONFIG_NEW 1\n")
    with pytest.raises(CaptureError, match=r"CONFIG_AT, CONFIG_NEW, .*, CONFIG_TEXT and 1 more"):
        check_configured(configured, image)


def test_without_settings_in_the_image_the_files_are_held_against_each_other(
    configured: Path,
) -> None:
    bare = image_with(configured, None)
    check_configured(configured, bare)
    (configured / HEADER).write_text(DEFINES.replace("256", "512"))
    with pytest.raises(CaptureError, match=r"otherwise than \.config: CONFIG_NR_CPUS"):
        check_configured(configured, bare)
    (configured / HEADER).unlink()  # a tree that has none says nothing
    check_configured(configured, bare)


def test_an_image_without_settings_that_must_hold_them_is_refused(configured: Path) -> None:
    more = {path: text.replace("CONFIG_AT", "CONFIG_HYPFS_CONFIG") for path, text in FILES.items()}
    for path, text in more.items():
        (configured / path).write_text(text.replace("0x10", "1" if path == HEADER else "y"))
    with pytest.raises(CaptureError, match="CONFIG_HYPFS_CONFIG=y, and xen-syms holds no settings"):
        check_configured(configured, image_with(configured, None))
    text = (configured / ".config").read_text()
    check_configured(configured, image_with(configured, gzip.compress(text.encode())))


def test_settings_that_cannot_be_unpacked_are_refused(configured: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be read"):
        check_configured(configured, image_with(configured, b"no gzip"))


def test_what_make_did_not_keep_is_told_and_compilers_versions_are_not() -> None:
    made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=4\nCONFIG_GCC_VERSION=120200\n"
    assert not_kept(made, made) == []
    assert not_kept("CONFIG_GCC_VERSION=130100\n# CONFIG_C is not set\n", made) == []
    assert not_kept("CONFIG_B=n\nCONFIG_C=n\n", made) == []  # as people write it
    assert not_kept("CONFIG_A=n\n", made) == ["CONFIG_A is not set"]
    asked = "CONFIG_B=y\n# CONFIG_A is not set\nCONFIG_N=5\n"
    assert not_kept(asked, made) == ["CONFIG_A is not set", "CONFIG_B=y", "CONFIG_N=5"]


def test_no_tree_is_used_that_is_configured_otherwise(own_tree: TinyTree) -> None:
    header = own_tree.root / "xen" / HEADER
    header.parent.mkdir()
    header.write_text("#define CONFIG_X86 1\n#define CONFIG_LIVEPATCH 1\n")
    locate_tree(own_tree.root)
    header.write_text("#define CONFIG_LIVEPATCH 1\n")
    with pytest.raises(CaptureError, match="CONFIG_X86"):
        locate_tree(own_tree.root)
