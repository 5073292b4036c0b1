# SPDX-License-Identifier: Apache-2.0
"""What a private copy leaves out, and what a compiler tells of its reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from xsplice_plugins.capture import files_of_rule, prepare_copy


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        ("a.o: a.c b.h \\\n c.h\n\nb.h:\n\nc.h:\n", ["a.c", "b.h", "c.h"]),
        ("/t/a.o: a\\ b.c d$$e\\#f.h\n", ["a b.c", "d$e#f.h"]),
        ("", []),
    ],
)
def test_files_of_a_rule(rule: str, files: list[str]) -> None:
    assert files_of_rule(rule) == files


def test_no_copy_and_no_folder_that_is_named_gets_into_a_copy(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for place in ("src", "build/fix", ".venv", ".git"):
        (top / place).mkdir(parents=True)
        (top / place / "a.c").write_text("int a;\n")
    (top / ".venv/pyvenv.cfg").touch()
    prepare_copy(top, top / "old/copy")
    prepare_copy(top, tmp_path / "copy", leaving_out=[top / "build/fix"])
    found = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("a.c")
    }
    assert found == {"src/a.c"}
