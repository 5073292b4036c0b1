# SPDX-License-Identifier: Apache-2.0
"""The signature check as a policy of the core: off as in every release, or enforced.

No release of Xen checks signatures; docs/misc/livepatch.pandoc in Xen's tree plans it. The model
takes the check from outside, because parsing certificates is another stage's work.
"""

from collections.abc import Callable

from msgspec import Struct

from xsplice_plugins.hypervisor.facts.verdicts import EPERM, XenRefusal

STEP = "signature"


class SignatureVerdict(Struct, frozen=True, kw_only=True):
    """What a checker found."""

    is_accepted: bool  #: signed by a key of the ring, unaltered, in date
    reason: str  #: who signed, or what is wrong
    #: length of the ELF part in front of the signature; None means all of it
    payload_bytes: int | None = None


SignatureChecker = Callable[[bytes], SignatureVerdict]


class SignaturePolicy(Struct, frozen=True, kw_only=True):
    """Whether uploads must be signed."""

    checker: SignatureChecker | None = None  #: judges the whole file; None means the check is off

    def check(self, data: bytes) -> bytes:
        """Give the bytes to load.

        Args:
            data: the whole uploaded file.

        Returns:
            The file without its signature where the checker says where that starts; the loader
            ignores trailing bytes anyway.

        Raises:
            XenRefusal: -EPERM, the policy is enforced and the signature is not good.
        """
        if self.checker is None:
            return data
        verdict = self.checker(data)
        if not verdict.is_accepted:
            raise XenRefusal(EPERM, STEP, verdict.reason)
        return data if verdict.payload_bytes is None else data[: verdict.payload_bytes]


OFF = SignaturePolicy()
