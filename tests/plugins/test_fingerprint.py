# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of plugins: what makes targets out of date."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.build import ROOT, scons
from xsplice_plugins import hookimpl
from xsplice_plugins.plugins.manager import manager_fingerprint

if TYPE_CHECKING:
    from xsplice_plugins.plugins.spec import Config
    from xsplice_plugins.testing import DistributionFactory, ManagerFactory

PLUGIN = """
    from xsplice_plugins import hookimpl
    from .inner import answer

    @hookimpl
    def xsplice_startup(config):
        answer()
"""


def test_it_is_the_same_for_the_same_plugins(xsplice_manager: ManagerFactory) -> None:
    assert manager_fingerprint(xsplice_manager()) == manager_fingerprint(xsplice_manager())


def test_it_changes_with_the_version(xsplice_manager: ManagerFactory) -> None:
    class Acme:
        __version__ = "1"

        @hookimpl
        def xsplice_startup(self, config: Config) -> None:
            """Hear nothing."""

    old = manager_fingerprint(xsplice_manager(Acme()))
    Acme.__version__ = "2"
    assert manager_fingerprint(xsplice_manager(Acme())) != old


@pytest.mark.parametrize("changed", ["acme_pkg/__init__.py", "acme_pkg/inner.py"])
def test_it_changes_with_any_file_of_the_plugins_package(
    changed: str, xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    """The function behind the hook is where the work is done."""
    files = {"acme_pkg/__init__.py": PLUGIN, "acme_pkg/inner.py": "def answer():\n    return 1\n"}
    folder = fake_distribution("acme", {"acme": "acme_pkg"}, files)
    pm = xsplice_manager(entry_points=True)
    old = manager_fingerprint(pm)
    with (folder / changed).open("a") as file:
        file.write("\n# changed\n")
    assert manager_fingerprint(pm) != old


def test_it_does_not_depend_on_the_folder(
    xsplice_manager: ManagerFactory,
    fake_distribution: DistributionFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = set()
    for _ in range(2):
        with monkeypatch.context() as context:
            files = {"acme_pkg/__init__.py": PLUGIN, "acme_pkg/inner.py": "def answer(): ...\n"}
            folder = fake_distribution("acme", {"acme": "acme_pkg"}, files)
            context.syspath_prepend(folder)
            found.add(manager_fingerprint(xsplice_manager(entry_points=True)))
            for name in [name for name in sys.modules if name.startswith("acme_pkg")]:
                del sys.modules[name]
    assert len(found) == 1


def test_a_built_in_plugin_counts_with_the_files_of_its_stage(tmp_path: Path) -> None:
    code = (
        "import json; from xsplice_plugins.plugins import manager as m\n"
        "rows = m.describe_plugins(m.build_plugin_manager(environ={}, entry_points=False))\n"
        "print(json.dumps({row['name']: row['sha256'] for row in rows}))\n"
    )

    def digests() -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True
        )
        return json.loads(done.stdout)

    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "xsplice_plugins", tmp_path / "xsplice_plugins", ignore=ignored)
    before = digests()
    assert before["cms"] == before["none"]
    assert len(set(before.values())) == 4  # diff, link, sign, verify
    (tmp_path / "xsplice_plugins" / "sign" / "keys.py").write_text("# another version\n")
    after = digests()
    assert {name for name in before if before[name] != after[name]} == {"cms", "none"}


def test_it_can_be_of_one_stage_only(xsplice_manager: ManagerFactory) -> None:
    class Acme:
        @hookimpl
        def xsplice_sign_payload(self, data: bytes) -> None:
            """Sign nothing."""

    with_signer, without = xsplice_manager(Acme()), xsplice_manager()
    for hook, is_equal in (("xsplice_diff_objects", True), ("xsplice_sign_payload", False)):
        one, other = manager_fingerprint(with_signer, hook), manager_fingerprint(without, hook)
        assert (one == other) is is_equal, hook


def test_code_without_a_file_has_the_same_fingerprint_in_every_process() -> None:
    """A set of constants is printed in another order with each hash seed."""
    code = """if True:
        from xsplice_plugins import hookimpl; from xsplice_plugins.plugins import manager
        class Acme:
            @hookimpl
            def xsplice_startup(self, config):
                return config.signer in {"a", "b", "c", "d", "e"}
        pm = manager.build_plugin_manager(plugins=(Acme(),), environ={}, entry_points=False)
        print(manager.manager_fingerprint(pm))
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@pytest.mark.scons
@pytest.mark.toolchain
def test_a_changed_signer_signs_again_and_is_named_as_the_cause(tmp_path: Path) -> None:
    """SCons alone sees neither the plugin nor what it calls."""
    vendor = tmp_path / "vendor.py"
    vendor.write_text(
        "from xsplice_plugins import hookimpl\n"
        "from xsplice_plugins.sign.plugin import NoneSigner\n"
        "@hookimpl\n"
        "def xsplice_sign_payload(data, record, config):\n"
        "    return NoneSigner().xsplice_sign_payload(data, record)\n"
        "@hookimpl\n"
        "def xsplice_check_signature(data, certificate, config):\n"
        "    from xsplice_plugins.artefacts import SignatureCheck, SignatureState\n"
        "    good = SignatureState.GOOD\n"
        "    return SignatureCheck(state=good, reason='', payload_size_bytes=len(data))\n"
    )
    environ = {"XSPLICE_PLUGINS": f"vendor={vendor}"}

    def run() -> str:
        words = ["--debug=explain"]
        build = tmp_path / "build"
        return (
            scons("xsplice", build, *words, environ=environ, SIGNER="vendor").assert_success().out
        )

    assert "  SIGN " in run()
    assert "  SIGN " not in run()
    vendor.write_text(vendor.read_text() + "\n# another version\n")
    out = run()
    assert "  SIGN " in out
    assert "plugins " in out
    assert "  CC " not in out
