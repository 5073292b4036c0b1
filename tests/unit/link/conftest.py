# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the linker's tests."""

from __future__ import annotations

import pytest

from tests.kit.link_inputs import Compiler


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(folder=tmp_path_factory.mktemp("objects"))
