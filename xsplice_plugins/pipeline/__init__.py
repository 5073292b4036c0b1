# SPDX-License-Identifier: Apache-2.0
"""The one way through, from patch or hand-written source to the verdict, with every gate.

`run` says for which hypervisor, with which settings and plugins; `source` reads a fix, plans and
captures it; `stack` holds it against payloads beneath; `diffing` says what changed, `payload` links
and signs; `basing`, `checking`, `unseen` and `knowing` compare tree, image and payload; `judge`
asks the verifiers, `obligations` concludes, `reports` keeps the outcome; `outputs` says where all
this lies.
SCons' nodes, the command line and make in Xen's tree call these functions and nothing behind them.
"""

from xsplice_plugins.capture import apart
from xsplice_plugins.check.results import NewObject
from xsplice_plugins.pipeline.basing import BaseObjects, match_base, objects_of_tree
from xsplice_plugins.pipeline.checking import check_rebuild, shares_sections
from xsplice_plugins.pipeline.diffing import diff_pair
from xsplice_plugins.pipeline.inputs import check_inputs
from xsplice_plugins.pipeline.judge import verify_payload
from xsplice_plugins.pipeline.knowing import unknown_findings
from xsplice_plugins.pipeline.obligations import conclude
from xsplice_plugins.pipeline.outputs import MADE, STANDS, check_outputs, refuse_overwriting
from xsplice_plugins.pipeline.payload import (
    link_payload,
    refusal_text,
    sign_payload,
    write_signed,
)
from xsplice_plugins.pipeline.reports import is_proved, save_report, save_report_as
from xsplice_plugins.pipeline.run import (
    Base,
    Run,
    base_of_image,
    base_of_tree,
    check_outside,
    open_run,
    require_room,
)
from xsplice_plugins.pipeline.source import (
    Sides,
    bare_pair,
    build_handmade,
    capture_made,
    capture_pair,
    capture_reached,
    compile_shifted,
    handmade_deltas,
    handmade_set,
    plan_fix,
    read_fix,
)
from xsplice_plugins.pipeline.stack import (
    BY_HAND,
    Stack,
    brought_again,
    check_payloads,
    read_stack,
)
from xsplice_plugins.pipeline.unseen import check_unchanged, unseen_findings

__all__ = [
    "BY_HAND",
    "MADE",
    "STANDS",
    "Base",
    "BaseObjects",
    "NewObject",
    "Run",
    "Sides",
    "Stack",
    "apart",
    "bare_pair",
    "base_of_image",
    "base_of_tree",
    "brought_again",
    "build_handmade",
    "capture_made",
    "capture_pair",
    "capture_reached",
    "check_inputs",
    "check_outputs",
    "check_outside",
    "check_payloads",
    "check_rebuild",
    "check_unchanged",
    "compile_shifted",
    "conclude",
    "diff_pair",
    "handmade_deltas",
    "handmade_set",
    "is_proved",
    "link_payload",
    "match_base",
    "objects_of_tree",
    "open_run",
    "plan_fix",
    "read_fix",
    "read_stack",
    "refusal_text",
    "refuse_overwriting",
    "require_room",
    "save_report",
    "save_report_as",
    "shares_sections",
    "sign_payload",
    "unknown_findings",
    "unseen_findings",
    "verify_payload",
    "write_signed",
]
