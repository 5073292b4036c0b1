# SPDX-License-Identifier: Apache-2.0
"""A payload on top of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.link_inputs import Compiler, closure_delta, link
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import LinkError, RefusedError
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
    compiler: Compiler,
    image: bytes,
    beneath: Payload | tuple[Payload, ...],
    function: str,
    text: str,
) -> Payload:
    data = compiler.object("core.c", text)
    stack = beneath if isinstance(beneath, tuple) else (beneath,)
    part = closure_delta(data, "core.o", (function,)), data
    return link(image, part, beneath=tuple(payload.data for payload in stack))


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
        second(compiler, image, (), "leaf", SECOND)


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


def test_a_chain_is_given_whole_and_bottom_first(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    middle = second(compiler, image, first, "leaf", SECOND)
    text = "int entry(int x) { return x; }"
    for stack in ((middle,), (middle, first), (first, first)):
        with pytest.raises(LinkError, match=r"earlier1?\.livepatch: it stacks on .*bottom first"):
            second(compiler, image, stack, "entry", text)
    top = second(compiler, image, (first, middle), "entry", text)
    assert top.record.depends == middle.record.build_id
    (entry,) = top.record.functions
    assert (entry.expect, entry.expect_note) == ("", "earlier.livepatch replaces it already")


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


@pytest.mark.parametrize("is_handed_out", [True, False])
def test_what_the_earlier_payload_defines_goes_with_it(
    compiler: Compiler, image: bytes, first: Payload, *, is_handed_out: bool
) -> None:
    use = "*(int (**)(int))(long)x = fresh; return x;" if is_handed_out else "return fresh(x) + 2;"
    top = second(compiler, image, first, "leaf", f"int fresh(int); int leaf(int x) {{ {use} }}")
    rows = top.record.unchecked
    assert [row.startswith("address of a payload beneath's `fresh`") for row in rows] == [
        True
    ] * is_handed_out


def test_plugin_reads_the_earlier_payload(
    compiler: Compiler, image: bytes, first: Payload, tmp_path: Path
) -> None:
    path = tmp_path / "earlier.livepatch"
    data = compiler.object("core.c", SECOND)
    part = closure_delta(data, "core.o", ("leaf",))
    config = Config(release="4.17.5", depends=(path,))

    def run() -> Payload | None:
        return LivepatchLinker().xsplice_link_payload(
            name="fix", deltas=(part,), objects=(data,), image=image, config=config
        )

    with pytest.raises(LinkError, match=r"earlier\.livepatch: cannot be read"):
        run()
    path.write_bytes(first.data)
    assert run() == link(image, (part, data), beneath=first.data)


def test_names_of_every_payload_of_the_chain_are_known(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    text = "int __attribute__((noinline)) fresh(int x) { return x; }"
    middle = second(compiler, image, first, "fresh", text)
    chain = (first, middle)
    top = second(compiler, image, chain, "leaf", SECOND)
    assert top.record.references == ("fresh",)
    again = second(compiler, image, chain, "fresh", text.replace("x; }", "x + 3; }"))
    (old,) = middle.record.functions
    (new,) = again.record.functions
    assert new.size_old_bytes == old.size_old_bytes
    with pytest.raises(LinkError, match=r"`nobody` is in the symbol table of neither"):
        second(compiler, image, chain, "leaf", SECOND.replace("fresh", "nobody"))
    local = SECOND.replace("fresh(int)", 'fresh(int) __asm__("calls.0")')
    with pytest.raises(RefusedError, match=r"static locals .* no name there; .* SUPERSEDES"):
        second(compiler, image, chain, "leaf", local)
    with pytest.raises(LinkError, match=r"no symbol `calls\.0`"):  # nothing beneath brings it
        second(compiler, image, (), "leaf", local)


AGAIN = """extern int counter; static int calls = 1;
int __attribute__((noinline)) fresh(int x) { return x - counter; }
static int __attribute__((noinline)) helper(int x) { return x * counter + calls++; }
int entry(int x) { return fresh(x) * %d + helper(x); }"""


def cumulative(compiler: Compiler, image: bytes, factor: int, *older: Payload) -> Payload:
    """Return a payload that brings the same names whatever the factor is."""
    data = compiler.object("core.c", AGAIN % factor)
    part = closure_delta(data, "core.o", ("entry",), new=("fresh", "helper", "calls"))
    return link(image, (part, data), superseded=tuple(payload.data for payload in older))


def names_of(payload: Payload) -> set[str]:
    return {symbol.name for symbol in read_elf(payload.data, "x").symbols if symbol.name}


def test_a_payload_that_supersedes_another_brings_no_name_of_it(
    compiler: Compiler, image: bytes
) -> None:
    """Both are loaded when `replace` is asked for, and new names may be there once only."""
    old, alone = cumulative(compiler, image, 4), cumulative(compiler, image, 5)
    assert names_of(old) & names_of(alone) == {"fresh", "core.c#helper", "core.c#calls"} | {
        "entry",
        "counter",
    }
    new = cumulative(compiler, image, 5, old)
    assert names_of(old) & names_of(new) == {"entry", "counter"}
    (fresh,) = [name for name in names_of(new) if name.startswith("fresh.")]
    assert f"`fresh` is called `{fresh}` in the payload" in new.record.notes
    assert new.record.depends == old.record.depends == new.record.xen_depends
    third = cumulative(compiler, image, 5, new)
    assert names_of(third) & names_of(new) == {"entry", "counter"}


def test_what_a_superseded_payload_brings_is_no_name_to_refer_to(
    compiler: Compiler, image: bytes, first: Payload
) -> None:
    data = compiler.object("core.c", SECOND)
    part = closure_delta(data, "core.o", ("leaf",)), data
    with pytest.raises(LinkError, match="no symbol `fresh`"):
        link(image, part, superseded=(first.data,))
