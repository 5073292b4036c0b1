# SPDX-License-Identifier: Apache-2.0
"""The tiny hypervisor, built once for each test file."""

from __future__ import annotations

import pytest

from tests.unit.check.building import World, world


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return the tiny hypervisor."""
    return world(tmp_path_factory.mktemp("world"))
