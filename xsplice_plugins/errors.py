# SPDX-License-Identifier: Apache-2.0
"""Every error this project raises on bad input, and the exit status that each leads to.

A message has three parts: the subject (object, symbol, source line where known), what is wrong,
and what to do next. A broken invariant of our own is an ``assert``, never one of these.
"""

import errno

#: What a run ends with, the same through ``scons`` and ``xsplice``.
STATUSES = {
    0: "done, or proved",
    2: "wrong use, or unreadable input",
    3: "no functional change: nothing needs a live patch",
    4: "refused: the change cannot be live patched",
    5: "not proved: a hazard, a refusal by the hypervisor, a disagreement, or something unchecked",
    6: "the machine lacks something: a program, room on a disk, a permission",
}

#: What the system says where a disk, or what stands for the standard output, takes no more.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class XspliceError(Exception):
    """Base of all errors that bad input or a broken environment can cause."""

    #: Exit status for this class of error, through every face: one of `STATUSES`.
    exit_status = 2


class ConfigError(XspliceError):
    """A setting, an argument or a file does not fit the job."""


class MachineError(XspliceError):
    """The machine lacks a program, room on its disk, or a permission to write."""

    exit_status = 6


class PatchError(XspliceError):
    """A source patch cannot be read or does not apply."""


class NoFunctionalChangeError(XspliceError):
    """The patch changes nothing that the compiler sees; there is nothing to replace."""

    exit_status = 3


class CaptureError(XspliceError):
    """The tree's objects cannot be compiled again as they were."""


class ElfError(XspliceError):
    """An object file, payload or image is not what it should be."""


class ElfFormatError(ElfError):
    """The bytes do not have the structure that the ELF specification asks for."""


class RelocationError(ElfError):
    """A relocation is unknown, out of bounds or overflows."""


class DiffError(XspliceError):
    """Two objects cannot be compared."""


class RefusedError(XspliceError):
    """A change was understood, and cannot be live patched."""

    exit_status = 4


class LinkError(XspliceError):
    """No payload can be made from the deltas."""


class SignError(XspliceError):
    """A payload cannot be signed, or a signature is not good."""


class VerifyError(XspliceError):
    """A payload was not proved good."""

    exit_status = 5


class PluginError(XspliceError):
    """A plugin is missing, ambiguous, too new, or failed."""


class NoProviderError(PluginError):
    """No plugin answers a hook that needs an answer."""


class AmbiguousPluginError(PluginError):
    """Several plugins could do a job and none was chosen."""


class HookApiError(PluginError):
    """A plugin was written for another version of the hooks."""
