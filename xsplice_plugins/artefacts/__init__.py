# SPDX-License-Identifier: Apache-2.0
"""The frozen values that travel from stage to stage, each through a file.

A stage that is up to date does not run, so nothing may be handed over in memory: every artefact
is written to its target's JSON sidecar with `save` and read back with `load`. Paths inside an
artefact are relative to a root that its field names, never absolute: the same inputs give the
same bytes in every folder.
"""

from xsplice_plugins.artefacts.base import BASE_FILE as BASE_FILE
from xsplice_plugins.artefacts.base import BaseRecord as BaseRecord
from xsplice_plugins.artefacts.base import Boots as Boots
from xsplice_plugins.artefacts.base import Likeness as Likeness
from xsplice_plugins.artefacts.base import Retyped as Retyped
from xsplice_plugins.artefacts.base import object_and_name as object_and_name
from xsplice_plugins.artefacts.capture import SAME_LINK as SAME_LINK
from xsplice_plugins.artefacts.capture import SHIFT_LINES as SHIFT_LINES
from xsplice_plugins.artefacts.capture import CapturePlan as CapturePlan
from xsplice_plugins.artefacts.capture import CompileJob as CompileJob
from xsplice_plugins.artefacts.capture import MovedLines as MovedLines
from xsplice_plugins.artefacts.capture import ObjectPair as ObjectPair
from xsplice_plugins.artefacts.capture import Reach as Reach
from xsplice_plugins.artefacts.capture import Route as Route
from xsplice_plugins.artefacts.diff import BootOnly as BootOnly
from xsplice_plugins.artefacts.diff import Cause as Cause
from xsplice_plugins.artefacts.diff import ChangedFunction as ChangedFunction
from xsplice_plugins.artefacts.diff import Delta as Delta
from xsplice_plugins.artefacts.diff import Difference as Difference
from xsplice_plugins.artefacts.diff import Extent as Extent
from xsplice_plugins.artefacts.diff import LineOnly as LineOnly
from xsplice_plugins.artefacts.diff import NewItem as NewItem
from xsplice_plugins.artefacts.diff import NoppedRange as NoppedRange
from xsplice_plugins.artefacts.diff import OldPlace as OldPlace
from xsplice_plugins.artefacts.diff import Reference as Reference
from xsplice_plugins.artefacts.diff import Refusal as Refusal
from xsplice_plugins.artefacts.diff import RemovedItem as RemovedItem
from xsplice_plugins.artefacts.facts import ASKED as ASKED
from xsplice_plugins.artefacts.facts import AlternativeFields as AlternativeFields
from xsplice_plugins.artefacts.facts import Facts as Facts
from xsplice_plugins.artefacts.files import IMAGE_SIZE_MAX as IMAGE_SIZE_MAX
from xsplice_plugins.artefacts.files import PAYLOAD_SIZE_MAX as PAYLOAD_SIZE_MAX
from xsplice_plugins.artefacts.files import SCHEMA as SCHEMA
from xsplice_plugins.artefacts.files import check_replaceable as check_replaceable
from xsplice_plugins.artefacts.files import from_json as from_json
from xsplice_plugins.artefacts.files import load as load
from xsplice_plugins.artefacts.files import plain as plain
from xsplice_plugins.artefacts.files import read_file as read_file
from xsplice_plugins.artefacts.files import save as save
from xsplice_plugins.artefacts.files import to_json as to_json
from xsplice_plugins.artefacts.files import write_file as write_file
from xsplice_plugins.artefacts.link import SUPERSEDED as SUPERSEDED
from xsplice_plugins.artefacts.link import NewVariable as NewVariable
from xsplice_plugins.artefacts.link import Payload as Payload
from xsplice_plugins.artefacts.link import PayloadRecord as PayloadRecord
from xsplice_plugins.artefacts.link import ReplacedFunction as ReplacedFunction
from xsplice_plugins.artefacts.link import record_path as record_path
from xsplice_plugins.artefacts.patch import PatchDigest as PatchDigest
from xsplice_plugins.artefacts.patch import PatchFile as PatchFile
from xsplice_plugins.artefacts.patch import PatchSet as PatchSet
from xsplice_plugins.artefacts.patch import Superseded as Superseded
from xsplice_plugins.artefacts.patch import TouchedFile as TouchedFile
from xsplice_plugins.artefacts.patch import TouchKind as TouchKind
from xsplice_plugins.artefacts.sign import DEVELOPMENT_CERTIFICATE as DEVELOPMENT_CERTIFICATE
from xsplice_plugins.artefacts.sign import DEVELOPMENT_KEY as DEVELOPMENT_KEY
from xsplice_plugins.artefacts.sign import SignatureCheck as SignatureCheck
from xsplice_plugins.artefacts.sign import SignatureRecord as SignatureRecord
from xsplice_plugins.artefacts.sign import SignatureState as SignatureState
from xsplice_plugins.artefacts.sign import SignedPayload as SignedPayload
from xsplice_plugins.artefacts.verify import HOOK_WORD as HOOK_WORD
from xsplice_plugins.artefacts.verify import BaseMatch as BaseMatch
from xsplice_plugins.artefacts.verify import Checks as Checks
from xsplice_plugins.artefacts.verify import Duty as Duty
from xsplice_plugins.artefacts.verify import Finding as Finding
from xsplice_plugins.artefacts.verify import Obligation as Obligation
from xsplice_plugins.artefacts.verify import Report as Report
from xsplice_plugins.artefacts.verify import Severity as Severity
from xsplice_plugins.artefacts.verify import Sources as Sources
from xsplice_plugins.artefacts.verify import State as State
from xsplice_plugins.artefacts.verify import Verdict as Verdict
from xsplice_plugins.artefacts.verify import VerifyRequest as VerifyRequest
from xsplice_plugins.artefacts.verify import check_words as check_words
from xsplice_plugins.artefacts.verify import findings_about as findings_about
from xsplice_plugins.artefacts.verify import findings_asked as findings_asked
from xsplice_plugins.artefacts.verify import state_word as state_word
