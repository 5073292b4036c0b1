# SPDX-License-Identifier: Apache-2.0
"""Find the plugins of a run: built in, installed, named by the environment, by the project.

The order is fixed, whatever order the file system has: built-ins, entry points sorted by
(distribution, name), ``XSPLICE_PLUGINS``, and what the project passes.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from xsplice_plugins.errors import NoProviderError, PluginError
from xsplice_plugins.plugins.builtin import ALWAYS_ASKED, ORIGIN_BUILT_IN, built_in_plugins
from xsplice_plugins.plugins.spec import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from importlib.metadata import EntryPoint

PLUGINS_VARIABLE = "XSPLICE_PLUGINS"
DISABLE_VARIABLE = "XSPLICE_DISABLE_PLUGINS"
TRACE_VARIABLE = "XSPLICE_TRACE_PLUGINS"
_TELLING = (".dist-info", ".egg-info")  #: ends of the folders that say what is installed


class Candidate(Struct, frozen=True, kw_only=True):
    """A plugin that was found and loaded, but not registered yet."""

    name: str  #: what ``SIGNER=`` and the like choose it by
    origin: str  #: the distribution it comes from, or the place that named it
    version: str  #: of the distribution; else the plugin's ``__version__``, or ""
    plugin: object

    @property
    def qualified_name(self) -> str:
        """Return the name that tells it from another plugin of the same name."""
        return f"{self.name}@{self.origin}"


def find_candidates(
    *, plugins: Sequence[object], environ: Mapping[str, str], entry_points: bool
) -> Iterator[Candidate]:
    """Yield the plugins of a run in order of registration.

    Args:
        plugins: What the project passes: entry-point names, dotted modules, modules, instances.
        environ: The environment's variables, as ``docs/hooks.md`` lists them.
        entry_points: Whether installed distributions are looked at.

    Raises:
        NoProviderError: A plugin was asked for, or switched off, that is not there.
        PluginError: A plugin cannot be loaded; the message says how to do without it.
    """
    requested = _words(environ.get(PLUGINS_VARIABLE, ""))
    off = _disabled_names(environ)
    built_in = built_in_plugins()
    installed = _entry_points() if entry_points else ()
    if entry_points:
        _refuse_unknown(off, requested, built_in, installed)

    def is_on(name: str, origin: str) -> bool:
        return not off & {name, f"{name}@{origin}"}

    for name, plugin in built_in.items():
        if is_on(name, ORIGIN_BUILT_IN):
            version = _own_version()
            yield Candidate(name=name, origin=ORIGIN_BUILT_IN, version=version, plugin=plugin)
    named = {*requested, *(plugin for plugin in plugins if isinstance(plugin, str))}
    for point in installed:
        origin, version = _distribution(point)
        if is_on(point.name, origin) and ("*" not in off or point.name in named):
            plugin = _load_entry_point(point, origin)
            yield Candidate(name=point.name, origin=origin, version=version, plugin=plugin)
    known = {point.name for point in installed} | set(built_in)
    for place, wanted in [(PLUGINS_VARIABLE, word) for word in requested] + [
        ("plugins=", plugin) for plugin in plugins
    ]:
        if not isinstance(wanted, str):
            candidate = _passed(wanted)
        elif wanted in known or not is_on(wanted.partition("=")[0], place):
            continue
        else:
            candidate = _from_word(wanted, place)
        if is_on(candidate.name, candidate.origin):
            yield candidate


def _disabled_names(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the names that the environment switches off; ``*`` stands for all installed ones.

    Raises:
        PluginError: The built-in verifier is among them.
    """
    names = frozenset(_words(environ.get(DISABLE_VARIABLE, "")))
    for name in sorted(names):
        if name.partition("@")[0] == ALWAYS_ASKED:
            raise PluginError(
                f"{DISABLE_VARIABLE}: the built-in verifier {name} cannot be switched off; "
                "take it out of the list"
            )
    return names


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _own_version() -> str:
    # Not imported above: the package's __init__ may be what imports this module.
    return str(sys.modules["xsplice_plugins"].__version__)


def _entry_points() -> tuple[EntryPoint, ...]:
    """Return all entry points of our group, sorted; the standard library's order is the disk's."""
    if not _may_be_installed():
        return ()
    from importlib import metadata  # noqa: PLC0415  # 10 ms, where a plugin is installed

    found = metadata.entry_points(group=NAME)
    return tuple(sorted(found, key=lambda point: (_distribution(point), point.name, point.value)))


def _may_be_installed() -> bool:
    """Tell whether any distribution could have an entry point of our group.

    Only what the standard library would read is read here, for the group's name alone. Where it
    would look elsewhere too (an archive, a finder of somebody's own), the answer is yes.
    """
    finders = [f for f in sys.meta_path if hasattr(f, "find_distributions")]
    if finders != [PathFinder]:
        return True
    for place in sys.path:
        folder = Path(place)
        if folder.is_file() or place.lower().endswith(".egg"):
            return True
        try:
            with os.scandir(folder) as entries:
                told = [e.path for e in entries if e.name.lower().endswith(_TELLING)]
            if any(_names_us(Path(path, "entry_points.txt")) for path in told):
                return True
        except OSError:
            continue  # as the standard library does
    return False


def _names_us(entry_points: Path) -> bool:
    try:
        return f"[{NAME}]".encode() in entry_points.read_bytes()
    except OSError:
        return False  # it has none; the standard library, too, takes no notice


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Return (name, version) of the distribution that an entry point belongs to."""
    if point.dist is None:
        return ("unknown", "")
    return (point.dist.name, point.dist.version)


def _refuse_unknown(
    off: frozenset[str],
    requested: Sequence[str],
    built_in: Iterable[str],
    installed: Sequence[EntryPoint],
) -> None:
    """Refuse to switch off what is not there: a typo would leave the plugin running."""
    known = {*built_in, *(word.partition("=")[0] for word in requested)}
    known |= {point.name for point in installed}
    known |= {f"{point.name}@{_distribution(point)[0]}" for point in installed}
    unknown = sorted(off - known - {"*"})
    if unknown:
        raise NoProviderError(
            f"{DISABLE_VARIABLE}: no plugin is called {', '.join(unknown)}; "
            f"installed are {', '.join(sorted(known))}"
        )


def _load_entry_point(point: EntryPoint, distribution: str) -> object:
    subject = f"{point.name}: the plugin of the distribution {distribution}"
    advice = f"repair it, or do without it: {DISABLE_VARIABLE}={point.name}"
    with _blaming(subject, advice):
        return point.load()


def _from_word(word: str, place: str) -> Candidate:
    """Return the plugin of ``module``, ``name=module`` or ``name=/path/file.py``."""
    name, separator, where = word.partition("=")
    where = where if separator else word
    if where.endswith(".py") or os.sep in where:
        found = _passed(_load_file(Path(where), name, word, place))
    else:
        found = _passed(_load_module(where, word, place))
    return replace(found, name=name) if separator else found


def _passed(plugin: object) -> Candidate:
    """Return a plugin that is there as a module or an instance."""
    if isinstance(plugin, ModuleType):
        name = origin = plugin.__name__
    else:
        name, origin = type(plugin).__name__, type(plugin).__module__
    stated = getattr(plugin, "xsplice_name", "")
    if isinstance(stated, str) and stated:
        name = stated
    version = str(getattr(plugin, "__version__", ""))
    return Candidate(name=name, origin=origin, version=version, plugin=plugin)


def _load_module(dotted: str, word: str, place: str) -> ModuleType:
    with _blaming(f"{place}: {word}"):
        try:
            return import_module(dotted)
        except ModuleNotFoundError as error:
            if error.name and f"{dotted}.".startswith(f"{error.name}."):
                raise NoProviderError(
                    f"{place}: {word} is neither an installed plugin nor a module; "
                    "install its package, or give name=/path/file.py"
                ) from error
            raise


def _load_file(path: Path, name: str, word: str, place: str) -> ModuleType:
    if not path.is_file():
        raise NoProviderError(f"{place}: {word}: there is no such file; check the path")
    spec = spec_from_file_location(f"xsplice_plugin_{name}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{place}: {word}: not a Python file; its name must end in .py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    with _blaming(f"{place}: {word}"):
        try:
            spec.loader.exec_module(module)
        except Exception:
            del sys.modules[spec.name]
            raise
    return module


@contextmanager
def _blaming(subject: str, advice: str = "repair the plugin") -> Iterator[None]:
    """Turn whatever a plugin's import raises into an error that names the plugin."""
    try:
        yield
    except NoProviderError:
        raise
    except Exception as error:
        raise PluginError(
            f"{subject} cannot be loaded ({type(error).__name__}: {error}); {advice}"
        ) from error
