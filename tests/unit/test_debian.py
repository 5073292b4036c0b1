# SPDX-License-Identifier: Apache-2.0
"""Debian's packages without root: sources, versions, keys; apt itself is a script of the test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.kit.processes import wait_for_end
from xsplice_plugins.bases.debian import choose_version, download_source, source_versions
from xsplice_plugins.cache import cache_folder
from xsplice_plugins.errors import ConfigError, MachineError
from xsplice_plugins.system import debian, process

ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main contrib # words
deb-src http://mirror.example/debian-security bookworm-security main
deb https://vendor.example/apt cloud main
"""

DEB822 = """
Types: deb
# a comment inside
URIs: http://a.example/debian http://b.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /k.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://inline.example/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""


def fake_program(folder: Path, name: str, body: str) -> None:
    """Put a shell script on the way."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of programs in which apt knows two versions of xen and downloads one."""
    folder = tmp_path / "bin"
    fake_program(
        folder,
        "apt-cache",
        "echo 'Package: xen'; echo 'Version: 4.17.7-2'; echo 'Version: 4.17.5-1'",
    )
    fake_program(
        folder, "apt-get", 'echo "$@"; case "$*" in *--download-only*) : >xen_fake.dsc ;; esac'
    )
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is not installed")
def test_system_sources_are_what_apt_says_of_both_forms_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://first.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "z.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d" / "a.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "old.list.save").write_text("deb http://no.example x main\n")
    found = debian.system_sources("-o", f"Dir::Etc={tmp_path}")
    rows = list(dict.fromkeys((s.uri, s.suite, s.signed_by) for s in found))
    assert rows[0] == ("http://first.example/debian", "bookworm", "")
    assert set(rows[1:]) == {
        ("http://a.example/debian", "bookworm", "/k.gpg"),
        ("http://a.example/debian", "bookworm-updates", "/k.gpg"),
        ("http://b.example/debian", "bookworm", "/k.gpg"),
        ("http://b.example/debian", "bookworm-updates", "/k.gpg"),
        ("http://inline.example/debian", "trixie", ""),
        ("http://mirror.example/debian", "bookworm", "/k.gpg"),
        ("http://mirror.example/debian-security", "bookworm-security", ""),
        ("https://vendor.example/apt", "cloud", ""),
    }


def test_settings_that_apt_cannot_read_are_an_error(fake_apt: Path) -> None:
    fake_program(fake_apt, "apt-get", "echo 'E: Malformed entry 1'; exit 100")
    with pytest.raises(ConfigError, match="Malformed entry"):
        debian.system_sources()


def test_the_systems_mirror_serves_another_release() -> None:
    known = (
        debian.AptSource(uri="https://vendor.example/apt", suite="cloud"),
        debian.AptSource(
            uri="http://part.example/debian", suite="bookworm", components=("contrib",)
        ),
        debian.AptSource(uri="http://mirror.example/debian", suite="bookworm", signed_by="/k.gpg"),
        debian.AptSource(uri="http://mirror.example/debian-security", suite="bookworm-security"),
    )
    main, security = debian.choose_sources(known, suite="trixie")
    assert (main.uri, main.suite, main.signed_by) == (
        "http://mirror.example/debian",
        "trixie",
        "/k.gpg",
    )
    assert (security.uri, security.suite) == (
        "http://mirror.example/debian-security",
        "trixie-security",
    )


def test_a_vendors_archive_is_never_taken_for_debians() -> None:
    known = (debian.AptSource(uri="https://vendor.example/apt", suite="nodistro"),)
    main, security = debian.choose_sources(known, suite="bookworm")
    assert main.uri == debian.MIRROR_DEFAULT
    assert security.uri == debian.SECURITY_DEFAULT


def test_a_named_mirror_is_the_only_one() -> None:
    uri = "http://snapshot.debian.org/archive/debian/20250520T000000Z"
    (only,) = debian.choose_sources((), suite="bookworm", mirror=uri + "/")
    assert only.uri == uri
    assert "check-valid-until=no" in only.lines()
    assert only.lines().count("deb-src ") == 1


def test_cache_folder_follows_the_environment() -> None:
    assert cache_folder({"XSPLICE_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/xsplice")
    assert cache_folder({"HOME": "/h"}) == Path("/h/.cache/xsplice")
    assert cache_folder({"XDG_CACHE_HOME": "x", "HOME": "/h"}) == Path("/h/.cache/xsplice")
    assert cache_folder({"XSPLICE_CACHE": "c", "HOME": "h"}) == Path("c").absolute()


@pytest.mark.parametrize("home", ["h", "./h", "~"])
def test_a_relative_home_would_be_another_one_in_each_folder(home: str) -> None:
    with pytest.raises(MachineError, match=r"not absolute.*set XSPLICE_CACHE"):
        cache_folder({"HOME": home})


def test_a_version_that_is_there_is_downloaded(fake_apt: Path, tmp_path: Path) -> None:
    apt = debian.open_apt(tmp_path / "apt", debian.choose_sources((), suite="bookworm"))
    download_source(apt, "xen", "4.17.5-1", tmp_path / "source")
    assert (tmp_path / "source" / "xen_fake.dsc").is_file()
    said = apt.log.read_text()
    assert "xen=4.17.5-1" in said
    assert f"Dir::State::Lists={tmp_path / 'apt' / 'lists'}" in said
    assert "deb-src" in (tmp_path / "apt" / "sources.list").read_text()


def test_packages_of_another_machine_are_asked_for_by_its_name(
    fake_apt: Path, tmp_path: Path
) -> None:
    sources = debian.choose_sources((), suite="bookworm")
    for wanted in ("arm64", ""):
        apt = debian.open_apt(tmp_path / f"apt{wanted}", sources, architecture=wanted)
        assert ("APT::Architecture=arm64" in apt.log.read_text()) is bool(wanted)
        assert ("APT::Architectures=arm64" in apt.options) is bool(wanted)


def test_versions_are_found_and_the_newest_is_a_releases(fake_apt: Path, tmp_path: Path) -> None:
    apt = debian.open_apt(tmp_path / "apt", debian.choose_sources((), suite="bookworm"))
    found = source_versions(apt, "xen")
    assert found == ("4.17.5-1", "4.17.7-2")
    assert choose_version("12", found, apt) == "4.17.7-2"
    assert choose_version("4.17.5-1", found, apt) == "4.17.5-1"
    with pytest.raises(ConfigError, match=r"available: 4\.17\.5-1, 4\.17\.7-2") as caught:
        choose_version("4.17.1-1", found, apt)
    assert "--mirror" in str(caught.value)
    with pytest.raises(ConfigError, match="none at all"):
        choose_version("12", (), apt)


def test_sources_that_are_listed_and_not_there_are_said_to_be_so(
    fake_apt: Path, tmp_path: Path
) -> None:
    apt = debian.open_apt(tmp_path / "apt", debian.choose_sources((), suite="bookworm"))
    fake_program(fake_apt, "apt-get", "echo 'Err 404  Not Found'; exit 100")
    with pytest.raises(ConfigError, match=r"(?s)does not have them.*--source.*404"):
        download_source(apt, "xen", "4.17.5-1", tmp_path / "source")


def test_an_archive_that_cannot_be_reached_is_an_error_with_apts_words(
    fake_apt: Path, tmp_path: Path
) -> None:
    fake_program(fake_apt, "apt-get", "echo 'E: Failed to fetch http://nowhere'; exit 100")
    with pytest.raises(ConfigError, match="Failed to fetch http://nowhere"):
        debian.open_apt(tmp_path / "apt", debian.choose_sources((), suite="bookworm"))


def test_missing_packages_are_named_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        debian.require_packages(
            "x",
            {"sh": "dash", "no-such-program": "pkg-b", "neither-this": "pkg-a"},
            {str(tmp_path): "there", str(tmp_path / "no"): "pkg-c"},
        )
    assert "apt-get install --no-install-recommends pkg-a pkg-b pkg-c" in str(caught.value)
    assert "dash" not in str(caught.value)


def test_nothing_missing_is_no_error(tmp_path: Path) -> None:
    there = {"sh": "dash"}, {str(tmp_path): "there"}
    debian.require_packages("x", *there)
    with pytest.raises(MachineError, match="apt-get install"):
        debian.require_packages("x", {"no-such-program": "pkg"}, there[1])


def test_a_version_of_no_known_release_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"known: .*4\.17"):
        debian.suite_of("4.2")


def test_a_failed_program_leaves_its_last_lines_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)status 3.*\nline 29\Z") as caught:
        process.run_logged(
            ["sh", "-c", "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; exit 3"],
            log=tmp_path / "log",
        )
    assert "line 14\n" not in str(caught.value)
    assert "line 14\n" in (tmp_path / "log").read_text()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no-such-program: cannot be started"):
        process.run_logged(["no-such-program"], log=tmp_path / "log")


def test_an_error_in_our_wait_ends_the_whole_process_group(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt) as caught:
        process.run_logged(
            ["sh", "-c", "sleep 100 & echo $!; wait"], log=tmp_path / "log", on_line=stop
        )
    child = int(str(caught.value))
    wait_for_end(child)
