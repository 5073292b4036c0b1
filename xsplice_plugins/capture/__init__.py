# SPDX-License-Identifier: Apache-2.0
"""How was this tree compiled, and what does this patch touch?"""

from xsplice_plugins.capture.apart import apart, pair_apart, shares_sections
from xsplice_plugins.capture.compiling import compile_object, complaints
from xsplice_plugins.capture.constants import settle_constants
from xsplice_plugins.capture.copying import copy_tree, files_of_rule, origin_of, prepare_copy
from xsplice_plugins.capture.digests import InputDigests, patched_content, tree_state
from xsplice_plugins.capture.edited import words_edited
from xsplice_plugins.capture.exposing import brought_by, exposed_by, is_read
from xsplice_plugins.capture.guarded import end_makes
from xsplice_plugins.capture.instances import made_at
from xsplice_plugins.capture.layouts import LayoutCheck, compare_layouts
from xsplice_plugins.capture.making import make_route
from xsplice_plugins.capture.pairing import check_drift, differing, pair_objects
from xsplice_plugins.capture.planning import plan
from xsplice_plugins.capture.reaching import (
    capture_reached,
    compile_pair,
    forget_texts,
)
from xsplice_plugins.capture.reads import Reads, load_reads, save_reads, without_patched
from xsplice_plugins.capture.shifting import compile_shifted, lines_moved
from xsplice_plugins.capture.superseding import doubts_between, doubts_of_older
from xsplice_plugins.capture.typed import settle_layouts
from xsplice_plugins.capture.whole import (
    lay_out_copy,
    make_again,
    make_copy,
    put_patched,
    read_copy,
    recorded_job,
)

__all__ = [
    "InputDigests",
    "LayoutCheck",
    "Reads",
    "apart",
    "brought_by",
    "capture_reached",
    "check_drift",
    "compare_layouts",
    "compile_object",
    "compile_pair",
    "compile_shifted",
    "complaints",
    "copy_tree",
    "differing",
    "doubts_between",
    "doubts_of_older",
    "end_makes",
    "exposed_by",
    "files_of_rule",
    "forget_texts",
    "is_read",
    "lay_out_copy",
    "lines_moved",
    "load_reads",
    "made_at",
    "make_again",
    "make_copy",
    "make_route",
    "origin_of",
    "pair_apart",
    "pair_objects",
    "patched_content",
    "plan",
    "prepare_copy",
    "put_patched",
    "read_copy",
    "recorded_job",
    "save_reads",
    "settle_constants",
    "settle_layouts",
    "shares_sections",
    "tree_state",
    "without_patched",
    "words_edited",
]
