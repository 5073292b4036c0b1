# SPDX-License-Identifier: Apache-2.0
"""What the model can answer: a result, Xen's errno, or a hazard.

A ``XenRefusal`` is what real Xen returns (an errno, at a named step). A ``Hazard`` is what real Xen
does *not* return from: a crash, a panic, memory corruption, or behaviour nobody defined. What only
a running host can answer is ``Unknown``. They are never mixed; the model invents no errno for
undefined behaviour, and no crash for what it cannot see.

Source: xen/include/public/errno.h for the numbers (they are Linux' numbers on every host).
"""

from msgspec import Struct

EPERM = 1
ENOENT = 2
E2BIG = 7
EAGAIN = 11
ENOMEM = 12
EFAULT = 14
EBUSY = 16
EEXIST = 17
EINVAL = 22
ENOSPC = 28
ERANGE = 34
ENOSYS = 38
ENODATA = 61
EOVERFLOW = 75
EOPNOTSUPP = 95
ENOBUFS = 105

#: Name and words of each number, the words as the C library has them and the real tool prints them.
_ERRNOS = {
    EPERM: ("EPERM", "Operation not permitted"),
    ENOENT: ("ENOENT", "No such file or directory"),
    E2BIG: ("E2BIG", "Argument list too long"),
    EAGAIN: ("EAGAIN", "Resource temporarily unavailable"),
    ENOMEM: ("ENOMEM", "Cannot allocate memory"),
    EFAULT: ("EFAULT", "Bad address"),
    EBUSY: ("EBUSY", "Device or resource busy"),
    EEXIST: ("EEXIST", "File exists"),
    EINVAL: ("EINVAL", "Invalid argument"),
    ENOSPC: ("ENOSPC", "No space left on device"),
    ERANGE: ("ERANGE", "Numerical result out of range"),
    ENOSYS: ("ENOSYS", "Function not implemented"),
    ENODATA: ("ENODATA", "No data available"),
    EOVERFLOW: ("EOVERFLOW", "Value too large for defined data type"),
    EOPNOTSUPP: ("EOPNOTSUPP", "Operation not supported"),
    ENOBUFS: ("ENOBUFS", "No buffer space available"),
}


def errno_name(errno: int) -> str:
    """Name an errno given with either sign; numbers a hook made up keep their digits."""
    return _ERRNOS.get(abs(errno), (f"E{abs(errno)}", ""))[0]


def errno_text(errno: int) -> str:
    """Give the C library's words for an errno of either sign."""
    return _ERRNOS.get(abs(errno), ("", f"Unknown error {abs(errno)}"))[1]


class Stopped(Exception):  # noqa: N818  # an answer of the model, not an error of the program
    """Base of the two ways in which the model stops a request."""

    errno = 0

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


class XenRefusal(Stopped):
    """Real Xen returns an errno from this step.

    Attributes:
        errno: the positive number; the hypercall returns its negative.
        step: the gate that refused, one of the names in ``loader.py`` and ``core.py``.
        reason: one sentence for a person.
    """

    def __init__(self, errno: int, step: str, reason: str) -> None:
        super().__init__(step, reason)
        self.errno = errno

    @property
    def code(self) -> int:
        """The hypercall's return value, negative."""
        return -self.errno


class Hazard(Stopped):
    """Real Xen crashes, panics, hangs or corrupts memory at this step."""


class Unknown(Hazard):
    """The model cannot tell what real Xen does at this step: neither accepted nor a hazard.

    It stops the model as a hazard does, because nothing that would follow is known. The reason is
    ``depends on NAME`` (memory that boot has written) or ``needs ...`` (what only a host has).
    """


class HostUnknown(Unknown):
    """The code at hand was run, and what it does depends on values that only a host has.

    Attributes:
        payload: whose hook it is; "" if it is none.
    """

    payload = ""


class Answer(Struct, frozen=True, kw_only=True):
    """What a hypercall returned."""

    code: int  #: zero or a positive result, or a negative errno
    step: str  #: the last gate reached; the refusing one where ``code`` is negative
    reason: str = ""  #: empty on success

    @property
    def accepted(self) -> bool:
        """Whether the hypervisor accepted the request (its work may still be outstanding)."""
        return self.code >= 0
