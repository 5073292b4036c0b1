# SPDX-License-Identifier: Apache-2.0
"""Code with ``-fsanitize=undefined``: what it says of its places is compared by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.check.building import SIZES, World, checked, compiled, linked, payload
from xsplice_plugins.check.memory import read_image
from xsplice_plugins.check.results import CheckReport
from xsplice_plugins.elf.reader import read_elf

pytestmark = pytest.mark.toolchain

CLEAN = "-fsanitize=undefined"
UNIT = '#line {} "unit.c"\nint one(int a) {{ return a + 1; }}\n#line {} "unit.c"\n'
FIXED = "int two(int a) {{ return a * {}; }}\n"
HANDLERS = "".join(
    f'void __ubsan_handle_{name}_overflow(void *said) {{ asm volatile("nop" :: "r"(said)); }}\n'
    for name in ("add", "mul")
)


def unit(folder: Path, factor: int, first: int = 3, second: int = 9) -> bytes:
    return compiled(folder, "unit.c", UNIT.format(first, second) + FIXED.format(factor), CLEAN)


@pytest.fixture
def sound(tmp_path: Path) -> World:
    """Give a hypervisor that was built with the sanitizer, and its handlers."""
    mine, other = unit(tmp_path, 3), compiled(tmp_path, "handlers.c", HANDLERS)
    data = linked(tmp_path, mine, other)
    return World(
        folder=tmp_path,
        unit=mine,
        other=other,
        image_data=data,
        image=read_image(data, "image", SIZES),
    )


def brought(known: World, new: bytes, line: int, factor: int = 5) -> bytes:
    """Return a payload that replaces the second function, which names a line."""
    source = f'#line {line} "unit.c"\n' + FIXED.format(factor)
    return payload(known, new, source, ("two",), flags=(CLEAN,))


def subjects(report: CheckReport) -> set[str]:
    return {subject for subject, _ in report.differences}


def test_the_fixture_has_descriptions_of_both_functions(sound: World) -> None:
    names = [row.name for row in read_elf(sound.unit, "unit.o").sections]
    assert sum(".Lubsan_data" in name for name in names) >= 2


def test_a_payload_brings_descriptions_of_its_own(sound: World) -> None:
    new = unit(sound.folder, 5)
    report = checked(sound, new, brought(sound, new, 9))
    assert report.held, report.differences
    assert (report.replaced, report.unchanged) == (1, 1)


def test_another_line_in_a_payloads_description_is_seen(sound: World) -> None:
    new = unit(sound.folder, 5)
    assert subjects(checked(sound, new, brought(sound, new, 10))) == {"two"}


def test_other_lines_of_what_is_not_replaced_are_seen_unless_they_alone_moved(
    sound: World,
) -> None:
    new = unit(sound.folder, 5, first=4, second=10)
    data = brought(sound, new, 10)
    assert subjects(checked(sound, new, data)) == {"one"}
    assert checked(sound, new, data, neutral=unit(sound.folder, 5)).held
    other = unit(sound.folder, 5, first=2)
    assert subjects(checked(sound, new, data, neutral=other)) == {"one"}
