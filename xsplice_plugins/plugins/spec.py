# SPDX-License-Identifier: Apache-2.0
"""The contract between the stages and their plugins: one hook per arrow of the data flow.

Hooks are called with keyword arguments; a plugin asks for the arguments it needs. Errors are
`XspliceError` subclasses; anything else is reported as a fault of the plugin. What else is to be
known of a hook stands in one table, `HOOKS`.
"""

# A specification has no body:
# mypy: disable-error-code="empty-body"
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pluggy
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from xsplice_plugins.artefacts import (
        Delta,
        Facts,
        Finding,
        ObjectPair,
        Payload,
        PayloadRecord,
        SignatureCheck,
        SignedPayload,
        VerifyRequest,
    )

NAME = "xsplice"  #: project name, marker name and entry-point group
HOOK_API = (1, 1)  #: (major, minor); a plugin states what it needs as ``xsplice_api``

hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


class Config(Struct, frozen=True, kw_only=True):
    """What every hook may know of the run.

    Paths are absolute. ``options`` holds settings of vendors' plugins, given as
    ``OPTIONS="key=value ..."`` or ``--option key=value``; a plugin lists the keys that it reads in
    its attribute ``xsplice_options``, and a key that no plugin lists is refused.
    """

    release: str = ""  #: the hypervisor's release
    loader: str = ""  #: a vendor's loader that takes other payloads than upstream's; "" for that
    facts: Facts | None = None  #: what its headers define; ``None``: the nearest list that is known
    profile: str = "xen"  #: the differ's table of special sections
    image: Path | None = None  #: xen-syms
    differ: str = "semantic"
    linker: str = "livepatch"
    signer: str = "cms"
    verifiers: tuple[str, ...] = ("model",)  #: names of plugins; the model is always asked
    key: Path | None = None
    certificate: Path | None = None
    depends: tuple[Path, ...] = ()  #: payloads that the new one stacks on, bottom first
    supersedes: tuple[Path, ...] = ()  #: payloads that `replace` puts it in the place of
    accept: tuple[str, ...] = ()  #: what a person takes on their word: ``LAYOUT:domain.member``
    releases_compared: tuple[str, ...] = ()  #: further releases to judge a payload against
    expected: Path | None = None  #: a regression hot-patch's ``expected.json``
    build_dir: Path | None = None  #: where a development key may be made
    options: tuple[tuple[str, str], ...] = ()


@hookspec(historic=True)
def xsplice_startup(config: Config) -> None:
    """Hear the configuration once, before any other hook.

    Args:
        config: Settings of the run.
    """


@hookspec(firstresult=True)
def xsplice_diff_objects(
    pair: ObjectPair,
    baseline: bytes,
    new: bytes,
    config: Config,
    shifted: Callable[[], bytes | None] | None,
) -> Delta | None:
    """Say what changed in meaning between two versions of one object.

    Called once per captured pair whose content differs, on the differ chosen by name.

    Args:
        pair: The pair's record.
        baseline: The object before the patch.
        new: The object after it.
        config: Settings of the run.
        shifted: Compiles the new side once more with all lines `artefacts.SHIFT_LINES` further
            down, which shows what is a line number; it answers ``None`` if that fails. ``None``
            where the sources are not at hand.

    Returns:
        The delta; ``None`` if this differ does not know such objects.
    """


@hookspec
def xsplice_check_delta(delta: Delta, config: Config) -> tuple[Finding, ...]:
    """Add findings about one delta; a finding of severity ERROR stops the run.

    Args:
        delta: What changed in one object.
        config: Settings of the run.

    Returns:
        Findings; an empty tuple if there is nothing to say.
    """


@hookspec(firstresult=True)
def xsplice_link_payload(
    name: str,
    deltas: tuple[Delta, ...],
    objects: tuple[bytes, ...],
    image: bytes,
    config: Config,
) -> Payload | None:
    """Make one payload from all deltas of a fix.

    Args:
        name: Name of the fix.
        deltas: In order of ``object_path``; none of them refused. One that changes nothing names
            with its references what became global.
        objects: The new object of each delta, in the same order.
        image: The whole ``xen-syms`` file.
        config: Settings of the run.

    Returns:
        The unsigned payload with its record; ``None`` to leave it to another linker.
    """


@hookspec(firstresult=True)
def xsplice_sign_payload(
    data: bytes, record: PayloadRecord, config: Config
) -> SignedPayload | None:
    """Sign a payload; called on the signer chosen by name, as the last write.

    Args:
        data: The unsigned payload.
        record: What it holds.
        config: Settings of the run: key and certificate among them.

    Returns:
        The file to be shipped; its first bytes must be ``data``, unchanged.
    """


@hookspec(firstresult=True)
def xsplice_check_signature(
    data: bytes, certificate: Path | None, config: Config
) -> SignatureCheck | None:
    """Check the signature of a written file; called on the signer chosen by name.

    Args:
        data: The whole file as it would be uploaded.
        certificate: PEM file of the certificate to trust; ``None`` if there is none.
        config: Settings of the run.

    Returns:
        What the check came to; ``None`` if the signer cannot check.
    """


@hookspec
def xsplice_verify_payload(
    data: bytes, record: PayloadRecord, request: VerifyRequest, config: Config
) -> tuple[Finding, ...]:
    """Add findings about a signed payload; called on the verifiers chosen by name.

    The built-in model is always among them. All findings are kept, none is removed.

    Args:
        data: The whole signed file.
        record: What it holds.
        request: Image, release, certificate, what lies beneath, and tree and patch if at hand.
        config: Settings of the run.

    Returns:
        Findings; an empty tuple if there is nothing to say.
    """


class Hook(Struct, frozen=True, kw_only=True):
    """What callers must know of a hook besides its arguments."""

    kind: Literal["historic", "chosen", "collecting"]  #: as in the table of ``docs/hooks.md``
    role: str  #: what messages call a plugin that implements it
    setting: str = ""  #: the field of `Config` that names who is asked; "" asks everyone
    variable: str = ""  #: what users set that field with
    answer: str = ""  #: class of the answer by name, so that the artefacts are not imported for it
    is_check: bool = False  #: others rely on the answers: everyone may add, nobody may wrap


HOOKS = {
    "xsplice_startup": Hook(kind="historic", role="listener"),
    "xsplice_diff_objects": Hook(
        kind="chosen",
        role="differ",
        setting="differ",
        variable="DIFFER=",
        answer="Delta",
        is_check=True,  # its refusals are what a run is trusted for
    ),
    "xsplice_check_delta": Hook(
        kind="collecting", role="check of deltas", answer="Finding", is_check=True
    ),
    "xsplice_link_payload": Hook(
        kind="chosen",
        role="linker",
        setting="linker",
        variable="LINKER=",
        answer="Payload",
        is_check=True,
    ),
    "xsplice_sign_payload": Hook(
        kind="chosen", role="signer", setting="signer", variable="SIGNER=", answer="SignedPayload"
    ),
    "xsplice_check_signature": Hook(
        kind="chosen",
        role="signer that can check",
        setting="signer",
        variable="SIGNER=",
        answer="SignatureCheck",
        is_check=True,
    ),
    "xsplice_verify_payload": Hook(
        kind="collecting",
        role="verifier",
        setting="verifiers",
        variable="ON=",
        answer="Finding",
        is_check=True,
    ),
}
