# SPDX-License-Identifier: Apache-2.0
"""What a vendor's engineer may get wrong is said before the build, and what is plain works."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from tests.unit.bases.test_keeping import USER, edit, steps_of
from xsplice_plugins.artefacts import Likeness, write_file
from xsplice_plugins.bases import adding, store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.cli import main
from xsplice_plugins.elf.banner import machine_of_boot, release_of_boot
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import EM_AARCH64, EM_X86_64
from xsplice_plugins.errors import ConfigError, MachineError

pytestmark = pytest.mark.toolchain

GREETING = 'const __CHAR16_TYPE__ greeting[] = u"Xen 4.17.5 (c/s ) EFI loader";\n'
ARM64, X86 = b"\xb7\0", b"\x3e\0"


def wide(text: str) -> bytes:
    return text.encode("utf-16-le")


# What boots


def test_what_boots_or_an_image_of_another_release_or_machine_is_refused_at_once(
    tmp_path: Path, cache: Path
) -> None:
    tree = TinyTree(tmp_path / "tree")
    with (tree.root / "xen/common/version.c").open("a") as file:
        file.write(GREETING)
    tree.build()
    add_makefile(tree)
    image = (tree.root / "xen/xen-syms").rename(tmp_path / "xen-syms")
    (tree.root / "xen/xen").unlink()
    boot, other = tmp_path / "xen", tmp_path / "other"
    subprocess.run(["strip", "-o", boot, image], check=True)
    for option, path in (("boot", boot), ("image", image)):
        data = path.read_bytes()
        newer = data.replace(wide("Xen 4.17.5"), wide("Xen 4.18.5"))
        for wrong, words in (
            (newer, "says it is Xen 4.18.5, and the sources are of 4.17.5; give the sources"),
            (data[:18] + ARM64 + data[20:], r"is of arm64, .* for x86_64; give --make XEN_TARGET"),
        ):
            assert wrong != data
            other.write_bytes(wrong)
            with pytest.raises(ConfigError, match=f"--{option} {other}: {words}"):
                add_base(Order(name="fleet", source=tree.root, **{option: other}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"--boot {image}: holds names .* give it with --image"):
        add_base(Order(name="fleet", source=tree.root, boot=image))
    other.write_bytes(pe(b"\x64\x86"))
    with pytest.raises(ConfigError, match=r"is a program for EFI.*give the xen\.gz of the same"):
        add_base(Order(name="fleet", source=tree.root, boot=other))
    assert not list(cache.rglob("configure.done"))
    for words in ({"boot": boot}, {"image": image}):
        order = Order(name="fleet", source=tree.root, is_replaced=True, **words)  # type: ignore[arg-type]
        assert add_base(order).likeness is Likeness.IDENTICAL


def test_an_image_with_packed_debug_information_is_taken_if_it_can_be_unpacked(
    tmp_path: Path, cache: Path
) -> None:
    tree = TinyTree(tmp_path / "tree")
    tree.build()
    add_makefile(tree)
    image, some = (tree.root / "xen/xen-syms").rename(tmp_path / "xen-syms"), tmp_path / "some"
    some.write_bytes(bytes(4096))
    (tree.root / "xen/xen").unlink()
    for word in (f"--add-section=.debug_str={some}", "--compress-debug-sections=zlib"):
        subprocess.run(["objcopy", word, image], check=True)
    data = bytearray(image.read_bytes())
    section = read_elf(bytes(data), "image").section_by_name[".debug_str"]
    assert section.size_bytes < 4096
    for kind, is_read in ((2, False), (1, True)):
        data[section.offset_file] = kind
        image.write_bytes(data)
        order = Order(name="fleet", source=tree.root, image=image, is_replaced=True)
        if is_read:
            assert add_base(order).likeness is Likeness.MATCHED
            continue
        with pytest.raises(ConfigError, match=r"--image .*\.debug_str is not packed by zlib.*objc"):
            add_base(order)
        assert not list(cache.rglob("configure.done"))


def pe(machine: bytes) -> bytes:
    return b"MZ".ljust(0x3C, b"\0") + b"\x40\0\0\0" + b"PE\0\0" + machine


@pytest.mark.parametrize(
    ("data", "machine"),
    [
        (b"\x7fELF".ljust(18, b"\0") + b"\x03\0", EM_X86_64),
        (b"\x7fELF".ljust(18, b"\0") + X86, EM_X86_64),
        (b"\x7fELF".ljust(18, b"\0") + ARM64, EM_AARCH64),
        (b"\x7fELF".ljust(18, b"\0") + b"\xf3\0", 243),
        (b"MZ".ljust(56, b"\0") + b"ARMd", EM_AARCH64),
        (b"code".ljust(56, b"\0") + b"ARMd", EM_AARCH64),
        (pe(b"\x64\x86"), EM_X86_64),
        (pe(b"\x64\xaa"), EM_AARCH64),
        (pe(b"\xc0\x01"), None),
        (b"MZ", None),
    ],
)
def test_what_boots_says_its_machine(data: bytes, machine: int | None) -> None:
    assert machine_of_boot(data) == machine


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("Xen 4.17.5 (c/s ) EFI loader", "4.17.5"),
        ("Xen 4.20.5-pre (c/s ) EFI loader", "4.20.5"),
        ("Xen 4.23-unstable (c/s ) EFI loader", "4.23.0"),
        ("Xen 4.17-vendor (c/s ) EFI loader", None),
        ("Xen 4.17.5 (c/s ) and Xen 4.18.0 (c/s )", None),
        ("Xend 4.17.5", None),
        ("", None),
    ],
)
def test_what_boots_says_its_release(text: str, release: str | None) -> None:
    assert release_of_boot(b"\x7fELF" + wide(text) + b"\0\0") == release


def test_a_compiler_for_another_machine_is_refused(own: Path, tmp_path: Path) -> None:
    (own / "xen-syms").unlink()
    compiler = tmp_path / "cross-gcc"
    compiler.write_text(
        '#!/bin/sh\ngcc "$@" || exit\nfor last; do :; done\n'
        "printf '\\267' | dd of=\"$last\" bs=1 seek=18 conv=notrunc 2>/dev/null\n"
    )
    compiler.chmod(0o755)
    with pytest.raises(ConfigError, match=r"cross-gcc: compiles for arm64, .* for x86_64; give"):
        add_base(Order(name="fleet", source=own, compiler=str(compiler)))
    with pytest.raises(ConfigError, match=r"gcc: compiles for x86_64, .* CROSS_COMPILE=PREFIX"):
        add_base(Order(name="fleet", source=own, make=("XEN_TARGET_ARCH=arm64",)))
    with pytest.raises(ConfigError, match=r"XEN_TARGET_ARCH=arm: payloads are made for x86_64 and"):
        add_base(Order(name="fleet", source=own, make=("XEN_TARGET_ARCH=arm",)))
    assert add_base(Order(name="fleet", source=own, make=("XEN_TARGET_ARCH=x86_64",))).matched > 0


# Configurations


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "sets nothing; give the running"),
        (b"# a comment\n\n# and one more\n", "sets nothing; give the running"),
        (b"to be done\n", r"no configuration of Xen \(`to be done`\) in line 1; give the running"),
        (b"CONFIG_X86=y\nLIVEPATCH=y\n", r"no configuration of Xen \(`LIVEPATCH=y`\)"),
        (b"\x1f\x8b\x08\0\xff", r"no configuration of Xen"),
        (b"CONFIG_X86=y\n# CONFIG_LIVEPATCH is not set\n", r"is configured .*CONFIG_LIVEPATCH=y"),
        (b"CONFIG_X86=y\nCONFIG_LIVEPATCH=n\n", r"is configured without .*CONFIG_LIVEPATCH=y"),
    ],
)
def test_a_file_that_is_no_configuration_is_not_taken_for_the_defaults(
    own: Path, tmp_path: Path, cache: Path, text: bytes, words: str
) -> None:
    config = tmp_path / "config"
    config.write_bytes(text)
    with pytest.raises(ConfigError, match=f"--config {config}: {words}"):
        add_base(Order(name="fleet", source=own, config=str(config)))
    assert not cache.exists()


def test_a_configuration_of_another_machine_is_refused(own: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("CONFIG_ARM=y\nCONFIG_LIVEPATCH=y\n")
    with pytest.raises(ConfigError, match=r"config: is of arm64, .* for x86_64; give --make XEN"):
        add_base(Order(name="fleet", source=own, config=str(config)))
    assert not list(store.bases_folder().rglob("prelink.o"))
    config.write_text("CONFIG_X86=y\n# CONFIG_ARM is not set\nCONFIG_LIVEPATCH=y\n")
    assert add_base(Order(name="fleet", source=own, config=str(config))).matched > 0


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_configuration_is_taken_whatever_ends_its_lines(
    own: Path, tmp_path: Path, end: str
) -> None:
    config = tmp_path / "config"
    lines = ("#", "# Xen", "", "CONFIG_X86=y", "CONFIG_LIVEPATCH=y", "# CONFIG_MORE is not set", "")
    config.write_bytes(end.join(lines).encode())
    assert add_base(Order(name="fleet", source=own, config=str(config))).matched > 0


def test_sources_with_an_empty_configuration_are_refused(own: Path) -> None:
    (own / "xen/.config").write_text("")
    with pytest.raises(ConfigError, match=r"the \.config of the sources: sets nothing"):
        add_base(Order(name="fleet", source=own))
    (own / "xen/.config").write_text("CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n")
    assert add_base(Order(name="fleet", source=own)).matched > 0


# Sources


def test_a_patch_that_does_not_apply_or_changes_nothing_is_named(own: Path, tmp_path: Path) -> None:
    good, bad, empty = (tmp_path / name for name in ("good", "bad", "empty"))
    head = "--- a/xen/common/user.c\n+++ b/xen/common/user.c\n@@ -4 +4 @@\n"
    good.write_text(f"{head}-    return twice(a);\n+    return twice(a) + 1;\n")
    bad.write_text(f"{head}-    return nothing;\n+    return twice(a) + 1;\n")
    empty.write_text("")
    for patches, words in (
        ((good, bad), "bad: does not apply to these sources"),
        ((good, good), "good: does not apply"),
        ((empty,), "empty: changes nothing"),
    ):
        with pytest.raises(ConfigError, match=f"--pristine {tmp_path}/{words}"):
            add_base(Order(name="fleet", source=own, pristine=patches))
    assert add_base(Order(name="fleet", source=own, pristine=(good,))).differs


def test_the_hypervisors_own_folder_stands_for_the_one_above(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is Xen's folder xen/ alone.*Config\.mk beside it"):
        add_base(Order(name="fleet", source=own / "xen"))
    (own / "Config.mk").write_text("# of all\n")
    record = add_base(Order(name="fleet", source=own / "xen"))
    assert (record.source, record.likeness) == ("own", Likeness.IDENTICAL)
    assert steps_of(Order(name="fleet", source=own)) == (record, [])
    outer = tmp_path / "outer"
    outer.mkdir()
    own.rename(outer / "xen")
    assert add_base(Order(name="other", source=outer)).likeness is Likeness.IDENTICAL
    more = "-include ../Config.mk\nexport XEN_VERSION"
    edit(outer / "xen", "export XEN_VERSION", more, "xen/Makefile")
    (outer / "xen/Config.mk").unlink()
    with pytest.raises(ConfigError, match=r"holds Xen's folder xen/ alone"):
        add_base(Order(name="more", source=outer))


def test_a_git_repository_without_files_asks_for_a_commit(own: Path, tmp_path: Path) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=m")
    (own / "Config.mk").write_text("# of all\n")
    for words in (["init", "-q"], ["add", "-Af"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *words], cwd=own, check=True)
    bare, unborn = tmp_path / "xen.git", tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--bare", own, bare], check=True)
    subprocess.run(["git", "clone", "-qn", own, unborn], check=True)
    for source in (bare, own / ".git"):
        with pytest.raises(ConfigError, match=r"is a git repository without files; name a commit"):
            add_base(Order(name="fleet", source=source))
    with pytest.raises(ConfigError, match=r"holds no hypervisor .*of this clone with --ref"):
        add_base(Order(name="fleet", source=unborn))
    edit(own, "twice(a)", "twice(a) + 1")  # not committed: of a commit it is no part
    for source in (bare, unborn, own, own / "xen"):
        assert add_base(Order(name="fleet", source=source, ref="HEAD")).matched > 0
        assert "+ 1" not in (store.tree_of("base:fleet") / USER).read_text()
    add_base(Order(name="fleet", source=own, is_replaced=True))
    assert "+ 1" in (store.tree_of("base:fleet") / USER).read_text()


def test_a_folder_is_known_by_its_content_whatever_its_times_say(own: Path) -> None:
    """What a run left that did not end would be gone on with."""
    edit(own, "xen: xen-syms\n", "xen:\n\tfalse\n", "xen/Makefile")
    order = Order(name="fleet", source=own)
    with pytest.raises(ConfigError, match="make: ended"):
        add_base(order)
    files = [own / USER, own / "xen/Makefile"]
    stamps = [path.stat() for path in files]
    edit(own, "twice(a)", "a+a+a +1")  # as long as it was
    edit(own, "xen:\n\tfalse\n", "xen: xen-syms\n", "xen/Makefile")
    for path, stamp in zip(files, stamps, strict=True):
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    record, steps = steps_of(order)
    assert steps == ["unpack", "configure", "build", "image"]
    assert record.differs == ("user (common/user.o)",)
    for path in own.rglob("*"):
        os.utime(path, follow_symlinks=False)
    assert steps_of(order) == (record, [])


def test_of_a_folder_around_the_sources_only_what_was_shipped_counts(
    own: Path, tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    own.rename(outer / "xen-1")
    image = (outer / "xen-1/xen-syms").rename(outer / "xen-syms")
    order = Order(name="fleet", source=outer)
    record = add_base(order)
    assert record.likeness is Likeness.IDENTICAL
    (outer / "other").mkdir()
    (outer / "other/notes").write_text("more\n")
    assert steps_of(order) == (record, [])
    image.rename(outer / "other/xen-syms")
    with pytest.raises(ConfigError, match="made of something else"):
        add_base(order)


def test_folders_of_one_commit_are_told_apart(own: Path, tmp_path: Path) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=m")
    every = tmp_path / "every"
    shutil.copytree(own, every / "one", symlinks=True)
    edit(own, "twice(a)", "twice(a) + 1")
    own.rename(every / "two")
    for words in (["init", "-q"], ["add", "-Af"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *words], cwd=every, check=True)
    record = add_base(Order(name="fleet", source=every / "one", ref="HEAD"))
    assert record.differs == ()
    assert steps_of(Order(name="fleet", source=every / "one", ref="HEAD")) == (record, [])
    with pytest.raises(ConfigError, match="made of something else"):
        add_base(Order(name="fleet", source=every / "two", ref="HEAD"))
    assert add_base(Order(name="other", source=every / "two", ref="HEAD")).differs


@pytest.mark.parametrize("file", ["xen-syms", "xen"])
def test_what_boots_that_was_put_half_is_put_again(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    boot = tmp_path / "xen"
    subprocess.run(["strip", "-o", boot, own / "xen-syms"], check=True)
    data = boot.read_bytes()
    at = data.index(b"GNU\0") + 4  # the build-id, which debug information changes too
    boot.write_bytes(data[:at] + bytes(20) + data[at + 20 :])
    (own / "xen-syms").unlink()
    order = Order(name="fleet", source=own, boot=boot)

    def full(path: Path, content: bytes) -> None:
        write_file(path, content)
        if path == store.folder_of("fleet") / "tree/xen" / file:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(adding, "write_file", full)
        with pytest.raises(MachineError, match=f"/{file}: cannot be written .*make room"):
            add_base(order)
    record, steps = steps_of(order)
    assert (record.likeness, record.build_id) == (Likeness.IDENTICAL, "00" * 20)
    assert steps == ["unpack", "configure", "build", "image"]


@pytest.mark.parametrize("kind", ["link to a folder", "link to a file", "mode", "name"])
def test_links_modes_and_names_of_a_folder_decide(own: Path, kind: str) -> None:
    script, link = own / "xen/script", own / "xen/link"
    script.write_text("#!/bin/sh\n")
    link.symlink_to("common" if "folder" in kind else "script")
    (own / "pipe").write_text("")
    record = add_base(Order(name="fleet", source=own))
    assert steps_of(Order(name="fleet", source=own)) == (record, [])
    if kind == "mode":
        script.chmod(0o755)
    elif kind == "name":
        (own / "pipe").rename(own / "pipes")
    else:
        link.unlink()
        link.symlink_to("include" if "folder" in kind else "Makefile")
    with pytest.raises(ConfigError, match="made of something else"):
        add_base(Order(name="fleet", source=own))


def test_what_is_neither_file_nor_link_and_history_do_not_count(own: Path) -> None:
    record = add_base(Order(name="fleet", source=own))
    os.mkfifo(own / "fifo")
    (own / ".git").mkdir()
    (own / ".git/HEAD").write_text("more\n")
    (own / "fifo").rename(own / ".git/fifo")
    assert steps_of(Order(name="fleet", source=own)) == (record, [])
    os.mkfifo(own / "fifo")
    add_base(Order(name="other", source=own))
    assert not (store.tree_of("base:other") / "fifo").exists()


@pytest.mark.parametrize("name", ["my cache", "a:b", "a$b", "a#b", "a'b", "a;b", "a=b"])
def test_a_cache_folder_in_which_make_cannot_build_is_refused(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / name))
    odd = next(letter for letter in name if not letter.isalpha())
    words = re.escape(f"make builds in no folder with {odd!r} in its path; set XSPLICE_CACHE")
    with pytest.raises(ConfigError, match=words):
        add_base(Order(name="fleet", source=own))
    assert store.known_bases() == ()


@pytest.mark.parametrize("name", ["a b", 'it\'s (v1) & "more" $HOME;#*', "-n", "\u00e9\u4e2d\n"])
def test_sources_may_have_any_name(own: Path, tmp_path: Path, name: str) -> None:
    folder = own.rename(tmp_path / name)
    tarball = tmp_path / f"{name}.tar.gz"
    subprocess.run(["tar", "-czf", tarball, "-C", tmp_path, f"./{name}"], check=True)
    for number, source in enumerate((folder, tarball)):
        record = add_base(Order(name=f"fleet{number}", source=source))
        assert record.likeness is Likeness.IDENTICAL
        assert record.source.splitlines() == [" ".join(source.name.split())]


@pytest.mark.parametrize(("inside", "given"), [(".", "."), ("xen", ".."), ("xen", "../../own")])
def test_the_folder_of_now_is_a_source(
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inside: str,
    given: str,
) -> None:
    monkeypatch.chdir(own / inside)
    assert main(["base", "add", "fleet", "--source", given]) == 0
    assert store.load_base("fleet").source == "own"
    assert main(["base", "add", "other", "--source", given, "--image", "."]) == 2
    assert "cannot be read (Is a directory)" in capsys.readouterr().err
    assert Order(name="root", source=Path("/")).called == "/"
