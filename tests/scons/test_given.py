# SPDX-License-Identifier: Apache-2.0
"""Each setting that a step may see makes it again: a stale verdict is a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.kit.build import scons
from xsplice import given, marks
from xsplice_plugins import hookimpl
from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.target.known import facts_of

#: Another value than by default of each field. A new field of `Config` belongs here.
OTHERWISE: dict[str, Any] = {
    "release": "4.20.0",
    "loader": "xenserver",
    "facts": facts_of(None, "4.17.0", EM_X86_64),
    "profile": "linux",
    "image": Path("/other/xen-syms"),
    "differ": "other",
    "linker": "other",
    "signer": "none",
    "verifiers": ("model", "qemu"),
    "key": Path("/other/key.pem"),
    "certificate": Path("/other/certificate.pem"),
    "depends": (Path("/other/one.livepatch"), Path("/other/two.livepatch")),
    "supersedes": (Path("/other/one.livepatch"),),
    "accept": ("LAYOUT:domain.member",),
    "releases_compared": ("4.19.0",),
    "expected": Path("/other/expected.json"),
    "build_dir": Path("/other/build"),
    "options": (("key", "value"),),
}
STEPS = ("base", "handmade", "diff", "link", "check", "sign", "verify")
#: A source of the steps that read it, and a folder that only says where a key may be made.
NO_TEXT = {"image", "build_dir"}


class Curious:
    """A plugin that may read any setting."""

    @hookimpl
    def xsplice_check_delta(self, config: Config) -> tuple[()]:
        """Read what it likes."""
        assert config
        return ()


def test_each_setting_is_tried() -> None:
    assert set(OTHERWISE) == set(Config.__struct_fields__)


@pytest.mark.parametrize("name", OTHERWISE)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_sees_no_setting_that_does_not_make_it_again(step: str, name: str) -> None:
    plugins = manager.build_plugin_manager(entry_points=False, environ={})
    usual = Config()
    other = replace(usual, **{name: OTHERWISE[name]})
    seen = given.settings_for(step, other, plugins)
    is_seen = getattr(seen, name) != getattr(usual, name)
    before, after = (given.told(given.settings_for(step, c, plugins)) for c in (usual, other))
    assert (before != after) == is_seen or name in NO_TEXT


@pytest.mark.parametrize("name", sorted(set(OTHERWISE) - NO_TEXT))
def test_each_setting_makes_a_verdict_again(name: str) -> None:
    plugins = manager.build_plugin_manager(entry_points=False, environ={})
    configs = (Config(), replace(Config(), **{name: OTHERWISE[name]}))
    before, after = (given.told(given.settings_for("verify", c, plugins)) for c in configs)
    assert before != after


def test_payloads_that_changed_places_make_a_step_again() -> None:
    one = Config(depends=OTHERWISE["depends"])
    assert given.told(one) != given.told(replace(one, depends=one.depends[::-1]))


def test_each_file_that_a_setting_names_is_compared_by_its_content() -> None:
    config = replace(Config(), **OTHERWISE)
    asked = {path.name for path in given.files(config)}
    assert asked == {
        "key.pem", "certificate.pem", "expected.json", "one.livepatch", "two.livepatch"
    }  # fmt: skip


def test_a_plugin_of_a_vendor_may_read_every_setting() -> None:
    plugins = manager.build_plugin_manager(plugins=[Curious()], entry_points=False, environ={})
    config = replace(Config(), **OTHERWISE)
    assert given.settings_for("diff", config, plugins) == config
    assert given.settings_for("link", config, plugins) != config, "it takes no part in the link"


def test_files_of_a_room_that_are_no_python_count_as_its_sources(tmp_path: Path) -> None:
    """The agent of the real Xen is a C file."""
    names = ("realxen/agent.c", "realxen/a.py", "realxen/__pycache__/a.pyc", "top.py", "sign/b.py")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(folder: str) -> list[str]:
        return [path.name for path in marks.sources(tmp_path, folder)]

    assert (found("realxen"), found("")) == (["a.py", "agent.c"], ["top.py"])


@pytest.mark.scons
@pytest.mark.toolchain
def test_the_loader_is_part_of_what_a_verdict_depends_on(tmp_path: Path) -> None:
    report = tmp_path / "extra-version" / "extra-version.verify.json"

    def loaders() -> bool:
        findings = json.loads(report.read_text())["findings"]
        return any("judged by the loader of xenserver" in row["text"] for row in findings)

    scons("xsplice-verify", tmp_path, LOADER="xenserver").assert_success()
    assert loaders()
    scons("xsplice-verify", tmp_path).assert_success()
    assert not loaders()
    for word, said in (("LOADER", "no such loader"), ("RELEASES", "not a release")):
        run = scons("xsplice-verify", tmp_path, **{word: "nope"})
        assert (run.status, said in run.text) == (2, True), run.text
