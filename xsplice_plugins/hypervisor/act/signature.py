# SPDX-License-Identifier: Apache-2.0
"""The signature check as a policy of the core: off as in every release, or enforced.

No release of Xen checks signatures (specification section 15); the 2015 plan wants it. The model
takes the check from outside, because parsing certificates is another stage's work.
"""

from collections.abc import Callable
from dataclasses import dataclass

from xsplice_plugins.hypervisor.facts.verdicts import EPERM, Refusal

STEP = "signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureVerdict:
    """What a checker found.

    Attributes:
        is_accepted: signed by a key of the ring, unaltered, in date.
        reason: who signed, or what is wrong.
        payload_bytes: length of the ELF part in front of the signature; None means all of it.
    """

    is_accepted: bool
    reason: str
    payload_bytes: int | None = None


SignatureChecker = Callable[[bytes], SignatureVerdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignaturePolicy:
    """Whether uploads must be signed.

    Attributes:
        checker: judges the whole file; None means the check is off.
    """

    checker: SignatureChecker | None = None

    def check(self, data: bytes) -> bytes:
        """Give the bytes to load.

        Args:
            data: the whole uploaded file.

        Returns:
            The file without its signature where the checker says where that starts; the loader
            ignores trailing bytes anyway.

        Raises:
            Refusal: -EPERM, the policy is enforced and the signature is not good.
        """
        if self.checker is None:
            return data
        verdict = self.checker(data)
        if not verdict.is_accepted:
            raise Refusal(EPERM, STEP, verdict.reason)
        return data if verdict.payload_bytes is None else data[: verdict.payload_bytes]


OFF = SignaturePolicy()
