# SPDX-License-Identifier: Apache-2.0
"""A payload for the embedded core, signed, with its image: what the subcommands are tried on."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.build import scons


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build left."""

    folder: Path
    image: Path
    certificate: Path
    key: Path

    @property
    def payload(self) -> Path:
        """Return the signed payload."""
        return self.folder / "extra-version.livepatch"

    @property
    def unsigned(self) -> Path:
        """Return the payload before signing."""
        return self.folder / "extra-version.livepatch.unsigned"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return the demo, built and signed with a key of openssl's."""
    folder = tmp_path_factory.mktemp("commands")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
            *("-subj", "/CN=xsplice test", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    scons("xsplice-verify", folder / "build", KEY=key, CERT=certificate).assert_success()
    images = sorted((folder / "build" / "core").rglob("xen-syms"))
    return Built(
        folder=folder / "build" / "extra-version",
        image=images[0],
        certificate=certificate,
        key=key,
    )
