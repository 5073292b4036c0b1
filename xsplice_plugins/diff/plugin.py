# SPDX-License-Identifier: Apache-2.0
"""The built-in differ; the stage is imported when it is asked, as in every ``plugin`` module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.plugins.spec import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from xsplice_plugins.artefacts import Delta, ObjectPair
    from xsplice_plugins.plugins.spec import Config


class SemanticDiffer:
    """Compare the meaning of two objects."""

    xsplice_name = "semantic"

    @hookimpl
    def xsplice_diff_objects(
        self,
        pair: ObjectPair,
        baseline: bytes,
        new: bytes,
        config: Config,
        shifted: Callable[[], bytes | None] | None,
    ) -> Delta | None:
        """Say what changed in meaning between two versions of one object."""
        from xsplice_plugins.diff.differ import diff_objects  # noqa: PLC0415

        return diff_objects(
            baseline,
            new,
            object_path=pair.object_path,
            source_path=pair.source_path,
            config=config,
            is_init=pair.is_init,
            refused=pair.refused,
            moved=pair.moved,
            shifted=shifted,
            edited=pair.edited,
            again=pair.again,
        )
