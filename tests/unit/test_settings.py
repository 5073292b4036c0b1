# SPDX-License-Identifier: Apache-2.0
"""The one table of settings: what every face makes of it, and what it refuses."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path

import pytest

from xsplice_plugins.commands import COMMANDS
from xsplice_plugins.errors import ConfigError
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.settings import (
    SETTINGS,
    Takes,
    add_options,
    check_release,
    is_on,
    make_config,
    options_of,
    split_words,
)

ROOT = Path(__file__).resolve().parents[2]


def test_each_row_with_a_field_names_one_of_the_configuration() -> None:
    known = set(Config.__struct_fields__)
    assert {row.field for row in SETTINGS if row.field} <= known


def test_each_row_names_subcommands_that_exist() -> None:
    names = {name for name, *_ in COMMANDS} | {"model"}  # the real tool's commands share one row
    assert {command for row in SETTINGS for command in row.commands} <= names


def test_make_passes_on_each_variable() -> None:
    line = re.search(r"^NAMES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    wanted = [row.name for row in SETTINGS if row.is_variable]
    assert sorted(line[1].split()) == sorted(wanted)


def test_one_constructor_of_the_configuration() -> None:
    """Two faces that each build the settings give two answers."""
    folders = (ROOT / "xsplice_plugins", ROOT / "site_scons")
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if re.search(r"(?<!class )\bConfig\(", path.read_text())
        and not path.is_relative_to(ROOT / "xsplice_plugins" / "testing")
    ]
    assert found == ["xsplice_plugins/settings.py"]
    text = (ROOT / "xsplice_plugins" / "settings.py").read_text()
    assert len(re.findall(r"\bConfig\([^)]", text)) == 1


def test_defaults_are_those_of_the_configuration() -> None:
    assert make_config({}, release="4.17.5") == Config(release="4.17.5")
    stated = {row.name: row.default for row in SETTINGS if row.field and row.default}
    assert make_config(stated, release="4.17.5") == Config(release="4.17.5")


def test_settings_become_the_options_that_repeat_them() -> None:
    given = {"ON": "model,qemu", "OPTIONS": "a=1", "SIGNER": "none"}
    config = make_config(given, release="4.17.5")
    words = options_of(config, "SIGNER", "ON", "OPTIONS", "CERT")
    assert words == ["--signer", "none", "--on", "model", "--on", "qemu", "--option", "a=1"]
    assert options_of(config, "LINKER") == []


def test_words_may_be_given_in_several_options() -> None:
    """The last one must not take the place of the others: a verifier would not be asked."""
    parser = ArgumentParser()
    add_options(parser, "verify")
    found = parser.parse_args(["--on", "one", "--on", "two,three"])
    assert make_config({"ON": found.ON}, release="4.17.5").verifiers == ("one", "two", "three")


def test_options_of_a_subcommand_become_settings() -> None:
    parser = ArgumentParser()
    add_options(parser, "verify")
    found = parser.parse_args(["--on", "model,qemu", "--option", "a=1", "--option", "b=2"])
    config = make_config({"ON": found.ON, "OPTIONS": found.OPTIONS}, release="4.17.5")
    assert config.verifiers == ("model", "qemu")
    assert config.options == (("a", "1"), ("b", "2"))


def test_a_subcommand_has_only_the_options_that_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    add_options(parser, "verify")
    with pytest.raises(SystemExit):
        parser.parse_args(["--linker", "livepatch"])
    assert "--linker" in capsys.readouterr().err


def test_files_are_looked_for_where_the_face_says(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("x")
    config = make_config({"CERT": "cert.pem"}, release="4.17.5", resolve=lambda t: tmp_path / t)
    assert config.certificate == tmp_path / "cert.pem"
    with pytest.raises(ConfigError, match=r"KEY=key\.pem: no such file"):
        make_config({"KEY": "key.pem"}, release="4.17.5", resolve=lambda t: tmp_path / t)


@pytest.mark.parametrize("pair", ["novalue", "=value"])
def test_an_option_that_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        make_config({"OPTIONS": pair}, release="4.17.5")


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="SINGER: there is no such setting"):
        make_config({"SINGER": "cms"}, release="4.17.5")


@pytest.mark.parametrize(
    ("said", "known", "is_good"),
    [
        ("4.17.5", "4.17.5", True),
        ("4.17", "4.17.0", True),
        ("", "4.17.5", True),
        ("4.17.5", "", True),
        ("4.17.4", "4.17.5", False),
        ("4.20.3", "4.17.5", False),
    ],
)
def test_a_release_must_not_contradict(said: str, known: str, is_good: bool) -> None:
    if is_good:
        check_release(said, known, "RELEASE", "the image")
        return
    with pytest.raises(ConfigError, match=rf"RELEASE says Xen {re.escape(said)}.*{known}"):
        check_release(said, known, "RELEASE", "the image")


def test_a_release_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a release"):
        make_config({"RELEASE": "banana"}, release="")


def test_words_and_switches() -> None:
    assert split_words("a,b  c") == ("a", "b", "c")
    assert split_words(["a b", "c"]) == ("a b", "c")
    assert [is_on(text) for text in ("", "0", "1", "yes", None)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(ConfigError, match="neither yes nor no"):
        is_on("maybe")
    assert {row.takes for row in SETTINGS} == set(Takes)


def test_a_setting_of_files_takes_several_and_names_the_missing_one(tmp_path: Path) -> None:
    one, two, blank = (tmp_path / name for name in ("a.livepatch", "b.livepatch", "c d.livepatch"))
    for path in (one, two, blank):
        path.write_bytes(b"")
    for given in (f"{one} {two}", f"{one},{two}", [str(one), str(two)]):
        assert make_config({"DEPENDS": given}, release="4.17.5").depends == (one, two)
    assert make_config({"DEPENDS": str(blank)}, release="4.17.5").depends == (blank,)
    with pytest.raises(ConfigError, match=r"DEPENDS=/nowhere: no such file"):
        make_config({"DEPENDS": f"{one} /nowhere"}, release="4.17.5")
    with pytest.raises(ConfigError, match="give one of the two"):
        make_config({"DEPENDS": str(one), "SUPERSEDES": str(two)}, release="4.17.5")
