# SPDX-License-Identifier: Apache-2.0
"""What the model can answer: a result, Xen's errno, or a hazard.

A ``Refusal`` is what real Xen returns (an errno, at a named step). A ``Hazard`` is what real Xen
does *not* return from: a crash, a panic, memory corruption, or behaviour nobody defined. They are
never mixed; the model invents no errno for undefined behaviour.

Source: xen/include/public/errno.h for the numbers (they are Linux' numbers on every host).
"""

from dataclasses import dataclass

EPERM = 1
ENOENT = 2
E2BIG = 7
EAGAIN = 11
ENOMEM = 12
EACCES = 13
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

ERRNO_NAMES = {
    EPERM: "EPERM",
    ENOENT: "ENOENT",
    E2BIG: "E2BIG",
    EAGAIN: "EAGAIN",
    ENOMEM: "ENOMEM",
    EACCES: "EACCES",
    EFAULT: "EFAULT",
    EBUSY: "EBUSY",
    EEXIST: "EEXIST",
    EINVAL: "EINVAL",
    ENOSPC: "ENOSPC",
    ERANGE: "ERANGE",
    ENOSYS: "ENOSYS",
    ENODATA: "ENODATA",
    EOVERFLOW: "EOVERFLOW",
    EOPNOTSUPP: "EOPNOTSUPP",
    ENOBUFS: "ENOBUFS",
}

#: The C library's words for each number, as the real tool prints them.
ERRNO_TEXTS = {
    EPERM: "Operation not permitted",
    ENOENT: "No such file or directory",
    E2BIG: "Argument list too long",
    EAGAIN: "Resource temporarily unavailable",
    ENOMEM: "Cannot allocate memory",
    EACCES: "Permission denied",
    EFAULT: "Bad address",
    EBUSY: "Device or resource busy",
    EEXIST: "File exists",
    EINVAL: "Invalid argument",
    ENOSPC: "No space left on device",
    ERANGE: "Numerical result out of range",
    ENOSYS: "Function not implemented",
    ENODATA: "No data available",
    EOVERFLOW: "Value too large for defined data type",
    EOPNOTSUPP: "Operation not supported",
    ENOBUFS: "No buffer space available",
}


def errno_name(errno: int) -> str:
    """Name an errno given with either sign; numbers a hook made up keep their digits."""
    return ERRNO_NAMES.get(abs(errno), f"E{abs(errno)}")


def errno_text(errno: int) -> str:
    """Give the C library's words for an errno of either sign."""
    return ERRNO_TEXTS.get(abs(errno), f"Unknown error {abs(errno)}")


class Verdict(Exception):  # noqa: N818  # an answer of the model, not an error of the program
    """Base of the two ways in which the model stops a request."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


class Refusal(Verdict):
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


class Hazard(Verdict):
    """Real Xen crashes, panics, hangs or corrupts memory at this step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a hypercall returned.

    Attributes:
        code: zero or a positive result, or a negative errno.
        step: the last gate reached; the refusing one where ``code`` is negative.
        reason: empty on success.
    """

    code: int
    step: str
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the hypervisor accepted the request (its work may still be outstanding)."""
        return self.code >= 0
