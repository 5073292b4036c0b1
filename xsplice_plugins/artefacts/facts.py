# SPDX-License-Identifier: Apache-2.0
"""What a build's own headers define, as one value."""

from __future__ import annotations

from msgspec import Struct

from xsplice_plugins.artefacts.files import SCHEMA


class AlternativeFields(Struct, frozen=True, kw_only=True):
    """``struct alt_instr`` of one machine: its size and where its members lie, in bytes."""

    size_bytes: int
    site: int  #: PC-relative pointer to the instructions that are replaced
    replacement: int  #: PC-relative pointer to the replacement
    feature: int  #: number of the CPU feature, two bytes
    site_length: int  #: one byte
    replacement_length: int  #: one byte


class Facts(Struct, frozen=True, kw_only=True):
    """Sizes, offsets, versions and limits that Xen's headers define for one build.

    Asked of the tree by compiling a probe, or, where only an image is there, taken from the list
    of the nearest release that is known. What differs in the *behaviour* of the loader is no fact
    of the headers and does not stand here.

    Sources, in Xen's tree: include/public/sysctl.h, include/xen/livepatch.h, include/xen/symbols.h,
    arch/*/include/asm/{livepatch,alternative,bug,cpufeature}.h.
    """

    schema: int = SCHEMA
    origin: str  #: "asked of the tree", or which list was taken and why
    release: str  #: e.g. ``4.17.5``
    machine: int  #: ``e_machine``
    record_version: int  #: LIVEPATCH_PAYLOAD_VERSION
    record_size_bytes: int  #: sizeof(struct livepatch_func)
    expect_length_max: int  #: bytes that an expectation can hold
    saved_length_max: int  #: LIVEPATCH_OPAQUE_SIZE: bytes that are saved for a revert
    name_size_bytes: int  #: XEN_LIVEPATCH_NAME_SIZE, its NUL included
    symbol_length_max: int  #: KSYM_NAME_LEN
    file_size_max: int  #: LIVEPATCH_MAX_SIZE, in bytes
    sysctl_version: int  #: XEN_SYSCTL_INTERFACE_VERSION
    jump_size_bytes: int  #: ARCH_PATCH_INSN_SIZE
    alternative: AlternativeFields
    feature_words: int  #: 32-bit words of the bitmap that alternatives index; 0 where not a bitmap
    bug_frame_size_bytes: int  #: of a frame without a message
    bug_message_frame_size_bytes: int  #: of a frame with one
    bug_displacement_bits: int  #: BUG_DISP_WIDTH; 0 where line numbers have a field of their own
    bug_instruction: str  #: hex of what BUG() puts into the code; "" where it has none of its own
    ex_entry_size_bytes: int  #: sizeof(struct exception_table_entry); 0 without such tables
    alt_call_entry_size_bytes: int  #: sizeof(struct alt_call); 0 before 4.21

    @property
    def is_asked(self) -> bool:
        """Tell whether the tree itself was asked."""
        return self.origin == ASKED


ASKED = "asked of the tree"
