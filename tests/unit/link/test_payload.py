# SPDX-License-Identifier: Apache-2.0
"""What a payload holds, seen by readelf and by a small loader of this test's own."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from tests.kit.link_inputs import Compiler, closure_delta, delta, link
from tests.unit.link.loading import load
from xsplice_plugins.artefacts import Payload, from_json, to_json
from xsplice_plugins.artefacts import PayloadRecord as Record
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import LinkError, NoFunctionalChangeError

pytestmark = pytest.mark.toolchain

IMAGE = r"""
int counter = 7;
extern int other(int);
static int __attribute__((noinline)) helper(int x) { counter += x; return other(x) + x; }
int entry(int x) { return helper(x) * 3; }
const char *extra(void) { return "-old"; }
int __attribute__((noinline)) other(int x) { return x ^ 5; }
"""


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=IMAGE)


@pytest.fixture(scope="module")
def payload(compiler: Compiler, image: bytes) -> Payload:
    new = compiler.object("version.c", IMAGE.replace("-old", "-new"))
    return link(image, (closure_delta(new, "version.o", ("extra",)), new))


def test_the_string_and_the_name_are_in_the_payload(payload: Payload) -> None:
    sections = read_elf(payload.data, "payload").section_by_name
    assert sections[".rodata.str"].data == b"-new\0"
    assert sections[".livepatch.strings"].data == b"extra\0"
    assert sections[".modinfo"].data == b"name=fix\0"


def test_readelf_finds_nothing_to_complain_of(payload: Payload, tmp_path: Path) -> None:
    path = tmp_path / "fix.livepatch"
    path.write_bytes(payload.data)
    run = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert f"Build ID: {payload.record.build_id}" in run.stdout


def test_loaded_payload_calls_and_names_what_the_image_has(
    compiler: Compiler, image: bytes
) -> None:
    new = compiler.object("version.c", IMAGE.replace("counter += x", "counter -= x"))
    payload = link(image, (closure_delta(new, "version.o", ("helper",)), new))
    assert payload.record.references == ("counter", "other")
    assert [f.name for f in payload.record.functions] == ["version.c#helper"]
    names = {s.decorated: s.value for s in read_elf(image, "image").symbols}
    loaded = load(payload.data, names)
    code = loaded.sections[".text"]
    targets = {
        code.addr_virt + i + 4 + struct.unpack_from("<i", code.data, i)[0]
        for i in range(len(code.data) - 3)
    }
    assert {names["counter"], names["other"]} <= targets


def test_record_holds_sizes_version_and_the_bytes_of_the_image(
    payload: Payload, image: bytes
) -> None:
    old = next(s for s in read_elf(image, "image").symbols if s.name == "extra")
    funcs = read_elf(payload.data, "payload").section_by_name[".livepatch.funcs"].data
    name, new_addr, old_addr, new_size, old_size, version = struct.unpack_from("<QQQIIB", funcs)
    assert (name, new_addr, old_addr, version) == (0, 0, 0, 2)
    assert (new_size, old_size) == (old.size_bytes, old.size_bytes)
    assert funcs[33:72] == bytes(39)
    length = min(31, old.size_bytes)
    assert funcs[72] == 1 | length << 1
    text = read_elf(image, "image").section_by_name[".text"]
    start = old.value - text.addr_virt
    assert funcs[73 : 73 + length] == text.data[start : start + length]
    assert funcs[73 + length :] == bytes(31 - length)


def test_record_is_complete_and_survives_json(payload: Payload, image: bytes) -> None:
    record = payload.record
    note = read_elf(image, "image").section_by_name[".note.gnu.build-id"].data
    assert record.xen_depends == record.depends == note[16:].hex()
    assert record.digest == hashlib.sha256(payload.data).hexdigest()
    assert record.size_bytes == len(payload.data)
    assert from_json(to_json(record), Record, "record") == record


def test_same_request_gives_the_same_bytes_in_any_order(compiler: Compiler, image: bytes) -> None:
    one = compiler.object("version.c", IMAGE.replace("-old", "-new"))
    two = compiler.object("a.c", "int fresh(int x) { return x + 1; }")
    parts = (
        (closure_delta(one, "version.o", ("extra",)), one),
        (closure_delta(two, "a.o", (), new=("fresh",)), two),
    )
    assert link(image, *parts) == link(image, *reversed(parts))


def test_build_id_follows_content_and_name(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("version.c", IMAGE.replace("-old", "-new"))
    newer = compiler.object("version.c", IMAGE.replace("-old", "-two"))
    part = (closure_delta(new, "version.o", ("extra",)), new)
    ids = {
        link(image, part).record.build_id,
        link(image, part, name="other").record.build_id,
        link(image, (closure_delta(newer, "version.o", ("extra",)), newer)).record.build_id,
    }
    assert len(ids) == 3


def test_equal_strings_of_two_objects_are_kept_once(compiler: Compiler, image: bytes) -> None:
    one = compiler.object("version.c", IMAGE.replace("-old", "-new"))
    two = compiler.object("a.c", 'const char *fresh(void) { return "-new"; }')
    payload = link(
        image,
        (closure_delta(one, "version.o", ("extra",)), one),
        (closure_delta(two, "a.o", (), new=("fresh",)), two),
    )
    assert read_elf(payload.data, "payload").section_by_name[".rodata.str"].data == b"-new\0"


def test_new_global_of_one_object_serves_the_other(compiler: Compiler, image: bytes) -> None:
    one = compiler.object(
        "version.c",
        "extern int fresh(int); extern int state; extern int counter;\n"
        "int entry(int x) { state = counter; return fresh(x) * 3; }",
    )
    two = compiler.object("a.c", "int state; int fresh(int x) { return x + state; }")
    payload = link(
        image,
        (closure_delta(one, "version.o", ("entry",)), one),
        (closure_delta(two, "a.o", (), new=("fresh", "state")), two),
    )
    elf = read_elf(payload.data, "payload")
    assert payload.record.references == ("counter",)
    kept = {s.name: (elf.sections[s.shndx].name, s.bind) for s in elf.symbols if s.shndx}
    assert kept["fresh"] == (".text", 1)
    assert kept["state"] == (".bss", 1)
    assert any("writable data (.bss)" in note for note in payload.record.notes)


def test_global_that_two_objects_bring_is_refused(compiler: Compiler, image: bytes) -> None:
    one = compiler.object("a.c", "int fresh(int x) { return x; }")
    two = compiler.object("b.c", "int fresh(int x) { return x + 1; }")
    with pytest.raises(LinkError, match=r"b\.o: `fresh` is defined here and in a\.o"):
        link(
            image,
            (closure_delta(one, "a.o", (), new=("fresh",)), one),
            (closure_delta(two, "b.o", (), new=("fresh",)), two),
        )


def test_new_global_with_a_name_of_the_image_is_refused(compiler: Compiler, image: bytes) -> None:
    new = compiler.object(
        "version.c",
        IMAGE.replace("int counter = 7", "long counter = 7"),
    )
    with pytest.raises(LinkError, match="would add `counter`"):
        link(image, (closure_delta(new, "version.o", ("extra",), new=("counter",)), new))


def test_local_name_of_the_image_is_not_added_again(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("version.c", IMAGE)
    payload = link(image, (closure_delta(new, "version.o", ("entry",), new=("helper",)), new))
    names = [s.name for s in read_elf(payload.data, "payload").symbols]
    assert "version.c#helper" not in names
    assert any(name.startswith("version.c#helper.") for name in names)


def test_pointer_to_a_replaced_function_stays_that_of_the_image(
    compiler: Compiler, image: bytes
) -> None:
    """Otherwise a pointer left in the image's data would dangle after a revert."""
    text = IMAGE + "typedef int (*fn)(int); fn fresh(void) { return helper; }"
    new = compiler.object("version.c", text)
    payload = link(image, (closure_delta(new, "version.o", ("helper",), new=("fresh",)), new))
    assert "version.c#helper" in payload.record.references


def test_nothing_to_replace_is_refused(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("a.c", "int fresh(int x) { return x + 1; }")
    with pytest.raises(NoFunctionalChangeError, match="nothing to patch"):
        link(image, (closure_delta(new, "a.o", (), new=("fresh",)), new))


@pytest.mark.parametrize("name", ["", "a" * 128, "a\nb"])
def test_bad_names_are_refused(compiler: Compiler, image: bytes, name: str) -> None:
    new = compiler.object("version.c", IMAGE)
    with pytest.raises(LinkError, match="no name for a payload"):
        link(image, (closure_delta(new, "version.o", ("extra",)), new), name=name)


def test_name_of_127_bytes_is_accepted(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("version.c", IMAGE)
    part = (closure_delta(new, "version.o", ("extra",)), new)
    assert link(image, part, name="a" * 127).record.name == "a" * 127


def test_object_that_was_not_compared_is_refused(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("version.c", IMAGE)
    part = closure_delta(new, "version.o", ("extra",))
    with pytest.raises(LinkError, match="not the object that was compared"):
        link(image, (part, new + b"\0"))


def test_payload_of_more_than_2_mib_is_refused(compiler: Compiler, image: bytes) -> None:
    text = IMAGE + "const char table[%d] = {1}; int fresh(int x) { return table[x]; }"
    small = compiler.object("version.c", text % (2 << 10))
    large = compiler.object("version.c", text % (2 << 20))
    new = ("fresh", "table")
    link(image, (closure_delta(small, "version.o", ("extra",), new=new), small))
    with pytest.raises(LinkError, match="the hypervisor takes 2097152"):
        link(image, (closure_delta(large, "version.o", ("extra",), new=new), large))


def test_bss_of_more_than_2_mib_is_refused(compiler: Compiler, image: bytes) -> None:
    text = IMAGE + "char room[%d]; int fresh(int x) { return room[x]; }"
    just = compiler.object("version.c", text % (2 << 20))
    large = compiler.object("version.c", text % ((2 << 20) + 1))
    new = ("fresh", "room")
    link(image, (closure_delta(just, "version.o", ("extra",), new=new), just))
    with pytest.raises(LinkError, match="allocate the memory at run time"):
        link(image, (closure_delta(large, "version.o", ("extra",), new=new), large))


def test_section_that_is_used_at_boot_is_refused(compiler: Compiler, image: bytes) -> None:
    new = compiler.object(
        "version.c",
        IMAGE + 'int __attribute__((section(".init.text"))) fresh(int x) { return x; }',
    )
    with pytest.raises(LinkError, match=r"version\.o\(\.init\.text\): it is used at boot only"):
        link(image, (delta(new, "version.o", changed=("extra",), new=("fresh",)), new))


def test_function_without_room_in_the_delta_is_refused(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("version.c", IMAGE)
    whole = closure_delta(new, "version.o", ("extra", "helper"))
    sections = read_elf(new, "version.o").section_by_name
    lacking = structs.replace(
        whole,
        extents=tuple(e for e in whole.extents if e.section != sections[".text.helper"].index),
    )
    with pytest.raises(LinkError, match="does not take its code"):
        link(image, (lacking, new))
