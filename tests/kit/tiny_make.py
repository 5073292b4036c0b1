# SPDX-License-Identifier: Apache-2.0
"""A Makefile for the tiny tree: it makes again what is older than its recorded inputs."""

from __future__ import annotations

from tests.kit.tiny_tree import SOURCES, TinyTree

#: As Xen's own: commands and inputs come from the records beside the objects.
RULES = r"""
objects := livepatch version setup.init user entry
recorded := $(wildcard common/.*.o.cmd arch/x86/.*.o.cmd)
xen: xen-syms
	strip -o xen xen-syms
xen-syms: prelink.o tiny.lds
	ld --build-id=sha1 -T tiny.lds -e livepatch -o xen-syms prelink.o
prelink.o: common/built_in.o
	ld -r -o prelink.o common/built_in.o
common/built_in.o: $(objects:%=common/%.o) arch/x86/linked.o
	$(cmd_$@)
common/setup.init.o: common/setup.o
	$(cmd_$@)
common/%.o: common/%.c
	$(cmd_$@)
	objcopy --redefine-sym $(<F)=$< common/.$(@F).tmp $@ && rm common/.$(@F).tmp
arch/x86/linked.o: arch/x86/linked.c
	$(cmd_$@)
	objcopy --redefine-sym linked.c=common/unused.c arch/x86/.linked.o.tmp $@
	rm arch/x86/.linked.o.tmp
common/entry.o: common/entry.S
	$(cmd_$@)
clean:
	rm -f common/*.o arch/x86/*.o prelink.o xen-syms xen
defconfig olddefconfig:
	test -e .config || printf 'CONFIG_X86=y\nCONFIG_LIVEPATCH=y\n' >.config
include $(recorded) common/extra.mk
"""


def add_makefile(tree: TinyTree) -> None:
    """Give a tiny tree a Makefile that make understands; the tree stays as it is built."""
    (tree.root / "xen/common/extra.mk").write_text("# nothing yet\n")
    (tree.root / "xen/Makefile").write_text(SOURCES["xen/Makefile"] + RULES)
