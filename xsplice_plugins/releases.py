# SPDX-License-Identifier: Apache-2.0
"""Which releases of Xen exist: the one list that writer and model read release names with.

What a release *does* stands elsewhere, twice: ``target/abi.py`` has the writer's knowledge and
``hypervisor/facts/releases.py`` the model's. A release newer than the last one listed here is
taken to behave as that one, and whoever uses it says so. Vendors' loaders have their
names here as well.
"""

from __future__ import annotations

from xsplice_plugins.errors import ConfigError

Version = tuple[int, int, int]

FIRST_MINOR = 7  #: live patching came with 4.7

#: Last point release of each stable branch whose loader was read.
LAST_POINT = {
    7: 6, 8: 5, 9: 4, 10: 4, 11: 4, 12: 4, 13: 5, 14: 6,
    15: 5, 16: 7, 17: 7, 18: 6, 19: 6, 20: 4, 21: 2, 22: 0,
}  # fmt: skip
#: Vendors' loaders; the model knows in what they differ from upstream's.
LOADERS = frozenset({"xenserver"})
_UPSTREAM = "upstream"  #: how people ask for it where a base names a vendor's


def parse_release(text: str) -> Version:
    """Read a release's name.

    Args:
        text: ``4.17.5`` or ``4.17`` (its ``.0``).

    Raises:
        ConfigError: Not the name of a release with live patching.
    """
    parts = text.split(".")
    if len(parts) in {2, 3} and all(p.isascii() and p.isdigit() and len(p) < 4 for p in parts):
        major, minor, point = (*(int(part) for part in parts), 0)[:3]
        if major == 4 and minor >= FIRST_MINOR:
            return major, minor, point
    raise ConfigError(f"{text}: not a release of Xen with live patching; write it as 4.17.5")


def parse_loader(text: str) -> str:
    """Read a loader's name; "", for upstream's, is ``upstream``, too.

    Raises:
        ConfigError: There is no such loader.
    """
    if text and text not in {_UPSTREAM, *LOADERS}:
        known = ", ".join((_UPSTREAM, *sorted(LOADERS)))
        raise ConfigError(f"LOADER={text}: there is no such loader; known are {known}")
    return "" if text == _UPSTREAM else text


def spelled(version: Version) -> str:
    """Return a release as messages and records spell it: ``4.17.5``."""
    return "{}.{}.{}".format(*version)


def is_known(version: Version) -> bool:
    """Tell whether the loader of a release's branch was read; later point releases count."""
    return version[1] in LAST_POINT


def known_releases() -> tuple[Version, ...]:
    """Return every release whose loader was read, oldest first."""
    return tuple(
        (4, minor, point) for minor, last in sorted(LAST_POINT.items()) for point in range(last + 1)
    )
