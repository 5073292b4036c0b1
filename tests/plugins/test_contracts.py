# SPDX-License-Identifier: Apache-2.0
"""The built-in plugins pass the contracts that vendors' plugins must pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xsplice_plugins.artefacts import SignatureState
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing import DifferContract, SignerContract

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Return one build folder for all tests: making a key takes time."""
    return tmp_path_factory.mktemp("build")


class TestCms(SignerContract):
    """CMS with a development key."""

    plugin = "cms"
    name = "cms"

    @pytest.fixture
    def config(self, build_dir: Path) -> object:
        """Return a configuration without keys."""
        return Config(build_dir=build_dir)


class TestNone(SignerContract):
    """No signature: nothing is ever called good."""

    plugin = "none"
    name = "none"
    state_good = SignatureState.UNSIGNED


class TestSemantic(DifferContract):
    """The built-in differ."""

    plugin = "semantic"
    name = "semantic"
