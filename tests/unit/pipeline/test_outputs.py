# SPDX-License-Identifier: Apache-2.0
"""What is made of a fix never takes the place of what the run reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from xsplice_plugins.errors import ConfigError
from xsplice_plugins.pipeline import MADE, check_outputs, refuse_overwriting
from xsplice_plugins.plugins.spec import Config

SETTINGS = ("depends", "supersedes", "key", "certificate", "expected")


def reading(setting: str, path: Path) -> Config:
    return Config(**{setting: (path,) if setting in {"depends", "supersedes"} else path})


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("end", MADE)
def test_a_file_of_the_fix_is_not_read(setting: str, end: str, tmp_path: Path) -> None:
    config = reading(setting, tmp_path / "fix" / f"fix{end}")
    with pytest.raises(ConfigError, match="give the fix another name"):
        check_outputs(tmp_path / "fix", "fix", config)
    check_outputs(tmp_path / "fix", "fix-2", config)
    check_outputs(tmp_path / "other", "fix", config)


@pytest.mark.parametrize("place", ["objects/a.o", "copy/fix.patch", "copy.merged/a", "still.1/a"])
def test_what_lies_where_a_fix_is_built_is_not_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="written over"):
        check_outputs(tmp_path, "fix", Config(), [tmp_path / place])


@pytest.mark.parametrize("place", ["fix.patch", "fix.c", "copies/fix.patch", "fix/objects/a"])
def test_what_lies_elsewhere_is_read(place: str, tmp_path: Path) -> None:
    check_outputs(tmp_path, "fix", Config(), [tmp_path / place])
    refuse_overwriting([tmp_path / "fix.livepatch"], [("FIX", tmp_path / place)])


def test_a_link_in_the_place_of_what_is_made_is_seen(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("key")
    for made in ("fix.livepatch", "fix.verify.json"):
        (tmp_path / made).hardlink_to(key)
        with pytest.raises(ConfigError, match=f"KEY={key}"):
            check_outputs(tmp_path, "fix", Config(key=key))
        (tmp_path / made).unlink()
    check_outputs(tmp_path, "fix", Config(key=key))
