# SPDX-License-Identifier: Apache-2.0
"""Is what the objects hold what the image holds? Each claim with its negation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.check.building import OTHER, SIZES, UNIT, World, compiled, linked, run
from xsplice_plugins.artefacts import from_json, to_json
from xsplice_plugins.check.base import match_objects
from xsplice_plugins.check.memory import read_image
from xsplice_plugins.check.results import ImageMatch, ObjectMatch
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.elf.types import STT_SECTION
from xsplice_plugins.errors import ElfFormatError, RelocationError
from xsplice_plugins.target.known import known_facts

pytestmark = pytest.mark.toolchain


def matched(known: World, unit: bytes, other: bytes | None = None) -> ImageMatch:
    rows = [("unit.o", unit), ("other.o", other or known.other)]
    return match_objects(known.image, rows, SIZES)


def flipped(data: bytes, section: str, offset: int = 0) -> bytes:
    row = read_elf(data, "object").section_by_name[section]
    out = bytearray(data)
    out[row.offset_file + offset] ^= 1
    return bytes(out)


def wrong_names(found: ImageMatch) -> set[str]:
    return {mismatch.name for row in found.objects for mismatch in row.differs}


def test_all_of_the_linked_objects_is_found(known: World) -> None:
    found = matched(known, known.unit)
    assert found.held, found
    unit, other = found.objects
    assert {"text", "unit.c#helper", "unit.c#counter", "unit.c#table", "traps"} <= set(unit.matched)
    assert {"elsewhere", "shared"} <= set(other.matched)
    assert not unit.absent
    assert not unit.ambiguous


def test_a_changed_byte_is_found_by_name(known: World) -> None:
    cases = [
        (".text.work", "work"), (".data.counter", "unit.c#counter"),
        (".rodata.table", "unit.c#table"), (".altinstr_replacement", ".altinstr_replacement"),
    ]  # fmt: skip
    for section, name in cases:
        found = matched(known, flipped(known.unit, section))
        assert not found.held
        assert name in wrong_names(found), section


def test_the_first_difference_is_shown(known: World) -> None:
    (row,) = matched(known, flipped(known.unit, ".text.look", 1)).objects[0].differs
    assert (row.name, row.offset) == ("look", 1)
    assert row.want != row.have
    assert "look+0x1: other bytes" in str(row)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ('"the old text"', '"the odd text"', "text"),
        ("+ limit", "+ shared", "work"),
        ("return table[i & 3]", "return table[(i & 3) + 1]", "look"),
        ("counter += x; spare_counter -= x", "spare_counter += x; counter -= x", "unit.c#helper"),
    ],
)
def test_a_field_that_leads_elsewhere_is_found(
    old: str, new: str, name: str, known: World, tmp_path: Path
) -> None:
    found = matched(known, compiled(tmp_path, "unit.c", UNIT.replace(old, new)))
    assert name in wrong_names(found)


@pytest.mark.parametrize("user", ["asks", "zeroth"])
def test_who_leads_elsewhere_differs_and_not_what_it_should_lead_to(
    user: str, tmp_path: Path
) -> None:
    """Whichever is placed first: that another one was led to says nothing of what was meant."""
    source = f"""
    int one = 1, two = 1;
    int {user}(void) {{ return one; }}
    int both(void) {{ return one + two * 2; }}
    int *pointers(int n) {{ return n ? &one : &two; }}
    """
    (tmp_path / "tree").mkdir()
    objects = [
        compiled(tmp_path / "tree", "unit.c", text)
        for text in (source, source.replace("return one;", "return two;"))
    ]
    other = compiled(tmp_path / "tree", "other.c", OTHER)
    image = read_image(linked(tmp_path, objects[1], other), "image", SIZES)
    found = match_objects(image, [("unit.o", objects[0]), ("other.o", other)], SIZES)
    assert wrong_names(found) == {user}


def test_a_dropped_entry_of_a_table_is_found(known: World, tmp_path: Path) -> None:
    found = matched(known, compiled(tmp_path, "unit.c", UNIT.replace("BUG(7)", "BUG(8)")))
    assert not found.held
    assert any(".bug_frames.2" in row.absent for row in found.objects)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("BUG(7)", "BUG(8)", {"traps"}),
        ('ALTERNATIVE("stac")', 'ALTERNATIVE("clac")', {"traps"}),
        ('ALTERNATIVE("stac")', 'ALTERNATIVE("stac; nop")', {"traps"}),
        ("if (x) BUG(7);", "if (x) BUG(7); ", set()),
    ],
)
def test_a_function_of_which_tables_say_something_else_differs(
    old: str, new: str, names: set[str], known: World, tmp_path: Path
) -> None:
    """Its own bytes are equal; who calls it from elsewhere gets what the image has."""
    found = matched(known, compiled(tmp_path, "unit.c", UNIT.replace(old, new)))
    assert {name for name in wrong_names(found) if not name.startswith(".")} == names


def test_another_image_is_refused_with_counts(known: World, tmp_path: Path) -> None:
    other = compiled(tmp_path, "unit.c", UNIT.replace("x) + limit", "x) * limit + 99"))
    image = read_image(linked(tmp_path, known.other, other), "image", SIZES)
    found = match_objects(image, [("unit.o", known.unit)], SIZES)
    assert not found.held
    assert wrong_names(found) == {"work"}


def test_statics_of_one_name_are_told_apart_by_their_content(tmp_path: Path) -> None:
    """A file that is compiled twice: the image has two of each name."""
    text = "static int state = {0};\nLOCAL int step(int x) {{ return state += x * {0}; }}\n"
    text += "int go{0}(int x) {{ return step(x); }}\n"
    first, second = (compiled(tmp_path, "twin.c", text.format(n)) for n in (3, 5))
    image = read_image(linked(tmp_path, first, second), "image", SIZES)
    found = match_objects(image, [("b.o", second), ("a.o", first)], SIZES)
    assert found.held, found
    assert all("twin.c#step" in row.matched for row in found.objects)
    doubled = match_objects(image, [("a.o", first), ("b.o", first)], SIZES)
    assert not doubled.held  # two objects cannot lie at one place


def test_a_member_of_an_archive_that_was_not_taken_is_no_difference(
    known: World, tmp_path: Path
) -> None:
    spare = compiled(tmp_path, "lib.c", "int elsewhere(int x) { return x - 1; }\n")
    rows = [("unit.o", known.unit), ("other.o", known.other), ("lib.o", spare)]
    found = match_objects(known.image, rows, SIZES, frozenset({"lib.o"}))
    assert found.held
    assert not found.objects[2].is_linked
    assert not match_objects(known.image, rows, SIZES).held  # what is no member must be there
    alone = match_objects(known.image, rows[2:], SIZES, frozenset({"lib.o"}))
    assert not alone.held


def test_a_member_that_nobody_calls_is_left_out_though_the_image_has_its_code(
    known: World, tmp_path: Path
) -> None:
    spare = compiled(tmp_path, "lib.c", "int spare(int x) { return x * 5; }\n")  # as `more`
    rows = [("unit.o", known.unit), ("other.o", known.other), ("lib.o", spare)]
    found = match_objects(known.image, rows, SIZES, frozenset({"lib.o"}))
    assert (found.held, found.objects[2].absent) == (True, ("spare",))
    assert not match_objects(known.image, rows, SIZES).held


def test_an_object_of_which_nothing_is_found_is_not_held(known: World, tmp_path: Path) -> None:
    """A stale object whose functions have other names today."""
    stale = compiled(tmp_path, "other.c", OTHER.replace("more(", "less("))
    found = matched(known, known.unit, stale)
    assert not found.held
    assert "less" in found.objects[1].absent
    gone = compiled(tmp_path, "gone.c", "int gone(int x) { return x * 77; }\n")
    rows = [("unit.o", known.unit), ("other.o", known.other), ("gone.o", gone)]
    assert [row.held for row in match_objects(known.image, rows, SIZES).objects] == [
        True,
        True,
        False,
    ]


def test_what_no_object_has_is_named(tmp_path: Path) -> None:
    """The image was linked from an object more: functions, data, and code without symbols."""
    one = compiled(tmp_path, "one.c", "int one(int x) { return x * 3; }\n")
    code = ".skip 96, 0x90\n" + ".byte 0x0f, 0x05\n" * 80 + ".skip 32, 0xcc\n"
    more = compiled(
        tmp_path,
        "more.c",
        "int more(int x) { return x * 5; }\nint datum = 7;\n"
        f'asm(".pushsection .text.z,\\"ax\\"\\n{code!r}.popsection");\n'.replace("'", ""),
    )
    image = read_image(linked(tmp_path, one, more), "image", SIZES)
    found = match_objects(image, [("one.o", one)], SIZES)
    assert not found.held
    assert {"more", "datum"} < set(found.strangers)
    assert any("bytes of .text at 0xffffffff802" in text for text in found.strangers)
    whole = match_objects(image, [("one.o", one), ("more.o", more)], SIZES)
    assert (whole.held, whole.strangers) == (True, ())


def test_merged_constants_with_a_name_are_no_strangers(tmp_path: Path) -> None:
    """Clang puts a file's own constant tables where the linker merges, and names them."""
    text = (
        'asm(".pushsection .rodata.cst8,\\"aM\\",@progbits,8\\n.type {0}, @object\\n"\n'
        '  ".size {0}, 8\\n{0}: .quad {1}\\n.popsection");\n'
        "extern const char {0}[8];\nint get_{0}(int i) {{ return {0}[i]; }}\n"
    )
    first, second = (
        compiled(tmp_path, f"{name}.c", text.format(name, value))
        for name, value in (("digits", 0x11223344), ("again", 0x11223344))
    )
    image = read_image(linked(tmp_path, first, second), "image", SIZES)
    places = {image.homes[name][0].value for name in ("digits.c#digits", "again.c#again")}
    assert len(places) == 1, "the linker has merged them"
    found = match_objects(image, [("a.o", first), ("b.o", second)], SIZES)
    assert (found.held, found.strangers) == (True, ())
    assert match_objects(image, [("a.o", first)], SIZES).strangers == ("get_again",)
    other = compiled(tmp_path, "again.c", text.format("again", 0x55667788))
    alone = read_image(linked(tmp_path, second), "image", SIZES)
    found = match_objects(alone, [("b.o", other)], SIZES)
    assert (found.held, found.strangers) == (False, ("again.c#again",))


SANITIZED = r"""
asm(".pushsection .data..Lubsan_type1,\"aw\"\n1: .quad TYPE\n.popsection\n"
    ".pushsection .data.rel.local..Lubsan_data2,\"aw\"\n2: .quad 1b, LINE\nNAME\n.popsection");
extern char handled[];
int go(int x) { asm volatile("USE" :: "r"(x) : "memory"); return x * 9; }
"""


def sanitized(folder: Path, line: int, use: str, name: str = "", type_: int = 5) -> bytes:
    """Compile a file with what a sanitizer says of a line, and code that uses it or does not."""
    text = SANITIZED.replace("LINE", str(line)).replace("USE", use).replace("TYPE", str(type_))
    return compiled(folder, "clean.c", text.replace("NAME", name))


def test_what_a_sanitizer_says_and_no_code_reads_is_not_asked_for(tmp_path: Path) -> None:
    """Thousands of pieces without names, alike in many objects, that optimised code left behind."""
    image = read_image(linked(tmp_path, sanitized(tmp_path, 7, "nop")), "image", SIZES)
    other = sanitized(tmp_path, 8, "nop", type_=6)  # the type is read by what nobody reads
    assert match_objects(image, [("clean.o", other)], SIZES).held


def test_what_a_sanitizer_says_and_code_reads_must_be_there(tmp_path: Path) -> None:
    use, named = "movq 2b, %%rax", (".globl handled\\nhandled: .quad {}")
    image = read_image(linked(tmp_path, sanitized(tmp_path, 7, use)), "image", SIZES)
    assert match_objects(image, [("clean.o", sanitized(tmp_path, 7, use))], SIZES).held
    for other in (sanitized(tmp_path, 8, use), sanitized(tmp_path, 7, use, type_=6)):
        assert not match_objects(image, [("clean.o", other)], SIZES).held
    known = linked(tmp_path, sanitized(tmp_path, 7, "nop", named.format(3)))
    image = read_image(known, "image", SIZES)  # other objects can read what has a name
    good = sanitized(tmp_path, 7, "nop", named.format(3))
    assert match_objects(image, [("clean.o", good)], SIZES).held
    bad = sanitized(tmp_path, 7, "nop", named.format(4))
    assert not match_objects(image, [("clean.o", bad)], SIZES).held


def test_content_is_searched_by_its_longest_stretch_without_fields(tmp_path: Path) -> None:
    """A field that is longer than all else is no content: the object holds zeros there."""
    text = 'asm(".pushsection .rodata.nameless,\\"a\\"\\n.quad {0}, {1}\\n.popsection");\n'
    text += "int got(void) {{ return 5; }}\nint had(void) {{ return 6; }}\n"
    one = compiled(tmp_path, "one.c", text.format("got", 0x1234567))
    image = read_image(linked(tmp_path, one), "image", SIZES)
    assert match_objects(image, [("one.o", one)], SIZES).held
    for row in (("got", 0x7654321), ("had", 0x1234567)):
        other = compiled(tmp_path, "one.c", text.format(*row))
        assert not match_objects(image, [("one.o", other)], SIZES).held


def test_a_section_of_addresses_alone_is_found_by_where_they_lead(tmp_path: Path) -> None:
    text = 'static void __attribute__((used)) start(void) {{ asm volatile("{0}"); }}\n'
    text += 'void (*const __attribute__((section(".rodata.start"))) entry)(void) = start;\n'
    text += 'asm(".pushsection .rodata.nameless,\\"a\\"\\n.quad start\\n.popsection");\n'
    first, second = (
        compiled(tmp_path, f"{n}.c", text.format(n).replace("entry", n)) for n in ("cli", "sti")
    )
    image = read_image(linked(tmp_path, first, second), "image", SIZES)
    found = match_objects(image, [("cli.o", first), ("sti.o", second)], SIZES)
    assert found.held, found
    data = read_elf(second, "sti.o")
    rela = data.rela_by_target[data.section_by_name[".rodata.nameless"].index]
    wrong = bytearray(second)
    wrong[rela.offset_file + 16] = 1  # the addend: into the function
    found = match_objects(image, [("cli.o", first), ("sti.o", bytes(wrong))], SIZES)
    assert ".rodata.nameless" in found.objects[1].absent
    assert not found.held


def test_a_field_that_leads_outside_of_all_texts_is_found(tmp_path: Path) -> None:
    text = 'const char *const names[2] = {"one", "two"};\n'
    right = compiled(tmp_path, "names.c", text)
    image = read_image(linked(tmp_path, right), "image", SIZES)
    assert match_objects(image, [("names.o", right)], SIZES).held
    elf, wrong = read_elf(right, "names.o"), bytearray(right)
    (table,) = (s for s in elf.sections if s.name.startswith(".rodata") and s.size_bytes == 16)
    wrong[elf.rela_by_target[table.index].offset_file + 16] = 99
    with pytest.raises(ElfFormatError, match=r"names\.o\(.*leads beyond \.rodata"):
        match_objects(image, [("names.o", bytes(wrong))], SIZES)


def test_a_field_that_leads_to_what_is_not_loaded_is_found(known: World) -> None:
    elf, wrong = read_elf(known.unit, "unit.o"), bytearray(known.unit)
    rela = elf.rela_by_target[elf.section_by_name[".text.work"].index]
    number = next(s.number for s in elf.symbols if s.name == "start")  # nobody else speaks of it
    assert elf.symbol_section is not None
    empty = elf.section_by_name[".bss"]
    assert not empty.size_bytes
    at = elf.symbol_section.offset_file + 24 * number
    wrong[rela.offset_file + 12 : rela.offset_file + 16] = number.to_bytes(4, "little")
    wrong[at : at + 5] = bytes((0, 0, 0, 0, STT_SECTION))
    for index in (elf.symbol_section.index, empty.index):
        wrong[at + 6 : at + 8] = index.to_bytes(2, "little")
        assert "work" in wrong_names(matched(known, bytes(wrong)))


def test_a_field_of_two_bytes_is_read(tmp_path: Path) -> None:
    """The way into long mode has them."""
    low = 'int f(void) {{ return 1; }}\nasm(".globl low\\nlow = {0}");\n'
    right, wrong = (compiled(tmp_path, "low.c", low.format(n)) for n in (0x8765, 0x8764))
    text = 'int g(void) { return 2; }\nasm(".pushsection .data.boot,\\"aw\\"\\n'
    text += '.quad 0x1122334455667788\\n.word low\\n.popsection");\n'
    boot = compiled(tmp_path, "boot.c", text)
    image = read_image(linked(tmp_path, right, boot), "image", SIZES)
    found = match_objects(image, [("low.o", right), ("boot.o", boot)], SIZES)
    assert found.held, found
    for other, name in ((wrong, "low"), (boot.replace(b"\x88\x77\x66", b"\x88\x77\x67"), "boot")):
        rows = [("low.o", other if name == "low" else right)]
        rows.append(("boot.o", other if name == "boot" else boot))
        assert not match_objects(image, rows, SIZES).held


def test_nothing_found_is_not_a_match(known: World) -> None:
    assert not match_objects(known.image, [], SIZES).held


def test_an_object_is_no_image_and_garbage_is_no_object(known: World) -> None:
    with pytest.raises(ElfFormatError, match="give xen-syms"):
        read_image(known.unit, "unit.o", SIZES)
    with pytest.raises(ElfFormatError, match="not an ELF file"):
        matched(known, b"garbage")


def test_an_unknown_relocation_is_refused(known: World) -> None:
    elf = read_elf(known.unit, "unit.o")
    rela = elf.rela_by_target[elf.section_by_name[".text.work"].index]
    out = bytearray(known.unit)
    out[rela.offset_file + 8] = 23
    with pytest.raises(RelocationError, match="relocation type 23"):
        matched(known, bytes(out))


def test_results_travel_as_json(known: World) -> None:
    found = matched(known, known.unit)
    assert from_json(to_json(found), ImageMatch, "match") == found
    assert replace(found.objects[0], matched=()) != found.objects[0]
    assert isinstance(found.objects[0], ObjectMatch)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="no arm64 compiler")
def test_arm64_objects_are_matched(tmp_path: Path) -> None:
    sizes = layouts(known_facts("4.17.5", 183))
    text = OTHER + (
        'static long counter = 3; static const char *names[] = {"one", "two"};\n'
        "__attribute__((noinline)) static long step(long x) { return counter += x; }\n"
        "long call(long x) { return step(x) + elsewhere((int)x); }\n"
        'const char *name(int n) { return n > 2 ? "many" : names[n & 1]; }\n'
    )

    def made(source: str) -> bytes:
        (tmp_path / "arm.c").write_text(source)
        run("aarch64-linux-gnu-gcc", "-O2", "-fno-pic", "-ffunction-sections", "-fdata-sections",
            "-fno-asynchronous-unwind-tables", "-c", "arm.c", cwd=tmp_path)  # fmt: skip
        return (tmp_path / "arm.o").read_bytes()

    right = made(text)
    (tmp_path / "image.lds").write_text(
        "SECTIONS { . = 0x200000; .text : { *(.text .text.*) }"
        ".rodata : { *(.rodata .rodata.*) } .data : { *(.data .data.*) } "
        ".bss : { *(.bss .bss.*) } }"
    )
    run("aarch64-linux-gnu-ld", "-T", "image.lds", "-o", "image", "arm.o", cwd=tmp_path)
    image = read_image((tmp_path / "image").read_bytes(), "image", sizes)
    found = match_objects(image, [("arm.o", right)], sizes)
    assert found.held, found
    assert {"call", "name", "arm.c#counter", "arm.c#names"} <= set(found.objects[0].matched)
    for old, new in (("many", "none"), ("x * 5", "x * 6"), ("+= x", "-= x")):
        assert not match_objects(image, [("arm.o", made(text.replace(old, new)))], sizes).held
