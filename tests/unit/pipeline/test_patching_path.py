# SPDX-License-Identifier: Apache-2.0
"""Code that runs while code is replaced is left alone, whoever made the deltas."""

import pytest
from msgspec import structs

from tests.unit.pipeline.test_boot import FUNCTION, NOPS, delta
from xsplice_plugins.errors import RefusedError
from xsplice_plugins.pipeline.payload import check_patching_path

PATCHING = (
    "arch_livepatch_quiesce",
    "check_for_livepatch_work",
    "arch/x86/domain.c#idle_loop",
    "tighten_virtual_region_perms",
    "relax_virtual_region_perms",
)


@pytest.mark.parametrize("name", PATCHING)
def test_what_runs_while_code_is_replaced_is_refused(name: str) -> None:
    for fields in (
        {"changed": (structs.replace(FUNCTION, name=name),)},
        {"nopped": (structs.replace(NOPS, name=name),)},
    ):
        with pytest.raises(RefusedError, match=r"PATCHING_PATH.*needs a reboot") as caught:
            check_patching_path([delta(**fields)])
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["livepatch_op", "arch/x86/domain.c#idle_loop_too", "do_softirq"])
def test_what_is_beside_it_is_not(name: str) -> None:
    rows = [delta(changed=(structs.replace(FUNCTION, name=name),)), delta(nopped=(NOPS,))]
    assert check_patching_path(rows) is None
