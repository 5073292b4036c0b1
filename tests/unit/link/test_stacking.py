# SPDX-License-Identifier: Apache-2.0
"""A payload on top of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.link_inputs import Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import LinkError
from xsplice_plugins.link.plugin import LivepatchLinker
from xsplice_plugins.plugins.spec import Config

if TYPE_CHECKING:
    from xsplice_plugins.artefacts import Payload

pytestmark = pytest.mark.toolchain

IMAGE = r"""
int counter = 7;
int __attribute__((noinline)) other(int x) { return x ^ 5; }
int entry(int x) { return other(x) * 3; }
int leaf(int x) { return counter + x; }
"""
SECOND = "int fresh(int); int leaf(int x) { return fresh(x) + 1; }"


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(core_c=IMAGE)


@pytest.fixture(scope="module")
def first(compiler: Compiler, image: bytes) -> Payload:
    text = (
        "extern int counter; int __attribute__((noinline)) fresh(int x) { return x - counter; }\n"
        "int entry(int x) { return fresh(x) * 4; }"
    )
    data = compiler.object("core.c", text)
    return link(image, (closure_delta(data, "core.o", ("entry",), new=("fresh",)), data))


def second(
    compiler: Compiler, image: bytes, beneath: Payload | None, function: str, text: str
) -> Payload:
    data = compiler.object("core.c", text)
    return link(
        image,
        (closure_delta(data, "core.o", (function,)), data),
        beneath=beneath.data if beneath is not None else None,
    )


def test_new_function_of_the_earlier_payload_can_be_called(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    payload = second(compiler, image, first, "leaf", SECOND)
    assert payload.record.references == ("fresh",)
    assert payload.record.depends == first.record.build_id
    assert payload.record.xen_depends == first.record.xen_depends
    depends = read_elf(payload.data, "x").section_by_name[".livepatch.depends"].data
    assert depends[16:].hex() == first.record.build_id
    with pytest.raises(LinkError, match="no symbol `fresh`"):
        second(compiler, image, None, "leaf", SECOND)


def test_signature_behind_the_earlier_payload_does_not_disturb(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    data = compiler.object("core.c", SECOND)
    part = (closure_delta(data, "core.o", ("leaf",)), data)
    signed = first.data + b"signature~"
    assert link(image, part, beneath=signed).data == link(image, part, beneath=first.data).data


def test_expectation_is_kept_unless_the_earlier_payload_jumps_there(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    (leaf,) = second(compiler, image, first, "leaf", SECOND).record.functions
    assert leaf.expect
    (entry,) = second(
        compiler, image, first, "entry", "int entry(int x) { return x; }"
    ).record.functions
    assert (entry.expect, entry.expect_note) == ("", "earlier.livepatch replaces it already")


def test_expectation_is_left_off_when_more_lies_beneath(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    middle = second(compiler, image, first, "leaf", SECOND)
    (entry,) = second(
        compiler, image, middle, "entry", "int entry(int x) { return x; }"
    ).record.functions
    assert entry.expect == ""
    assert "stacks on a payload that was not given" in entry.expect_note


def test_function_that_the_earlier_payload_brought_can_be_replaced(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    (fresh,) = second(
        compiler, image, first, "fresh", "int fresh(int x) { return x; }"
    ).record.functions
    assert (fresh.addr_old_virt, fresh.expect) == (0, "")
    assert fresh.expect_note.startswith("not in the image: earlier.livepatch")
    assert fresh.size_old_bytes


def test_replaced_function_of_the_earlier_payload_is_no_new_name(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    """A reference to `entry` must go to the image, where the latest jump stands."""
    payload = second(
        compiler, image, first, "leaf", "int entry(int); int leaf(int x) { return entry(x) + 1; }"
    )
    assert payload.record.references == ("entry",)


def test_new_name_of_the_earlier_payload_cannot_be_added_again(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    text = "int __attribute__((noinline)) fresh(int x) { return x; } int leaf(int x) { return 2; }"
    data = compiler.object("core.c", text)
    part = (closure_delta(data, "core.o", ("leaf",), new=("fresh",)), data)
    link(image, part)
    with pytest.raises(LinkError, match="would add `fresh`"):
        link(image, part, beneath=first.data)


def test_payload_of_another_build_is_refused(compiler: Compiler, first: Payload) -> None:
    other = compiler.image(core_c=IMAGE.replace("^ 5", "^ 6"))
    with pytest.raises(LinkError, match=r"earlier\.livepatch: made for the hypervisor"):
        second(compiler, other, first, "leaf", "int leaf(int x) { return x; }")


def test_image_or_object_is_no_earlier_payload(compiler: Compiler, image: bytes) -> None:
    data = compiler.object("core.c", SECOND)
    part = (closure_delta(data, "core.o", ("leaf",)), data)
    with pytest.raises(LinkError, match="not a payload"):
        link(image, part, beneath=image)
    with pytest.raises(LinkError, match=r"it has no \.note\.gnu\.build-id"):
        link(image, part, beneath=data)


def test_plugin_reads_the_earlier_payload(
    compiler: Compiler, image: bytes, first: Payload, tmp_path: Path
) -> None:
    path = tmp_path / "earlier.livepatch"
    data = compiler.object("core.c", SECOND)
    part = closure_delta(data, "core.o", ("leaf",))
    config = Config(release="4.17.5", depends=path)

    def run() -> Payload | None:
        return LivepatchLinker().xsplice_link_payload(
            name="fix", deltas=(part,), objects=(data,), image=image, config=config
        )

    with pytest.raises(LinkError, match=r"earlier\.livepatch: cannot be read"):
        run()
    path.write_bytes(first.data)
    assert run() == link(image, (part, data), beneath=first.data)


def test_names_from_deeper_in_the_stack_are_known_through_the_payload_between(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    text = "int __attribute__((noinline)) fresh(int x) { return x; }"
    middle = second(compiler, image, first, "fresh", text)
    top = second(compiler, image, middle, "leaf", SECOND)
    assert top.record.references == ("fresh",)
    again = second(compiler, image, middle, "fresh", text.replace("x; }", "x + 3; }"))
    (old,) = middle.record.functions
    (new,) = again.record.functions
    assert new.size_old_bytes == old.size_old_bytes
    with pytest.raises(LinkError, match=r"`nobody` is in the symbol table of neither"):
        second(compiler, image, middle, "leaf", SECOND.replace("fresh", "nobody"))
