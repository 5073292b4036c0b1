# SPDX-License-Identifier: Apache-2.0
"""The test harness that vendors get: it must catch the plugins it is meant to catch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xsplice_plugins import hookimpl
from xsplice_plugins.artefacts import (
    Delta,
    ObjectPair,
    PayloadRecord,
    SignatureCheck,
    SignatureRecord,
    SignatureState,
    SignedPayload,
)
from xsplice_plugins.plugins.manager import describe_plugins
from xsplice_plugins.testing import (
    DifferContract,
    DistributionFactory,
    ManagerFactory,
    Outcome,
    ProjectFactory,
    SignerContract,
    body_of,
    sample_objects,
    sample_payload,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]


class CarelessSigner:
    """A signer that signs anything and finds everything good."""

    xsplice_name = "careless"

    @hookimpl
    def xsplice_sign_payload(self, data: bytes, record: PayloadRecord) -> SignedPayload:
        """Append nothing of worth."""
        signed = data + b"trust me"
        return SignedPayload(
            data=signed,
            record=SignatureRecord(
                signer="careless",
                scheme="words",
                is_deterministic=True,
                is_development_key=False,
                subject="",
                certificate_sha256="",
                digest_payload=record.digest,
                digest_signed=hashlib.sha256(signed).hexdigest(),
            ),
        )

    @hookimpl
    def xsplice_check_signature(self, data: bytes) -> SignatureCheck:
        """Trust."""
        size = len(data) - len(b"trust me")
        return SignatureCheck(state=SignatureState.GOOD, reason="", payload_size_bytes=size)


class BlindDiffer:
    """A differ that never sees a change, whatever it is given."""

    xsplice_name = "blind"

    @hookimpl
    def xsplice_diff_objects(self, pair: ObjectPair) -> Delta:
        """See nothing."""
        return Delta(
            object_path=pair.object_path,
            source_path=pair.source_path,
            profile="",
            machine=62,
            digest_new=pair.digest_new,
        )


CONTRACT_RUN = """
    import sys
    sys.path.insert(0, {folder!r})
    import test_testing
    from xsplice_plugins.testing import DifferContract, SignerContract

    class Test{kind}({kind}Contract):
        plugin = test_testing.{plugin}()
        name = {name!r}
"""


def failures(tmp_path: Path, kind: str, plugin: str, name: str) -> set[str]:
    """Return the tests of a contract that a plugin fails, run as a vendor would."""
    text = CONTRACT_RUN.format(folder=str(Path(__file__).parent), **locals())
    (tmp_path / "test_vendor.py").write_text("\n".join(x[4:] for x in text.splitlines()))
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rf", "test_vendor.py"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return {_test_name(line) for line in done.stdout.splitlines() if line.startswith("FAILED")}


def _test_name(line: str) -> str:
    return line.partition("::test_")[2].partition("[")[0].partition(" ")[0]


def test_the_signer_contract_catches_a_careless_signer(tmp_path: Path) -> None:
    assert failures(tmp_path, "Signer", "CarelessSigner", "careless") == {
        "foreign_input_is_refused",
        "a_signed_payload_is_not_signed_again",
        "the_payload_of_another_record_is_refused",
        "an_unsigned_payload_is_called_unsigned",
        "a_changed_payload_is_not_good",
        "a_file_cut_short_is_not_good",
        "the_signature_of_another_payload_is_not_good",
    }


def test_the_differ_contract_catches_a_blind_differ(tmp_path: Path) -> None:
    assert failures(tmp_path, "Differ", "BlindDiffer", "blind") == {
        "a_changed_function_is_never_dropped",
        "foreign_input_is_refused",
        "objects_of_two_machines_are_refused",
    }


def test_a_contract_alone_is_not_collected() -> None:
    assert not SignerContract.__test__
    assert not DifferContract.__test__


def test_importing_the_harness_needs_no_scons() -> None:
    code = "import sys, xsplice_plugins.testing; sys.exit('SCons' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.toolchain
def test_the_samples_are_objects_that_readelf_reads(tmp_path: Path) -> None:
    path = tmp_path / "sample.o"
    for data in (sample_payload()[0], *sample_objects()[1:]):
        path.write_bytes(data)
        done = subprocess.run(
            ["readelf", "--all", "--wide", path], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert "REL (Relocatable file)" in done.stdout


def test_the_body_of_a_function_stands_for_a_file() -> None:
    def plugin() -> None:
        """Say what the file is."""
        from xsplice_plugins import hookimpl  # noqa: PLC0415  # a file's body

        @hookimpl
        def xsplice_startup(config: object) -> None:
            return None

    text = body_of(plugin)
    assert text.startswith('"""Say what the file is."""\nfrom xsplice_plugins import hookimpl')
    compile(text, "plugin.py", "exec")


def test_a_decorated_first_statement_belongs_to_the_body() -> None:
    def plugin() -> None:
        @hookimpl
        def xsplice_startup(config: object) -> None:
            return None

    assert body_of(plugin).startswith("@hookimpl\n")


@pytest.mark.scons
def test_a_project_runs_scons_in_a_clean_environment(
    scons_project: ProjectFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XSPLICE_PLUGINS", "not_for_this_run")

    def sconstruct() -> None:
        import os  # noqa: PLC0415  # a file's body

        names = [name for name in os.environ if name.startswith(("XSPLICE", "HOME"))]
        print(sorted(names))  # noqa: T201  # a file's body

    project = scons_project({"SConstruct": sconstruct})
    done = project.run("--no-site-dir", ".").assert_success()
    assert done.out.splitlines()[0] == "[]"
    done = project.run("--no-site-dir", ".", environ={"XSPLICE_SIGNER": "acme"}).assert_success()
    assert done.out.splitlines()[0] == "['XSPLICE_SIGNER']"


@pytest.mark.scons
def test_a_failed_run_is_told_from_a_good_one(scons_project: ProjectFactory) -> None:
    project = scons_project({"SConstruct": 'Exit("no such luck")\n'})
    done = project.run("--no-site-dir")
    done.assert_failure("no such luck")
    with pytest.raises(AssertionError, match="exit status"):
        done.assert_success()
    with pytest.raises(AssertionError, match="was not said"):
        done.assert_failure("something else")


def test_a_traceback_is_never_a_clear_message() -> None:
    with pytest.raises(AssertionError):
        Outcome(rc=2, out="", err="Traceback (most recent call last)\nfix.patch").assert_failure(
            "fix.patch"
        )


def test_a_fake_distribution_is_found_and_gone_again(
    xsplice_manager: ManagerFactory, fake_distribution: DistributionFactory
) -> None:
    """What one test installs must not be there in the next one, whichever order they run in."""

    def plugin() -> None:
        from xsplice_plugins import hookimpl  # noqa: PLC0415  # a file's body

        @hookimpl
        def xsplice_startup(config: object) -> None:
            return None

    def names() -> Iterable[str]:
        return [row["name"] for row in describe_plugins(xsplice_manager(entry_points=True))]

    assert "fleeting" not in names()
    assert "fleeting_module" not in sys.modules
    fake_distribution("fleeting", {"fleeting": "fleeting_module"}, {"fleeting_module.py": plugin})
    assert "fleeting" in names()


test_a_fake_distribution_is_found_and_gone_again_the_second_time = (
    test_a_fake_distribution_is_found_and_gone_again
)
