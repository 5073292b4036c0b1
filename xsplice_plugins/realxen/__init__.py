# SPDX-License-Identifier: Apache-2.0
"""A real Xen under QEMU as the judge of a payload."""

from xsplice_plugins.realxen.machine import Machine
from xsplice_plugins.realxen.results import RunResult, Step, StepResult

__all__ = ["Machine", "RunResult", "Step", "StepResult"]
