# SPDX-License-Identifier: Apache-2.0
"""A built tree of the right shape, and one face after the other."""

from __future__ import annotations

import pytest

from tests.faces.kit import FACES, FLAGS, HEADER, USER, Face
from tests.kit.tiny_tree import TinyTree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a built tree with a structure that exists and functions that read it."""
    tiny = TinyTree(tmp_path_factory.mktemp("faces") / "tree", flags=FLAGS)
    (tiny.root / "xen/include/xen/lib.h").write_text(HEADER)
    (tiny.root / "xen/common/user.c").write_text(USER)
    tiny.build()
    return tiny


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Return one face after the other."""
    return FACES[str(request.param)]
