# SPDX-License-Identifier: Apache-2.0
"""The pytest fixtures of the plugin test harness."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import Struct, field

from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.testing.projects import Body, SconsProject, write_files

if TYPE_CHECKING:
    import pluggy


class ManagerFactory:
    """Build a fresh manager from plugins; installed ones take part only when asked for."""

    def __call__(
        self,
        *plugins: object,
        environ: Mapping[str, str] | None = None,
        entry_points: bool = False,
    ) -> pluggy.PluginManager:
        """Return the manager; nothing is to be unregistered."""
        return build_plugin_manager(
            plugins=plugins, environ=environ or {}, entry_points=entry_points
        )


class ProjectFactory(Struct, frozen=True):
    """Write a project from a dict of files."""

    root: Path

    def __call__(
        self, files: Mapping[str, Body], *, python_path: tuple[Path, ...] = ()
    ) -> SconsProject:
        """Return the project, ready to run."""
        self.root.mkdir()
        write_files(self.root, files)
        return SconsProject(root=self.root, python_path=python_path)


class DistributionFactory(Struct, frozen=True):
    """Pretend that a distribution with entry points in our group is installed."""

    tmp_path: Path
    monkeypatch: pytest.MonkeyPatch
    folders: list[Path] = field(default_factory=list)

    def __call__(
        self,
        name: str,
        entry_points: Mapping[str, str],
        files: Mapping[str, Body] | None = None,
        *,
        version: str = "1.0",
    ) -> Path:
        """Return the folder it was written to; the folder is importable."""
        folder = self.tmp_path / f"site-{len(self.folders)}"
        lines = "".join(f"{key} = {value}\n" for key, value in entry_points.items())
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        write_files(
            folder,
            {
                **(files or {}),
                f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                f"{info}/entry_points.txt": f"[xsplice]\n{lines}",
            },
        )
        self.folders.append(folder)
        self.monkeypatch.syspath_prepend(folder)
        return folder


@pytest.fixture
def xsplice_manager() -> ManagerFactory:
    """Return a factory of managers."""
    return ManagerFactory()


@pytest.fixture
def scons_project(tmp_path: Path) -> ProjectFactory:
    """Return a function that writes a project; see `SconsProject`."""
    return ProjectFactory(tmp_path / "project")


@pytest.fixture
def fake_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DistributionFactory]:
    """Return a function that fakes an installed distribution, gone again after the test."""
    before = set(sys.modules)
    install = DistributionFactory(tmp_path, monkeypatch)
    yield install
    for module_name in set(sys.modules) - before:
        file = getattr(sys.modules[module_name], "__file__", None)
        if file and any(Path(file).is_relative_to(folder) for folder in install.folders):
            del sys.modules[module_name]
