# SPDX-License-Identifier: Apache-2.0
"""Pointers of a payload that are NULL at first: its functions may run before somebody sets them.

Other CPUs enter a replaced function as soon as the apply is done. Only hooks up to then have run;
what a later hook or another function sets may not be there yet, and where memory is out it never
is. Found are variables of words that are zero at first (one, or several in a row), that a function
reads and uses as an address without having asked for it, or set it, on the way there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsplice_plugins.link.running import BEFORE
from xsplice_plugins.target.abi import POINTER_SIZE_BYTES
from xsplice_plugins.target.carried import Carried
from xsplice_plugins.target.code import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from xsplice_plugins.elf.types import Symbol
    from xsplice_plugins.link.running import Running
    from xsplice_plugins.target.code import Place
    from xsplice_plugins.target.references import References

_NAMES_MAX = 3  #: functions that a message names


def untested(running: Running, references: Callable[[], References]) -> tuple[str, ...]:
    """Say where a function uses a pointer that may not be set yet, untested.

    Args:
        running: The payload's code.
        references: Returns the image's code, which is read only if it is needed.

    Returns:
        Sentences for people, sorted.
    """
    held = running.lies_in_data()
    variables = {
        place
        for place, symbol in running.data.items()
        if place not in held and _is_zero(running, symbol)
    }
    late = {place for place in variables if not _writers(running, place, BEFORE)}
    used = _used(running) | (_followed(running, late, Code(references())) if late else set())
    return tuple(
        sorted(
            {
                _sentence(running, function, place)
                for place in late
                for function, variable in used
                if variable == place
            }
        )
    )


def _is_zero(running: Running, symbol: Symbol) -> bool:
    """Tell whether a variable consists of words that can be written and are zero at first."""
    section = running.elf.sections[symbol.shndx]
    size, start = symbol.size_bytes, symbol.value
    fields = running.code.targets(section)
    is_set = any(section.data[start : start + size])
    is_pointer = size > 0 and size % POINTER_SIZE_BYTES == 0
    return (
        is_pointer
        and section.is_write
        and not is_set
        and not any(start <= at < start + size for at in fields)
    )


def _writers(running: Running, variable: Hashable, kinds: Iterable[str]) -> set[Place]:
    """Return the functions that set a variable, or hand out its address, in hooks of some kinds."""
    return writers(running, variable, [at for k in kinds for at in running.hooks.get(k, ())])


def writers(running: Running, variable: Hashable, starts: Iterable[Place]) -> set[Place]:
    """Return the functions that set a variable, or hand out its address.

    Args:
        running: The payload's code.
        variable: One of its own.
        starts: Functions, from which on code runs.
    """
    return {
        running.code.start_of(row.place)
        for row in running.carried.walk(starts)
        if variable in running.carried.filled(row)
    }


def _used(running: Running) -> set[tuple[Place, Hashable]]:
    """Return (function, variable) where a word of it is an address, and nobody asked before."""
    return {
        (running.code.start_of(row.place), variable)
        for row in running.carried.walk(running.roots)
        for variable in running.carried.used(row) - row.state.settled
    }


def _followed(running: Running, late: set[Place], code: Code) -> set[tuple[Place, Hashable]]:
    """Return (function, variable) where a function of the image uses a word of it so."""
    outside = Carried(code, lambda _place, _effect: None, is_narrow=True)
    return {
        (running.code.start_of(row.place), variable)
        for row in running.carried.walk(running.roots)
        if row.name in code.starts
        for name in code.registers.arguments
        for variable in (row.state.of((name,), is_address=False) - row.state.settled) & late
        if outside.follows(code.starts[row.name], name)
    }


def _sentence(running: Running, function: Place, variable: Place) -> str:
    own = writers(running, variable, running.roots)
    user, name = running.title(function), running.title(variable)
    use = f"{user} uses it as an address without a test"
    if own:
        rows = sorted({running.title(place) for place in own})
        who = " or ".join(rows[:_NAMES_MAX]) + (" or others" if len(rows) > _NAMES_MAX else "")
        return f"{name} is NULL until {who} has run, and {use}"
    if _writers(running, variable, ["postapply"]):
        return (
            f"{user} uses {name} as an address without a test for NULL, and only a postapply hook "
            "sets it: other CPUs run the function before that, and where memory is out it stays "
            "NULL"
        )
    return f"{name} is NULL, for nothing sets it, and {use}"
