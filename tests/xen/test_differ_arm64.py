# SPDX-License-Identifier: Apache-2.0
"""The differ on the objects of a real tree built for arm64."""

import pytest

from tests.xen.trees import tree_like
from xsplice_plugins.diff.differ import diff_objects
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import EM_AARCH64
from xsplice_plugins.plugins.spec import Config

pytestmark = [pytest.mark.xen, pytest.mark.toolchain]

LINKED = ("built_in.o", "prelink.o")  #: many objects in one: never compared


def test_every_arm64_object_equals_itself() -> None:
    root = tree_like("4.17", "arm64") / "xen"
    count = 0
    for path in sorted(root.rglob("*.o")):
        name, data = str(path.relative_to(root)), path.read_bytes()
        if data[:5] != b"\x7fELF\x02" or path.name in LINKED:
            continue
        if read_elf(data, name).machine != EM_AARCH64:  # programs of the build itself
            continue
        # One byte more keeps the prefilter from answering.
        delta = diff_objects(data, data + b"\0", object_path=name, source_path="", config=Config())
        assert delta.is_empty, (name, delta)
        assert (delta.removed, delta.line_only) == ((), ()), name
        count += 1
    assert count > 200
