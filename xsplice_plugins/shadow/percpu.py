# SPDX-License-Identifier: Apache-2.0
"""Write a fix again, so that a per-CPU variable that it adds is an array of the payload's own."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from xsplice_plugins.csource.places import arguments, blanked, closing
from xsplice_plugins.errors import ConfigError, RefusedError
from xsplice_plugins.shadow.asking import patch_of, require_compiles
from xsplice_plugins.shadow.texts import Rewritten, names_of, sides_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from xsplice_plugins.artefacts import PatchSet
    from xsplice_plugins.kbuild.tree import XenTree

#: Source: xen/include/xen/percpu.h.
_MACRO = r"\b(?P<macro>\w*(?:per_cpu|this_cpu|PER_CPU)\w*)\s*(?=\()"
_DEFINES = {"DEFINE_PER_CPU", "DEFINE_PER_CPU_READ_MOSTLY"}


_HOOK = """
#include <xen/cpumask.h>
#include <xen/livepatch_payload.h>

static void cf_check %(array)s_start(void)
{
    unsigned int cpu;

    for_each_online_cpu ( cpu )
        %(array)s[cpu] = %(start)s;
}
LIVEPATCH_LOAD_HOOK(%(array)s_start);
"""


def percpu_fix(tree: XenTree, fix: PatchSet, names: Sequence[str], start: str = "") -> Rewritten:
    """Make arrays of new per-CPU variables, with one element for each CPU that there may be.

    Args:
        tree: The built tree; it is only read.
        fix: The fix as it is.
        names: Per-CPU variables that the fix adds.
        start: What each CPU that runs has in it once the payload is applied, in C, with ``cpu`` for
            its number; "": zero.

    Raises:
        ConfigError: A name is none, or several variables are to start as one does.
        RefusedError: The fix defines no such variable newly, or uses it in a way that no array can
            serve.
        CaptureError: The result does not compile.
    """
    olds, texts = sides_of(tree, fix)
    notes: list[str] = []
    wanted = names_of(names)
    if start and len(wanted) > 1:
        raise ConfigError(
            f"--start: says how one variable starts, and {', '.join(wanted)} are named; call it "
            "for each, on what came out"
        )
    for name in wanted:
        if any(_uses(text, name) for text in olds.values()):
            raise RefusedError(
                f"{name}: it is there without the fix; only what is new can lie elsewhere"
            )
        counts: Counter[str] = Counter()
        for path in sorted(texts):
            texts[path] = _rewritten(texts[path], path, name, counts)
        if not counts["definitions"]:
            raise RefusedError(
                f"{name}: the fix defines no such variable ({', '.join(sorted(_DEFINES))}); name a "
                "per-CPU variable that it adds"
            )
        if start:
            home = next(path for path in sorted(texts) if _defines(texts[path], name))
            hook = _HOOK % {"array": _array(name), "start": start}
            texts[home] = texts[home].rstrip("\n") + "\n" + hook
        notes += _notes(_array(name), name, counts["uses"], start)
    with tempfile.TemporaryDirectory(prefix="xsplice-") as folder:
        require_compiles(tree, texts, Path(folder), f"{fix.name}: with the array")
    return Rewritten(text=patch_of(tree, texts), notes=tuple(notes))


def _defines(text: str, name: str) -> bool:
    """Tell whether a rewritten text defines the array."""
    return (
        re.search(rf"^(?!\s*extern\b).*\b{_array(name)}\[NR_CPUS\]", text, re.MULTILINE) is not None
    )


def _notes(array: str, name: str, uses: int, start: str) -> Iterator[str]:
    """Say what was done, and what a person should look at."""
    yield f"`{name}` is `{array}`, an array with one element for each CPU; uses: {uses}"
    if start:
        yield (
            f"each CPU that runs starts with `{start}`, set by a load hook at each apply; which "
            "CPUs run only a host can tell: ACCEPT=HOOK:load, and ON=model,qemu to see a real Xen "
            "do it"
        )
    else:
        yield (
            f"LOOK: each element of `{array}` starts as zero, of CPUs that run too: if they need "
            "more, give it with --start, or set it for each in a hook before the apply"
        )
    yield f"LOOK: a CPU that goes and comes again finds in `{array}` what it left there"


def _array(name: str) -> str:
    return f"xsplice_{name}"


def _uses(text: str, name: str) -> list[tuple[str, int, int, list[str]]]:
    """Return the macros of per-CPU variables that name one: which, where, and with what."""
    blank, found = blanked(text), []
    for match in re.finditer(_MACRO, blank):
        end = closing(blank, match.end())
        given = arguments(text[match.end() + 1 : end]) if end > 0 else []
        if any(re.search(rf"\b{name}\b", words) for words in given):
            found.append((match["macro"], match.start(), end + 1, given))
    return found


def _rewritten(text: str, path: str, name: str, counts: Counter[str]) -> str:
    for macro, start, end, given in reversed(_uses(text, name)):
        own, more = _served(macro, given, name)
        if not own:
            line = text.count("\n", 0, start) + 1
            raise RefusedError(
                f"{path}:{line}: `{macro}` names `{name}` in a way that no array serves; write "
                "this place by hand before"
            )
        counts.update(more)
        text = text[:start] + own + text[end:]
    return text


def _served(macro: str, given: Sequence[str], name: str) -> tuple[str, Mapping[str, int]]:
    """Return what stands for a use, and what it counts as; "" for none."""
    array = _array(name)
    if macro in _DEFINES and given[-1:] == [name]:
        kind = ", ".join(given[:-1])
        return f"__typeof__({kind}) {array}[NR_CPUS]", {"definitions": 1}
    if macro == "DECLARE_PER_CPU" and given[-1:] == [name]:
        return f"extern __typeof__({', '.join(given[:-1])}) {array}[NR_CPUS]", {}
    if macro == "this_cpu" and list(given) == [name]:
        return f"{array}[smp_processor_id()]", {"uses": 1}
    if macro == "per_cpu" and len(given) > 1 and given[0] == name:
        return f"{array}[{', '.join(given[1:])}]", {"uses": 1}
    return "", {}
