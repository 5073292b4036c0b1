# SPDX-License-Identifier: Apache-2.0
"""Tracing shows what was called with what, and no secret."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xsplice_plugins.plugins import manager
from xsplice_plugins.plugins.spec import Config
from xsplice_plugins.testing import ManagerFactory, sample_payload

if TYPE_CHECKING:
    import pytest


def test_a_trace_names_hooks_and_plugins_but_shows_neither_bytes_nor_options(
    xsplice_manager: ManagerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    pm = xsplice_manager(environ={"XSPLICE_TRACE_PLUGINS": "1"})
    data, record = sample_payload()
    config = Config(options=(("pin", "123456"),))
    with caplog.at_level(logging.INFO, logger="xsplice_plugins"):
        hook = manager.chosen(pm, "xsplice_sign_payload", "none")
        manager.call(hook, data=data, record=record, config=config)
    assert "xsplice_sign_payload(" in caplog.text
    assert "asks none" in caplog.text
    assert f"{len(data)} bytes, sha256 {record.digest[:12]}" in caplog.text
    assert "123456" not in caplog.text
    assert "ELF" not in caplog.text


def test_there_is_no_trace_unless_asked_for(
    xsplice_manager: ManagerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    pm = xsplice_manager(environ={"XSPLICE_TRACE_PLUGINS": "0"})
    with caplog.at_level(logging.INFO, logger="xsplice_plugins"):
        manager.startup(pm, Config())
    assert caplog.text == ""
