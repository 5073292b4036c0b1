# SPDX-License-Identifier: Apache-2.0
"""What a patch edited, by name; where constants or types change, names are no comfort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import capture
from xsplice_plugins.kbuild.tree import locate_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit.tiny_tree import TinyTree

pytestmark = pytest.mark.toolchain

USER, HEADER = "xen/common/user.c", "xen/include/xen/lib.h"


PAIR = "static int other(int a);\nstatic inline int twice"
TWO = "a * 3;\n}\nextern int f(int user);\nstatic inline int more(int a)\n{\n    return a;"


@pytest.mark.parametrize(
    ("edit", "edited"),
    [
        ((USER, "twice(a)", "twice(a) + 1"), ("twice", "user")),
        ((HEADER, "a * 2", "a * 3"), ("twice",)),
        ((HEADER, "a * 2", "a * 3 /* by user */"), ("twice",)),
        ((HEADER, "static inline int twice", PAIR), ()),
        ((HEADER, "a * 2;", TWO), ("twice", "user")),
        ((HEADER, "FILE_NAME __FILE__", "FILE_NAME __FILE__\n#define slots 32"), None),
        ((USER, "int user", "enum { SLOTS = 32 };\nint user"), None),
        ((USER, "int user", "int slots = 32;\nint user"), None),
        ((USER, "int user", "struct slot { int a; };\nint user"), None),
        ((USER, "int user", "#include <xen/lib.h>\nint user"), ()),
        ((USER, "int user", "static int __init first(int a) { return a; }\nint user"), None),
        ((USER, "int user", "static int __init_late(int a) { return a; }\nint user"), ()),
        ((USER, "    return", "    static int __initdata seen = 1;\n    return"), None),
        ((USER, "    return", "    /* like __initdata */\n    return"), ()),
    ],
)
def test_a_patch_names_what_it_edited(
    built: TinyTree, tmp_path: Path, edit: tuple[str, str, str], edited: tuple[str, ...] | None
) -> None:
    tree, patched = locate_tree(built.root), tmp_path / "patched"
    capture.copy_tree(tree, patched, built.patch(edit))
    words = capture.words_edited(tree.root, patched)
    found = None if words is None else tuple(sorted(words & {"user", "setup", "twice"}))
    assert found == edited
