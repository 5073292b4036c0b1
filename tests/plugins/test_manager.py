# SPDX-License-Identifier: Apache-2.0
"""Which plugins take part, in what order, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xsplice_plugins import hookimpl
from xsplice_plugins.artefacts import Finding, Severity
from xsplice_plugins.errors import NoProviderError, PluginError
from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing import DistributionFactory, ManagerFactory, sample_payload

if TYPE_CHECKING:
    from collections.abc import Callable

    import pluggy


ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = {"semantic", "livepatch", "cms", "none", "model", "qemu", "rebuild"}

ACME = """
    from xsplice_plugins import hookimpl

    @hookimpl
    def xsplice_sign_payload(data, record, config):
        return None
"""


class Listener:
    """A plugin that remembers what it heard."""

    def __init__(self, name: str) -> None:
        self.xsplice_name = name
        self.heard = []

    @hookimpl
    def xsplice_startup(self, config: Config) -> None:
        """Remember the configuration."""
        self.heard.append(config)


class Signer:
    """A signer that does what it was made with."""

    def __init__(self, name: str, answer: Callable[[bytes], object]) -> None:
        self.xsplice_name = name
        self.answer = answer

    @hookimpl
    def xsplice_sign_payload(self, data: bytes) -> object:
        """Return the answer."""
        return self.answer(data)


def names(pm: pluggy.PluginManager) -> object:
    return [row["name"] for row in manager.describe_plugins(pm)]


def order(pm: pluggy.PluginManager, hook: str) -> object:
    return [impl.plugin_name for impl in getattr(pm.hook, hook).get_hookimpls()]


def test_the_built_in_plugins_are_ordinary_plugins(xsplice_manager: ManagerFactory) -> None:
    assert set(names(xsplice_manager())) == BUILT_IN


def test_managers_share_nothing(xsplice_manager: ManagerFactory) -> None:
    assert "ears" in names(xsplice_manager(Listener("ears")))
    assert "ears" not in names(xsplice_manager())


def test_a_manager_loads_thin_plugins_only_no_stage_and_no_heavy_library() -> None:
    """A warm `scons xsplice` is judged in tenths of a second."""
    code = (
        "import sys\n"
        "from xsplice_plugins.plugins import manager\n"
        "manager.manager_fingerprint(manager.build_plugin_manager(environ={}))\n"
        "heavy = {'lief', 'elftools', 'cryptography', 'capstone', 'unicorn', 'rich',"
        " 'SCons', 'iced_x86', 'xsplice_plugins.artefacts'} & set(sys.modules)\n"
        "ours = {n for n in sys.modules if n.startswith('xsplice_plugins.') and n.count('.') > 1}\n"
        "stages = {n for n in ours if n.split('.')[1] != 'plugins' and not n.endswith('.plugin')}\n"
        "sys.exit(chr(44).join(sorted(heavy | stages)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_entry_points_are_registered_sorted_by_distribution_then_name(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    """`importlib.metadata` lists distributions in the order of the directory."""
    for name in ("zeta", "alpha"):
        modules = {f"{name}_{n}": f"{name}_{n}" for n in "ba"}
        fake_distribution(name, modules, {f"{m}.py": ACME for m in modules})
    pm = xsplice_manager(entry_points=True)
    ours = [n for n in order(pm, "xsplice_sign_payload") if n.startswith(("alpha", "zeta"))]
    assert ours == ["alpha_a", "alpha_b", "zeta_a", "zeta_b"]


def test_the_project_comes_after_the_environment_after_entry_points_after_built_ins(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("acme-dist", {"acme": "acme_module"}, {"acme_module.py": ACME})
    fake_distribution("other", {}, {"from_environ.py": ACME})
    pm = xsplice_manager(
        Signer("from_project", lambda _data: None),
        environ={"XSPLICE_PLUGINS": "vendor=from_environ"},
        entry_points=True,
    )
    expected = ["cms", "none", "acme", "vendor", "from_project"]
    assert [n for n in order(pm, "xsplice_sign_payload") if n in expected] == expected


def test_entry_points_can_be_left_out(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("acme-dist", {"acme": "acme_module"}, {"acme_module.py": "1 / 0"})
    assert set(names(xsplice_manager(entry_points=False))) == BUILT_IN


@pytest.mark.parametrize("where", ["path", "module", "dotted"])
def test_the_environment_names_plugins_by_module_or_path(
    where: str, xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    folder = fake_distribution("files", {}, {"in_a_file.py": ACME})
    word = {
        "path": f"vendor={folder}/in_a_file.py",
        "module": "vendor=in_a_file",
        "dotted": "in_a_file",
    }[where]
    pm = xsplice_manager(environ={"XSPLICE_PLUGINS": word})
    assert ("in_a_file" if where == "dotted" else "vendor") in names(pm)


def test_the_project_names_installed_plugins_modules_and_instances(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution(
        "acme-dist", {"acme": "acme_module"}, {"acme_module.py": ACME, "plain.py": ACME}
    )
    module = types.ModuleType("made_here")

    def hear(config: Config) -> None:
        """Hear nothing."""

    module.xsplice_startup = hookimpl(hear)
    pm = xsplice_manager("acme", "plain", module, Listener("ears"), entry_points=True)
    assert {"acme", "plain", "made_here", "ears"} <= set(names(pm))


def test_a_plugin_named_twice_is_registered_once(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("acme-dist", {"acme": "acme_module"}, {"acme_module.py": ACME})
    pm = xsplice_manager(
        "acme_module", "acme", environ={"XSPLICE_PLUGINS": "acme"}, entry_points=True
    )
    assert names(pm).count("acme") == 1
    assert "acme_module" not in names(pm)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"XSPLICE_PLUGINS": "no_such_thing"}, "XSPLICE_PLUGINS: no_such_thing is neither"),
        ({"XSPLICE_PLUGINS": "x=/no/such/file.py"}, "there is no such file"),
        ({"XSPLICE_DISABLE_PLUGINS": "no_such_thing"}, "no plugin is called no_such_thing"),
    ],
)
def test_a_missing_plugin_is_named(
    environ: dict[str, str], said: str, xsplice_manager: ManagerFactory
) -> None:
    with pytest.raises(NoProviderError, match=said):
        xsplice_manager(environ=environ, entry_points=True)


def test_a_missing_plugin_of_the_project_is_named(xsplice_manager: ManagerFactory) -> None:
    with pytest.raises(NoProviderError, match="plugins=: acem is neither an installed plugin"):
        xsplice_manager("acem")


def test_a_broken_installed_plugin_stops_the_run_and_the_message_says_how_to_go_on(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("acme-dist", {"acme": "acme_module"}, {"acme_module.py": "1 / 0"})
    with pytest.raises(PluginError, match=r"acme-dist.*ZeroDivisionError.*DISABLE_PLUGINS=acme"):
        xsplice_manager(entry_points=True)
    pm = xsplice_manager(environ={"XSPLICE_DISABLE_PLUGINS": "acme"}, entry_points=True)
    assert "acme" not in names(pm)


def test_a_module_that_lacks_one_of_its_own_imports_is_broken_not_missing(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("files", {}, {"lacking.py": "import not_there_at_all"})
    with pytest.raises(PluginError, match=r"lacking cannot be loaded.*not_there_at_all") as caught:
        xsplice_manager("lacking")
    assert not isinstance(caught.value, NoProviderError)


def test_a_star_switches_off_what_is_installed_but_not_what_is_asked_for(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("one", {"one": "one_module"}, {"one_module.py": ACME})
    fake_distribution("two", {"two": "two_module"}, {"two_module.py": ACME})
    environ = {"XSPLICE_DISABLE_PLUGINS": "*", "XSPLICE_PLUGINS": "two"}
    assert set(names(xsplice_manager(environ=environ, entry_points=True))) == BUILT_IN | {"two"}


def test_a_built_in_signer_can_be_switched_off_but_not_the_verifier(
    xsplice_manager: ManagerFactory,
) -> None:
    assert "none" not in names(xsplice_manager(environ={"XSPLICE_DISABLE_PLUGINS": "none"}))
    with pytest.raises(PluginError, match="verifier model cannot be switched off"):
        xsplice_manager(environ={"XSPLICE_DISABLE_PLUGINS": "none,model"})


def test_a_disabled_plugin_of_the_project_stays_out(xsplice_manager: ManagerFactory) -> None:
    pm = xsplice_manager(Listener("ears"), environ={"XSPLICE_DISABLE_PLUGINS": "ears"})
    assert "ears" not in names(pm)


@pytest.mark.parametrize("error", [ValueError("oops\n\nmore"), SystemExit(0), AssertionError("no")])
def test_a_foreign_exception_names_plugin_and_hook(
    error: BaseException, xsplice_manager: ManagerFactory
) -> None:
    def fail(_data: bytes) -> None:
        raise error

    pm = xsplice_manager(Signer("acme", fail))
    data, record = sample_payload()
    hook = manager.chosen(pm, "xsplice_sign_payload", "acme")
    with pytest.raises(
        PluginError, match=r"acme\.xsplice_sign_payload.*the plugin failed"
    ) as caught:
        manager.call(hook, data=data, record=record, config=Config())
    assert caught.value.__cause__ is error
    assert len(str(caught.value).splitlines()) == 1


def test_the_failing_plugin_is_named_among_several(xsplice_manager: ManagerFactory) -> None:
    class Check:
        def __init__(self, name: str) -> None:
            self.xsplice_name = name

        @hookimpl
        def xsplice_check_delta(self) -> object:
            return ()

    class Broken(Check):
        @hookimpl
        def xsplice_check_delta(self) -> object:
            return (1 / 0,)

    pm = xsplice_manager(Check("first"), Broken("second"), Check("third"))
    with pytest.raises(PluginError, match=r"^second\.xsplice_check_delta"):
        manager.call(pm.hook.xsplice_check_delta, delta=None, config=Config())


def test_an_error_of_ours_passes_unchanged(xsplice_manager: ManagerFactory) -> None:
    error = NoProviderError("the token is not plugged in")

    def fail(_data: bytes) -> None:
        raise error

    pm = xsplice_manager(Signer("acme", fail))
    data, record = sample_payload()
    hook = manager.chosen(pm, "xsplice_sign_payload", "acme")
    with pytest.raises(NoProviderError) as caught:
        manager.call(hook, data=data, record=record, config=Config())
    assert caught.value is error


def test_an_answer_of_another_kind_is_the_plugins_fault(xsplice_manager: ManagerFactory) -> None:
    pm = xsplice_manager(Signer("acme", lambda data: data))
    data, record = sample_payload()
    hook = manager.chosen(pm, "xsplice_sign_payload", "acme")
    with pytest.raises(PluginError, match=r"acme.*answered with bytes, not SignedPayload"):
        manager.call(hook, data=data, record=record, config=Config())


def test_a_check_that_returns_a_list_is_the_plugins_fault(xsplice_manager: ManagerFactory) -> None:
    class Check:
        @hookimpl
        def xsplice_check_delta(self) -> object:
            return []

    pm = xsplice_manager(Check())
    with pytest.raises(PluginError, match="answered with list, not a tuple of Finding"):
        manager.call(pm.hook.xsplice_check_delta, delta=None, config=Config())


@pytest.mark.parametrize(
    "odd",
    [
        {"severity": "ERROR"},
        {"severity": None},
        {"text": None},
        {"text": "\udc80"},
        {"evidence": {"a": object()}},
    ],
    ids=["text", "nothing", "no text", "surrogate", "object"],
)
def test_a_finding_that_no_report_can_keep_is_the_plugins_fault(
    odd: dict[str, Any], xsplice_manager: ManagerFactory
) -> None:
    class Check:
        @hookimpl
        def xsplice_check_delta(self) -> object:
            whole = {"check": "c", "severity": Severity.ERROR, "subject": "s", "text": "t"}
            return (Finding(**(whole | odd)),)

    pm = xsplice_manager(Check())
    with pytest.raises(PluginError, match="answered with no Finding"):
        manager.call(pm.hook.xsplice_check_delta, delta=None, config=Config())


def test_a_failure_at_startup_names_the_plugin(xsplice_manager: ManagerFactory) -> None:
    class Late:
        @hookimpl
        def xsplice_startup(self, config: Config) -> None:
            raise OSError(config.signer)

    with pytest.raises(PluginError, match=r"Late\.xsplice_startup: the plugin failed \(OSError"):
        manager.startup(xsplice_manager(Late()), Config())


def test_describe_plugins_tells_name_version_origin_and_hooks(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    fake_distribution("acme-dist", {"acme": "acme_module"}, {"acme_module.py": ACME}, version="2.5")
    rows = manager.describe_plugins(xsplice_manager(entry_points=True))
    (row,) = [row for row in rows if row["name"] == "acme"]
    assert (row["version"], row["origin"]) == ("2.5", "acme-dist")
    assert row["hooks"] == ["xsplice_sign_payload"]
    assert [r["name"] for r in rows] == sorted(r["name"] for r in rows)
