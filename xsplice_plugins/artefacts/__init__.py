# SPDX-License-Identifier: Apache-2.0
"""The frozen values that travel from stage to stage, each through a file.

A stage that is up to date does not run, so nothing may be handed over in memory: every artefact
is written to its target's JSON sidecar with `save` and read back with `load`. Paths inside an
artefact are relative to a root that its field names, never absolute: the same inputs give the
same bytes in every folder.
"""

from xsplice_plugins.artefacts.capture import (
    CapturePlan,
    CompileJob,
    ObjectPair,
    Reach,
    Route,
)
from xsplice_plugins.artefacts.diff import (
    Cause,
    ChangedFunction,
    Delta,
    Difference,
    Extent,
    LineOnly,
    NewItem,
    NoppedRange,
    OldPlace,
    Reference,
    Refusal,
    RemovedItem,
)
from xsplice_plugins.artefacts.facts import ASKED, AlternativeFields, Facts
from xsplice_plugins.artefacts.files import (
    SCHEMA,
    from_json,
    load,
    save,
    to_json,
    write_file,
)
from xsplice_plugins.artefacts.link import (
    Payload,
    PayloadRecord,
    ReplacedFunction,
)
from xsplice_plugins.artefacts.patch import (
    PatchFile,
    PatchSet,
    TouchedFile,
    TouchKind,
)
from xsplice_plugins.artefacts.sign import (
    SignatureCheck,
    SignatureRecord,
    SignatureState,
    SignedPayload,
)
from xsplice_plugins.artefacts.verify import (
    Finding,
    Report,
    Severity,
    Verdict,
    VerifyRequest,
)

__all__ = [
    "ASKED",
    "SCHEMA",
    "AlternativeFields",
    "CapturePlan",
    "Cause",
    "ChangedFunction",
    "CompileJob",
    "Delta",
    "Difference",
    "Extent",
    "Facts",
    "Finding",
    "LineOnly",
    "NewItem",
    "NoppedRange",
    "ObjectPair",
    "OldPlace",
    "PatchFile",
    "PatchSet",
    "Payload",
    "PayloadRecord",
    "Reach",
    "Reference",
    "Refusal",
    "RemovedItem",
    "ReplacedFunction",
    "Report",
    "Route",
    "Severity",
    "SignatureCheck",
    "SignatureRecord",
    "SignatureState",
    "SignedPayload",
    "TouchKind",
    "TouchedFile",
    "Verdict",
    "VerifyRequest",
    "from_json",
    "load",
    "save",
    "to_json",
    "write_file",
]
