# SPDX-License-Identifier: Apache-2.0
"""What a fix makes global for another file: the image has it as a local."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.kit.differ_inputs import diff
from tests.kit.link_inputs import Compiler
from tests.unit.link.loading import load
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import Payload
from xsplice_plugins.elf.reader import read_elf
from xsplice_plugins.errors import LinkError, NoFunctionalChangeError, RefusedError
from xsplice_plugins.pipeline.run import Run
from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.plugins.spec import Config

pytestmark = pytest.mark.toolchain

#: The attribute keeps callers from knowing the body, whoever may call.
OWNER = """
static int __attribute__((noipa, used)) helper(int x) { return x * 7 + 1; }
static volatile int state = 5;
int entry(int x) { return helper(x) + state; }
"""
OPEN = OWNER.replace("static ", "")
USER = "int far(int x) { return x * 5 + x / 3; }"
CALLER = "int helper(int); int far(int x) { return helper(x) + 2; }"
READER = "extern volatile int state; int far(int x) { return state; }"


def fixed(compiler: Compiler, owner: str, user: str, *third: bytes) -> tuple[Payload, bytes]:
    """Link what changes in both files; return the image as well."""
    deltas, objects, image = [], [], list(third)
    for name, old, new in (("owner", OWNER, owner), ("user", USER, user)):
        before, after = (compiler.object(f"{name}.c", text) for text in (old, new))
        deltas.append(replace(diff(before, after), object_path=f"{name}.o"))
        objects.append(after)
        image.append(before)
    syms = compiler.image_of(*image)
    run = Run(config=Config(release="4.17.5"), plugins=build_plugin_manager(environ={}))
    return pipeline.link_payload(run, "fix", deltas, objects, syms), syms


def ends(payload: Payload, names: dict[str, int]) -> set[int]:
    """Return where displacements of the payload's code may lead."""
    code = load(payload.data, names).sections[".text"]
    return {
        code.addr_virt + i + 4 + int.from_bytes(code.data[i : i + 4], "little", signed=True)
        for i in range(len(code.data) - 3)
    }


@pytest.mark.parametrize(
    ("owner", "user", "name", "replaced"),
    [
        (OPEN, CALLER, "helper", {"far"}),
        (OPEN.replace("* 7", "* 9"), CALLER, "helper", {"far", "owner.c#helper"}),
        (OPEN, READER, "state", {"far"}),
        (OPEN.replace(" + state", " - state"), READER, "state", {"far", "entry"}),
    ],
)
def test_another_file_uses_the_local_of_the_image(
    compiler: Compiler, owner: str, user: str, name: str, replaced: set[str]
) -> None:
    payload, image = fixed(compiler, owner, user)
    names = {s.decorated: s.value for s in read_elf(image, "image").symbols}
    assert {row.name for row in payload.record.functions} == replaced
    assert f"owner.c#{name}" in payload.record.references
    assert names[f"owner.c#{name}"] in ends(payload, names)
    assert payload.record.new == ()


def test_what_is_global_on_one_side_alone_needs_no_payload(compiler: Compiler) -> None:
    with pytest.raises(NoFunctionalChangeError):
        fixed(compiler, OPEN, USER)


def test_a_name_that_nobody_made_global_is_unknown(compiler: Compiler) -> None:
    """A static of another file is not what a declaration means."""
    with pytest.raises(LinkError, match="no symbol `helper`"):
        fixed(compiler, OWNER.replace("+ state", "- state"), CALLER)


@pytest.mark.parametrize("owner", [OPEN, OPEN.replace("* 7", "* 9")])
def test_two_statics_of_that_name_are_a_refused_fix(compiler: Compiler, owner: str) -> None:
    """Two sources of one name, and which of them the hypervisor finds is not defined."""
    twin = compiler.object("owner.c", OWNER.replace("entry", "again").replace("* 7", "* 3"))
    with pytest.raises(RefusedError, match=r"`helper` was static, .* several `owner\.c#helper`"):
        fixed(compiler, owner, CALLER, twin)


def test_a_global_of_that_name_elsewhere_is_a_refused_fix(compiler: Compiler) -> None:
    with pytest.raises(RefusedError, match=r"`owner\.c#helper` and a `helper`"):
        fixed(compiler, OPEN, CALLER, compiler.object("third.c", "int helper(int x) { return x; }"))


def test_two_definitions_of_one_name_are_no_fix(compiler: Compiler) -> None:
    both = CALLER.replace("int helper(int);", "int helper(int x) { return x; }")
    with pytest.raises(LinkError, match="`helper` is defined here and in owner"):
        fixed(compiler, OPEN, both)
