# SPDX-License-Identifier: Apache-2.0
"""An order that cannot be fulfilled is refused before the build, with the reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.unit.bases.test_bases import added
from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases import store
from xsplice_plugins.bases.recipes import recipe_of
from xsplice_plugins.cli import main
from xsplice_plugins.errors import ConfigError

pytestmark = pytest.mark.toolchain


def test_an_image_of_another_compiler_or_release_is_refused_before_the_build(
    own: Path, tmp_path: Path, cache: Path
) -> None:
    image = tmp_path / "xen-syms"
    comment = tmp_path / "comment"
    comment.write_bytes(b"GCC: (Vendor 4.8.5) 4.8.5\0")
    line = ["objcopy", "--update-section", f".comment={comment}", own / "xen-syms", image]
    subprocess.run(line, check=True)
    with pytest.raises(ConfigError, match=r"Vendor 4\.8\.5.*name it with --cc"):
        added(own, image=image)
    assert not (cache / "bases" / "fleet" / "tree" / "xen" / "prelink.o").exists()
    subprocess.run(["strip", own / "xen-syms", "-o", image], check=True)
    with pytest.raises(ConfigError, match="has no names of functions"):
        added(own, image=image)
    line = ["objcopy", "--only-keep-debug", own / "xen-syms", image]
    subprocess.run(line, check=True)
    with pytest.raises(ConfigError, match="without code"):
        added(own, image=image)
    image.write_text("no image")
    with pytest.raises(ConfigError, match="not readable"):
        added(own, image=image)


def test_sources_without_a_configuration_are_refused(own: Path) -> None:
    (own / "xen" / ".config").unlink()
    with pytest.raises(ConfigError, match="--config defconfig"):
        added(own)
    assert added(own, config="defconfig").likeness is Likeness.IDENTICAL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "nowhere"], "no such file or folder"),
        (["--source", "words.txt"], "neither a folder, a tarball"),
        (["--source", "empty"], "holds no hypervisor"),
        ([], "give one of the two"),
        (["--source", "empty", "--debian", "12"], "give one of the two"),
        (["--debian", "banana"], "neither a Debian release"),
        (["--source", "empty", "--config", "nowhere"], "cannot be read"),
        (["--source", "empty", "--jobs", "0"], "a number from 1 on"),
    ],
)
def test_orders_that_cannot_be_fulfilled_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("words\n")
    (tmp_path / "empty").mkdir()
    assert main(["base", "add", "fleet", *words]) == 2
    assert message in capsys.readouterr().err
    assert store.known_bases() == ()


@pytest.mark.parametrize(
    "option", ["--source", "--image", "--config", "--ref", "--debian", "--pristine", "--cc"]
)
def test_an_option_without_a_value_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("", " "):
        with pytest.raises(SystemExit, match="2"):
            main(["base", "add", "fleet", option, value])
        assert f"argument {option}: its value is empty" in capsys.readouterr().err
    assert store.known_bases() == ()


@pytest.mark.parametrize(
    ("option", "word", "message"),
    [
        ("--make", "V", "--make V: not NAME=value"),
        ("--make", "O =/there", "--make O =/there: not NAME=value"),
        ("--make", "O=/there", "is built in a folder of its own; leave it out"),
        ("--make", "KBUILD_OUTPUT=/there", "is built in a folder of its own; leave it out"),
        ("--targets", "install", "writes into the folders of the system that runs"),
        ("--targets", "all _install", "--targets _install: writes into the folders"),
        ("--cc", "./gcc", "--cc ./gcc: ./gcc is looked for in the folder of now"),
        ("--cc", "ccache ../bin/gcc -m64", "make runs it in others; give its whole path: /"),
        ("--make", "CC=tools/gcc", "--make CC=tools/gcc: tools/gcc is looked for in the folder"),
        ("--make", "CROSS_COMPILE=./x-", "--make CROSS_COMPILE=./x-: ./x- is looked for in the"),
        ("--make", "KCONFIG_CONFIG={}/there", "lie in its own .config, which is compared with"),
        ("--make", "KCONFIG_CONFIG=there", "leave it out, and give a file of settings with --co"),
        ("--make", "KCONFIG_AUTOHEADER={}/there", "lie in its own .config"),
        ("--make", "A=1\nB=2", r"--make 'A=1\nB=2': holds a control character"),
        ("--make", "A=1\tB", r"--make 'A=1\tB': holds a control character"),
        ("--cc", "gcc\n-m64", r"--cc 'gcc\n-m64': holds a control character"),
        ("--targets", "all\x7f", r"--targets 'all\x7f': holds a control character"),
        ("--ref", "v1\x85", r"--ref 'v1\x85': holds a control character"),
        ("--make", "MAKEFLAGS=-C /there", "--make MAKEFLAGS=-C /there: make keeps its own"),
        ("--make", "MFLAGS=-k", "give each variable of the build with a --make of its own"),
        ("--make", "GNUMAKEFLAGS=-k", "--make GNUMAKEFLAGS=-k: make keeps its own"),
        ("--make", "MAKEOVERRIDES=A=1", "--make MAKEOVERRIDES=A=1: make keeps its own"),
        ("--make", "MAKEFILES={}/there", "make keeps its own command line there"),
        ("--make", "XEN_TARGET_ARCH=riscv64", "payloads are made for x86_64 and arm64"),
        ("--cc", "gcc '", "--cc gcc ': not a command"),
        ("--targets", "KCONFIG_CONFIG={}/there", "no target of make; give variables with --make"),
        ("--targets=-C", "", "no target of make"),
    ],
)
def test_words_for_make_are_told_before_anything_is_unpacked(
    own: Path,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    word: str,
    message: str,
) -> None:
    words = [option, word.format(tmp_path)] if word else [option]
    assert main(["base", "add", "fleet", "--source", str(own), *words]) == 2
    assert message in capsys.readouterr().err
    assert not cache.exists()
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("abs_objtree", "abs_srctree", "objtree", "srctree", "srcdir", "obj", "src", "VPATH"),
        *("BASEDIR", "XEN_ROOT", "TARGET", "DESTDIR", "DISTDIR", "CURDIR", "KBUILD_EXTMOD"),
        *("building_out_of_srctree", "need-sub-make", "build", "kconfig", "SRCPATH"),
    ],
)
def test_variables_that_name_folders_of_the_build_are_refused(
    own: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Make would build in them, or of them, and leave the base's own folder as it is."""
    word = f"{name}={tmp_path}/there"
    assert main(["base", "add", "fleet", "--source", str(own), "--make", word]) == 2
    said = "not NAME=value" if "-" in name else "leads make elsewhere, and a base is built in"
    assert f"--make {word}: {said}" in capsys.readouterr().err
    assert not cache.exists()


def test_variables_that_lead_nowhere_else_are_taken(own: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n")
    words = ("XEN_CONFIG_EXPERT=y", "OTHER_KCONFIG_CONFIG=there", "MY_MAKEFLAGS=-a  b")
    more = (*words, "XEN_TARGET_ARCH=x86_64")
    record = added(own, make=more, config=str(config), targets=("olddefconfig",))
    assert record.make == ("XEN_TARGET_ARCH=x86_64", *words)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ((), ["gcc"]),
        (("clang=y",), ["clang"]),
        (("clang=n",), ["gcc"]),
        (("clang=y", "CROSS_COMPILE=arm-"), ["arm-clang"]),
        (("clang=y", "CC=gcc -m64"), ["gcc", "-m64"]),
    ],
)
def test_the_compiler_is_the_one_that_make_takes(
    own: Path, words: tuple[str, ...], command: list[str]
) -> None:
    assert recipe_of(own, words, "").compiler == command


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CONFIG_X86=y\nCONFIG_COVERAGE=y\n", r"with CONFIG_COVERAGE.*one or the other"),
        ("CONFIG_X86=y\n", r"without CONFIG_LIVEPATCH; switch it on"),
    ],
)
def test_settings_without_live_patching_are_refused_before_the_build(
    own: Path, cache: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match=f"--config .*config: is configured {message}"):
        added(own, config=str(tmp_path / "config"))
    assert not (cache / "bases/fleet/tree/xen/prelink.o").exists()
    (own / "xen/.config").write_text(text)
    with pytest.raises(ConfigError, match=f"^--config defconfig: is configured {message}"):
        added(own, config="defconfig")
    (tmp_path / "config").write_text("CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n")
    assert added(own, config=str(tmp_path / "config")).matched > 0


def test_settings_that_make_does_not_keep_are_refused_by_name(own: Path, tmp_path: Path) -> None:
    """Of two that rule each other out, one would be gone without a word."""
    makefile = own / "xen" / "Makefile"
    known = "test -e .config ||"
    assert known in makefile.read_text()
    drop = "sed -i -e /COVERAGE/d -e s/CONFIG_ODD=n/CONFIG_ODD=y/ .config;"
    makefile.write_text(makefile.read_text().replace(known, f"{drop} {known}"))
    config = tmp_path / "config"
    good = "CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n"
    config.write_text(f"{good}CONFIG_COVERAGE=y\nCONFIG_ODD=n\nCONFIG_GCC_VERSION=1\n")
    with pytest.raises(ConfigError, match="config: CONFIG_COVERAGE=y, CONFIG_ODD is not set: make"):
        added(own, config=str(config))
    config.write_text(good)
    assert added(own, config=str(config)).matched > 0


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a" * 101])
def test_a_bases_name_is_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        store.folder_of(name)
