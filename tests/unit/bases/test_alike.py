# SPDX-License-Identifier: Apache-2.0
"""What a build says of itself is what the shipped image says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base

pytestmark = pytest.mark.toolchain

DATED = """#include <xen/date.h>
const char *xen_compile_date(void) { return DATE; }
"""
#: As Xen's build.mk: what the image says of its build comes from make's variables.
DATING = r"""
common/version.o: date
date:
	echo '#define DATE "$(XEN_BUILD_DATE)"' >include/xen/date.h
"""


@pytest.mark.parametrize(
    ("shipped_on", "words", "likeness"),
    [
        ("Mon Jan  1 10:00:00 UTC 2024", (), Likeness.IDENTICAL),
        ("", (), Likeness.IDENTICAL),
        ("Mon Jan  1", ("XEN_BUILD_DATE=Tue Jan  2",), Likeness.MATCHED),
        ("1/1 $(shell touch gone)", (), Likeness.MATCHED),
    ],
)
def test_the_build_says_the_date_of_the_shipped_image(
    tmp_path: Path, shipped_on: str, words: tuple[str, ...], likeness: Likeness
) -> None:
    """Else each fix of the object that holds it would meet an image that differs."""
    tree = TinyTree(tmp_path / "sources")
    date = tree.root / "xen/include/xen/date.h"
    date.write_text(f'#define DATE "{shipped_on}"\n')
    with (tree.root / "xen/common/version.c").open("a") as file:
        file.write(DATED)
    tree.build()
    add_makefile(tree)
    (tree.root / "xen/common/extra.mk").write_text(DATING)
    date.write_text('#define DATE "of this build"\n')
    image = (tree.root / "xen/xen-syms").rename(tmp_path / "xen-syms")
    (tree.root / "xen/xen").unlink()
    record = add_base(Order(name="fleet", source=tree.root, image=image, make=words))
    is_known = "$" not in shipped_on
    assert record.environment == ((("XEN_BUILD_DATE", shipped_on),) if is_known else ())
    assert record.likeness is likeness
    is_other = likeness is Likeness.MATCHED
    assert record.differs == (("xen_compile_date (common/version.o)",) if is_other else ())
    assert check_base("fleet") == record
    assert not list(tree.root.rglob("gone"))


CHANGING = r"""
common/version.o: changeset
changeset:
	echo '#define DATE "'`cat ../.scmversion 2>/dev/null`'"' >include/xen/date.h
"""


@pytest.mark.parametrize(
    ("said", "own", "likeness"),
    [
        ("Fri Nov 15 14:21:36 2024 +0100 git:1ab2c3d", "", Likeness.IDENTICAL),
        ("", "", Likeness.IDENTICAL),
        ("Fri Nov 15 git:1ab2c3d", "of these sources", Likeness.MATCHED),
        ("`touch gone`", "", Likeness.MATCHED),
    ],
    ids=["told", "nothing to tell", "the sources say one", "no changeset"],
)
def test_the_build_says_the_changeset_of_the_shipped_image(
    tmp_path: Path, said: str, own: str, likeness: Likeness
) -> None:
    """As Xen's tools/scmversion answers, which reads a file of the sources first."""
    tree = TinyTree(tmp_path / "sources")
    date = tree.root / "xen/include/xen/date.h"
    date.write_text(f'#define DATE "{said}"\n')
    with (tree.root / "xen/common/version.c").open("a") as file:
        file.write(DATED.replace("xen_compile_date", "xen_changeset"))
    tree.build()
    add_makefile(tree)
    (tree.root / "xen/common/extra.mk").write_text(CHANGING)
    if own:
        (tree.root / ".scmversion").write_text(own)
    image = (tree.root / "xen/xen-syms").rename(tmp_path / "xen-syms")
    (tree.root / "xen/xen").unlink()
    record = add_base(Order(name="fleet", source=tree.root, image=image))
    assert record.likeness is likeness
    is_other = likeness is Likeness.MATCHED
    assert record.differs == (("xen_changeset (common/version.o)",) if is_other else ())
    assert check_base("fleet") == record
    assert not list(tree.root.rglob("gone"))
    assert (tree.root / ".scmversion").is_file() is bool(own), "the sources stay as they are"
