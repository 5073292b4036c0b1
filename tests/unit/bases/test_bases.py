# SPDX-License-Identifier: Apache-2.0
"""A base is built once from what a vendor keeps, held against what was shipped, and found by name.

The sources are a tiny tree with a Makefile; what was shipped is its own image, or another one.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import BASE_FILE, BaseRecord, Likeness, save
from xsplice_plugins.bases import store
from xsplice_plugins.bases.adding import Order, add_base
from xsplice_plugins.bases.checking import check_base
from xsplice_plugins.cli import main
from xsplice_plugins.errors import ConfigError, RefusedError
from xsplice_plugins.kbuild.tree import locate_tree

pytestmark = pytest.mark.toolchain


def added(source: Path, **more: object) -> BaseRecord:
    return add_base(replace(Order(name="fleet", source=source), **more))  # type: ignore[arg-type]


def test_sources_before_the_build_become_a_base_with_the_shipped_image(vendor: Path) -> None:
    steps: list[str] = []
    order = Order(name="fleet", source=vendor)
    record = add_base(order, progress=lambda step, _done, _total: steps.append(step))
    assert list(dict.fromkeys(steps)) == ["unpack", "configure", "build", "image"]
    assert record.likeness is Likeness.IDENTICAL
    assert record.matched > 0
    assert (record.differs, record.absent, record.strangers) == ((), (), ())
    tree = locate_tree(store.tree_of("base:fleet"))
    assert tree.base == record
    assert tree.build_id == record.build_id
    assert tree.xen_syms.read_bytes() == (vendor / "xen-syms").read_bytes()
    assert not (vendor / "xen" / "prelink.o").exists()  # what the user gave is only read


def test_the_same_again_does_nothing_and_something_else_is_refused(own: Path) -> None:
    record = added(own)
    steps: list[str] = []
    again = add_base(
        Order(name="fleet", source=own), progress=lambda step, _done, _total: steps.append(step)
    )
    assert (again, steps) == (record, [])
    with pytest.raises(ConfigError, match="made of something else"):
        added(own, make=("debug=y",))
    (own / "xen" / "common" / "user.c").write_text("int user(int a) { return a; }\n")
    with pytest.raises(ConfigError, match="made of something else"):
        added(own)
    assert store.known_bases() == ("fleet",)


def test_an_image_of_other_sources_or_settings_is_refused(own: Path, tmp_path: Path) -> None:
    shipped = TinyTree(tmp_path / "shipped", flags="-O0")
    with pytest.raises(ConfigError, match=r"only \d of \d functions.*user \(common/user.o\)"):
        added(own, image=shipped.root / "xen" / "xen-syms")
    assert store.known_bases() == ()


def test_another_image_is_matched_function_by_function(own: Path, tmp_path: Path) -> None:
    shipped = TinyTree(tmp_path / "shipped")
    source = shipped.root / "xen" / "common" / "user.c"
    source.write_text(source.read_text().replace("twice(a)", "twice(a) + 1"))
    shipped.build()
    image = shipped.root / "xen" / "xen-syms"
    record = added(own, image=image)
    assert record.likeness is Likeness.MATCHED
    assert record.differs == ("user (common/user.o)",)
    assert record.otherwise is None, "without debug information nobody can tell"
    tree = locate_tree(store.tree_of("base:fleet"))
    assert tree.xen_syms.read_bytes() == image.read_bytes()
    assert record.build_id == locate_tree(shipped.root).build_id


BOX = """struct box { %s int lid; };
int user_lid(struct box *b) { return b->lid; }
int user_box(struct box *b) { return b != 0; }
"""


def test_a_structure_that_the_shipped_image_has_otherwise_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = {}
    for name, more in (("shipped", "int more;"), ("sources", "")):
        trees[name] = tree = TinyTree(tmp_path / name, flags="-g")
        with (tree.root / "xen" / "common" / "user.c").open("a") as file:
            file.write(BOX % more)
        tree.build()
        add_makefile(tree)
    image = trees["shipped"].root / "xen" / "xen-syms"
    for name in ("xen-syms", "xen"):
        (trees["sources"].root / "xen" / name).unlink()
    record = added(trees["sources"].root, image=image)
    assert record.likeness is Likeness.MATCHED
    assert record.differs == ("user_lid (common/user.o)",)
    assert [row[:2] for row in record.otherwise or ()] == [("struct box", "`lid`")]
    objects = pipeline.objects_of_tree(locate_tree(store.tree_of("base:fleet")))
    assert objects.otherwise == record.otherwise
    # One of an earlier version, which did not compare them.
    path = store.tree_of("base:fleet").parent / BASE_FILE
    save(path, replace(record, otherwise=None))
    assert added(trees["sources"].root, image=image).otherwise is None
    again = added(trees["sources"].root, image=image, is_replaced=True)
    # Debug information says in which folder it was compiled.
    assert replace(again, files=record.files) == record != again
    assert added(trees["sources"].root, image=image) == again
    monkeypatch.setenv("XSPLICE_CACHE", str(tmp_path / "other"))
    assert added(trees["sources"].root).otherwise is None, "there is nothing to compare with"


def test_without_an_image_the_build_itself_is_the_base(own: Path) -> None:
    (own / "xen-syms").unlink()
    record = added(own)
    assert record.likeness is Likeness.OWN
    assert record.matched > 0


def test_what_boots_is_enough_if_the_build_gives_it_byte_for_byte(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot, other = tmp_path / "xen.gz", tmp_path / "other.gz"
    subprocess.run(["strip", "-o", tmp_path / "xen", own / "xen-syms"], check=True)
    stripped = (tmp_path / "xen").read_bytes()
    (own / "xen-syms").unlink()
    boot.write_bytes(gzip.compress(stripped))
    other.write_bytes(gzip.compress(stripped.replace(b"GCC: (", b"GCX: (") + b"more"))
    with pytest.raises(ConfigError, match=r"--boot .*: \d bytes of \d+ are not those of"):
        added(own, boot=other)
    assert store.known_bases() == ()
    record = added(own, boot=boot)
    assert record.likeness is Likeness.IDENTICAL
    assert check_base("fleet") == record
    assert main(["base", "add", "fleet", "--source", str(own), "--boot", str(boot)]) == 0
    assert "bit-identical" in capsys.readouterr().out
    before = stripped.index(bytes.fromhex(record.build_id))
    renamed = stripped[:before] + bytes(20) + stripped[before + 20 :]
    boot.write_bytes(gzip.compress(renamed))  # other debug information gives another build-id
    record = added(own, boot=boot, is_replaced=True)
    assert (record.likeness, record.build_id) == (Likeness.IDENTICAL, "00" * 20)
    tree = locate_tree(store.tree_of("base:fleet"))
    assert (tree.build_root / "xen").read_bytes() == renamed
    other.write_bytes(gzip.compress(stripped.replace(b"GCC: (", b"GCC: [")))
    with pytest.raises(ConfigError, match="does not say that it was made by"):
        added(own, boot=other, is_replaced=True)
    assert check_base("fleet") == record


@pytest.mark.parametrize("form", ["gz", "xz"])
def test_a_tarball_is_a_source(vendor: Path, tmp_path: Path, form: str) -> None:
    tarball = tmp_path / f"xen.tar.{form}"
    subprocess.run(["tar", "-caf", tarball, "-C", vendor.parent, vendor.name], check=True)
    assert added(tarball).likeness is Likeness.IDENTICAL


def test_source_packages_are_unpacked_by_their_own_tools(
    vendor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "dpkg-source": f'for w; do last=$w; done; cp -a {vendor} "$last"',
        "rpmbuild": f'mkdir -p "${{3#_topdir }}/BUILD"; cp -a {vendor} "${{3#_topdir }}/BUILD/xen"',
    }
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("xen_1.dsc", "xen-1.src.rpm"):
        package = tmp_path / name
        package.write_text("no more than a name\n")
        assert add_base(Order(name=package.stem, source=package)).likeness is Likeness.IDENTICAL


def test_patches_that_the_hypervisor_was_built_with_are_applied(own: Path, tmp_path: Path) -> None:
    patch = tmp_path / "pristine.patch"
    patch.write_text(
        "--- a/xen/common/user.c\n+++ b/xen/common/user.c\n@@ -4 +4 @@\n"
        "-    return twice(a);\n+    return twice(a) + 1;\n"
    )
    record = added(own, pristine=(patch,))
    assert record.differs == ("user (common/user.o)",)
    patch.write_text(patch.read_text().replace("twice(a);", "no such line;"))
    with pytest.raises(ConfigError, match=r"does not apply.*patch: ended with status 1"):
        add_base(Order(name="other", source=own, pristine=(patch,)))
    assert store.known_bases() == ("fleet",)


def test_an_interrupted_run_goes_on_where_it_stopped(own: Path, cache: Path) -> None:
    makefile = own / "xen" / "Makefile"
    good = makefile.read_text()
    makefile.write_text(
        good.replace("clean:\n", "clean:\n").replace("xen: xen-syms\n", "xen:\n\tfalse\n")
    )
    with pytest.raises(ConfigError, match="make: ended with status 2"):
        added(own)
    with pytest.raises(ConfigError, match="has not ended"):
        store.load_base("fleet")
    # Mended in the copy: the sources are as they were, so the steps that ended stay.
    (cache / "bases" / "fleet" / "tree" / "xen" / "Makefile").write_text(good)
    steps: list[str] = []
    add_base(
        Order(name="fleet", source=own), progress=lambda step, _done, _total: steps.append(step)
    )
    assert list(dict.fromkeys(steps)) == ["build", "image"]
    # And sources that changed begin afresh.


def test_the_commands_list_check_and_remove(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["base", "list"]) == 0
    assert "no bases" in capsys.readouterr().out
    assert main(["base", "add", "fleet", "--source", str(own)]) == 0
    said = capsys.readouterr().out
    assert "bit-identical" in said
    assert "XEN=base:fleet" in said
    assert main(["base", "list"]) == 0
    assert capsys.readouterr().out.startswith("fleet\tXen 4.17.5\tidentical\t")
    assert main(["base", "check", "fleet"]) == 0
    assert main(["base", "remove", "fleet"]) == 0
    assert main(["base", "check", "fleet"]) == 2
    assert "there is none" in capsys.readouterr().err


def test_a_base_whose_objects_or_image_changed_is_told(own: Path) -> None:
    added(own)
    tree = store.tree_of("base:fleet")
    assert check_base("fleet").likeness is Likeness.IDENTICAL
    image = tree / "xen" / "xen-syms"
    data = bytearray(image.read_bytes())
    (tree / "xen" / "common" / "user.o").unlink()
    with pytest.raises(RefusedError, match="not any more what was added"):
        check_base("fleet")
    data[-1] ^= 1
    image.write_bytes(bytes(data))
    with pytest.raises(RefusedError, match="image"):
        check_base("fleet")


def test_a_damaged_record_is_no_base(own: Path, cache: Path) -> None:
    added(own)
    (cache / "bases" / "fleet" / BASE_FILE).write_text("{}")
    assert main(["base", "check", "fleet"]) == 2


def test_a_commit_of_a_clone_is_a_source(own: Path, tmp_path: Path) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=m")
    for words in (["init", "-q"], ["add", "-Af"], ["commit", "-qm", "one"], ["tag", "ONE"]):
        subprocess.run(["git", *identity, *words], cwd=own, check=True)
    source = own / "xen" / "common" / "user.c"
    source.write_text(source.read_text() + "int later(void) { return 1; }\n")
    subprocess.run(["git", *identity, "commit", "-qam", "two"], cwd=own, check=True)
    assert added(own, ref="ONE").likeness is Likeness.IDENTICAL
    record = added(own, ref="HEAD", is_replaced=True)
    assert record.absent == ("later (common/user.o)",)
    for ref in ("none", "--all"):
        with pytest.raises(ConfigError, match=r"has no such commit.*\(fatal: .+\)$"):
            added(own, ref=ref)
    with pytest.raises(ConfigError, match="is no git clone"):
        added(own / "xen-syms", ref="ONE")


def test_a_base_names_its_vendors_loader(own: Path) -> None:
    record = added(own, loader="xenserver")
    assert record.loader == "xenserver"
    base = pipeline.base_of_tree(store.tree_of("base:fleet"))
    assert pipeline.open_run({}, base, environ={}).config.loader == "xenserver"
    assert pipeline.open_run({"LOADER": "upstream"}, base, environ={}).config.loader == ""
    with pytest.raises(ConfigError, match="LOADER=other: there is no such loader"):
        pipeline.open_run({"LOADER": "other"}, base, environ={})
    with pytest.raises(ConfigError, match="known are upstream, xenserver"):
        add_base(Order(name="other", source=own, loader="acme"))
    assert added(own, loader="upstream", is_replaced=True).loader == ""


def test_links_that_lead_out_of_the_sources_are_refused(own: Path, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.mkdir()
    (own / "xen" / "source").symlink_to(".")
    assert added(own).likeness is Likeness.IDENTICAL
    (own / "xen" / "out").symlink_to(users)
    with pytest.raises(ConfigError, match="xen/out is a link that leads out"):
        add_base(Order(name="other", source=own))


def test_a_configuration_that_is_a_link_is_not_written_through(own: Path, tmp_path: Path) -> None:
    config = own / "xen" / ".config"
    text = config.read_text()
    config.rename(own / "xen" / "mine")
    config.symlink_to("mine")
    (tmp_path / "config").write_text(text + "# more\n")
    added(own, config=str(tmp_path / "config"))
    assert (own / "xen" / "mine").read_text() == text
    copied = store.tree_of("base:fleet") / "xen"
    assert (copied / "mine").read_text() == text
    assert (copied / ".config").read_text().endswith("# more\n")


def test_sources_that_hold_the_cache_and_words_that_are_no_command(own: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="not a command"):
        added(own, compiler='gcc "')
    inside = cache / "bases"
    inside.mkdir(parents=True, exist_ok=True)
    shutil.copytree(own, cache.parent / "outer", symlinks=True)
    (cache.parent / "outer" / "cache").symlink_to(cache)
    with pytest.raises(ConfigError, match="leads out"):
        added(cache.parent / "outer")
