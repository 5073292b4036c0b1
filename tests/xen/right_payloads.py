# SPDX-License-Identifier: Apache-2.0
"""Right payloads with all that they were made from, and what the independent check says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.kit.build import ROOT, scons
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.memory import Image, read_image
from xsplice_plugins.check.results import CheckReport, NewObject
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.errors import XspliceError

FOLDER = ROOT / "xen-patches" / "regression" / "4.17"
CASES = sorted(
    path.name
    for path in FOLDER.iterdir()
    if (path / "expected.json").exists()
    and json.loads((path / "expected.json").read_text())["verdict"] == "accepted"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A right payload with all that it was made from."""

    name: str
    payload: bytes
    objects: tuple[NewObject, ...]
    facts: Facts


def build(case: str, tree: Path, folder: Path, patch: Path | None = None) -> Built:
    """Build a hot-patch twice: as it is, and with line numbers held still.

    Without a patch it is the regression hot-patch of that name.
    """
    patch = patch or FOLDER / case / "fix.patch"
    for lines in ("0", "1"):
        scons("xsplice", folder / lines, XEN=tree, PATCH=patch, NAME="fix",
              SIGNER="none", LINE_NEUTRAL=lines).assert_success()  # fmt: skip
    plain, neutral = folder / "0/fix/objects", folder / "1/fix/objects"
    objects = []
    for path in sorted(plain.rglob("*.pair.json")):
        pair = json.loads(path.read_text())
        twin = neutral / path.relative_to(plain)
        still = json.loads(twin.read_text())["new"]
        if pair["new"]:
            objects.append(
                NewObject(
                    path=pair["object_path"],
                    new=(path.parent / pair["new"]).read_bytes(),
                    baseline=(path.parent / pair["baseline"]).read_bytes(),
                    neutral=(twin.parent / still).read_bytes() if still else None,
                )
            )
    facts = pipeline.base_of_tree(tree).facts
    assert facts is not None
    return Built(
        name=case,
        payload=(folder / "0/fix/fix.livepatch.unsigned").read_bytes(),
        objects=tuple(objects),
        facts=facts,
    )


def image_of(tree: Path, facts: Facts) -> Image:
    """Read the tree's image for the check."""
    return read_image((tree / "xen/xen-syms").read_bytes(), "xen-syms", layouts(facts))


def judge(image: Image, built: Built, data: bytes) -> CheckReport | XspliceError:
    """Run the check; what cannot be read at all is caught as well."""
    try:
        return check_payload(image, data, built.objects, built.facts)
    except XspliceError as error:
        return error


def is_caught(found: CheckReport | XspliceError) -> bool:
    """Tell whether the check speaks against a payload."""
    return isinstance(found, XspliceError) or not found.held


def addresses_of(image: Image) -> dict[str, set[int]]:
    """Return where the image has each name."""
    return {name: {symbol.value for symbol in rows} for name, rows in image.homes.items()}
