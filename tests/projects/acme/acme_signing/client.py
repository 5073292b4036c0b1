# SPDX-License-Identifier: Apache-2.0
"""Talk to the token through its program: the key stays inside, digests go in, signatures out."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsplice_plugins.errors import SignError

if TYPE_CHECKING:
    from xsplice_plugins import Config

SECONDS_MAX = 30  #: a token that takes longer has lost its connection
OPTIONS = {"acme.hsm": "acme-hsm", "acme.store": "", "acme.key_id": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Where the token is and which of its keys signs."""

    program: str
    store: str
    key_id: int

    def sign(self, message: bytes) -> bytes:
        """Return the token's signature over a message.

        Raises:
            SignError: The program is missing, takes too long, or refuses.
        """
        return self._run("sign", message)

    def certificate(self) -> bytes:
        """Return the key's certificate as PEM.

        Raises:
            SignError: As for `sign`.
        """
        return self._run("certificate", b"")

    def _run(self, verb: str, message: bytes) -> bytes:
        program = shutil.which(self.program)
        if program is None:
            raise SignError(
                f"acme: the program {self.program} is not installed; install it, or name it with "
                "OPTIONS=acme.hsm=/path/to/acme-hsm"
            )
        words = [program, verb, "--store", self.store, "--key-id", str(self.key_id)]
        try:
            done = subprocess.run(
                words, input=message, capture_output=True, check=False, timeout=SECONDS_MAX
            )
        except subprocess.TimeoutExpired as error:
            raise SignError(
                f"acme: the token gave no answer in {SECONDS_MAX} s; is it plugged in?"
            ) from error
        if done.returncode != 0 or not done.stdout:
            said = done.stderr.decode(errors="replace").strip() or "no reason given"
            raise SignError(f"acme: the token refuses to {verb} ({said})")
        return done.stdout


def token_of(config: Config) -> Token:
    """Return the token that ``OPTIONS=`` describes.

    Raises:
        SignError: An option is unknown, missing, or no number where one is needed.
    """
    ours = {name: value for name, value in config.options if name.startswith("acme.")}
    unknown = sorted(set(ours) - set(OPTIONS))
    if unknown:
        raise SignError(
            f"acme: unknown option {unknown[0]}; known are {', '.join(sorted(OPTIONS))}"
        )
    chosen = OPTIONS | ours
    if not chosen["acme.store"]:
        raise SignError("acme: nothing says where the token is; give OPTIONS=acme.store=/path")
    if not chosen["acme.key_id"].isdecimal():
        raise SignError(f"acme: acme.key_id is {chosen['acme.key_id']!r}; give the key's number")
    return Token(
        program=chosen["acme.hsm"], store=chosen["acme.store"], key_id=int(chosen["acme.key_id"])
    )
