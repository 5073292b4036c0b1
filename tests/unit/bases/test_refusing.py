# SPDX-License-Identifier: Apache-2.0
"""What cannot become a base is refused before the build; a machine that lacks something is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.tiny_tree import TinyTree
from tests.unit.bases.test_keeping import ADDING, USER, edit, steps_of
from xsplice_plugins.artefacts import Likeness
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.cli import main
from xsplice_plugins.errors import ConfigError, MachineError

pytestmark = pytest.mark.toolchain


def test_what_boots_and_settings_are_held_against_the_image_before_the_build(
    own: Path, tmp_path: Path, cache: Path
) -> None:
    other = TinyTree(tmp_path / "other")
    edit(other.root, "twice(a)", "twice(a) + 1")
    other.build()
    image, boot = own / "xen-syms", tmp_path / "boot"
    header = b"\x7fELF".ljust(18, b"\0") + b"\x03\0"
    boot.write_bytes(header + (other.root / "xen/xen").read_bytes())
    order = Order(name="fleet", source=own, image=image, boot=boot)
    with pytest.raises(ConfigError, match=r"--boot .*does not hold the build-id"):
        add_base(order)
    config = own / "xen/.config"
    text = config.read_text()
    subprocess.run(["strip", "-o", boot, image], check=True)
    for wrong, message in (
        (text.replace("CONFIG_LIVEPATCH=y\n", ""), "without CONFIG_LIVEPATCH"),
        (text.replace("CONFIG_X86=y", "CONFIG_ARM=y"), "the sources: is of arm64"),
    ):
        config.write_text(wrong)
        with pytest.raises(ConfigError, match=message):
            add_base(order)
    bare = tmp_path / "bare"
    subprocess.run(["objcopy", "-R", ".note.gnu.build-id", image, bare], check=True)
    config.write_text(text)
    with pytest.raises(ConfigError, match="has no build-id"):
        add_base(Order(name="fleet", source=own, image=bare))
    assert not list((cache / "bases").glob("**/*.o"))
    assert add_base(order).likeness is Likeness.IDENTICAL


def test_a_base_is_not_made_of_a_base(own: Path) -> None:
    record = add_base(Order(name="fleet", source=own))
    tree = store.tree_of("base:fleet")
    for name, source in (("fleet", tree), ("fleet", tree / "xen"), ("other", tree.parent)):
        with pytest.raises(ConfigError, match="lies in a base"):
            add_base(Order(name=name, source=source, is_replaced=True))
    image = tree / "xen/xen-syms"
    with pytest.raises(ConfigError, match=r"--image .*lies in the base itself"):
        add_base(Order(name="fleet", source=own, image=image, is_replaced=True))
    assert check_base("fleet") == record
    assert add_base(Order(name="other", source=own, image=image)).image == record.image


def test_an_order_that_fails_at_once_leaves_nothing(tmp_path: Path, own: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no hypervisor"):
        add_base(Order(name="fleet", source=tmp_path / "empty"))
    assert not store.bases_folder().exists()
    (own / "xen/out").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out"):
        add_base(Order(name="fleet", source=own))
    assert list(store.bases_folder().iterdir()) == []
    (own / "xen/out").unlink()
    record = add_base(Order(name="fleet", source=own))
    with pytest.raises(ConfigError, match="holds no hypervisor"):
        add_base(Order(name="fleet", source=tmp_path / "empty", is_replaced=True))
    assert store.places_of("fleet") == [store.folder_of("fleet")]
    assert store.load_base("fleet") == record


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_is_a_machine_that_lacks_something(
    place: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / place))
    assert main(["base", "add", "fleet", "--source", str(own)]) == 6
    assert "cannot be written" in capsys.readouterr().err
    assert main(["base", "list"]) == 0


def test_what_the_system_refuses_in_a_base_is_said(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add_base(Order(name="fleet", source=own))

    def refused(*_words: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied", "/there")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refused)
        with pytest.raises(MachineError, match="cannot be written"):
            add_base(Order(name="fleet", source=own, make=("A=1",), is_replaced=True))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refused)
        with pytest.raises(MachineError, match=r"/there: cannot be read or written"):
            store.remove_base("fleet")
    assert store.load_base("fleet") == record


def test_a_disk_that_fills_is_said_and_what_was_half_written_is_made_again(
    own: Path, cache: Path
) -> None:
    big = "common/user.o: big\nbig:\n\ttrap '' XFSZ; head -c 3000000 /dev/zero >big\n"
    (own / "xen/common/extra.mk").write_text(big)
    script = "import resource, signal\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))\n"
    words = [sys.executable, "-c", script + ADDING, own]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "MachineError: make: could not write (File too large); make room" in done.stderr
    assert (cache / "bases/fleet/making").exists()
    record, steps = steps_of(Order(name="fleet", source=own))
    assert steps == ["unpack", "configure", "build", "image"]
    assert record == store.load_base("fleet")
    assert not (cache / "bases/fleet/making").exists()


def test_sources_that_nobody_may_write_become_a_base_and_go(own: Path) -> None:
    for path in (own / USER, own / "xen/common"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    add_base(Order(name="fleet", source=own))
    copied = store.tree_of("base:fleet")
    assert (copied / "xen/common").stat().st_mode & 0o200
    assert (copied / USER).stat().st_mode & 0o200
    (copied / "xen/common").chmod(0o555)
    store.remove_base("fleet")
    (own / "xen/common").chmod(0o755)
    assert list(store.bases_folder().iterdir()) == []


def test_a_record_that_may_not_be_what_it_says_is_not_written(own: Path) -> None:
    """A source that changes while it is read would be kept under the other one's key."""

    def change(step: str, _done: int, _total: int) -> None:
        if step == "unpack":
            edit(own, "twice(a)", "twice(a) + 1")

    with pytest.raises(ConfigError, match="changed while it was read"):
        add_base(Order(name="fleet", source=own), progress=change)
    assert store.known_bases() == ()


@pytest.mark.parametrize("option", ["image", "boot", "config"])
@pytest.mark.parametrize("step", ["configure", "build", "image"])
def test_a_file_that_changes_while_make_runs_is_not_taken_for_the_first(
    own: Path, tmp_path: Path, option: str, step: str
) -> None:
    paths = {name: tmp_path / name for name in ("image", "boot", "config")}
    (own / "xen-syms").rename(paths["image"])
    subprocess.run(["strip", "-o", paths["boot"], paths["image"]], check=True)
    paths["config"].write_text("CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n")
    good = paths[option].read_bytes()
    words = {"image": paths["image"], "boot": paths["boot"], "config": str(paths["config"])}
    order = Order(name="fleet", source=own, **words)  # type: ignore[arg-type]

    def change(now: str, _done: int, _total: int) -> None:
        if now == step:
            paths[option].write_bytes(good + b"\n")

    with pytest.raises(ConfigError, match=f"--{option} {paths[option]}: changed while the base wa"):
        add_base(order, progress=change)
    assert store.known_bases() == ()
    paths[option].write_bytes(good)
    record, steps = steps_of(order)
    every = ["unpack", "configure", "build", "image"]
    assert steps == every[every.index(step) :]
    assert check_base("fleet") == record


def test_an_image_that_another_run_put_there_is_not_taken(own: Path, tmp_path: Path) -> None:
    image = (own / "xen-syms").rename(tmp_path / "xen-syms")
    order = Order(name="fleet", source=own, image=image)
    record = add_base(order)
    (store.folder_of("fleet") / "base.json").unlink()
    there = store.folder_of("fleet") / "tree/xen/xen-syms"
    good = there.read_bytes()
    there.write_bytes(good + b"\0")
    with pytest.raises(ConfigError, match=r"of another --image than .*; remove it with `xsplice"):
        add_base(order)
    there.write_bytes(good)
    assert add_base(order) == record


def test_names_that_are_no_utf_8(own: Path, tmp_path: Path) -> None:
    source = own.rename(tmp_path / os.fsdecode(b"own\xff"))
    assert add_base(Order(name="fleet", source=source)).source == "own\\xff"
    assert check_base("fleet").source == "own\\xff"
    with pytest.raises(ConfigError, match="is no UTF-8"):
        add_base(Order(name="other", source=source, make=(os.fsdecode(b"A=\xff"),)))


def test_packaging_that_is_not_whole_is_refused(own: Path) -> None:
    (own / "debian").mkdir()
    (own / "debian/xen-kconfig").write_text("CONFIG_LIVEPATCH=y\n")
    with pytest.raises(ConfigError, match="cannot be read of changelog and control"):
        add_base(Order(name="fleet", source=own))
