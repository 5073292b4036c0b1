# SPDX-License-Identifier: Apache-2.0
"""What several tests of verification share."""

from __future__ import annotations

import pytest

from tests.unit.verify.effect_inputs import compiled


@pytest.fixture(scope="session")
def other_object(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Compile an object that holds none of the functions."""
    return compiled(tmp_path_factory.mktemp("other"), "int unrelated;")
