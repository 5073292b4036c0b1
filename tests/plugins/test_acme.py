# SPDX-License-Identifier: Apache-2.0
"""The vendor package of the tutorial: installed by pip, found by name, true to its README."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.build import ROOT, scons
from xsplice_plugins.testing import Outcome, write_files

ACME = ROOT / "tests" / "projects" / "acme"

USE = """
    import os, sys
    from pathlib import Path
    from xsplice_plugins import pipeline
    from xsplice_plugins.artefacts import Payload
    from xsplice_plugins.plugins.manager import describe_plugins
    from xsplice_plugins.testing import sample_payload

    given = {"SIGNER": "acme", "OPTIONS": "acme.store=" + sys.argv[1]}
    run = pipeline.open_run(given, environ=os.environ)
    data, record = sample_payload()
    signed = pipeline.sign_payload(run, Payload(data=data, record=record))
    path = Path("fix.livepatch")
    pipeline.write_signed(run, signed, path)
    (row,) = [row for row in describe_plugins(run.plugins) if row["name"] == "acme"]
    print(row["version"], row["origin"], signed.record.subject, path.stat().st_size > len(data))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which pip has installed the package, without any network."""
    folder = tmp_path_factory.mktemp("acme")
    source = folder / "source"
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ACME, source, ignore=ignored)  # building leaves files beside the sources
    words = "-m pip install --no-build-isolation --no-deps --no-index --quiet"
    subprocess.run(
        [sys.executable, *words.split(), "--disable-pip-version-check"]
        + ["--target", str(folder / "site"), str(source)],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def environment(site: Path) -> dict[str, str]:
    """Return the variables under which the installed package is found."""
    return {
        "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ACME_HSM_PIN": "123456",
    }


def run(site: Path, cwd: Path, *words: str) -> Outcome:
    environ = environment(site)
    done = subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    return Outcome(rc=done.returncode, out=done.stdout, err=done.stderr)


def test_the_installed_package_signs_and_checks_by_its_name(site: Path, tmp_path: Path) -> None:
    write_files(tmp_path, {"use.py": USE})
    run(site, tmp_path, "acme-hsm", "init", "--store", "token").assert_success()
    done = run(site, tmp_path, sys.executable, "use.py", "token").assert_success()
    assert done.out == "1.2.0 acme-signing CN=ACME token key 1 True\n"


@pytest.mark.scons
@pytest.mark.toolchain
def test_scons_signs_and_verifies_with_the_vendors_signer(site: Path, tmp_path: Path) -> None:
    """From a source patch to a proved payload, with nothing said but the plugin's name."""
    environ = environment(site)
    run(site, tmp_path, "acme-hsm", "init", "--store", "token").assert_success()
    settings = {"SIGNER": "acme", "ON": "acme", "OPTIONS": f"acme.store={tmp_path / 'token'}"}
    build = tmp_path / "build"
    done = scons("xsplice-verify", build, environ=environ, **settings).assert_success()
    assert "PROVED" in done.out
    assert "signed with key 1" in done.out
    (payload,) = build.glob("*/*.livepatch")
    assert payload.read_bytes().endswith(b"ACME live patch 1\n")
    (report,) = build.glob("*/*.verify.json")
    content = json.loads(report.read_text())
    checks = {finding["check"] for finding in content["findings"]}
    assert {"signature", "rebuild", "model", "acme.size"} <= checks
    assert [row["name"] for row in content["obligations"] if row["state"] != "held"] == ["stack"]
    again = scons("xsplice-verify", build, environ=environ, **settings).assert_success()
    assert "SIGN" not in again.out
    del settings["ON"]  # what was not asked for is not asked
    scons("xsplice-verify", build, environ=environ, **settings).assert_success()
    assert "acme.size" not in report.read_text()


@pytest.mark.scons
def test_scons_refuses_wrong_settings_of_the_vendor_before_it_compiles(
    site: Path, tmp_path: Path
) -> None:
    for settings, said in (
        ({"SIGNER": "acme"}, "acme: nothing says where the token is"),
        ({"SIGNER": "acem"}, "signer 'acem': is not installed; choose with SIGNER= one of: acme"),
    ):
        done = scons("xsplice", tmp_path / "build", environ=environment(site), **settings)
        assert done.status != 0
        assert said in done.text
        assert "CC " not in done.out


def test_the_vendors_own_tests_pass_where_it_is_installed(site: Path, tmp_path: Path) -> None:
    """Vendors of the wheel get the fixtures from the entry point, a checkout needs ``-p``."""
    shutil.copytree(ACME / "tests", tmp_path / "tests")
    shutil.copy(ACME / "pyproject.toml", tmp_path)
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if not _is_installed():
        words += ["-p", "xsplice_plugins.testing"]
    done = run(site, tmp_path, sys.executable, *words).assert_success()
    assert "skipped" not in done.out


def _is_installed() -> bool:
    from importlib.metadata import entry_points  # noqa: PLC0415  # only here

    return any(point.value == "xsplice_plugins.testing" for point in entry_points(group="pytest11"))


@pytest.mark.parametrize(
    "file", ["pyproject.toml", "acme_signing/plugin.py", "tests/test_plugin.py"]
)
def test_the_tutorial_quotes_the_package_as_it_is(file: str) -> None:
    """Every code block that names a file stands in that file, line by line."""
    tutorial = (ACME / "README.md").read_text()
    blocks = [part.partition("```")[0] for part in tutorial.split(f"<!-- {file} -->\n```")[1:]]
    assert blocks, f"the tutorial shows nothing of {file}"
    text = (ACME / file).read_text()
    for block in blocks:
        _language, _, quoted = block.partition("\n")
        for piece in quoted.split("...\n"):
            assert piece.strip("\n") in text, f"not in {file}:\n{piece}"
