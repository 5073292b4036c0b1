# SPDX-License-Identifier: Apache-2.0
"""What releases and settings build otherwise, on the whole way: tiny trees of each kind.

Real trees of these kinds are big and not at hand; docs/releases.md says which were tried.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.kit.build import Run, scons
from tests.kit.tiny_make import add_makefile
from tests.kit.tiny_tree import TinyTree

pytestmark = [pytest.mark.scons, pytest.mark.toolchain]

FLAGS = "-fcf-protection=none -fno-asynchronous-unwind-tables "
USER = "xen/common/user.c"
MORE = """
int limit = 5;
int limited(int a) { return a + limit; }
"""
UNUSED = "int unused(void) { return 0x12345; }\n"
UNUSED_EDIT = "xen/common/unused.c", "0x12345", "0x777"
HANDLERS = "".join(
    f'void __ubsan_handle_{name}(void *said) {{ asm volatile("" :: "r"(said)); }}\n'
    for name in (
        "add_overflow",
        "sub_overflow",
        "mul_overflow",
        "pointer_overflow",
        "type_mismatch_v1",
    )
)
BUILDS: dict[str, dict[str, object]] = {
    "plain": {},
    "one section": {"is_split": False},
    "named links": {"names_links": True},  # efi/runtime.o before 4.17.1
    "debug": {"flags": f"{FLAGS} -g -O1 -fno-omit-frame-pointer -fno-optimize-sibling-calls"},
    "ubsan": {"flags": f"{FLAGS} -fsanitize=undefined"},
    "clang": {"cc": "clang"},
    "O= below": {"out": "build"},
}


@pytest.fixture(scope="module", params=BUILDS)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Give one kind of tree after the other."""
    words: dict[str, object] = {"flags": FLAGS, **BUILDS[request.param]}
    if shutil.which(str(words.get("cc", "gcc"))) is None:
        pytest.skip(f"there is no {words['cc']}")
    flags = str(words.pop("flags"))
    made = TinyTree(tmp_path_factory.mktemp("builds") / "tree", **words)  # type: ignore[arg-type]
    with (made.root / USER).open("a") as file:
        file.write(MORE + HANDLERS)
    (made.root / UNUSED_EDIT[0]).write_text(UNUSED)
    made.flags = flags
    made.build()
    return made


def verified(tree: TinyTree, folder: Path, *edits: tuple[str, str, str]) -> Run:
    patch = folder / "fix.patch"
    patch.write_text(tree.patch(*edits).patches[0].text)
    xen = tree.root / "xen" / tree.out
    return scons("xsplice-verify", folder / "b", XEN=xen, PATCH=patch, SIGNER="none")


def replaced(folder: Path) -> set[str]:
    [path] = folder.rglob("fix.payload.json")
    return {row["name"].rpartition("#")[2] for row in json.loads(path.read_text())["functions"]}


def test_a_changed_function_is_proved_and_no_other_is_replaced(
    tree: TinyTree, tmp_path: Path
) -> None:
    """The source of `unused` is compiled by a link to it, from another folder."""
    edits = ((USER, "a + limit", "a - limit"), UNUSED_EDIT)
    for name, chosen in (("one", edits[:1]), ("both", edits)):
        (tmp_path / name).mkdir()
        ended = verified(tree, tmp_path / name, *chosen)
        assert ended.status == 0, ended.text
        assert "PROVED" in ended.text
        assert replaced(tmp_path / name) == (
            {"limited"} if name == "one" else {"limited", "unused"}
        )


def test_nothing_that_counts_and_what_cannot_be_patched(tree: TinyTree, tmp_path: Path) -> None:
    for name, edit, status in (
        ("comment", (USER, "a + limit", "a /* and */ + limit"), 3),
        ("value", (USER, "limit = 5", "limit = 6"), 4),
    ):
        (tmp_path / name).mkdir()
        ended = verified(tree, tmp_path / name, edit)
        assert ended.status == status, ended.text
        assert not list((tmp_path / name).rglob("*.livepatch"))


def test_an_object_that_is_not_the_images_is_seen(tree: TinyTree, tmp_path: Path) -> None:
    """Put the object of another source beside the image; the fix reaches another one."""
    [made] = tree.root.glob(f"xen/{tree.out}/common/version.o")
    kept, source = made.read_bytes(), tree.root / "xen/common/version.c"
    times = made.stat()
    text = source.read_text()
    try:
        source.write_text(text.replace("return FILE_NAME;", 'return "other";'))
        shutil.copytree(tree.root, tmp_path / "copy", symlinks=True)
        other = TinyTree.__new__(TinyTree)
        vars(other).update(vars(tree), root=tmp_path / "copy")
        other.build()
        source.write_text(text)
        made.write_bytes((other.root / "xen" / tree.out / "common/version.o").read_bytes())
        ended = verified(tree, tmp_path, (USER, "a + limit", "a - limit"))
    finally:
        source.write_text(text)
        made.write_bytes(kept)
        os.utime(made, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ended.status != 0, ended.text
    assert "xen_extra_version" in ended.text


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("clean:\n", "# no word of this matters\nclean:\n", 3),
        ("common/%.o: common/%.c\n", "extra := -DNOTHING\ncommon/%.o: common/%.c\n", 3),
    ],
)
def test_a_patch_of_a_makefile_whose_objects_do_not_change_is_no_functional_change(
    tmp_path: Path, old: str, new: str, status: int
) -> None:
    tree = TinyTree(tmp_path / "tree", flags=FLAGS)
    (tree.root / UNUSED_EDIT[0]).write_text(UNUSED)
    add_makefile(tree)
    tree.build()
    ended = verified(tree, tmp_path, ("xen/Makefile", old, new))
    assert ended.status == status, ended.text
    (tmp_path / "more").mkdir()
    edits = (("xen/Makefile", old, new), UNUSED_EDIT)
    ended = verified(tree, tmp_path / "more", *edits)
    assert (ended.status, replaced(tmp_path / "more")) == (0, {"unused"}), ended.text
