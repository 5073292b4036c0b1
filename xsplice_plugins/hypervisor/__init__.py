# SPDX-License-Identifier: Apache-2.0
"""A model of the part of Xen that takes live patches.

Follow one payload through five modules: ``core.py`` (the hypercalls) calls ``loader.py`` (the
upload, step by step), which calls ``prepare.py`` (records, hooks, identities); an action goes from
``core.py`` to ``actions.py`` (what happens while all CPUs wait) and ``patching.py`` (the bytes).
"""

from xsplice_plugins.hypervisor.act.signature import SignaturePolicy, SignatureVerdict
from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.cpu import DEFAULT_CPU, PROFILES, CpuProfile
from xsplice_plugins.hypervisor.facts.releases import Release, known_releases, release
from xsplice_plugins.hypervisor.facts.verdicts import (
    Answer,
    Hazard,
    Refusal,
    errno_name,
    errno_text,
)
from xsplice_plugins.hypervisor.image.image import Image, Region, Symbol, build_image
from xsplice_plugins.hypervisor.proof.probes import Probe, ProbeResult
from xsplice_plugins.hypervisor.proof.proof import ProofReport, prove
from xsplice_plugins.hypervisor.proof.proof_text import summary
from xsplice_plugins.hypervisor.state.payload import Payload, State
from xsplice_plugins.hypervisor.state.requests import Command, Host, Listing, Status

__all__ = [
    "DEFAULT_CPU",
    "PROFILES",
    "Answer",
    "Command",
    "CpuProfile",
    "Hazard",
    "Host",
    "Hypervisor",
    "Image",
    "Listing",
    "Payload",
    "Probe",
    "ProbeResult",
    "ProofReport",
    "Refusal",
    "Region",
    "Release",
    "SignaturePolicy",
    "SignatureVerdict",
    "State",
    "Status",
    "Symbol",
    "build_image",
    "errno_name",
    "errno_text",
    "known_releases",
    "prove",
    "release",
    "summary",
]
