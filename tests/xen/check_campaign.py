# SPDX-License-Identifier: Apache-2.0
"""Hold differ and linker to the independent check on the classes of `differ_mutations`.

Each edit is compiled, diffed and linked; then the check says whether the payload is what a rebuild
would run, and whether a payload that replaces nothing would be. Run by hand for the table::

    python -m tests.xen.check_campaign TREE FOLDER EDITS_PER_CLASS [CLASS ...] > table.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec.structs import replace

from tests.xen.differ_campaign import Outcome, campaign, table
from tests.xen.differ_mutations import Edit, MutationClass
from tests.xen.differ_pairs import EditedTree
from xsplice_plugins import pipeline
from xsplice_plugins.artefacts import Facts
from xsplice_plugins.check.complete import check_payload
from xsplice_plugins.check.memory import Image, read_image
from xsplice_plugins.check.results import CheckReport, NewObject
from xsplice_plugins.check.tables import layouts
from xsplice_plugins.elf.types import EM_X86_64
from xsplice_plugins.elf.writer import write_object
from xsplice_plugins.errors import RefusedError

#: "right": the payload is what a rebuild runs, and without it that is not so. "same": no payload,
#: and none is needed. "refused": no payload, and one would be needed. "wrong": proved what is not.
#: "blind": the check sees no difference where there is a payload. "over": refused, none is needed.
COLUMNS = ("right", "same", "refused", "wrong", "blind", "over")
NOTHING = write_object((), (), machine=EM_X86_64)


class Judged:
    """What the edits of one tree are held against."""

    def __init__(self, tree: Path) -> None:
        base = pipeline.base_of_tree(tree)
        assert base.facts is not None
        assert base.image is not None
        self.facts: Facts = base.facts
        self.data = base.image.read_bytes()
        self.run = pipeline.open_run({}, base, environ={})
        self.image: Image = read_image(self.data, "xen-syms", layouts(self.facts))

    def check(self, payload: bytes, row: NewObject) -> CheckReport:
        """Ask the check."""
        return check_payload(self.image, payload, [row], self.facts)

    def judge(
        self, tree: EditedTree, mutation: MutationClass, source: str, edit: Edit
    ) -> Outcome | None:
        """Compile one edit, make its payload, and hold it to the check; None if it is no code."""
        try:
            new = tree.compile(source, {source: edit.text})
        except ValueError:
            return None
        path = source[:-1] + "o"
        old_path = tree.tree / path
        old = old_path.read_bytes()
        row = NewObject(path=path, new=new, baseline=old)
        pair = pipeline.bare_pair(old_path, Path(path), (old, new), source=source)
        delta, _ = pipeline.diff_pair(self.run, replace(pair, object_path=path), old, new)
        idle = self.check(NOTHING, row)
        is_needed = bool(idle.differences or idle.unchecked or idle.boot_only)
        verdict, detail = ("refused" if is_needed else "over"), pipeline.refusal_text([delta])
        if not delta.refused and not delta.is_empty:
            try:
                payload = pipeline.link_payload(
                    self.run, "fix", [delta], [new], self.data, pipeline.Stack(patches=())
                )
            except RefusedError as error:
                detail = str(error)
            else:
                found = self.check(payload.data, row)
                verdict = "right" if idle.differences else "blind"
                if not found.held:
                    verdict, detail = "wrong", str(found.differences[:3])
        if delta.is_empty and not delta.refused:
            verdict, detail = ("wrong" if idle.differences else "same"), str(idle.differences[:3])
        return Outcome(
            mutation=mutation.name,
            source=source,
            function=edit.function,
            verdict=verdict,
            detail=detail,
        )


def main(arguments: list[str]) -> int:
    """Run the campaign and write the table; failures go to standard error."""
    judged = Judged(Path(arguments[0]))
    tree = EditedTree(Path(arguments[0]), Path(arguments[1]))
    outcomes = campaign(tree, int(arguments[2]), tuple(arguments[3:]), judged.judge)
    sys.stdout.write(table(outcomes, COLUMNS))
    bad = [o for o in outcomes if o.verdict in ("wrong", "blind", "over")]
    for outcome in bad:
        text = f"{outcome.verdict}: {outcome.mutation}: {outcome.source} {outcome.function}: "
        sys.stderr.write(" ".join((text + outcome.detail).split()) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
