# SPDX-License-Identifier: Apache-2.0
"""What boots is held against the image that names its functions, when it is added and later."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.booting import x86_boot
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from tests.unit.bases.test_keeping import edit
from xsplice_plugins.artefacts import BASE_FILE, Boots, Likeness, save
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.cli import main
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import ConfigError

pytestmark = pytest.mark.toolchain


@pytest.fixture
def shipped(own: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Give image and boot file of sources whose image is one segment, as Xen's."""
    edit(own, "ld --build-id", "ld -N --build-id", "xen/Makefile")
    (own / "xen-syms").unlink()
    subprocess.run(["make", "-sC", own / "xen"], check=True)
    image, boot = (own / "xen/xen-syms").rename(tmp_path / "xen-syms"), tmp_path / "xen.gz"
    boot.write_bytes(gzip.compress(x86_boot(image)))
    subprocess.run(["make", "-sC", own / "xen", "clean"], check=True)
    return image, boot


def test_what_boots_and_does_not_hold_the_image_is_refused(
    own: Path, shipped: tuple[Path, Path], tmp_path: Path, cache: Path
) -> None:
    image, boot = shipped
    elf = read_elf(image.read_bytes(), "image")
    address = elf.values_of("user")["user"]
    wrong = tmp_path / "wrong.gz"
    data = bytearray(gzip.decompress(boot.read_bytes()))
    offset = 0x80 + address - min(s.addr_virt for s in elf.sections if s.is_alloc)
    data[offset] ^= 0xFF
    wrong.write_bytes(gzip.compress(bytes(data)))
    text = f"1 bytes are not those of xen-syms, the first one at {address:#x} in user"
    what = rf"--boot {wrong}: does not load what {image} holds \({text}\); give --image and --bo"
    with pytest.raises(ConfigError, match=what):
        add_base(Order(name="fleet", source=own, image=image, boot=wrong))
    assert not list(cache.rglob("configure.done"))
    record = add_base(Order(name="fleet", source=own, image=image, boot=boot))
    assert (record.likeness, record.boots) == (Likeness.IDENTICAL, Boots.EQUAL)
    assert check_base("fleet") == record
    path = store.tree_of("base:fleet") / "xen/xen"
    path.write_bytes(bytes(data))
    assert main(["base", "check", "fleet"]) == 4


def test_what_was_compared_is_said(
    own: Path, shipped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, boot = shipped
    nameless = tmp_path / "nameless"
    subprocess.run(["strip", "-o", nameless, image], check=True)
    edit(own, "twice(a)", "twice(a) + 1")
    for name, words, text in (
        ("one", ["--boot", boot], "held: every byte that is loaded"),
        ("two", ["--boot", nameless], "held: every byte that is loaded"),
        ("three", [], "not compared: nothing that boots"),
    ):
        line = ["base", "add", name, "--source", own, "--image", image, *words]
        assert main([str(word) for word in line]) == 0
        assert f"  boots     {text}" in capsys.readouterr().out
        record = store.load_base(name)
        assert check_base(name) == record
        said = json.loads((store.folder_of(name) / BASE_FILE).read_text())["boots"]
        assert said == ("equal" if words else "not there")


def test_what_boots_in_an_unknown_form_is_refused(
    own: Path, shipped: tuple[Path, Path], tmp_path: Path, cache: Path
) -> None:
    image, boot = shipped
    unknown = tmp_path / "unknown"
    data = gzip.decompress(boot.read_bytes())
    unknown.write_bytes(data[:6] + b"\x02" + data[7:])
    with pytest.raises(ConfigError, match="its form is not known, so it cannot be compared"):
        add_base(Order(name="fleet", source=own, image=image, boot=unknown))
    assert not list(cache.rglob("configure.done"))


def test_what_boots_is_compared_again_where_an_earlier_version_did_not(
    own: Path, shipped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image, boot = shipped
    edit(own, "twice(a)", "twice(a) + 1")
    order = Order(name="fleet", source=own, image=image, boot=boot)
    record = add_base(order)
    path = store.folder_of("fleet") / BASE_FILE
    earlier = replace(record, boots=None)
    save(path, earlier)
    assert add_base(order) == earlier
    assert check_base("fleet") == record
    assert store.load_base("fleet") == earlier
    file = store.tree_of("base:fleet") / "xen/xen"
    good, stamp = file.read_bytes(), file.stat()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert main(["base", "check", "fleet"]) == 4
    assert "1 bytes are not those of xen-syms, the first one at 0x" in capsys.readouterr().err
    file.write_bytes(good)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert add_base(replace(order, is_replaced=True)) == record


@pytest.mark.parametrize("words", [["-g"], ["-g", "--keep-file-symbols"]])
def test_an_image_whose_names_say_no_source_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Of two statics of one name and content nobody knows whose is whose."""
    tree = TinyTree(tmp_path / "tree")
    add_makefile(tree)
    same = "static int same[4]; int *%s(int a) { return &same[a]; }\n"
    for name in ("user", "livepatch"):
        with (tree.root / f"xen/common/{name}.c").open("a") as file:
            file.write(same % f"same_{name}")
    tree.build()
    image = tmp_path / "image"
    subprocess.run(["strip", *words, "-o", image, tree.root / "xen/xen-syms"], check=True)
    for name in ("xen-syms", "xen"):
        (tree.root / "xen" / name).unlink()
    line = ["base", "add", "fleet", "--source", str(tree.root), "--image", str(image)]
    assert main(line) == 0
    is_kept = len(words) > 1
    said, record = capsys.readouterr().out, store.load_base("fleet")
    assert ("after `strip -g --keep-file-symbols`" in said) != is_kept
    assert record.has_files is is_kept
    assert check_base("fleet") == record
    if is_kept:
        assert (record.differs, record.absent, record.strangers) == ((), (), ())
    earlier = replace(record, has_files=None)
    save(store.folder_of("fleet") / BASE_FILE, earlier)
    assert check_base("fleet") == earlier
