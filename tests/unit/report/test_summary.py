# SPDX-License-Identifier: Apache-2.0
"""What a person reads of a delta: names as they are, colours only where they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.artefacts import Cause, ChangedFunction, Delta
from xsplice_plugins.report.summary import print_delta

if TYPE_CHECKING:
    import pytest

REASON = "it calls [bold]f[/] :x: \\[g]"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Print one changed function."""
    row = ChangedFunction(
        name="table[0]",
        reason=REASON,
        cause=Cause.SOURCE,
        symbol="table",
        symbol_baseline="table",
        section=".text.table",
        size_before_bytes=1,
        size_after_bytes=2,
    )
    print_delta(
        Delta(
            object_path="a.o",
            source_path="a.c",
            profile="xen",
            machine=62,
            digest_new="",
            changed=(row,),
        )
    )
    return capsys.readouterr().out


def test_names_and_reasons_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = said(capsys)
    assert f"  changed table[0] (1 -> 2 bytes): {REASON} (" in text
    assert "\x1b" not in text


def test_colours_come_where_they_are_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36mtable[0]\x1b[0m" in said(capsys)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in said(capsys)
