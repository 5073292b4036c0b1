# SPDX-License-Identifier: Apache-2.0
"""Recorded lines are run, and their words found, however long they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsplice_plugins.errors import CaptureError
from xsplice_plugins.kbuild.commands import run
from xsplice_plugins.kbuild.indexing import _dotted

#: What a word that leads through a ``..`` is, said once more in another way.
DOTTED = re.compile(r"(?<![^\s<>\"'])(?:[^\s<>\"']+/)?\.\./[^\s<>\"']+")


def test_long_output_comes_whole(tmp_path: Path) -> None:
    """More than any pipe holds, on both streams."""
    line = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; echo end"
    assert run(line, tmp_path, env=None, subject="a.c") == bytes(3_000_000) + b"end\n"


def test_a_line_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"a\.c: does not compile; .*\nwhy"):
        run("echo out; echo why >&2; exit 1", tmp_path, env=None, subject="a.c")


def test_words_through_a_parent_folder_are_found() -> None:
    text = "deps_a.o := ./a/../b.h \\\n  $(wildcard x.h) \"c/../../d.h\" /../e.h g/../ 'h/../i'"
    text += " ../j k../l ../"
    assert _dotted(text) == {"./a/../b.h", "c/../../d.h", "h/../i", "../j"}


@given(st.text(alphabet="a/. \n\"'<\x1f\u2003", max_size=40))
def test_words_are_found_as_a_regular_expression_finds_them(text: str) -> None:
    assert _dotted(text) == set(DOTTED.findall(text))
