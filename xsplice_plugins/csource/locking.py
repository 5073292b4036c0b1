# SPDX-License-Identifier: Apache-2.0
"""Locks that a patch takes with interrupts off where they were on, or the other way round.

A build with CONFIG_DEBUG_LOCKS notes in each lock, when it is taken first, whether interrupts were
off, and stops the host when it is taken the other way (`check_lock` of xen/common/spinlock.c). A
lock that exists keeps the note that the old code made.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from xsplice_plugins.csource.literals import bodies
from xsplice_plugins.csource.places import arguments, blanked, closing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CHECKED = "CONFIG_DEBUG_LOCKS"  #: what such a build defines
_TAKE = re.compile(
    r"\b_*(?:nr|r)?(?:spin|read|write)_lock(?:_recursive|_cb)?(?P<off>_irq|_irqsave)?\s*(?=\()"
)
_FREE = re.compile(
    r"\b_*(?:nr|r)?(?:spin|read|write)_unlock(?:_recursive)?_irq(?:restore)?\s*(?=\()"
)
_OFF = re.compile(r"\blocal_irq_(?:disable|save)\s*(?=\()")
_NAME = re.compile(r"[A-Za-z_]\w*")


class Taking(NamedTuple):
    """How a function takes a lock."""

    lock: str  #: the last name of the expression: a member or a variable
    is_off: bool  #: with interrupts off


@lru_cache(maxsize=2)  # asked for each object of a fix
def relocked(texts: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Find locks that are taken otherwise than before.

    Args:
        texts: Path, old source and new one of each file that the patch changes.

    Returns:
        A file in which a function stands that does so, and a sentence; it holds for builds that
        define `CHECKED`.
    """
    found: list[tuple[str, str]] = []
    before: Counter[Taking] = Counter()
    for _, old, _ in texts:
        for _, rows in _takings(old):
            before += rows
    for path, old, new in texts:
        was, now = dict(_takings(old)), dict(_takings(new))
        for function, rows in now.items():
            more, less = rows - was.get(function, Counter()), was.get(function, Counter()) - rows
            for taking in more:
                other = taking._replace(is_off=not taking.is_off)
                if other in less or (other in before and taking not in before):
                    found.append((path, _sentence(function, taking)))
    return tuple(dict.fromkeys(found))


def _sentence(function: str, taking: Taking) -> str:
    now, was = ("off", "on") if taking.is_off else ("on", "off")
    return (
        f"{function} takes `{taking.lock}` with interrupts {now}, where they were {was} before, "
        f"and this build ({CHECKED}) stops the host where a lock that exists is taken otherwise "
        "than when it was taken first"
    )


def _takings(text: str) -> Iterator[tuple[str, Counter[Taking]]]:
    for name, body in _bodies(text).items():
        rows = Counter(_in_body(blanked(body)))
        if rows:
            yield name, rows


def _bodies(text: str) -> Mapping[str, str]:
    return bodies(text) if "_lock" in text else {}


def _in_body(body: str) -> Iterable[Taking]:
    """Give the locks in their order: within one that is taken with interrupts off all are."""
    is_off, around = _OFF.search(body) is not None, 0
    for match in sorted(
        (*_TAKE.finditer(body), *_FREE.finditer(body)), key=lambda row: row.start()
    ):
        if match.re is _FREE:
            around = max(around - 1, 0)
            continue
        end = closing(body, match.end())
        given = arguments(body[match.end() + 1 : end]) if end > 0 else []
        names = _NAME.findall(given[0]) if given else []
        if names:
            yield Taking(names[-1], is_off or around > 0 or match["off"] is not None)
        around += match["off"] is not None
