# SPDX-License-Identifier: Apache-2.0
"""A model of the part of Xen that takes live patches, in rooms that import downwards only.

``facts`` (data) < ``image`` (Xen as after boot) < ``state`` (a running Xen) < ``act`` (all CPUs
wait) < ``load`` (the upload) < ``run`` (executing code) < ``core.py`` (the hypercalls) < ``proof``.
To follow one payload: ``core.py`` calls ``load/loader.py`` (the upload, step by step), which calls
``load/prepare.py`` (records, hooks, identities); an action goes from ``core.py`` to
``act/actions.py`` and ``act/patching.py`` (the bytes).
"""

from xsplice_plugins.hypervisor.core import Hypervisor
from xsplice_plugins.hypervisor.facts.cpu import DEFAULT_CPU, PROFILES, CpuProfile
from xsplice_plugins.hypervisor.facts.releases import BuildFacts, Release, release
from xsplice_plugins.hypervisor.facts.verdicts import (
    Answer,
    Hazard,
    Unknown,
    XenRefusal,
    errno_name,
    errno_text,
)
from xsplice_plugins.hypervisor.image.boot import boot
from xsplice_plugins.hypervisor.image.image import BootedImage, HostPage, HostPages, Region
from xsplice_plugins.hypervisor.image.seeding import seeded
from xsplice_plugins.hypervisor.image.syms_file import KnownSymbol
from xsplice_plugins.hypervisor.load.signature import OFF, SignaturePolicy, SignatureVerdict
from xsplice_plugins.hypervisor.proof.probes import Probe, ProbeResult, ask
from xsplice_plugins.hypervisor.proof.proof import ProofReport, prove
from xsplice_plugins.hypervisor.state.payload import LoadedPayload, State
from xsplice_plugins.hypervisor.state.requests import Command, Host, PayloadList, Status
from xsplice_plugins.hypervisor.state.xen import Xen

__all__ = [
    "DEFAULT_CPU",
    "OFF",
    "PROFILES",
    "Answer",
    "BootedImage",
    "BuildFacts",
    "Command",
    "CpuProfile",
    "Hazard",
    "Host",
    "HostPage",
    "HostPages",
    "Hypervisor",
    "KnownSymbol",
    "LoadedPayload",
    "PayloadList",
    "Probe",
    "ProbeResult",
    "ProofReport",
    "Region",
    "Release",
    "SignaturePolicy",
    "SignatureVerdict",
    "State",
    "Status",
    "Unknown",
    "Xen",
    "XenRefusal",
    "ask",
    "boot",
    "errno_name",
    "errno_text",
    "prove",
    "release",
    "seeded",
]
