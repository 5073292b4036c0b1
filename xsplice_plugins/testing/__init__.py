# SPDX-License-Identifier: Apache-2.0
"""What plugin authors test with; pytest finds it once xsplice is installed.

Fixtures: ``xsplice_manager``, ``scons_project``, ``fake_distribution``. Base classes with the
tests that every implementation must pass: `SignerContract`, `DifferContract`. Importing this
needs pytest, not SCons.
"""

from xsplice_plugins.testing.contracts import DifferContract as DifferContract
from xsplice_plugins.testing.contracts import SignerContract as SignerContract
from xsplice_plugins.testing.fixtures import DistributionFactory as DistributionFactory
from xsplice_plugins.testing.fixtures import ManagerFactory as ManagerFactory
from xsplice_plugins.testing.fixtures import ProjectFactory as ProjectFactory
from xsplice_plugins.testing.fixtures import fake_distribution as fake_distribution
from xsplice_plugins.testing.fixtures import scons_project as scons_project
from xsplice_plugins.testing.fixtures import xsplice_manager as xsplice_manager
from xsplice_plugins.testing.projects import Outcome as Outcome
from xsplice_plugins.testing.projects import SconsProject as SconsProject
from xsplice_plugins.testing.projects import body_of as body_of
from xsplice_plugins.testing.projects import write_files as write_files
from xsplice_plugins.testing.samples import sample_objects as sample_objects
from xsplice_plugins.testing.samples import sample_payload as sample_payload
