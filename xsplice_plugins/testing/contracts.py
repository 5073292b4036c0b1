# SPDX-License-Identifier: Apache-2.0
"""What every signer and every differ must do, as tests to inherit.

A vendor writes::

    class TestAcme(SignerContract):
        plugin = acme_signing.plugin
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from msgspec import structs

from xsplice_plugins import artefacts
from xsplice_plugins.artefacts import (
    Delta,
    PayloadRecord,
    SignatureCheck,
    SignatureRecord,
    SignatureState,
    SignedPayload,
)
from xsplice_plugins.elf.types import EM_AARCH64
from xsplice_plugins.errors import XspliceError
from xsplice_plugins.plugins.manager import build_plugin_manager, call, chosen, startup
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing.samples import sample_objects, sample_payload

if TYPE_CHECKING:
    import pluggy

_Sign = Callable[..., SignedPayload]
_Check = Callable[[bytes], SignatureCheck]
_Diff = Callable[..., Delta]


class _Contract:
    """What the contracts share: a fresh manager with the plugin under test in it."""

    plugin: ClassVar[object] = None  #: a module, an instance, or the name of an installed plugin
    name: ClassVar[str] = ""  #: what the plugin is chosen by
    __test__ = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.plugin is not None

    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        """Return the settings of the run; override it where keys or options are needed."""
        return Config(build_dir=tmp_path / "build")

    @pytest.fixture
    def manager(self, config: Config) -> pluggy.PluginManager:
        """Return a manager in which the plugin takes part."""
        is_installed = isinstance(self.plugin, str)
        pm = build_plugin_manager(plugins=(self.plugin,), environ={}, entry_points=is_installed)
        startup(pm, config)
        return pm

    @pytest.fixture
    def ask(self, manager: pluggy.PluginManager, config: Config) -> Callable[..., Any]:
        """Return a function that calls a hook on the plugin under test."""

        def ask(hook_name: str, **arguments: object) -> Any:
            return call(chosen(manager, hook_name, self.name), **arguments, config=config)

        return ask


class SignerContract(_Contract):
    """The tests of a signer."""

    #: What the check says of a file that this signer has just made.
    state_good: ClassVar[SignatureState] = SignatureState.GOOD

    @pytest.fixture
    def certificate(self) -> Path | None:
        """Return the PEM file to trust; override it if the signer does not find its own."""
        return None

    @pytest.fixture
    def data(self) -> bytes:
        """Return a payload."""
        return sample_payload()[0]

    @pytest.fixture
    def sign(self, ask: Callable[..., Any]) -> _Sign:
        """Return a function that signs bytes, by default with the record that fits them."""

        def sign(data: bytes, record: PayloadRecord | None = None) -> SignedPayload:
            if record is None:
                digest = hashlib.sha256(data).hexdigest()
                _, sample = sample_payload()
                record = structs.replace(sample, digest=digest, size_bytes=len(data))
            signed = ask("xsplice_sign_payload", data=data, record=record)
            assert isinstance(signed, SignedPayload), "the chosen signer must answer"
            return signed

        return sign

    @pytest.fixture
    def check(self, ask: Callable[..., Any], certificate: Path | None) -> _Check:
        """Return a function that checks a file's bytes."""

        def check(data: bytes) -> SignatureCheck:
            answer = ask("xsplice_check_signature", data=data, certificate=certificate)
            assert isinstance(answer, SignatureCheck), "a signer must be able to check"
            return answer

        return check

    def test_a_signed_payload_passes_the_signers_own_check(
        self, data: bytes, sign: _Sign, check: _Check
    ) -> None:
        """Round trip: what was signed is the front of the file, and the check finds its end."""
        signed = sign(data)
        assert signed.data.startswith(data), "the payload itself must not be changed"
        answer = check(signed.data)
        assert answer.state is self.state_good, answer.reason
        assert answer.payload_size_bytes == len(data)

    def test_the_record_tells_what_was_signed(self, data: bytes, sign: _Sign) -> None:
        """The record names the signer and both digests, and survives its JSON file."""
        signed = sign(data)
        assert signed.record.signer == self.name
        assert signed.record.digest_payload == hashlib.sha256(data).hexdigest()
        assert signed.record.digest_signed == hashlib.sha256(signed.data).hexdigest()
        text = artefacts.to_json(signed.record)
        assert artefacts.from_json(text, SignatureRecord, "record") == signed.record

    def test_signing_twice_gives_the_same_bytes_or_says_so(self, data: bytes, sign: _Sign) -> None:
        """A signer whose bytes differ from run to run must declare it."""
        first, second = sign(data), sign(data)
        if first.record.is_deterministic:
            assert first.data == second.data
        assert first.record.is_deterministic == second.record.is_deterministic

    @pytest.mark.parametrize("case", ["empty", "text", "cut short", "followed by bytes"])
    def test_foreign_input_is_refused(self, data: bytes, sign: _Sign, case: str) -> None:
        """Only one complete payload is signed, nothing else."""
        foreign = {
            "empty": b"",
            "text": b"#!/bin/sh\nexit 0\n",
            "cut short": data[:-1],
            "followed by bytes": data + b"\0",
        }[case]
        with pytest.raises(XspliceError):
            sign(foreign)

    def test_a_signed_payload_is_not_signed_again(self, data: bytes, sign: _Sign) -> None:
        """Two signatures on one file: the loader's side would see only one of them."""
        once = sign(data).data
        if once != data:
            with pytest.raises(XspliceError):
                sign(once)

    def test_the_payload_of_another_record_is_refused(self, data: bytes, sign: _Sign) -> None:
        """What is signed must be what the link stage speaks of."""
        _, other = sample_payload(name="other")
        with pytest.raises(XspliceError):
            sign(data, other)

    def test_an_unsigned_payload_is_called_unsigned(self, data: bytes, check: _Check) -> None:
        """A stripped signature must not pass for anything else."""
        assert check(data).state is SignatureState.UNSIGNED

    def test_a_changed_payload_is_not_good(self, data: bytes, sign: _Sign, check: _Check) -> None:
        """One bit of code is enough."""
        signed = bytearray(sign(data).data)
        signed[data.index(b"\xb8\x01") + 1] ^= 2
        assert check(bytes(signed)).state is not SignatureState.GOOD

    def test_a_file_cut_short_is_not_good(self, data: bytes, sign: _Sign, check: _Check) -> None:
        """An upload that stopped early is found, wherever it stopped."""
        signed = sign(data).data
        for size in range(len(data) + 1, len(signed), max(1, (len(signed) - len(data)) // 64)):
            assert check(signed[:size]).state is SignatureState.BAD, f"cut at {size}"

    def test_the_signature_of_another_payload_is_not_good(
        self, data: bytes, sign: _Sign, check: _Check
    ) -> None:
        """A signature must not be moved to another payload."""
        other, _ = sample_payload(name="other")
        moved = other + sign(data).data[len(data) :]
        assert check(moved).state is not SignatureState.GOOD


class DifferContract(_Contract):
    """The tests of a differ."""

    @pytest.fixture
    def diff(self, ask: Callable[..., Any]) -> _Diff:
        """Return a function that compares the objects of `sample_objects`."""

        def diff(**sample: int) -> Delta:
            pair, baseline, new = sample_objects(**sample)
            delta = ask("xsplice_diff_objects", pair=pair, baseline=baseline, new=new, shifted=None)
            assert isinstance(delta, Delta), "the differ must know plain x86-64 objects"
            return delta

        return diff

    def test_equal_objects_have_no_delta(self, diff: _Diff) -> None:
        """Nothing is replaced that has not changed."""
        assert diff(answer_after=1).is_empty

    def test_a_changed_function_is_never_dropped(self, diff: _Diff) -> None:
        """A change is replaced or refused by name; it does not vanish."""
        delta = diff()
        names = [item.name for item in delta.changed] + [item.name for item in delta.refused]
        assert any("answer" in name for name in names), names

    def test_the_delta_names_the_object_it_speaks_of(self, diff: _Diff) -> None:
        """The link stage checks the digest before it takes bytes."""
        pair, _, new = sample_objects()
        delta = diff()
        assert delta.digest_new == hashlib.sha256(new).hexdigest()
        assert (delta.object_path, delta.source_path) == (pair.object_path, pair.source_path)

    def test_the_delta_is_the_same_every_time(self, diff: _Diff) -> None:
        """Later stages run again only when something changed."""
        assert artefacts.to_json(diff()) == artefacts.to_json(diff())

    def test_the_delta_survives_its_file(self, diff: _Diff) -> None:
        """What the link stage loads is what the differ returned."""
        delta = diff()
        assert artefacts.from_json(artefacts.to_json(delta), Delta, "delta") == delta

    def test_foreign_input_is_refused(self, ask: Callable[..., Any]) -> None:
        """Bytes that are no object are an error, not an empty delta."""
        pair, baseline, _ = sample_objects()
        with pytest.raises(XspliceError):
            ask(
                "xsplice_diff_objects", pair=pair, baseline=baseline, new=b"no object", shifted=None
            )

    def test_objects_of_two_machines_are_refused(self, diff: _Diff) -> None:
        """A pair must have been compiled the same way."""
        with pytest.raises(XspliceError):
            diff(machine_new=EM_AARCH64)
