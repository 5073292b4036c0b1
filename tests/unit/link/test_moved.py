# SPDX-License-Identifier: Apache-2.0
"""Globals that a fix moved to another object, and objects that the image lacks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.kit.link_inputs import HIDDEN, Compiler, closure_delta, link
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import BootOnly, Delta, Duty, RemovedItem, Severity
from xsplice_plugins.errors import LinkError, RefusedError
from xsplice_plugins.pipeline.run import Run
from xsplice_plugins.plugins.manager import build_plugin_manager
from xsplice_plugins.plugins.spec import Config

pytestmark = pytest.mark.toolchain

IMAGE = f"""{HIDDEN}
int state = 7; int zero;
int __attribute__((noinline)) moved(int x) {{ return x + state + zero; }}
int entry(int x) {{ return moved(x) * 3; }}
"""
USER = f"{HIDDEN}extern int moved(int);"


@pytest.fixture(scope="module")
def image(compiler: Compiler) -> bytes:
    return compiler.image(version_c=IMAGE)


def test_a_function_that_moved_here_is_replaced(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("other.c", f"{USER} int moved(int x) {{ return x - 1; }}")
    record = link(image, (closure_delta(new, "other.o", (), new=("moved",)), new)).record
    assert [f.name for f in record.functions] == ["moved"]
    assert record.new == ()


@pytest.mark.parametrize("definition", ["int state = 7;", "int zero;"])
def test_a_variable_that_moved_here_is_the_image_s(
    compiler: Compiler, image: bytes, definition: str
) -> None:
    name = definition.split()[1].rstrip(";")
    text = f"{HIDDEN}{definition} int entry(int x) {{ return {name} += x; }}"
    new = compiler.object("other.c", text)
    payload = link(image, (closure_delta(new, "other.o", ("entry",), new=(name,)), new))
    assert name in payload.record.references
    assert payload.record.new == ()


@pytest.mark.parametrize("definition", ["int state = 8;", "long state = 7;"])
def test_a_variable_with_another_first_value_or_size_is_refused(
    compiler: Compiler, image: bytes, definition: str
) -> None:
    text = f"{HIDDEN}{definition} int entry(int x) {{ return state += x; }}"
    new = compiler.object("other.c", text)
    with pytest.raises(LinkError, match="would add `state`"):
        link(image, (closure_delta(new, "other.o", ("entry",), new=("state",)), new))


def test_an_object_that_the_image_lacks_is_named(compiler: Compiler, image: bytes) -> None:
    new = compiler.object("strspn.c", f"{HIDDEN} int strspn_(int x) {{ return x; }}")
    with pytest.raises(RefusedError, match=r"strspn\.o: .* `strspn_`; .* was linked without it"):
        link(image, (closure_delta(new, "strspn.o", ("strspn_",)), new))


@pytest.mark.parametrize(
    ("gone", "size", "user", "is_said"),
    [
        ("version.c#seen", 8, "", True),
        ("version.c#seen.7", 8, "", True),
        ("version.c#other", 8, "", False),
        ("version.c#other", 4, "", True),
        ("version.c#other", 8, "extern int seen; int more(void) { return seen; }", True),
        ("version.c#other", 0, "extern int seen; int more(void) { return seen; }", False),
        ("version.c#other", 8, "extern int entry(int); int more(void) { return entry(1); }", False),
    ],
)
def test_a_variable_that_went_to_another_object_starts_again_and_that_is_said(
    compiler: Compiler, image: bytes, gone: str, size: int, user: str, is_said: bool
) -> None:
    """It is told by its name, its size, or by the object that lost one and uses the new one."""
    text = f"{HIDDEN}int seen; int entry(int x) {{ return seen += x; }}"
    new = compiler.object("other.c", text)
    delta = closure_delta(new, "other.o", ("entry",), new=("seen",))
    delta = replace(delta, new=tuple(replace(item, size_bytes=4) for item in delta.new))
    left = replace(
        delta,
        object_path="version.o",
        changed=(),
        new=(),
        extents=(),
        removed=(RemovedItem(name=gone, reason="it is gone", state_bytes=size),),
    )
    left_object = compiler.object("version.c", user)
    run = Run(config=Config(release="4.17.5"), plugins=build_plugin_manager(environ={}))
    record = pipeline.link_payload(run, "fix", [left, delta], [left_object, new], image).record
    name = gone.partition("#")[2]
    said = (f"state of `{name}` would start again: it is gone from version.o",)
    texts = [
        finding.text.partition(",")[0]
        for finding in record.findings
        if (finding.severity, finding.obligation) == (Severity.UNCHECKED, Duty.DATA)
    ]
    assert tuple(text for text in texts if "state" in text) == (said if is_said else ())


@pytest.mark.parametrize("leaves_same", [True, False])
def test_what_boot_code_left_is_in_the_record_of_the_payload(
    compiler: Compiler, image: bytes, *, leaves_same: bool
) -> None:
    new = compiler.object("other.c", f"{HIDDEN}int entry(int x) {{ return x; }}")
    delta = closure_delta(new, "other.o", ("entry",))
    row = BootOnly(
        name="start",
        reason="`start` runs only at boot",
        code="INIT_CODE",
        is_own=False,
        leaves_same=leaves_same,
    )
    boot = Delta(
        object_path="boot.o", source_path="", profile="", machine=0, digest_new="", boot=(row,)
    )
    run = Run(config=Config(release="4.17.5"), plugins=build_plugin_manager(environ={}))
    record = pipeline.link_payload(run, "fix", [boot, delta], [b"", new], image).record
    left = [row.obligation for row in record.findings if "`start` runs only at boot" in row.text]
    assert left == ([] if leaves_same else [Duty.DATA])
    assert any("boot is over" in note for note in record.notes)


@pytest.mark.parametrize(
    ("name", "more", "is_refused"),
    [
        ("shifted", 'int shifted(int) __attribute__((alias("moved")));', True),
        ("moved", 'int shifted(int) __attribute__((alias("moved")));', False),
        ("shifted", "", False),  # nobody knows it
    ],
)
def test_a_new_name_of_what_stays_in_the_image_is_refused_with_the_old_one(
    compiler: Compiler, image: bytes, name: str, more: str, *, is_refused: bool
) -> None:
    text = f"{HIDDEN}extern int {name}(int); int entry(int x) {{ return {name}(x) * 4; }}"
    new = compiler.object("other.c", text)
    delta = closure_delta(new, "other.o", ("entry",))
    left_object = compiler.object("version.c", f"{HIDDEN}int moved(int x) {{ return x; }} {more}")
    left = Delta(object_path="version.o", source_path="", profile="", machine=0, digest_new="")
    run = Run(config=Config(release="4.17.5"), plugins=build_plugin_manager(environ={}))
    work = [left, delta], [left_object, new]
    if name == "moved":
        assert pipeline.link_payload(run, "fix", *work, image).record.functions
        return
    text = "use `moved`" if is_refused else "no symbol `shifted`"
    with pytest.raises(RefusedError if is_refused else LinkError, match=text):
        pipeline.link_payload(run, "fix", *work, image)
