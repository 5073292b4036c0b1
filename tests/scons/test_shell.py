# SPDX-License-Identifier: Apache-2.0
"""Which programs a shell line runs, and how a compiler among them is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from xsplice.shell import Command, commands, writes_elsewhere
from xsplice_plugins.kbuild.commands import compiling, edited, redirected


@pytest.mark.parametrize(
    ("line", "programs"),
    [
        ("gcc -c a.c", ["gcc"]),
        ("cd src && A=1 /usr/bin/gcc -c a.c 2>&1 | sed s/x/y/ > out", ["cd", "gcc", "sed"]),
        ('echo "#define V \\"$(git describe)\\"" > v.h', ["echo", "git"]),
        ("echo '$(git describe)' > v.h", ["echo"]),
        ("echo `date +%Y`", ["echo", "date"]),
        ("sh -c 'cpp a.h > b.h'", ["sh", "cpp"]),
        ("if test -f x; then env B=2 ccache gcc x.c; fi", ["test", "gcc", "fi"]),
        ("echo 'open", ["eval"]),
        ("", []),
    ],
)  # fmt: skip
def test_the_programs_of_a_line_are_found(line: str, programs: list[str]) -> None:
    assert [command.program for command in commands(line)] == programs


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("gcc -O2 -c -o a.o -MD -MF a.d a.c", "gcc -O2 a.c -M -w"),
        ("CPATH=inc gcc -E -P -xc in.lds > out.lds 2>/dev/null", "CPATH=inc gcc -xc in.lds -M -w"),
        ("gcc -E -xc - < in.h", "gcc -xc - <in.h -M -w"),
        ("gcc -E -xc -", None),
        ("gcc -E -dM - < /dev/null", "gcc - </dev/null -E -M -w"),
        ("cpp in.h out.h", "cpp in.h -M -w"),
        ("gcc -S -Wp,-MD,a.d a.c -oa.s", "gcc a.c -M -w"),
    ],
)
def test_a_compiler_that_is_asked_writes_nothing(line: str, asked: str | None) -> None:
    [command] = commands(line)
    assert command.asking({"out.h"}) == asked


@pytest.mark.parametrize(
    ("line", "links"),
    [
        ("gcc -o xen a.o b.o -T link.lds", True),
        ("gcc -nostdlib -Wl,-Tlink.lds x.a", True),
        ("gcc -o xen a.o b.c", False),
        ("gcc -E -xc link.lds.in", False),
        ("gcc @words", False),
        ("gcc -c a.o", False),
        ("cpp in out", False),
    ],
)
def test_only_what_is_given_no_source_links(line: str, *, links: bool) -> None:
    [command] = commands(line)
    assert command.links() == links
    assert isinstance(command, Command)


@pytest.mark.parametrize(
    ("line", "printing"),
    [
        ("gcc -E -P -xc -o out in", "gcc -E -P -xc in"),
        ("cpp -MD -MF out.d in out", "cpp in"),
        ("A=1 gcc -S -o a.s a.c", "A=1 gcc -S a.c -o -"),
        ("gcc -c -o a.o a.c", None),
        ("gcc -E -M a.c", None),
        ("cat in | gcc -E -", None),
        ("cat in", None),
    ],
)
def test_a_compiler_prints_the_text_that_it_makes(line: str, printing: str | None) -> None:
    command = commands(line)[-1]
    assert command.preprocessing({"out"}) == printing


COMPILE = "gcc -o a/b.o -c b.c 2>&1"


@pytest.mark.parametrize(
    ("step", "is_said"),
    [
        ("", False),
        ("true", False),
        ("objcopy --rename-section .comment=.note.comment a/b.o", False),
        ("objcopy a/b.o a/b.o.tmp && mv a/b.o.tmp a/b.o", False),
        ("objdump -d a/b.o > a/b.o.dis", False),
        ("nm a/b.o > /dev/null 2>&1", False),
        ("sh tools/check a/b.o", False),
        ("objdump -d a/b.o > a/b.dis", True),
        ("objcopy -O binary a/b.o a/b.bin", True),
        ("cp a/b.o out", True),
        ("cp -t out a/b.o", True),
        ("ar r x.a a/b.o", True),
        ("strip -o c.o a/b.o", True),
        ("nm a/b.o | tee names", True),
    ],
)
def test_what_follows_a_compiler_may_write_elsewhere(step: str, *, is_said: bool) -> None:
    line = f"{COMPILE} && {step}" if step else COMPILE
    assert compiling(line, "a/b.o") == COMPILE
    assert compiling(line, "other.o") == line
    assert bool(writes_elsewhere(line, "a/b.o")) == is_said


def test_what_follows_a_compiler_takes_the_moved_output() -> None:
    line = "rm -f b.o && gcc -MT b.o -ob.o b.c && objcopy b.o b.o.x && cp c/b.o b.other"
    line += " ; mv b.o.x b.o"
    made = Path("/w/made")
    moved = edited(line, redirected(line, "b.o", made), "-g0", "b.o")
    assert moved == (
        "rm -f b.o && gcc -MT b.o -o/w/made b.c -g0 && objcopy /w/made /w/made.x"
        " && cp c/b.o b.other ; mv /w/made.x /w/made"
    )
    assert edited("gcc -c b.c", {}, "-g0", "b.o") == "gcc -c b.c -g0"
