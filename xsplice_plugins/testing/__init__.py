# SPDX-License-Identifier: Apache-2.0
"""What plugin authors test with; pytest finds it once xsplice is installed.

Fixtures: ``xsplice_manager``, ``scons_project``, ``fake_distribution``. Base classes with the
tests that every implementation must pass: `SignerContract`, `DifferContract`. Importing this
needs pytest, not SCons.
"""

from xsplice_plugins.testing.contracts import DifferContract, SignerContract
from xsplice_plugins.testing.fixtures import (
    DistributionFactory,
    ManagerFactory,
    ProjectFactory,
    fake_distribution,
    scons_project,
    xsplice_manager,
)
from xsplice_plugins.testing.projects import Outcome, SconsProject, body_of, write_files
from xsplice_plugins.testing.samples import sample_objects, sample_payload

__all__ = [
    "DifferContract",
    "DistributionFactory",
    "ManagerFactory",
    "Outcome",
    "ProjectFactory",
    "SconsProject",
    "SignerContract",
    "body_of",
    "fake_distribution",
    "sample_objects",
    "sample_payload",
    "scons_project",
    "write_files",
    "xsplice_manager",
]
