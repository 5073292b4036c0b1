# SPDX-License-Identifier: Apache-2.0
"""The reference page is what the tables say today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins import cli
from xsplice_plugins.commands import COMMANDS
from xsplice_plugins.errors import STATUSES, XspliceError
from xsplice_plugins.report.reference import reference_page
from xsplice_plugins.settings import SETTINGS

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference_page(COMMANDS), (
        "run `xsplice reference > docs/reference.md`"
    )


def test_the_page_names_every_setting_command_and_status() -> None:
    page = PAGE.read_text()
    for row in SETTINGS:
        assert not row.is_variable or f"`{row.name}`" in page
        assert not row.commands or f"`{row.flag}`" in page
    for name, about, *_ in COMMANDS:
        assert f"| `{name}` | {about} |" in page
    for status, means in STATUSES.items():
        assert f"| {status} | {means} |" in page


def test_every_error_ends_with_a_documented_status() -> None:
    pending, seen = [XspliceError], set()
    while pending:
        kind = pending.pop()
        seen.add(kind.exit_status)
        pending += kind.__subclasses__()
    assert seen == STATUSES.keys() - {0}


def test_machines_get_the_same_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reference", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in said["statuses"]] == list(STATUSES)
    assert [row["name"] for row in said["commands"]] == [name for name, *_ in COMMANDS]
    assert len(said["settings"]) == len(SETTINGS)
