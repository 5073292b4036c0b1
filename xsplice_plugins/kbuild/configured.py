# SPDX-License-Identifier: Apache-2.0
"""Is a tree configured as its image is? The image holds its own settings (``CONFIG_HYPFS_CONFIG``).

Source: xen/common/Makefile (4.14 and later): ``config_data.S`` holds the gzipped ``.config``;
xen/tools/kconfig/confdata.c: what ``autoconf.h`` and ``auto.conf`` say of each setting.
"""

from __future__ import annotations

import gzip
import re
import zlib
from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import plain
from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.records import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xsplice_plugins.elf.reader import ElfFile

_SETTING = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)
_UNSET = re.compile(r"^# CONFIG_(\w+) is not set$", re.MULTILINE)
_DEFINE = re.compile(r"^#define CONFIG_(\w+) (.*)$", re.MULTILINE)
#: The words that make writes above the settings in C.
_WORDS = re.compile(r"\A\s*(/\*.*?\*/\s*)*", re.DOTALL)
_NAMED_MAX = 4
_SHOWN_MAX = 60  #: letters of a line
_AGAIN = (
    "run make in the tree and boot what it makes, or put the settings of the running hypervisor's "
    "build back"
)

AUTOCONF = "include/generated/autoconf.h"  #: what C sources read of the settings
HOLDS = "HYPFS_CONFIG"  #: the setting by which an image holds its settings


def check_configured(build_root: Path, image: ElfFile) -> None:
    """Check that ``.config``, ``auto.conf`` and ``autoconf.h`` say what the image was built with.

    Where the image does not hold its settings, the three are held against each other.

    Args:
        build_root: Where they lie.
        image: The hypervisor's ``xen-syms``.

    Raises:
        CaptureError: One says otherwise; the message names the file and the settings.
    """
    told = _told(image)
    text = read_text(str(build_root / ".config")) if told is None else told
    where = "the settings that the image holds" if told is not None else ".config"
    wanted = dict(_SETTING.findall(text))
    if told is None and wanted.get(HOLDS) == "y":
        raise CaptureError(
            f"{build_root / '.config'}: says CONFIG_{HOLDS}=y, and {image.name} holds no settings; "
            f"{_AGAIN}"
        )
    defines = {name: "1" if value == "y" else value for name, value in wanted.items()}
    for path, pattern, values in (
        (".config", _SETTING, wanted),
        ("include/config/auto.conf", _SETTING, wanted),
        (AUTOCONF, _DEFINE, defines),
    ):
        said = read_text(str(build_root / path))
        is_there = bool(said)
        if pattern is _DEFINE:
            said = _WORDS.sub("", said, count=1)
        if path != ".config" and (odd := _odd_line(said, pattern)):
            raise CaptureError(
                f"{build_root / path}: says otherwise than {where}: `{odd}`, which make does not "
                f"write; {_AGAIN}"
            )
        found = dict(pattern.findall(said))
        names = sorted(n for n in found.keys() | values.keys() if found.get(n) != values.get(n))
        if is_there and names:
            shown = ", ".join(f"CONFIG_{name}" for name in names[:_NAMED_MAX])
            more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
            raise CaptureError(
                f"{build_root / path}: says otherwise than {where}: {shown}{more}; {_AGAIN}"
            )


def _odd_line(text: str, pattern: re.Pattern[str]) -> str:
    """Return the first line that is no setting as make writes it; "" if there is none.

    A compiler reads `# define` too, `#undef`, and what a comment begins or ends.
    """
    for line in text.split("\n"):
        is_word = not line or (line.startswith("#") and pattern is not _DEFINE)
        if line.endswith("\\") or not (is_word or pattern.fullmatch(line)):
            return plain(line.strip()[:_SHOWN_MAX])
    return ""


def settings_of(text: str) -> dict[str, str]:
    """Return what a ``.config`` sets: value by name without ``CONFIG_``."""
    return dict(_SETTING.findall(text))


def unset_of(text: str) -> frozenset[str]:
    """Return what a ``.config`` says is not set, by name without ``CONFIG_``."""
    return frozenset(_UNSET.findall(text))


def lack_of_live_patching(settings: Mapping[str, str]) -> str:
    """Say why a hypervisor of these settings takes no live patches, and what to do; "" if it does.

    Args:
        settings: Value by name without ``CONFIG_``.
    """
    if settings.get("LIVEPATCH") == "y":
        return ""
    # Source: xen/Kconfig.debug, `config COVERAGE`: depends on !LIVEPATCH.
    if settings.get("COVERAGE") == "y":
        return (
            "with CONFIG_COVERAGE, and so without CONFIG_LIVEPATCH: Xen has one or the other; "
            "switch coverage off and live patching on, and build and boot that hypervisor"
        )
    return (
        "without CONFIG_LIVEPATCH; switch it on (make -C xen menuconfig) and build and boot that "
        "hypervisor"
    )


def not_kept(asked: str, made: str) -> list[str]:
    """Return the settings of one ``.config`` that another one has otherwise, as words, sorted.

    Compilers' versions are left out: they are found out anew.

    Args:
        asked: What was given to ``make olddefconfig``; need not name every setting.
        made: What it made of it.
    """
    found = settings_of(made)
    wanted = settings_of(asked) | dict.fromkeys(unset_of(asked))
    wanted = {name: None if value == "n" else value for name, value in wanted.items()}
    return [
        f"CONFIG_{name} is not set" if value is None else f"CONFIG_{name}={value}"
        for name, value in sorted(wanted.items())
        if found.get(name) != value and not name.endswith("_VERSION")
    ]


def _told(image: ElfFile) -> str | None:
    """Return the settings that an image was built with; ``None`` if it does not hold them."""
    places = image.values_of("xen_config_data", "xen_config_data_size")
    if len(places) < 2:
        return None
    size = int.from_bytes(_bytes(image, places["xen_config_data_size"], 4), "little")
    data = _bytes(image, places["xen_config_data"], size)
    try:
        return gzip.decompress(data).decode("utf-8", "surrogateescape")
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(
            f"{image.name}: the settings that it holds cannot be read ({error}); build it again"
        ) from error


def _bytes(image: ElfFile, addr_virt: int, count: int) -> bytes:
    for section in image.sections:
        at = addr_virt - section.addr_virt
        if section.addr_virt and 0 <= at < section.size_bytes:
            return section.data[at : at + count]
    return b""
