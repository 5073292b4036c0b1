# SPDX-License-Identifier: Apache-2.0
"""Hooks for which somebody vouches, where only a running host can answer."""

from __future__ import annotations

from tests.kit.acting import with_hook
from tests.kit.payloads import minimal
from tests.model.test_running_host import AT_COUNTER, VIRT, ZERO, code_of, host_xen
from xsplice_plugins.hypervisor import ProofReport, prove, release

ASKING = "833800 7401 c3 31c0 c3"  # 0 if the counter is
CRASHES = code_of(  # _xmalloc(8, 8), whose result is written to without a look
    "bf08000000 be08000000 48b8") + (VIRT + 0x600).to_bytes(8, "little") + code_of(
    "4883ec08 ffd0 c60001 4883c408") + ZERO  # fmt: skip


def vouched_of(*hooks: tuple[str, bytes], words: dict[str, tuple[str, ...]]) -> ProofReport:
    draft = minimal()
    for kind, code in hooks:
        draft = with_hook(draft, kind, code)
    return prove([("a", draft.build())], host_xen(), release("4.17.5"), vouched_for=words)


def test_somebody_may_vouch_for_what_a_hook_does_with_a_hosts_values() -> None:
    code = AT_COUNTER + code_of("833805 0f94c0 31c0 c3")
    asking = AT_COUNTER + code_of(ASKING)
    why = "depends on counter, which only a running host knows"
    report = vouched_of(("preapply", asking), words={"a": ("preapply",)})
    assert (report.verdict, report.asks) == ("proved", "")
    assert report.vouched == (("a", "preapply", why),)
    assert {step.action for step in report.steps} >= {"apply", "revert", "unload"}
    assert vouched_of(("preapply", code), words={"a": ("preapply",)}).vouched == ()
    for words in ({}, {"b": ("preapply",)}, {"a": ("postapply",)}):
        report = vouched_of(("preapply", asking), words=words)
        assert (report.verdict, report.asks, report.reason) == ("unknown", "a", why)


def test_a_word_for_one_hook_is_none_for_another_or_for_what_the_model_can_tell() -> None:
    asking = AT_COUNTER + code_of(ASKING)
    both = (("preapply", asking), ("postrevert", asking))
    report = vouched_of(*both, words={"a": ("preapply",)})
    assert (report.verdict, report.step, report.asks) == ("unknown", "postrevert-hook", "a")
    assert vouched_of(*both, words={"a": ("preapply", "postrevert")}).verdict == "proved"
    for code, verdict in ((CRASHES, "unknown"), (code_of("0f0b"), "hazard")):
        report = vouched_of(("preapply", asking), ("postapply", code), words={
            "a": ("preapply", "postapply")})  # fmt: skip
        assert (report.verdict, report.step, report.asks) == (verdict, "postapply-hook", "")
