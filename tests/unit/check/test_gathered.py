# SPDX-License-Identifier: Apache-2.0
"""What the linker gathered is what the objects have, to the last entry. Each with its negation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.check.building import (
    FIXED_WORK,
    KNOWN,
    OTHER,
    SCRIPT,
    SIZES,
    UNIT,
    WORK,
    World,
    changed,
    checked,
    compiled,
    linked,
    payload,
    run,
    world,
)
from xsplice_plugins.check.base import match_objects
from xsplice_plugins.check.memory import Image, read_image
from xsplice_plugins.check.results import ImageMatch

pytestmark = pytest.mark.toolchain

#: The same code with and without an entry of a table.
BARE = {
    "GUARDED(&shared)": (
        'asm volatile("1: movl (%0), %%eax\\n2:" :: "r"(&shared) : "eax", "memory")'
    ),
    'ALTERNATIVE("stac")': 'asm volatile("nop\\nnop\\nnop")',
    "BUG(7)": 'asm volatile("ud2")',
}  # fmt: skip
TABLES = {
    "GUARDED(&shared)": ".ex_table",
    'ALTERNATIVE("stac")': ".altinstructions",
    "BUG(7)": ".bug_frames.2",
}
every_kind = pytest.mark.parametrize("entry", BARE)

FUNCTION = "int {0}(int x) {{ {1}; return x + shared; }}\n"
DECLARED = "extern int shared;\n"


def differing(found: ImageMatch) -> list[str]:
    return [mismatch.name for row in found.objects for mismatch in row.differs]


def functions(**rows: str) -> str:
    return DECLARED + "".join(FUNCTION.format(name, body) for name, body in rows.items())


def image_of(tmp_path: Path, *objects: bytes) -> Image:
    other = compiled(tmp_path, "other.c", OTHER)
    return read_image(linked(tmp_path, *objects, other), "image", SIZES)


def matched(tmp_path: Path, image: Image, *objects: bytes) -> ImageMatch:
    rows = [(f"{number}.o", data) for number, data in enumerate(objects)]
    rows.append(("other.o", compiled(tmp_path, "other.c", OTHER)))
    return match_objects(image, rows, SIZES)


@every_kind
def test_an_entry_for_a_function_of_an_object_without_such_a_section_is_found(
    entry: str, tmp_path: Path
) -> None:
    """Its bytes are equal, and no section of its object lacks a place."""
    there, here = (
        compiled(tmp_path, "one.c", functions(one=body, two="")) for body in (entry, BARE[entry])
    )
    found = matched(tmp_path, image_of(tmp_path, there), here)
    assert (found.held, differing(found)) == (False, ["one"])
    (row,) = found.objects[0].differs
    assert f"the image has 1 entries for it in {TABLES[entry]}, not 0" in str(row)
    assert found.objects[0].matched == ("two",)
    assert found.strangers == ()
    assert matched(tmp_path, image_of(tmp_path, there), there).held
    assert matched(tmp_path, image_of(tmp_path, here), here).held


@every_kind
@pytest.mark.parametrize("place", ["one", "two", "three"])
def test_an_entry_more_beside_those_of_its_object_is_found(
    place: str, entry: str, tmp_path: Path
) -> None:
    """Before, between and behind them; the functions that the others speak of are as they were."""
    names = dict.fromkeys(("one", "two", "three"), entry)
    there = compiled(tmp_path, "all.c", functions(**names))
    here = compiled(tmp_path, "all.c", functions(**{**names, place: BARE[entry]}))
    found = matched(tmp_path, image_of(tmp_path, there), here)
    wrong = [name for name in differing(found) if not name.startswith(".")]
    assert not found.held
    assert place in wrong
    if entry == "BUG(7)":  # the others' snippets share a section, which the image has otherwise
        assert wrong == [place]
    assert matched(tmp_path, image_of(tmp_path, there), there).held


@every_kind
def test_an_entry_less_is_found(entry: str, tmp_path: Path) -> None:
    there, here = (
        compiled(tmp_path, "one.c", functions(one=body, two="")) for body in (BARE[entry], entry)
    )
    found = matched(tmp_path, image_of(tmp_path, there), here)
    assert not found.held
    assert "one" in differing(found)


def test_an_entry_that_leads_elsewhere_is_found_beside_one_more(tmp_path: Path) -> None:
    """Entries of a table of fixups are fields alone: their bytes tell nothing."""
    guard = (
        'asm volatile("1: movl (%0), %%eax\\n2: nop\\n3:\\n.pushsection .ex_table,\\"a\\"\\n'
        '.long 1b - ., {}b - .\\n.popsection" :: "r"(&shared) : "eax", "memory")'
    )
    bare = guard.replace(".long 1b - ., {}b - .", "")
    two, three = guard.format(2), guard.format(3)
    there = compiled(tmp_path, "all.c", functions(one=two, other=three, same=two))
    here = compiled(tmp_path, "all.c", functions(one=bare, other=two, same=two))
    found = matched(tmp_path, image_of(tmp_path, there), here)
    assert (found.held, sorted(differing(found))) == (False, ["one", "other"])
    assert matched(tmp_path, image_of(tmp_path, there), there).held


def test_entries_of_an_object_that_is_not_given_are_told_by_its_functions(tmp_path: Path) -> None:
    entry = "BUG(7)"
    one, two = (compiled(tmp_path, f"{n}.c", functions(**{n: entry})) for n in ("one", "two"))
    image = image_of(tmp_path, one, two)
    assert matched(tmp_path, image, one).strangers == ("two",)
    found = matched(tmp_path, image, one, two)
    assert (found.held, found.strangers) == (True, ())


def test_an_entry_that_speaks_of_nothing_known_is_a_stranger(tmp_path: Path) -> None:
    alone = 'asm(".pushsection .bug_frames.2,\\"a\\"\\n.long {} - ., 0\\n.popsection");\n'
    for place in (".", "shared + 64"):
        there = compiled(tmp_path, "one.c", functions(one="") + alone.format(place))
        here = compiled(tmp_path, "one.c", functions(one=""))
        image = image_of(tmp_path, there)
        at = image.span(".bug_frames.2")[0]
        found = matched(tmp_path, image, here)
        assert not found.held
        assert found.strangers == (f"8 bytes of .bug_frames.2 at {at:#x}",)
    assert matched(tmp_path, image_of(tmp_path, here), here).held


def test_an_entry_for_code_without_a_name_is_told_by_its_section(tmp_path: Path) -> None:
    """And by the functions that lead there."""
    code = (
        'asm(".pushsection .text.nameless,\\"ax\\"\\n'
        '1: ud2\\n.skip 12, 0x90\\n.popsection\\n{}");\n{}'
    )
    frame = '.pushsection .bug_frames.2,\\"a\\"\\n.long 1b - ., 0\\n.popsection'
    text = functions(one='asm volatile("jmp 1b")', two="")
    there, here = (compiled(tmp_path, "one.c", code.format(row, text)) for row in (frame, ""))
    found = matched(tmp_path, image_of(tmp_path, there), here)
    assert (found.held, differing(found)) == (False, [".text.nameless", "one"])
    assert matched(tmp_path, image_of(tmp_path, there), there).held


def test_a_table_of_which_nobody_knows_the_entries_is_held_by_its_bytes(tmp_path: Path) -> None:
    script = SCRIPT.replace(
        "*(.rodata .rodata.*)",
        "__trampoline_rel_start = .; *(.trampoline_rel) __trampoline_rel_stop = .;"
        "*(.rodata .rodata.*)",
    )
    row = 'asm(".pushsection .trampoline_rel,\\"a\\"\\n.long one - .\\n.popsection");\n'
    there, here = (compiled(tmp_path, "one.c", functions(one="") + more) for more in (row, ""))
    images = []
    for data in (there, here):
        linked(tmp_path, data, compiled(tmp_path, "other.c", OTHER))
        (tmp_path / "image.lds").write_text(script)
        run("ld", "-T", "image.lds", "-o", "image", "part0.o", "part1.o", cwd=tmp_path)
        images.append(read_image((tmp_path / "image").read_bytes(), "image", SIZES))
    (text,) = matched(tmp_path, images[0], here).strangers
    assert text.startswith("4 bytes of .trampoline_rel at 0x")
    assert matched(tmp_path, images[0], there).held
    assert matched(tmp_path, images[1], here).held


def test_entries_of_boot_code_and_of_archives_are_theirs(tmp_path: Path) -> None:
    boot = '__attribute__((section(".init.text"))) int boot(void) { BUG(3); return 1; }\n'
    one = compiled(tmp_path, "one.c", functions(one="BUG(7)") + boot)
    lib = compiled(tmp_path, "lib.c", functions(lib="BUG(8)"))
    spare = compiled(tmp_path, "spare.c", functions(spare="BUG(9)"))
    other = compiled(tmp_path, "other.c", OTHER)
    rows = [("one.o", one), ("lib.o", lib), ("spare.o", spare), ("other.o", other)]
    optional = frozenset({"lib.o", "spare.o"})
    found = match_objects(image_of(tmp_path, one, lib), rows, SIZES, optional)
    assert found.held, found
    assert [row.is_linked for row in found.objects] == [True, True, False, True]
    bare = compiled(tmp_path, "lib.c", functions(lib='asm volatile("ud2")'))
    found = match_objects(image_of(tmp_path, one, lib), [rows[0], ("lib.o", bare), *rows[2:]],
                          SIZES, optional)  # fmt: skip
    assert (found.held, differing(found)) == (False, ["lib"])
    rows[0] = ("one.o", compiled(tmp_path, "one.c", functions(one="BUG(7)") + boot.replace(
        "BUG(3)", 'asm volatile("ud2")')))  # fmt: skip
    assert "boot" in differing(match_objects(image_of(tmp_path, one, lib), rows, SIZES, optional))


WORKED = 'int work(int x) { asm volatile("ud2"); return helper(x) + limit; }\n'
GUARDED = WORKED.replace('asm volatile("ud2")', "BUG(9)")


def with_work(text: str) -> str:
    old = "int work(int x) { return helper(x) + limit; }\n"
    assert old in UNIT
    return UNIT.replace(old, text)


def worked(known: World, folder: Path, body: str) -> tuple[bytes, bytes]:
    """Return the fixed unit, and the payload that replaces `work`."""
    new = compiled(folder, "unit.c", with_work(body.replace(*WORK)))
    data = payload(known, new, KNOWN + body.replace(*WORK), ("work",))
    return new, data


def test_what_a_fix_replaces_has_the_entries_of_its_baseline(tmp_path: Path) -> None:
    """Else the payload takes away what only the image has."""
    (tmp_path / "there").mkdir()
    known = world(tmp_path, with_work(WORKED))
    there = world(tmp_path / "there", with_work(GUARDED))
    new, data = worked(known, tmp_path, WORKED)
    assert checked(known, new, data).held
    odd = World(folder=tmp_path, unit=known.unit, other=known.other,
                image_data=there.image_data, image=there.image)  # fmt: skip
    found = checked(odd, new, data)
    assert not found.held
    assert any("work+0x0: the image has 1 entries for it" in text for _, text in found.stale), found
    new, data = worked(there, tmp_path, GUARDED)
    assert checked(there, new, data).held


def test_only_a_function_of_the_fixs_objects_is_asked_of_a_few(tmp_path: Path) -> None:
    """The tables are full of entries of objects that the fix does not reach."""
    (tmp_path / "more").mkdir()
    known = world(tmp_path)
    more = compiled(tmp_path / "more", "more.c", functions(further="BUG(7)"))
    data = linked(tmp_path / "more", more, known.unit, known.other)
    image = read_image(data, "image", SIZES)
    larger = World(folder=tmp_path, unit=known.unit, other=known.other, image_data=data,
                   image=image)  # fmt: skip
    new = changed(known, tmp_path, WORK)
    found = checked(larger, new, payload(known, new, KNOWN + FIXED_WORK, ("work",)))
    assert found.held, found


@pytest.mark.parametrize("name", ["table", "count"])
@pytest.mark.parametrize("is_more", [True, False])
def test_a_variable_of_another_size_differs(name: str, is_more: bool, tmp_path: Path) -> None:
    """Both hold zeros at one place: their content does not tell."""
    kind = "static" if name == "table" else ""
    text = kind + " int {0}[{1}]; int last = 1;\nint *get(void) {{ return &{0}[1]; }}\n"
    short, long = (compiled(tmp_path, "one.c", text.format(name, n)) for n in (8, 16))
    here, there = (short, long) if is_more else (long, short)
    found = matched(tmp_path, image_of(tmp_path, there), here)
    full = f"one.c#{name}" if kind else name
    assert (found.held, set(differing(found))) == (False, {full})
    sizes = (32, 64) if is_more else (64, 32)
    assert "it has {} bytes, in the image {}".format(*sizes) in str(found.objects[0].differs)
    assert matched(tmp_path, image_of(tmp_path, there), there).held


def test_names_without_a_size_on_both_sides_are_equal(tmp_path: Path) -> None:
    text = 'asm(".pushsection .text.plain,\\"ax\\"\\n.globl plain\\nplain: ret\\n.popsection");\n'
    data = compiled(tmp_path, "one.c", text)
    assert matched(tmp_path, image_of(tmp_path, data), data).held
