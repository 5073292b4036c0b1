# SPDX-License-Identifier: Apache-2.0
"""A tiny built tree with functions to patch, and a short way to build payloads for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.kit.tiny_tree import TinyTree
from xsplice_plugins import cli
from xsplice_plugins.elf.reader import ElfFile, read_elf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLAGS = "-fpic -fcf-protection=none -fno-asynchronous-unwind-tables"
USER = """
int counter;
int user(int a) { return a * 3 + counter; }
void bump(void) { counter = 7; }
void tiny(void) { }
static __attribute__((noinline, used)) int helper(int a) { return a * 5 + counter; }
static __attribute__((noinline, used)) int lonely(int a) { return a * 9 + counter; }
#define CODE(name, text) \\
    asm (".globl " #name "; .type " #name ", @function; " #name ": " text \\
         "; .size " #name ", . - " #name)
CODE(looping, "xor %eax,%eax; 1: inc %eax; cmp $3,%eax; jne 1b; ret");
CODE(pushing, "push %rbx; pop %rbx; mov $1,%eax; ret");
CODE(tail, "mov $17,%eax; jmp user; int3");
CODE(guarded, "endbr64; xor %eax,%eax; ret");
CODE(adjusting, "sub $8,%rsp; mov $2,%eax; add $8,%rsp; ret");
CODE(clever.constprop.0, "lea 1(%rdi),%eax; ret");
asm (".type cut.isra.0, @function; cut.isra.0: lea 1(%rdi),%eax; ret;"
     ".size cut.isra.0, . - cut.isra.0");
CODE(middle, "test %edi,%edi; je 1f; ret; 1: mov $3,%eax; ret");
"""
TWIN = """
int livepatch(void) { return 0; }
static __attribute__((noinline, used)) long helper(long a) { return a * 11; }
"""


class Built(NamedTuple):
    """What `xsplice build` came to."""

    status: int
    out: str
    err: str
    path: Path

    @property
    def payload(self) -> ElfFile:
        """Return the payload, taken apart."""
        assert self.status == 0, self.err
        return read_elf(self.path.read_bytes(), "payload")


class Bench:
    """Builds payloads for the tiny tree."""

    def __init__(
        self, tree: TinyTree, folder: Path, capsys: pytest.CaptureFixture[str] | None
    ) -> None:
        self.tree, self.folder, self.capsys = tree, folder, capsys
        self.sources = folder / "sources"
        self.sources.mkdir()

    @contextmanager
    def calling_itself(self, release: str) -> Iterator[None]:
        """Let the tree's Makefile state another release for a while."""
        makefile = self.tree.root / "xen" / "Makefile"
        kept = makefile.read_text()
        _, minor, point = release.split(".")
        makefile.write_text(
            f"export XEN_VERSION = 4\nexport XEN_SUBVERSION = {minor}\n"
            f"export XEN_EXTRAVERSION ?= .{point}\n"
        )
        try:
            yield
        finally:
            makefile.write_text(kept)

    def build(self, text: str, *words: str, out: str = "fix", name: str = "hotfix.c") -> Built:
        """Write a C file and build it; whatever is refused leaves nothing behind."""
        source = self.sources / name
        source.write_text(f"#include <xsplice.h>\n{text}")
        path = self.folder / out / "fix.livepatch"
        command = ["build", "--xen", str(self.tree.root), "--name", "fix", "--signer", "none"]
        status = cli.main([*command, "--out", str(path), *words, str(source)])
        assert self.capsys is not None
        said = self.capsys.readouterr()
        assert (status == 0) == path.exists()
        assert status == 0 or not path.parent.exists(), "nothing is written on a refusal"
        return Built(status, said.out, said.err, path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTree:
    """Return a tree that tests only read."""
    return make_tree(tmp_path_factory.mktemp("handmade") / "my xen")


def make_tree(root: Path) -> TinyTree:
    """Build a tree with functions to patch."""
    tree = TinyTree(root, flags=FLAGS)
    (root / "xen/common/user.c").write_text(USER)
    (root / "xen/common/livepatch.c").write_text(TWIN)
    tree.build()
    return tree


@pytest.fixture
def bench(tiny: TinyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Return a way to build payloads."""
    return Bench(tiny, tmp_path, capsys)
