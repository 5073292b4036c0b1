# SPDX-License-Identifier: Apache-2.0
"""The quick look for installed plugins: it may say yes for nothing, and never no for one."""

from __future__ import annotations

import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.plugins import discovery

if TYPE_CHECKING:
    from pathlib import Path

OURS = "[console_scripts]\na = b:c\n\n[xsplice]\nacme = acme_module\n"
OTHERS = "[console_scripts]\nxsplice = xsplice:main\n\n[xsplicer]\nx = y\n"


class Finder:
    """Somebody's own way to find distributions."""

    @staticmethod
    def find_distributions(_context: object) -> list[object]:
        """Find none."""
        return []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on Python's path."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "missing")])
    return tmp_path


def install(place: Path, folder: str, text: str) -> None:
    (place / folder).mkdir()
    (place / folder / "entry_points.txt").write_text(text)
    for name in ("METADATA", "PKG-INFO"):
        (place / folder / name).write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")


@pytest.mark.parametrize("folder", ["acme-1.0.dist-info", "Acme.EGG-INFO"])
def test_a_plugin_is_seen_and_then_read(place: Path, folder: str) -> None:
    install(place, folder, OURS)
    assert discovery._may_be_installed()
    assert [point.value for point in discovery._entry_points()] == ["acme_module"]


@pytest.mark.parametrize(
    ("folder", "text"),
    [("other-1.0.dist-info", OTHERS), ("acme", OURS)],
    ids=["groups of others", "a folder that is no distribution's"],
)
def test_what_is_no_plugin_is_not_read(place: Path, folder: str, text: str) -> None:
    install(place, folder, text)
    (place / "old.egg-info").write_text("Name: old\n")
    (place / "bare-1.dist-info").mkdir()
    assert not discovery._may_be_installed()
    assert discovery._entry_points() == ()


def test_an_archive_is_left_to_the_standard_library(place: Path) -> None:
    archive = place / "acme.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("acme-1.0.dist-info/entry_points.txt", OURS)
        file.writestr("acme-1.0.dist-info/METADATA", "Name: acme\nVersion: 1.0\n")
    sys.path.append(str(archive))
    assert [point.value for point in discovery._entry_points()] == ["acme_module"]


def test_a_finder_of_another_kind_is_asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not discovery._may_be_installed()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert discovery._may_be_installed()
